//! What runs jobs: [`ContainerRuntime`], with the verbs of OCI.
//!
//! Restarts, graces, ports and health are policy and live in the host's supervisor, so that they are the same on every
//! runtime. A runtime creates, starts, signals and forgets, and it remembers across restarts of the daemon.

#[cfg(feature = "process")]
pub mod process;
pub mod recording;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use async_trait::async_trait;
use flynn_sched::JobId;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    attach::Attached,
    log::{Cursor, LogTarget},
};

/// What runs jobs.
///
/// # Contract
///
/// Each sentence below is a case of the conformance suite.
#[async_trait]
pub trait ContainerRuntime: fmt::Debug + Send + Sync + 'static {
    /// The kind of runtime, for messages: `process`, `runc`, `docker`, ….
    fn name(&self) -> &'static str;

    /// What this runtime can do beyond the contract.
    fn capabilities(&self) -> Capabilities;

    /// Makes a container that does not run yet. Its output is captured from its first byte on.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when the job has a container, whether it runs or not; [`Error::DiskFull`].
    async fn create(&self, id: &JobId, spec: &ContainerSpec) -> Result<()>;

    /// Starts the command of a created container.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when the command is missing or not executable: the container has then ended with status 127.
    /// [`Error::UnknownJob`] when there is no such container.
    async fn start(&self, id: &JobId) -> Result<Started>;

    /// Connects to the standard streams of a container, created or running. What the job writes from now on is
    /// delivered, and at the end an exit frame with its status.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] when it has ended; [`Error::AlreadyAttached`] when it has no log and another client;
    /// [`Error::UnknownJob`].
    async fn attach(&self, id: &JobId, options: AttachOptions) -> Result<Attachment>;

    /// Sends a signal. [`Signal::KILL`] reaches every process of the job, other signals its first process group.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] when it has ended or was not started; [`Error::UnknownJob`].
    async fn kill(&self, id: &JobId, signal: Signal) -> Result<()>;

    /// Waits until the job's first process has ended and every other process of the job is gone. The status stays known
    /// until [`delete`](Self::delete), also across restarts of the daemon.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownJob`] when there is no such container.
    ///
    /// # Cancel safety
    ///
    /// A dropped call loses nothing; any number may wait.
    async fn wait(&self, id: &JobId) -> Result<ExitStatus>;

    /// Removes a container, killing what still runs of it. Removing an absent one succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::Runtime`] when something of it cannot be removed.
    async fn delete(&self, id: &JobId) -> Result<()>;

    /// All containers, also those made before a restart of the daemon.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the runtime's own records cannot be read.
    async fn list(&self) -> Result<Vec<Container>>;
}

/// What a runtime can do beyond the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// Jobs outlive the daemon.
    pub survives_restart: bool,
    /// Jobs can be given a terminal.
    pub tty: bool,
    /// Limits on memory are enforced.
    pub memory_limits: bool,
    /// Jobs have a network of their own.
    pub own_network: bool,
}

/// What a container is made of. Its `Debug` shows the names of variables, not their values.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The command and its arguments. A command with a `/` is relative to `root`; others are looked up in `PATH`.
    pub args: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Its root or, where the runtime has none, its working directory.
    pub root: PathBuf,
    /// Where its output is kept. `None`: nowhere, it is only delivered to attached clients.
    pub log: Option<LogTarget>,
    /// What it may use.
    pub limits: Limits,
    /// Keep its standard input open for attached clients; otherwise it is empty.
    pub has_stdin: bool,
    /// The job waits while an attached client is slow, instead of the client being cut off.
    pub waits_for_readers: bool,
}

impl fmt::Debug for ContainerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerSpec")
            .field("args", &self.args)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("root", &self.root)
            .field("log", &self.log)
            .field("limits", &self.limits)
            .field("has_stdin", &self.has_stdin)
            .finish_non_exhaustive()
    }
}

/// What a container may use; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Open files of one process.
    pub max_files: Option<u64>,
}

/// A container that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The process id of its first process, where there is one.
    pub pid: Option<u32>,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The exit code, or 128 + the signal.
    pub code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Why the code is not the job's own: it could not be started, or was lost.
    pub error: Option<String>,
    /// Was it lost, so that nobody knows how it ended?
    #[serde(default)]
    pub is_lost: bool,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.error, self.signal) {
            (Some(error), _) => f.write_str(error),
            (None, Some(signal)) => write!(f, "was killed by signal {signal}"),
            (None, None) => write!(f, "exited with status {}", self.code),
        }
    }
}

/// A container that a runtime knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Whose it is.
    pub id: JobId,
    /// How it is.
    pub state: ContainerState,
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContainerState {
    /// It was made and not started.
    Created,
    /// It runs.
    Running(Started),
    /// It has ended.
    Exited(ExitStatus),
}

/// How to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AttachOptions {
    /// Feed the job's standard input; the end of the connection closes it.
    pub stdin: bool,
}

impl AttachOptions {
    /// With this client's data as the job's standard input.
    #[must_use]
    pub fn with_stdin(mut self, stdin: bool) -> Self {
        self.stdin = stdin;
        self
    }
}

/// A connection to a job's streams.
#[derive(Debug)]
pub struct Attachment {
    /// The frames of the job's streams.
    pub streams: Attached,
    /// The end of the job's log when the connection began: the log up to here, followed by the frames, is all output
    /// without a gap and without repetition. `None` where no log is kept.
    pub log_end: Option<Cursor>,
}

/// A signal by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signal(i32);

impl Signal {
    /// Ends a program that does not handle it.
    pub const HUP: Self = Self(1);
    /// What ctrl-C sends.
    pub const INT: Self = Self(2);
    /// Ends every process at once.
    pub const KILL: Self = Self(9);
    /// Asks a program to end.
    pub const TERM: Self = Self(15);

    /// Parses a signal's number.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] outside of 1 to 64.
    pub fn parse(number: i32) -> Result<Self> {
        if (1..=64).contains(&number) {
            Ok(Self(number))
        } else {
            Err(Error::Invalid {
                what: format!("signal {number}"),
                why: "use a number from 1 to 64".to_owned(),
            })
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}
