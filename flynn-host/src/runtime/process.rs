//! Jobs as supervised groups of processes: no root, no images, no engine.
//!
//! Each job has a small shim process of its own between the daemon and itself. The daemon may stop, be killed or be
//! replaced: the job keeps running, its output keeps flowing into its log, and its exit status is known afterwards.
//!
//! ```text
//! daemon ── unix socket ──▶ shim (own session, reaper of all descendants) ──▶ job (own process group) ──▶ …
//!                            │ stdout, stderr                                  ▲
//!                            ├──▶ log files                                    │ stdin, signals
//!                            └──▶ attached clients ─────────────────────────────┘
//! ```

mod identity;
mod limits;
mod output;
mod protocol;
pub mod shim;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, DirBuilder, File},
    io,
    os::{fd::AsRawFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use flynn_sched::JobId;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::Command,
    time::{sleep, timeout},
};

use self::{
    identity::Identity,
    protocol::{EXIT, JOB, READY, Reply, Request, Running, SHIM, SOCKET, SPEC, STDERR},
};
use super::{
    AttachOptions, Attachment, Capabilities, Container, ContainerRuntime, ContainerSpec,
    ContainerState, ExitStatus, Signal, Started,
};
use crate::{Error, Result, attach::Attached, wall::wall_ms};

/// Runs jobs as groups of processes, each under a shim.
#[derive(Debug)]
pub struct ProcessRuntime {
    dir: PathBuf,
    shim: Vec<OsString>,
    /// Jobs whose shim is just starting: their directories are not to be judged yet.
    creating: Mutex<BTreeSet<JobId>>,
}

impl ProcessRuntime {
    /// A runtime that keeps its records below `dir`, one directory per job.
    ///
    /// `shim` is the command that runs [`shim::run`] with the arguments that are appended: by custom the embedding
    /// binary itself with a hidden subcommand, or this crate's `flynn-job-shim`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, shim: Vec<OsString>) -> Self {
        Self {
            dir: dir.into(),
            shim,
            creating: Mutex::default(),
        }
    }

    fn job_dir(&self, id: &JobId) -> PathBuf {
        self.dir.join(id.as_str())
    }

    fn failed(
        id: &JobId,
        operation: &'static str,
        source: impl Into<crate::error::BoxError>,
    ) -> Error {
        Error::Runtime {
            runtime: NAME,
            operation,
            job: id.clone(),
            source: source.into(),
        }
    }

    /// Starts the shim and waits until it listens.
    async fn start_shim(&self, id: &JobId, dir: &Path) -> Result<()> {
        let [program, args @ ..] = self.shim.as_slice() else {
            return Err(Error::Invalid {
                what: "the shim's command".to_owned(),
                why: "it is empty; name a binary that calls shim::run".to_owned(),
            });
        };
        let stderr = File::create(dir.join(STDERR))
            .map_err(|e| Error::file("create", dir.join(STDERR), e))?;
        let mut child = Command::new(program)
            .args(args)
            .arg(dir)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|e| Self::failed(id, "start the shim of", e))?;
        let stdout = child.stdout.take().expect("it was asked for");
        let mut said = String::new();
        let mut reader = BufReader::new(stdout);
        match timeout(PATIENCE, reader.read_line(&mut said)).await {
            Ok(Ok(_)) if said.trim() == READY => Ok(()),
            Ok(_) => {
                let _ = child.wait().await;
                if said.contains("os error 28") {
                    return Err(Error::DiskFull {
                        dir: self.dir.clone(),
                    });
                }
                let said = if said.is_empty() {
                    "the shim ended at once".to_owned()
                } else {
                    said.trim().to_owned()
                };
                Err(Self::failed(id, "start the shim of", said))
            }
            Err(_) => {
                let _ = child.kill().await;
                Err(Self::failed(
                    id,
                    "start the shim of",
                    "it was not ready in time",
                ))
            }
        }
    }

    /// Asks the shim; `None` if there is none listening.
    async fn ask(&self, id: &JobId, request: Request) -> Result<Option<(Reply, Connection)>> {
        let dir = self.job_dir(id);
        let opened = File::open(&dir).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::UnknownJob { job: id.clone() },
            _ => Error::file("open", &dir, e),
        })?;
        // The path of a socket is at most 108 bytes; that of its directory by descriptor is always short.
        let path = format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd());
        let Ok(stream) = UnixStream::connect(path).await else {
            return Ok(None);
        };
        let mut connection = BufReader::new(stream);
        let mut line = serde_json::to_vec(&request).map_err(|e| Self::failed(id, "ask", e))?;
        line.push(b'\n');
        let mut reply = String::new();
        let exchanged = async {
            connection.get_mut().write_all(&line).await?;
            (&mut connection)
                .take(MAX_REPLY)
                .read_line(&mut reply)
                .await
        };
        // A shim that is on its way out hangs up without an answer.
        if !matches!(exchanged.await, Ok(count) if count > 0) {
            return Ok(None);
        }
        let reply = serde_json::from_str(&reply).map_err(|e| Self::failed(id, "ask", e))?;
        Ok(Some((reply, connection)))
    }

    fn unexpected(id: &JobId, operation: &'static str, reply: Reply) -> Error {
        match reply {
            Reply::NotRunning => Error::NotRunning { job: id.clone() },
            Reply::Busy => Error::AlreadyAttached { job: id.clone() },
            Reply::Failed { why } => Self::failed(id, operation, why),
            other => Self::failed(id, operation, format!("the shim said {other:?}")),
        }
    }

    /// How the job ended, if nothing of it runs any more. Clears up after a shim that died.
    async fn settled(&self, id: &JobId) -> Result<Option<ExitStatus>> {
        let dir = self.job_dir(id);
        let job = id.clone();
        tokio::task::spawn_blocking(move || {
            settled(&dir).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => Error::UnknownJob { job },
                _ => Error::file("read the state in", dir.join(EXIT), e),
            })
        })
        .await
        .unwrap_or(Err(Error::Closed))
    }
}

#[async_trait]
impl ContainerRuntime for ProcessRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            survives_restart: true,
            ..Capabilities::default()
        }
    }

    async fn create(&self, id: &JobId, spec: &ContainerSpec) -> Result<()> {
        let dir = self.job_dir(id);
        self.creating.lock().insert(id.clone());
        let _created = Created { runtime: self, id };
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder
            .recursive(true)
            .create(&self.dir)
            .map_err(|e| Error::file("create", &self.dir, e))?;
        builder
            .recursive(false)
            .create(&dir)
            .map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => Error::Exists { job: id.clone() },
                _ => Error::file("create", &dir, e),
            })?;
        let written =
            protocol::write(&dir, SPEC, spec).map_err(|e| Error::file("write", dir.join(SPEC), e));
        let started = match written {
            Ok(()) => self.start_shim(id, &dir).await,
            Err(error) => Err(error),
        };
        if started.is_err() {
            let _ = fs::remove_dir_all(&dir);
        }
        started
    }

    async fn start(&self, id: &JobId) -> Result<Started> {
        match self.ask(id, Request::Start).await? {
            Some((Reply::Started { started }, _)) => Ok(started),
            Some((Reply::NoCommand { why }, _)) => {
                let spec: Option<ContainerSpec> =
                    protocol::read(&self.job_dir(id), SPEC).ok().flatten();
                let command = spec.and_then(|s| s.args.into_iter().next());
                Err(Error::Command {
                    command: command.unwrap_or_default(),
                    why,
                })
            }
            Some((reply, _)) => Err(Self::unexpected(id, "start", reply)),
            None => Err(Error::NotRunning { job: id.clone() }),
        }
    }

    async fn attach(&self, id: &JobId, options: AttachOptions) -> Result<Attachment> {
        let request = Request::Attach {
            stdin: options.stdin,
        };
        match self.ask(id, request).await? {
            Some((Reply::Attached { log_end }, connection)) => {
                let (reader, writer) = tokio::io::split(connection);
                Ok(Attachment {
                    streams: Attached::new(reader, writer),
                    log_end,
                })
            }
            Some((reply, _)) => Err(Self::unexpected(id, "attach to", reply)),
            None => Err(Error::NotRunning { job: id.clone() }),
        }
    }

    async fn kill(&self, id: &JobId, signal: Signal) -> Result<()> {
        let request = Request::Signal {
            signal: signal.number(),
        };
        match self.ask(id, request).await? {
            Some((Reply::Signalled, _)) => Ok(()),
            Some((reply, _)) => Err(Self::unexpected(id, "signal", reply)),
            None => Err(Error::NotRunning { job: id.clone() }),
        }
    }

    async fn wait(&self, id: &JobId) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.settled(id).await? {
                return Ok(status);
            }
            if let Some((Reply::Exited { status }, _)) = self.ask(id, Request::Wait).await? {
                return Ok(status);
            }
            // It is just ending, or died: its files will tell.
            sleep(POLL).await;
        }
    }

    async fn delete(&self, id: &JobId) -> Result<()> {
        let asked = match self.kill(id, Signal::KILL).await {
            Err(Error::UnknownJob { .. }) => return Ok(()),
            asked => asked,
        };
        let gone = async {
            while self.settled(id).await?.is_none() {
                sleep(POLL).await;
            }
            Ok(())
        };
        let patience = if asked.is_ok() { PATIENCE } else { POLL * 20 };
        match timeout(patience, gone).await {
            Ok(Ok(()) | Err(Error::UnknownJob { .. })) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let dir = self.job_dir(id);
                let _ = tokio::task::spawn_blocking(move || kill_by_force(&dir)).await;
            }
        }
        let dir = self.job_dir(id);
        let removed = tokio::task::spawn_blocking(move || {
            clear_cgroup(&dir);
            fs::remove_dir_all(dir)
        });
        match removed.await {
            Ok(Err(e)) if e.kind() != io::ErrorKind::NotFound => {
                Err(Self::failed(id, "delete the directory of", e))
            }
            _ => Ok(()),
        }
    }

    async fn list(&self) -> Result<Vec<Container>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::file("list", &self.dir, e)),
        };
        let mut containers = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Ok(id) = JobId::parse(name) else { continue };
            if self.creating.lock().contains(&id) {
                continue;
            }
            let state = match self.settled(&id).await {
                Ok(Some(status)) => ContainerState::Exited(status),
                Ok(None) => match protocol::read::<Running>(&entry.path(), JOB) {
                    Ok(Some(running)) => ContainerState::Running(running.started),
                    _ => ContainerState::Created,
                },
                Err(Error::UnknownJob { .. }) => continue,
                Err(error) => return Err(error),
            };
            containers.push(Container { id, state });
        }
        Ok(containers)
    }
}

/// Takes a job out of the set of those being created, however that ends.
struct Created<'a> {
    runtime: &'a ProcessRuntime,
    id: &'a JobId,
}

impl Drop for Created<'_> {
    fn drop(&mut self) {
        self.runtime.creating.lock().remove(self.id);
    }
}

type Connection = BufReader<UnixStream>;

fn settled(dir: &Path) -> io::Result<Option<ExitStatus>> {
    if let Some(status) = protocol::read(dir, EXIT)? {
        return Ok(Some(status));
    }
    let shim: Option<Identity> = protocol::read(dir, SHIM)?;
    if shim.as_ref().is_some_and(Identity::is_alive) {
        return Ok(None);
    }
    fs::metadata(dir)?;
    // It may have written its last word between our two looks.
    if let Some(status) = protocol::read(dir, EXIT)? {
        return Ok(Some(status));
    }
    kill_by_force(dir);
    let status = ExitStatus {
        code: 137,
        signal: Some(9),
        error: Some("was lost: the process that watched over it died".to_owned()),
        is_lost: true,
        at_ms: wall_ms(),
    };
    protocol::write(dir, EXIT, &status)?;
    Ok(Some(status))
}

/// Kills a shim and all that is left of its session.
fn kill_by_force(dir: &Path) {
    let Ok(Some(shim)) = protocol::read::<Identity>(dir, SHIM) else {
        return;
    };
    let kill = |pid: u32| {
        if let Some(pid) = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    };
    if shim.is_alive() {
        kill(shim.pid);
    }
    clear_cgroup(dir);
    for _ in 0..FORCE_ROUNDS {
        let members = shim.session_members();
        if members.is_empty() {
            return;
        }
        members.into_iter().for_each(kill);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes the cgroup of a job whose shim could not do it.
fn clear_cgroup(dir: &Path) {
    if let Ok(Some(Running {
        cgroup: Some(cgroup),
        ..
    })) = protocol::read(dir, JOB)
    {
        limits::clear(&cgroup);
    }
}

const NAME: &str = "process";

/// How long a shim may take to start, and a killed job to vanish.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const MAX_REPLY: u64 = 64 * 1024;
/// Together five seconds.
const FORCE_ROUNDS: usize = 1000;
