//! What can go wrong, named by what the caller can do about it.

use crate::{GroupId, HostId, JobId, Namespace};

/// The result of a scheduling operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on the cluster failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host changed after the transaction's snapshot, or no longer has room: take a new snapshot and schedule again.
    #[error("host {host}: {why}")]
    Conflict {
        /// The host.
        host: HostId,
        /// What changed.
        why: String,
    },
    /// The group was changed, or its jobs were, since the snapshot: take a new snapshot and schedule again.
    #[error("group {group}: {why}")]
    GroupChanged {
        /// The group.
        group: GroupId,
        /// What changed.
        why: String,
    },
    /// The namespace's quota has no room for the job.
    #[error("{why}")]
    QuotaExceeded {
        /// The namespace.
        namespace: Namespace,
        /// What is used, and what the limit is.
        why: String,
    },
    /// The host is not in the cluster.
    #[error("host {host} is not in the cluster")]
    UnknownHost {
        /// The host.
        host: HostId,
    },
    /// Another host with this id is alive.
    #[error(
        "host id {host} is taken by the host at {addr}: give one of them another id, or wait until that one's lease has ended"
    )]
    HostTaken {
        /// The id.
        host: HostId,
        /// Where the other one is.
        addr: String,
    },
    /// The job is not in the cluster.
    #[error("job {job} is not in the cluster")]
    UnknownJob {
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
    /// The cell's store failed.
    #[error("the cell's store failed while {operation}")]
    Store {
        /// What was being done.
        operation: &'static str,
        /// May it be tried again as it is?
        is_transient: bool,
        /// The store's error.
        source: Box<dyn std::error::Error + Send + Sync + 'static>,
    },
}

impl From<crate::ParseExpressionError> for Error {
    fn from(error: crate::ParseExpressionError) -> Self {
        Self::Invalid {
            what: "constraint".to_owned(),
            why: error.to_string(),
        }
    }
}

impl Error {
    /// May the caller try again (after a new snapshot, for conflicts)?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Conflict { .. }
                | Self::GroupChanged { .. }
                | Self::QuotaExceeded { .. }
                | Self::Store {
                    is_transient: true,
                    ..
                }
        )
    }

    /// What lies beneath, for logs; empty if nothing does.
    pub(crate) fn source_text(&self) -> String {
        std::error::Error::source(self).map_or_else(String::new, ToString::to_string)
    }
}
