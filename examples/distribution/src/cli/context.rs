//! What a command works on: which cluster, which app, how to print.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use flynn_controller::http::Client;
use flynn_discovery::http::{Client as Http, ClientError, Secret};

use super::{
    config::{Cluster, Config},
    output::Format,
};

/// What a command works on.
#[derive(Debug)]
pub(super) struct Context {
    app: Option<String>,
    cluster: Option<String>,
    config: Config,
    pub(super) format: Format,
}

impl Context {
    pub(super) fn new(
        app: Option<String>,
        cluster: Option<String>,
        format: Format,
    ) -> Result<Self> {
        let config = Config::load(&Config::path()?)?;
        Ok(Self {
            app,
            cluster,
            config,
            format,
        })
    }

    /// The cluster: that of the app's git remote, the one named, or the default.
    pub(super) fn cluster(&self) -> Result<&Cluster> {
        if self.cluster.is_none()
            && let Some(cluster) = self.remote_cluster()
        {
            return Ok(cluster);
        }
        self.config.cluster(self.cluster.as_deref())
    }

    /// A client of the cluster's controller.
    pub(super) fn client(&self) -> Result<Client> {
        client(self.cluster()?)
    }

    /// The app: named, or told by the git remote of the directory we are in.
    pub(super) fn app(&self) -> Result<String> {
        let cluster = self.cluster()?;
        if let Some(named) = &self.app {
            // A git remote may be named instead of the app.
            let remotes = git_remotes();
            let by_remote = remotes
                .iter()
                .find(|(name, _)| name == named)
                .and_then(|(_, url)| app_of(cluster, url));
            return Ok(by_remote.unwrap_or_else(|| named.clone()));
        }
        let remotes = git_remotes();
        if let Some(configured) = git(&["config", "flynn.remote"]) {
            let found = remotes
                .iter()
                .find(|(name, _)| *name == configured)
                .and_then(|(_, url)| app_of(cluster, url));
            return found.with_context(|| format!("the git remote {configured}, named in flynn.remote, does not lead to an app of cluster {}", cluster.name));
        }
        let mut apps: Vec<(String, String)> = remotes
            .iter()
            .filter_map(|(name, url)| Some((name.clone(), app_of(cluster, url)?)))
            .collect();
        apps.dedup_by(|a, b| a.1 == b.1);
        match apps.as_slice() {
            [(_, app)] => Ok(app.clone()),
            [] => bail!(
                "no app is named, and no git remote here leads to one: name it with -a, or create it with `flynn create`"
            ),
            several => bail!(
                "several git remotes lead to apps ({}): name one with -a",
                several
                    .iter()
                    .map(|(remote, app)| format!("{remote}: {app}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }
    }

    fn remote_cluster(&self) -> Option<&Cluster> {
        let remotes = git_remotes();
        let (_, url) = match &self.app {
            Some(named) => remotes.iter().find(|(name, _)| name == named)?,
            None => remotes.iter().find(|(_, url)| {
                self.config
                    .clusters
                    .iter()
                    .any(|cluster| app_of(cluster, url).is_some())
            })?,
        };
        self.config
            .clusters
            .iter()
            .find(|cluster| app_of(cluster, url).is_some())
    }
}

/// A client of a cluster's controller.
pub(crate) fn client(cluster: &Cluster) -> Result<Client> {
    let key = Secret::new(cluster.key.clone());
    if cluster.addresses.is_empty() {
        return Ok(Client::new(vec![cluster.controller_url.clone()], key)?);
    }
    let authority = cluster
        .controller_url
        .split("://")
        .nth(1)
        .unwrap_or(&cluster.controller_url)
        .trim_end_matches('/');
    let endpoints = cluster
        .addresses
        .iter()
        .map(|addr| format!("http://{addr}"))
        .collect();
    Ok(Client::over(
        Http::new(endpoints)?
            .with_key(key)
            .with_noun("controller")
            .with_host(authority),
    ))
}

/// Makes "nothing there" a sentence about the app.
pub(super) fn about_app<T>(app: &str, result: Result<T, ClientError>) -> Result<T> {
    match result {
        Err(error) if error.is_not_found() => {
            bail!(
                "app {app} does not exist; `flynn apps` lists those that do, `flynn create {app}` creates it"
            )
        }
        other => Ok(other?),
    }
}

/// Makes "nothing there" a sentence about something else.
pub(super) fn about<T>(what: &str, hint: &str, result: Result<T, ClientError>) -> Result<T> {
    match result {
        Err(error) if error.is_not_found() => bail!("{what} does not exist; {hint}"),
        other => Ok(other?),
    }
}

/// Asks on the terminal; without one the answer must be given by `--yes`.
pub(super) fn confirm(question: &str, yes: bool) -> Result<()> {
    use std::io::{BufRead as _, IsTerminal as _, Write as _};
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("{question} Nobody is at the terminal to ask: say yes with -y");
    }
    let mut err = std::io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}

/// The name and URL of each git remote; empty outside a repository.
pub(super) fn git_remotes() -> Vec<(String, String)> {
    let Some(text) = git(&["remote", "-v"]) else {
        return Vec::new();
    };
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once('\t')?;
            Some((name.to_owned(), rest.strip_suffix(" (push)")?.to_owned()))
        })
        .collect()
}

/// The output of git, if it succeeded.
pub(super) fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn app_of(cluster: &Cluster, url: &str) -> Option<String> {
    let rest = url
        .strip_prefix(cluster.git_url.trim_end_matches('/'))?
        .strip_prefix('/')?;
    let app = rest.strip_suffix(".git").unwrap_or(rest);
    (!app.is_empty() && !app.contains('/')).then(|| app.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_told_by_the_url_of_its_remote() {
        let cluster = Cluster {
            name: "a".to_owned(),
            key: String::new(),
            controller_url: String::new(),
            git_url: "ssh://git@127.0.0.1:2222".to_owned(),
            addresses: Vec::new(),
        };
        assert_eq!(
            app_of(&cluster, "ssh://git@127.0.0.1:2222/web.git").as_deref(),
            Some("web")
        );
        assert_eq!(app_of(&cluster, "ssh://git@127.0.0.1:22220/web.git"), None);
        assert_eq!(app_of(&cluster, "ssh://git@elsewhere:2222/web.git"), None);
    }
}
