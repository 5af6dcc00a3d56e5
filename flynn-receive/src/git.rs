//! Bare repositories, one an app, and the system's `git` that works on them.
//!
//! A repository is a cache. What is deployed is what the controller says; what is lost here is sent again by the next
//! push, because a client sends everything that the repository does not offer.

mod hook;
mod update;

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;
use tracing::info;

use crate::{
    Error, Result,
    cache::blocking,
    slug::{Limits, temporary_dir, unpack},
};

pub(crate) use hook::{Hook, Pushed};
pub(crate) use update::{Update, deployable};

/// The repositories below one directory.
#[derive(Debug, Clone)]
pub(crate) struct Repositories {
    dir: PathBuf,
    hooks: PathBuf,
    /// What pushes leave here for their time. Emptied at each start.
    scratch: PathBuf,
    path: String,
    push_limit: u64,
}

impl Repositories {
    /// Keeps repositories in `dir`; `path` is where programs are found.
    pub(crate) async fn open(dir: &Path, path: &str, push_limit: u64) -> Result<Self> {
        let repositories = Self {
            dir: dir.join("repositories"),
            hooks: dir.join("hooks"),
            scratch: dir.join("scratch"),
            path: path.to_owned(),
            push_limit,
        };
        let failed = || Error::storage(format!("prepare {}", dir.display()));
        let _ = tokio::fs::remove_dir_all(&repositories.scratch).await;
        for dir in [
            &repositories.dir,
            &repositories.hooks,
            &repositories.scratch,
        ] {
            tokio::fs::create_dir_all(dir).await.map_err(failed())?;
        }
        let hook = repositories.hooks.join("pre-receive");
        // Written aside and renamed: a push of another process may be reading it.
        let fresh = repositories
            .hooks
            .join(format!("fresh-{}", uuid::Uuid::new_v4().simple()));
        tokio::fs::write(&fresh, include_str!("git/pre-receive.sh"))
            .await
            .map_err(failed())?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        tokio::fs::set_permissions(&fresh, mode)
            .await
            .map_err(failed())?;
        tokio::fs::rename(&fresh, &hook).await.map_err(failed())?;

        let version = repositories.output(repositories.git(["version"])).await?;
        info!(git = version.trim(), "git is there");
        Ok(repositories)
    }

    /// The repository of an app, made if it is absent.
    pub(crate) async fn of_app(&self, app_id: &str) -> Result<Repository> {
        let is_name = !app_id.is_empty()
            && app_id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !is_name {
            return Err(Error::invalid(
                format!("app id {app_id:?}"),
                "it cannot be a directory's name",
            ));
        }
        let path = self.dir.join(format!("{app_id}.git"));
        if !path.join("HEAD").is_file() {
            let mut init = self.git(["init", "--quiet", "--bare", "--initial-branch=main"]);
            init.arg(&path);
            self.output(init).await?;
        }
        Ok(Repository {
            owner: self.clone(),
            path,
        })
    }

    /// A directory for the time of one push.
    pub(crate) fn scratch(&self, purpose: &str) -> Result<tempfile::TempDir> {
        temporary_dir(purpose, Some(&self.scratch))
    }

    fn git<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = Command::new("git");
        command
            .args(args)
            .env_clear()
            .envs(self.env())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    fn env(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("PATH", self.path.clone()),
            ("HOME", self.dir.to_string_lossy().into_owned()),
            ("LC_ALL", "C".to_owned()),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("GIT_CONFIG_GLOBAL", "/dev/null".to_owned()),
            ("GIT_TERMINAL_PROMPT", "0".to_owned()),
        ])
    }

    async fn output(&self, mut command: Command) -> Result<String> {
        let output = tokio::time::timeout(GIT_TIMEOUT, command.output())
            .await
            .map_err(|e| Error::upstream("git did not answer in time", e))?
            .map_err(|e| {
                let why = "git could not be run: install it (apt-get install git)";
                Error::upstream(why, e)
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(Error::Upstream {
            what: format!("git failed: {}", stderr.lines().next().unwrap_or("no word")),
            source: None,
        })
    }
}

/// The repository of one app.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    owner: Repositories,
    path: PathBuf,
}

impl Repository {
    /// Offers as branches only what is `deployed`, so that a push of anything else is not "up to date".
    ///
    /// After a roll-back, or a push through another receiver, branches here may name what is no longer deployed.
    /// Their commits are kept and offered under another name, so that they need not be sent again.
    pub(crate) async fn offer(&self, deployed: Option<&str>) -> Result<()> {
        let mut list = self.git(["for-each-ref", "--format=%(objectname) %(refname)"]);
        list.arg("refs/heads");
        for line in self.owner.output(list).await?.lines() {
            let Some((commit, name)) = line.split_once(' ') else {
                continue;
            };
            if deployed == Some(commit) {
                continue;
            }
            let kept = name.replacen("refs/heads/", "refs/pushed/", 1);
            for args in [["update-ref", &kept, commit], ["update-ref", "-d", name]] {
                self.owner.output(self.git(args)).await?;
            }
        }
        Ok(())
    }

    /// The program that takes a push. Its hook finds `hook_dir`.
    pub(crate) fn receive_pack(&self, hook_dir: &Path) -> Command {
        let mut command = self.owner.git([]);
        for (name, value) in [
            ("core.hooksPath", self.owner.hooks.display().to_string()),
            ("receive.maxInputSize", self.owner.push_limit.to_string()),
            ("receive.shallowUpdate", "true".to_owned()),
            ("receive.advertisePushOptions", "false".to_owned()),
            ("gc.autoDetach", "false".to_owned()),
        ] {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command
            .arg("receive-pack")
            .arg(&self.path)
            .env(HOOK_DIR_VARIABLE, hook_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Writes the files of `commit` into the directory `to`. `quarantine` says where git has put what was just pushed.
    pub(crate) async fn checkout(
        &self,
        commit: &str,
        quarantine: &[(String, String)],
        to: &Path,
        limits: Limits,
    ) -> Result<()> {
        let mut git = std::process::Command::new("git");
        git.args(["archive", "--format=tar", commit])
            .env_clear()
            .envs(self.owner.env())
            .env("GIT_DIR", &self.path)
            .envs(quarantine.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let to = to.to_owned();
        blocking(move || {
            let mut git = git
                .spawn()
                .map_err(|e| Error::upstream("git could not be run", e))?;
            let stdout = git.stdout.take().expect("standard output was asked for");
            let unpacked = unpack(stdout, &to, limits);
            if unpacked.is_err() {
                let _ = git.kill();
            }
            let mut complaint = String::new();
            if let Some(mut stderr) = git.stderr.take() {
                let _ = stderr.read_to_string(&mut complaint);
            }
            let status = git
                .wait()
                .map_err(|e| Error::upstream("git could not be waited for", e))?;
            unpacked?;
            if status.success() {
                Ok(())
            } else {
                let why = complaint.lines().next().unwrap_or("no word").to_owned();
                Err(Error::refused(format!(
                    "git could not read the commit that was pushed: {why}"
                )))
            }
        })
        .await
    }

    fn git<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = self.owner.git(args);
        command.env("GIT_DIR", &self.path);
        command
    }
}

/// Where the hook finds the receiver.
pub(crate) const HOOK_DIR_VARIABLE: &str = "FLYNN_PUSH";

/// How long a question to git may take.
const GIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The most bytes of one push: 1 GiB.
pub const MAX_PUSH_BYTES: u64 = 1 << 30;
