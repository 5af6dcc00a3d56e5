//! create, apps, info, delete, remote.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flynn_controller::{
    http::{Client, EventQuery},
    model::{App, AppDeletion, AppDeletionEvent, EventKind},
};
use flynn_router::Rule;

use super::{
    args::RemoteCommand,
    config::Cluster,
    context::{Context, about_app, confirm, git, git_remotes},
    follow::Follow,
    output::{note, table},
};

pub(super) async fn create(
    context: &Context,
    name: Option<String>,
    remote: &str,
    yes: bool,
) -> Result<()> {
    let cluster = context.cluster()?;
    let in_repository = git(&["rev-parse", "--git-dir"]).is_some();
    // Asked before anything is created, so that a no leaves nothing behind.
    if in_repository && !remote.is_empty() {
        may_replace(remote, yes)?;
    }
    let app = context
        .client()?
        .create_app(&App::named(name.unwrap_or_default()))
        .await?;
    if in_repository && !remote.is_empty() {
        set_remote(cluster, &app.name, remote)?;
    }
    context
        .format
        .print(&app, |app| format!("Created {}", app.name))
}

pub(super) async fn list(context: &Context) -> Result<()> {
    let apps = context.client()?.apps().await?;
    context.format.print(&apps, |apps| {
        table(
            ["ID", "NAME"],
            apps.iter().map(|app| [app.id.clone(), app.name.clone()]),
        )
    })
}

pub(super) async fn info(context: &Context) -> Result<()> {
    let name = context.app()?;
    let cluster = context.cluster()?;
    let client = context.client()?;
    let app = about_app(&name, client.app(&name).await)?;
    let routes = client.routes(&name).await?;
    let (_, port) = cluster.domain();
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let urls: Vec<String> = routes
        .iter()
        .filter_map(|route| match &route.rule {
            Rule::Http(rule) => Some(format!("http://{}{port}{}", rule.domain, rule.path)),
            Rule::Tcp { port } => Some(format!("tcp port {port}")),
            _ => None,
        })
        .collect();
    let shown = serde_json::json!({
        "app": app, "git_url": cluster.git_remote(&app.name), "web_urls": urls,
    });
    context.format.print(&shown, |_| {
        let mut text = format!(
            "=== {}\nGit URL:  {}",
            app.name,
            cluster.git_remote(&app.name)
        );
        for url in &urls {
            text.push_str(&format!("\nWeb URL:  {url}"));
        }
        text.push_str(&format!(
            "\nRelease:  {}",
            app.release
                .as_deref()
                .unwrap_or("none yet: git push to make one")
        ));
        text
    })
}

pub(super) async fn delete(context: &Context, yes: bool, remote: &str) -> Result<()> {
    let name = context.app()?;
    let cluster = context.cluster()?;
    let client = context.client()?;
    about_app(&name, client.app(&name).await)?;
    confirm(&format!("Delete {name} with its routes and releases?"), yes)?;
    let deletion = delete_and_wait(&client, &name).await?;
    let ours = cluster.git_remote(&name);
    if git_remotes()
        .iter()
        .any(|(known, url)| known == remote && *url == ours)
    {
        let _ = git(&["remote", "remove", remote]);
    }
    context.format.print(&deletion, |deletion| {
        format!(
            "Deleted {name} (removed {} routes, deleted {} releases)",
            deletion.deleted_routes.len(),
            deletion.deleted_releases.len()
        )
    })
}

/// How long a controller may take to delete an app.
const DELETION: Duration = Duration::from_secs(60);

async fn delete_and_wait(client: &Client, name: &str) -> Result<AppDeletion> {
    let app = client.app(name).await?;
    // Followed from before, so that the end is not missed.
    let query = EventQuery::of(&app.id).only(&[EventKind::AppDeletion]);
    let advice = format!("`flynn apps` shows whether {name} is gone");
    let mut events = Follow::from_now(client, query, advice).await?;
    client.delete_app(&app.id).await?;
    let ended = async {
        loop {
            let event = events.next().await?;
            let event: AppDeletionEvent = serde_json::from_value(event.data)?;
            ensure!(
                event.error.is_empty(),
                "{name} was not deleted: {}",
                event.error
            );
            if let Some(deletion) = event.app_deletion {
                return Ok(deletion);
            }
        }
    };
    tokio::time::timeout(DELETION, ended)
        .await
        .with_context(|| format!("{name} was not deleted within {DELETION:?}; the controller goes on, `flynn apps` shows how far it came"))?
}

pub(super) async fn remote(context: &Context, command: &RemoteCommand) -> Result<()> {
    let RemoteCommand::Add { remote, yes } = command;
    let name = context.app()?;
    let app = about_app(&name, context.client()?.app(&name).await)?;
    may_replace(remote, *yes)?;
    set_remote(context.cluster()?, &app.name, remote)
}

/// May we write this git remote?
fn may_replace(remote: &str, yes: bool) -> Result<()> {
    match git_remotes().iter().find(|(known, _)| known == remote) {
        Some((_, url)) => confirm(
            &format!("There is a git remote {remote} already ({url}). Replace it?"),
            yes,
        ),
        None => Ok(()),
    }
}

fn set_remote(cluster: &Cluster, app: &str, remote: &str) -> Result<()> {
    ensure!(
        !remote.starts_with('-'),
        "{remote:?} is not a name for a git remote"
    );
    let url = cluster.git_remote(app);
    let is_known = git_remotes().iter().any(|(known, _)| known == remote);
    let done = if is_known {
        git(&["remote", "set-url", remote, &url])
    } else {
        git(&["remote", "add", remote, &url])
    };
    if done.is_none() {
        bail!(
            "the git remote could not be added: run `git remote add {remote} {url}` in your repository"
        );
    }
    note(&format!("Git remote {remote} leads to {url}"));
    Ok(())
}
