//! What the daemon and a job's shim say to each other, and the files they share.
//!
//! Over the socket: one line of JSON each way; after [`Reply::Attached`] both sides speak attach frames.
//!
//! ```text
//! spec.json   what to run; written by the daemon before the shim starts
//! shim.json   which process the shim is
//! job.json    which process the job is, and when it began
//! exit.json   how it ended; its presence means that nothing of the job runs any more
//! sock        the shim's socket
//! shim.err    what the shim itself had to say
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::identity::Identity;
use crate::{
    log::Cursor,
    runtime::{ExitStatus, Started},
};

pub(super) const SPEC: &str = "spec.json";
pub(super) const SHIM: &str = "shim.json";
pub(super) const JOB: &str = "job.json";
pub(super) const EXIT: &str = "exit.json";
pub(super) const SOCKET: &str = "sock";
pub(super) const STDERR: &str = "shim.err";
/// What the shim prints once it listens.
pub(super) const READY: &str = "ready";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Request {
    Start,
    Signal { signal: i32 },
    Wait,
    Attach { stdin: bool },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(super) enum Reply {
    Started { started: Started },
    Signalled,
    Exited { status: ExitStatus },
    Attached { log_end: Option<Cursor> },
    NotRunning,
    Busy,
    NoCommand { why: String },
    Failed { why: String },
}

/// The content of `job.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Running {
    pub(super) process: Identity,
    pub(super) started: Started,
    /// The cgroup it is in, if it was given one.
    pub(super) cgroup: Option<PathBuf>,
}

/// Reads a file of the job's directory; `None` if it is not there.
pub(super) fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    match fs::read(dir.join(name)) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(io::Error::from),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes a file of the job's directory so that it is there whole or not at all.
pub(super) fn write<T: Serialize>(dir: &Path, name: &str, value: &T) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let mut bytes = serde_json::to_vec(value)?;
    // Over reserved space if there is some (see `reserve`): no new block is needed on a full disk then.
    bytes.resize(bytes.len().max(RESERVED), b' ');
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&bytes)?;
    file.set_len(bytes.len() as u64)?;
    fs::rename(temporary, dir.join(name))
}

/// Takes the space of a later [`write`], so that a disk that fills up meanwhile cannot lose it.
pub(super) fn reserve(dir: &Path, name: &str) -> io::Result<()> {
    File::create(dir.join(format!("{name}.tmp")))?.write_all(&[b' '; RESERVED])
}

const RESERVED: usize = 1024;
