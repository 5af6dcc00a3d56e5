//! What can go wrong, named by what the caller can do about it.

use std::time::Duration;

use crate::backend::{Key, LeaseId};

/// A boxed error of a lower layer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The result of a discovery operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a discovery operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A precondition does not hold; nothing was changed. Read again and decide anew.
    #[error("{key} is not as expected")]
    Conflict {
        /// The first key whose condition failed.
        key: Key,
    },
    /// The lease expired or was revoked; its keys are gone. Grant a new one and write again.
    #[error("lease {lease} has expired or was revoked")]
    LeaseLost {
        /// The lease that was named.
        lease: LeaseId,
    },
    /// The thing that was named does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for, for example `service www`.
        what: String,
    },
    /// The thing to be created is there already.
    #[error("{what} exists already")]
    Exists {
        /// What was to be created.
        what: String,
    },
    /// The caller's input is not acceptable; trying again cannot help.
    #[error("{what}: {why}")]
    Invalid {
        /// What was given.
        what: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// The caller's credentials are missing or wrong.
    #[error("not authorized: {why}")]
    Denied {
        /// What was wrong with them, without repeating them.
        why: String,
    },
    /// The operation was certainly not carried out; it may be tried again.
    #[error("{backend} is unavailable: {why}")]
    Unavailable {
        /// The backend's name.
        backend: &'static str,
        /// Why, and for how long if known.
        why: String,
    },
    /// No answer came in time: the operation may or may not have been carried out. Read before trying again.
    #[error("{operation} was not answered within {after:?}; it may or may not have happened")]
    Unknown {
        /// The operation.
        operation: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The backend was shut down.
    #[error("{backend} is shut down")]
    Closed {
        /// The backend's name.
        backend: &'static str,
    },
    /// Stored data is damaged or the disk failed; only an operator can judge.
    #[error("{backend} storage: {why}")]
    Storage {
        /// The backend's name.
        backend: &'static str,
        /// What is damaged and what to do next.
        why: String,
        /// The underlying error, if there is one.
        source: Option<BoxError>,
    },
    /// A peer said something the protocol does not allow.
    #[error("protocol: {why}")]
    Protocol {
        /// What was received and what was expected.
        why: String,
    },
}

impl Error {
    /// May the same operation be tried again as it is, with a chance to succeed?
    ///
    /// [`Error::Unknown`] is not transient in this sense: the first attempt may have been carried out.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
