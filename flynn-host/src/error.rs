//! What can go wrong, named by what the caller can do about it.

use std::{io, path::PathBuf};

use flynn_sched::JobId;

/// A boxed error of a lower layer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The result of a host operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a host operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host does not know the job.
    #[error("job {job} is not on this host")]
    UnknownJob {
        /// The job.
        job: JobId,
    },
    /// The job has a container already; delete it first.
    #[error("job {job} exists already")]
    Exists {
        /// The job.
        job: JobId,
    },
    /// The job does not run (any more).
    #[error("job {job} is not running")]
    NotRunning {
        /// The job.
        job: JobId,
    },
    /// Another client is attached and the job admits one at a time.
    #[error("job {job} is attached")]
    AlreadyAttached {
        /// The job.
        job: JobId,
    },
    /// The caller's input is not acceptable; trying again cannot help.
    #[error("{what}: {why}")]
    Invalid {
        /// What was given.
        what: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// The disk is full; free some space and start the job again.
    #[error("no space is left under {}: free some, or give the host another data directory", dir.display())]
    DiskFull {
        /// The directory that could not be written to.
        dir: PathBuf,
    },
    /// An artifact could not be fetched or unpacked.
    #[error("artifact {uri}: {why}")]
    Artifact {
        /// Where it should have come from.
        uri: String,
        /// What went wrong.
        why: String,
        /// May it work later as it is?
        is_transient: bool,
    },
    /// A port could not be had; it may be free later.
    #[error("port {port} is in use on {addr}")]
    PortInUse {
        /// The port.
        port: u16,
        /// The host's address.
        addr: String,
    },
    /// Every port of the host's range is taken; widen the range or stop jobs.
    #[error("no port is free between {first} and {last}: widen the host's range of ports")]
    NoPortFree {
        /// The first port of the range.
        first: u16,
        /// The last port of the range.
        last: u16,
    },
    /// The command of a job could not be started: it is missing or not executable.
    #[error("could not start {command:?}: {why}")]
    Command {
        /// The command.
        command: String,
        /// What the system said.
        why: String,
    },
    /// The runtime failed in a way only an operator can judge.
    #[error("{runtime} could not {operation} {job}: {source}")]
    Runtime {
        /// The runtime's name.
        runtime: &'static str,
        /// What was being done.
        operation: &'static str,
        /// To which job.
        job: JobId,
        /// Why it failed.
        source: BoxError,
    },
    /// A file operation failed.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was being done, for example `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon works in the data directory.
    #[error("another host daemon works in {}: stop it, or choose another data directory", dir.display())]
    DirTaken {
        /// The data directory.
        dir: PathBuf,
    },
    /// The cell refused the host or cannot be reached.
    #[error(transparent)]
    Cluster(#[from] flynn_sched::Error),
    /// The peer said something the protocol does not allow, or was refused.
    #[error("protocol: {why}")]
    Protocol {
        /// What was received.
        why: String,
    },
    /// The other side refused to attach, for this reason.
    #[error("{why}")]
    Refused {
        /// In its own words.
        why: String,
    },
    /// A call of the host API failed.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Api(#[from] flynn_discovery::http::ClientError),
    /// The host cannot go on.
    #[error("{why}")]
    Ended {
        /// Why, and what to do about it.
        why: String,
    },
    /// The host is shut down.
    #[error("the host is shut down")]
    Closed,
}

impl Error {
    /// May the same operation be tried again as it is, with a chance to succeed?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Artifact { is_transient, .. } => *is_transient,
            Self::PortInUse { .. } | Self::NoPortFree { .. } => true,
            Self::Cluster(error) => error.is_transient(),
            _ => false,
        }
    }

    /// An error of a file operation; a full disk is told apart.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        if is_disk_full(&source) {
            let dir = path.parent().map(PathBuf::from).unwrap_or(path);
            Self::DiskFull { dir }
        } else {
            Self::File { what, path, source }
        }
    }
}

pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
