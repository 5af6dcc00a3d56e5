//! What scenarios stand on: a booted cluster, a user with a key, apps to push.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use flynn_distribution::testbed::{Testbed, TestbedOptions, eventually};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The cluster that scenarios share.
#[derive(Default)]
pub(crate) struct Shared(Mutex<Option<Cluster>>);

impl Shared {
    /// The cluster, booted when it is first asked for.
    pub(crate) fn cluster(&self) -> Result<SharedCluster<'_>> {
        let mut guard = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if guard.is_none() {
            *guard = Some(Cluster::boot(3)?);
        }
        Ok(SharedCluster(guard))
    }

    /// Stops it.
    pub(crate) fn stop(&self) {
        let mut guard = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(mut cluster) = guard.take() {
            let _ = cluster.stop();
        }
    }
}

pub(crate) struct SharedCluster<'a>(MutexGuard<'a, Option<Cluster>>);

impl std::ops::Deref for SharedCluster<'_> {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        self.0
            .as_ref()
            .expect("it was booted when the guard was made")
    }
}

/// A booted cluster and a user of it.
pub(crate) struct Cluster {
    pub(crate) bed: Testbed,
    pub(crate) runtime: Runtime,
    pub(crate) key: PathBuf,
    dir: TempDir,
}

/// How long a loaded machine may take for what is usually a matter of a second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

impl Cluster {
    /// Hosts that run, without a platform.
    pub(crate) fn hosts(count: u8) -> Result<Self> {
        Self::hosts_in(count, |_| Ok(()))
    }

    /// Hosts that run in a directory that was prepared before they wrote anything.
    pub(crate) fn hosts_in(count: u8, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("flynn-it").tempdir()?;
        let place = dir.path().join("cluster");
        fs::create_dir(&place)?;
        prepare(&place)?;
        // A network of its own, so that several clusters and the demo do not meet.
        let [a, b] = rand::random::<[u8; 2]>();
        let mut bed = Testbed::open(TestbedOptions {
            dir: place,
            bin_dir: Path::new(env!("CARGO_BIN_EXE_flynn-host"))
                .parent()
                .context("it lies in a directory")?
                .to_owned(),
            network: [127, a.max(1), b],
            hosts: count,
            http_port: 8080,
            ssh_port: 2222,
            domain: "test.localhost".to_owned(),
        })?;
        bed.start_all()?;
        let runtime = Runtime::new()?;
        let key = dir.path().join("id_ed25519");
        make_key(&key)?;
        Ok(Self {
            bed,
            runtime,
            key,
            dir,
        })
    }

    /// Hosts with the platform, and a user's key.
    pub(crate) fn boot(count: u8) -> Result<Self> {
        Self::hosts(count)?.with_platform()
    }

    /// These hosts with the platform, and a user's key.
    pub(crate) fn with_platform(self) -> Result<Self> {
        let cluster = self;
        cluster.bootstrap(&[])?;
        cluster.flynn(&[
            "key",
            "add",
            &cluster.key.with_extension("pub").display().to_string(),
        ])?;
        Ok(cluster)
    }

    pub(crate) fn bootstrap(&self, more: &[&str]) -> Result<Output> {
        let buildpacks = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../flynn-receive/buildpacks")
            .canonicalize()?;
        let hosts = self.bed.hosts().len();
        let min = if hosts >= 3 { "3" } else { "1" };
        let output = self
            .command("flynn-host")
            .args([
                "bootstrap",
                "--min-hosts",
                min,
                "--domain",
                self.bed.domain(),
                "--http-port",
                "8080",
                "--ssh-port",
                "2222",
            ])
            .arg("--data-dir")
            .arg(&self.bed.hosts()[0].data_dir)
            .arg("--buildpacks")
            .arg(buildpacks)
            .args(more)
            .output()?;
        checked(output, "flynn-host bootstrap")
    }

    /// A command of ours in a user's environment.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.bed.bin(name));
        command
            .env("FLYNNRC", self.bed.flynnrc())
            .env("HOME", self.dir.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env_remove("FLYNN_APP")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs `flynn`, which must succeed.
    pub(crate) fn flynn(&self, args: &[&str]) -> Result<String> {
        let output = checked(
            self.flynn_output(args)?,
            &format!("flynn {}", args.join(" ")),
        )?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs `flynn`, however it ends.
    pub(crate) fn flynn_output(&self, args: &[&str]) -> Result<Output> {
        Ok(self.command("flynn").args(args).output()?)
    }

    pub(crate) fn flynn_json(&self, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.flynn(&[args, &["--json"]].concat())?,
        )?)
    }

    pub(crate) fn host_json(&self, host: usize, args: &[&str]) -> Result<Value> {
        let output = self
            .command("flynn-host")
            .args(args)
            .arg("--json")
            .arg("--data-dir")
            .arg(&self.bed.hosts()[host].data_dir)
            .output()?;
        Ok(serde_json::from_slice(
            &checked(output, "flynn-host")?.stdout,
        )?)
    }

    /// A repository with these files, committed, and an app with a git remote.
    pub(crate) fn repository(&self, app: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
        let repository = self.dir.path().join(app);
        fs::create_dir_all(&repository)?;
        self.git(&repository, &["init", "-q", "-b", "main"])?;
        self.commit(&repository, files)?;
        checked(
            self.command("flynn")
                .args(["create", app])
                .current_dir(&repository)
                .output()?,
            "flynn create",
        )?;
        Ok(repository)
    }

    /// Commits files; one that begins with `#!` is executable.
    pub(crate) fn commit(&self, repository: &Path, files: &[(&str, &str)]) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        for (name, content) in files {
            let path = repository.join(name);
            fs::write(&path, content)?;
            if content.starts_with("#!") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
        }
        self.git(repository, &["add", "-A"])?;
        self.git(
            repository,
            &[
                "-c",
                "user.name=Test",
                "-c",
                "user.email=test@example.com",
                "commit",
                "-qm",
                "change",
            ],
        )?;
        Ok(())
    }

    pub(crate) fn git(&self, repository: &Path, args: &[&str]) -> Result<String> {
        let output = checked(
            self.git_output(repository, args, &self.key)?,
            &format!("git {}", args.join(" ")),
        )?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn git_output(
        &self,
        repository: &Path,
        args: &[&str],
        key: &Path,
    ) -> Result<Output> {
        let ssh = format!(
            "ssh -i '{}' -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes",
            key.display()
        );
        Ok(Command::new("git")
            .args(args)
            .current_dir(repository)
            .env("GIT_SSH_COMMAND", ssh)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdin(Stdio::null())
            .output()?)
    }

    /// Pushes, which must succeed; what git showed the user.
    pub(crate) fn push(&self, repository: &Path) -> Result<String> {
        self.git(repository, &["push", "flynn", "main"])
    }

    /// Pushes, which must fail; what git showed the user.
    pub(crate) fn push_refused(&self, repository: &Path) -> Result<String> {
        let output = self.git_output(repository, &["push", "flynn", "main"], &self.key)?;
        ensure!(!output.status.success(), "the push was accepted");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What an app answers through the routers.
    pub(crate) fn get(&self, app: &str, path: &str) -> Result<(u16, String)> {
        let host = format!("{app}.{}", self.bed.domain());
        let (status, body) = self
            .runtime
            .block_on(flynn_distribution::testbed::load::get(
                &self.bed.router_addrs(),
                &host,
                path,
            ))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Probes again and again until it succeeds.
    pub(crate) fn eventually<T>(
        &self,
        what: &str,
        mut probe: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        self.runtime.block_on(eventually(what, PATIENCE, || {
            std::future::ready(tokio::task::block_in_place(&mut probe))
        }))
    }

    /// The log of a host's daemon.
    pub(crate) fn daemon_log(&self, host: usize) -> String {
        fs::read_to_string(self.bed.hosts()[host].log_path()).unwrap_or_default()
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        self.runtime.block_on(self.bed.stop_all())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

pub(crate) fn make_key(path: &Path) -> Result<()> {
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(path)
        .output()?;
    checked(output, "ssh-keygen").map(drop)
}

pub(crate) fn checked(output: Output, what: &str) -> Result<Output> {
    if !output.status.success() {
        bail!(
            "{what} ended with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout).trim(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output)
}

/// The text must hold each of the parts.
pub(crate) fn says(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    Ok(())
}

/// An app that is pushed once and used by several scenarios.
pub(crate) fn pushed(cluster: &Cluster, app: &str) -> Result<()> {
    if cluster.flynn_output(&["-a", app, "info"])?.status.success() {
        return Ok(());
    }
    let content = web_app("one");
    let files: Vec<_> = content
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let repository = cluster.repository(app, &files)?;
    cluster.push(&repository)?;
    Ok(())
}

/// A web server in POSIX sh and busybox-free Python, small enough to be in a test: answers with its version.
pub(crate) fn web_app(version: &str) -> Vec<(&'static str, String)> {
    vec![
        ("Procfile", "web: ./serve\n".to_owned()),
        (
            "serve",
            format!(
                "#!/usr/bin/env python3\n\
                 import http.server, os\n\
                 class Handler(http.server.BaseHTTPRequestHandler):\n\
                 \x20   protocol_version = 'HTTP/1.1'\n\
                 \x20   def do_GET(self):\n\
                 \x20       body = ('{version} ' + os.environ.get('GREETING', '') + ' ' + os.environ['FLYNN_JOB_ID'] + '\\n').encode()\n\
                 \x20       self.send_response(200)\n\
                 \x20       self.send_header('Content-Length', str(len(body)))\n\
                 \x20       self.end_headers()\n\
                 \x20       self.wfile.write(body)\n\
                 print('serving {version}', flush=True)\n\
                 http.server.ThreadingHTTPServer(('0.0.0.0', int(os.environ['PORT'])), Handler).serve_forever()\n"
            ),
        ),
    ]
}
