//! env, env get, env set, env unset: a change makes a release and deploys it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use flynn_controller::model::{Env, Release};

use super::{
    args::EnvCommand,
    context::{Context, about_app},
    output::line,
    release::deploy,
};

pub(super) async fn run(
    context: &Context,
    process_type: Option<&str>,
    command: Option<EnvCommand>,
) -> Result<()> {
    let app = context.app()?;
    let client = context.client()?;
    about_app(&app, client.app(&app).await)?;
    let current = client.current_release(&app).await?;
    match command {
        None => {
            let env = of_type(current.as_ref(), process_type)?;
            context.format.print(&env, |env| {
                env.iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect::<Vec<_>>()
                    .join("\n")
            })
        }
        Some(EnvCommand::Get { name }) => {
            let env = of_type(current.as_ref(), process_type)?;
            let value = env.get(&name).with_context(|| {
                format!("{name} is not set in {app}; `flynn -a {app} env` shows what is")
            })?;
            line(value);
            Ok(())
        }
        Some(EnvCommand::Set { vars }) => {
            let vars: Vec<(String, String)> = vars
                .iter()
                .map(|var| parse_var(var))
                .collect::<Result<_>>()?;
            change(context, &app, current, process_type, |env| env.extend(vars)).await
        }
        Some(EnvCommand::Unset { names }) => {
            change(context, &app, current, process_type, |env| {
                env.retain(|name, _| !names.contains(name));
            })
            .await
        }
    }
}

async fn change(
    context: &Context,
    app: &str,
    current: Option<Release>,
    process_type: Option<&str>,
    change: impl FnOnce(&mut Env),
) -> Result<()> {
    let client = context.client()?;
    let mut release = current.unwrap_or_default();
    release.app_id = client.app(app).await?.id;
    release.id = String::new();
    release.created_at = None;
    match process_type {
        None => change(&mut release.env),
        Some(name) => change(
            &mut release
                .processes
                .get_mut(name)
                .with_context(|| no_such_type(name))?
                .env,
        ),
    }
    let release = client.create_release(&release).await?;
    deploy(context, app, &release.id).await?;
    // The variables' values are not repeated: a terminal's scroll-back is no place for secrets.
    context
        .format
        .print(&serde_json::json!({ "release": release.id }), |_| {
            format!("Created release {}.", release.id)
        })
}

fn of_type(
    release: Option<&Release>,
    process_type: Option<&str>,
) -> Result<BTreeMap<String, String>> {
    let Some(release) = release else {
        ensure!(
            process_type.is_none(),
            "the app has no release yet: git push to make one"
        );
        return Ok(BTreeMap::new());
    };
    match process_type {
        None => Ok((*release.env).clone()),
        Some(name) => Ok((*release
            .processes
            .get(name)
            .with_context(|| no_such_type(name))?
            .env)
            .clone()),
    }
}

fn no_such_type(name: &str) -> String {
    format!("the release has no process type {name}; `flynn scale` lists its types")
}

fn parse_var(var: &str) -> Result<(String, String)> {
    match var.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => bail!("{var:?} is not NAME=VALUE"),
    }
}
