//! release list, show, rollback, delete; deployment list, timeout, strategy, batch-size.

use anyhow::{Context as _, Result, bail};
use flynn_controller::{
    http::EventQuery,
    model::{App, AppUpdate, DeploymentEvent, EventKind},
};

use super::{
    args::{DeploymentCommand, ReleaseCommand},
    context::{Context, about, about_app, confirm},
    follow::Follow,
    output::{note, table},
};

pub(super) async fn run(context: &Context, command: Option<ReleaseCommand>) -> Result<()> {
    let app = context.app()?;
    let client = context.client()?;
    let current = about_app(&app, client.app(&app).await)?.release;
    match command.unwrap_or(ReleaseCommand::List) {
        ReleaseCommand::List => {
            let releases = client.releases(&app).await?;
            context.format.print(&releases, |releases| {
                table(
                    ["ID", "CREATED", "COMMIT", ""],
                    releases.iter().map(|release| {
                        let is_current = if Some(&release.id) == current.as_ref() {
                            "(current)"
                        } else {
                            ""
                        };
                        let commit: String = release
                            .meta
                            .get("git.commit")
                            .map(|sha| sha.chars().take(10).collect())
                            .unwrap_or_default();
                        [
                            release.id.clone(),
                            time(release.created_at.as_ref()),
                            commit,
                            is_current.to_owned(),
                        ]
                    }),
                )
            })
        }
        ReleaseCommand::Show { id } => {
            let id = id
                .or(current)
                .with_context(|| format!("app {app} has no release yet: git push to make one"))?;
            let release = about(
                &format!("release {id}"),
                "`flynn release` lists the app's releases",
                client.release(&id).await,
            )?;
            context.format.print(&release, |release| {
                let mut text = format!(
                    "ID:        {}\nCreated:   {}",
                    release.id,
                    time(release.created_at.as_ref())
                );
                for artifact in &release.artifacts {
                    text.push_str(&format!("\nArtifact:  {artifact}"));
                }
                for (name, process) in &release.processes {
                    text.push_str(&format!("\nProcess:   {name}: {}", process.args.join(" ")));
                }
                // Names only: values may be secrets, and are shown by `flynn env`.
                for name in release.env.keys() {
                    text.push_str(&format!("\nVariable:  {name}"));
                }
                text
            })
        }
        ReleaseCommand::Rollback { id, yes } => {
            let current = current
                .with_context(|| format!("app {app} has no release yet: git push to make one"))?;
            let target = match id {
                Some(id) => id,
                None => {
                    let releases = client.releases(&app).await?;
                    let at = releases
                        .iter()
                        .position(|release| release.id == current)
                        .context("the current release is not listed")?;
                    releases
                        .get(at + 1)
                        .with_context(|| {
                            format!("release {current} is the app's first: there is none before it")
                        })?
                        .id
                        .clone()
                }
            };
            if target == current {
                bail!("release {target} is the current one already");
            }
            confirm(&format!("Deploy release {target} of {app} again?"), yes)?;
            deploy(context, &app, &target).await?;
            context
                .format
                .print(&serde_json::json!({ "release": target }), |_| {
                    format!("Rolled back to release {target}.")
                })
        }
        ReleaseCommand::Delete { id, yes } => {
            confirm(&format!("Delete release {id} of {app}?"), yes)?;
            about(
                &format!("release {id}"),
                "`flynn release` lists the app's releases",
                client.delete_release(&app, &id).await,
            )?;
            note(&format!("Release {id} deleted."));
            Ok(())
        }
    }
}

pub(super) async fn deployments(
    context: &Context,
    command: Option<DeploymentCommand>,
) -> Result<()> {
    let name = context.app()?;
    let client = context.client()?;
    let app = about_app(&name, client.app(&name).await)?;
    let update = |update: AppUpdate| {
        let client = &client;
        let name = &name;
        async move { Ok::<App, anyhow::Error>(client.update_app(name, &update).await?) }
    };
    match command.unwrap_or(DeploymentCommand::List) {
        DeploymentCommand::List => {
            let deployments = client.deployments(&name).await?;
            context.format.print(&deployments, |deployments| {
                table(
                    ["ID", "STATUS", "CREATED", "RELEASE", "ERROR"],
                    deployments.iter().map(|deployment| {
                        [
                            deployment.id.clone(),
                            deployment.status.to_string(),
                            time(deployment.created_at.as_ref()),
                            deployment.new_release.clone(),
                            deployment.error.clone().unwrap_or_default(),
                        ]
                    }),
                )
            })
        }
        DeploymentCommand::Timeout { seconds: None } => {
            context.format.print(&app.deploy_timeout, |seconds| {
                seconds.map_or_else(String::new, |s| s.to_string())
            })
        }
        DeploymentCommand::Timeout {
            seconds: Some(seconds),
        } => {
            let seconds = u32::try_from(seconds)
                .ok()
                .filter(|seconds| *seconds > 0)
                .context("a timeout is at least one second")?;
            update(AppUpdate {
                deploy_timeout: Some(seconds),
                ..AppUpdate::default()
            })
            .await?;
            note(&format!(
                "A step of a deployment of {name} may now take {seconds} s."
            ));
            Ok(())
        }
        DeploymentCommand::Strategy { name: None } => {
            context.format.print(&app.strategy, Clone::clone)
        }
        DeploymentCommand::Strategy {
            name: Some(strategy),
        } => {
            update(AppUpdate {
                strategy: Some(strategy.clone()),
                ..AppUpdate::default()
            })
            .await?;
            note(&format!("{name} is now deployed {strategy}."));
            Ok(())
        }
        DeploymentCommand::BatchSize { size: None } => context
            .format
            .print(&app.meta.get(App::BATCH_SIZE), |size| {
                size.map_or_else(String::new, Clone::clone)
            }),
        DeploymentCommand::BatchSize { size: Some(size) } => {
            let mut meta = app.meta.clone();
            meta.insert(App::BATCH_SIZE.to_owned(), size.to_string());
            update(AppUpdate {
                meta: Some(meta),
                ..AppUpdate::default()
            })
            .await?;
            note(&format!(
                "in-batches now replaces {size} jobs of {name} at a time."
            ));
            Ok(())
        }
    }
}

/// Deploys a release and waits for the end.
pub(super) async fn deploy(context: &Context, app: &str, release: &str) -> Result<()> {
    let client = context.client()?;
    let deployment = client.deploy(app, release).await?;
    if deployment.finished_at.is_some() {
        return Ok(());
    }
    let query = EventQuery::of(&deployment.app)
        .only(&[EventKind::Deployment])
        .about(&deployment.id);
    let advice = format!("`flynn -a {app} deployment` shows how the deployment ended");
    let mut events = Follow::from_the_beginning(&client, query, advice);
    loop {
        let event: DeploymentEvent = serde_json::from_value(events.next().await?.data)?;
        if !event.error.is_empty() {
            bail!(
                "the deployment failed: {}; `flynn -a {app} log` may tell more",
                event.error
            );
        }
        if event.status.is_final() {
            return Ok(());
        }
    }
}

fn time(time: Option<&flynn_controller::model::Time>) -> String {
    time.map(ToString::to_string).unwrap_or_default()
}
