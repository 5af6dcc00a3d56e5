//! What can go wrong, named by what the caller can do about it.

use std::io;

use crate::blob::BlobName;

/// A boxed error of a lower layer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of this crate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was given is not acceptable; trying again cannot help.
    #[error("{what}: {why}")]
    Invalid {
        /// What was given.
        what: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// There is no such blob.
    #[error("blob {name} does not exist")]
    NotFound {
        /// What was looked for.
        name: BlobName,
    },
    /// A stored blob is damaged; another copy may be sound.
    #[error("blob {name} is damaged: {why}")]
    Corrupt {
        /// The blob.
        name: BlobName,
        /// How it was noticed.
        why: String,
    },
    /// A bound with a name was exceeded.
    #[error("{what} is larger than the {limit} bytes allowed")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The bound, in bytes.
        limit: u64,
    },
    /// Too few others answered; the operation may be tried again.
    #[error("{what} is unavailable: {why}")]
    Unavailable {
        /// What is missing.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The caller's credentials are missing or wrong.
    #[error("not authorized: {why}")]
    Denied {
        /// What was wrong with them, without repeating them.
        why: String,
    },
    /// The disk failed or is full.
    #[error("{operation}: {source}")]
    Storage {
        /// What was being done, and to what.
        operation: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A push or a build is refused, with a sentence for the one who pushed.
    #[error("{why}")]
    Refused {
        /// The sentence: the cause and the next step.
        why: String,
    },
    /// The work was stopped before its end: the pusher went away, or this program shuts down.
    #[error("{what} was stopped")]
    Stopped {
        /// What was stopped.
        what: &'static str,
    },
    /// A program or a server that this crate relies on misbehaved.
    #[error("{what}")]
    Upstream {
        /// What was asked of whom, and what came of it.
        what: String,
        /// The underlying error, if there is one.
        source: Option<BoxError>,
    },
}

impl Error {
    /// May the same operation be tried again as it is, with a chance to succeed?
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::Refused { why: why.into() }
    }

    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.into(),
            why: why.into(),
        }
    }

    pub(crate) fn storage(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Storage { operation, source }
    }

    pub(crate) fn upstream(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::Upstream {
            what: what.into(),
            source: Some(source.into()),
        }
    }
}

/// An error with its causes, as one line for a person.
#[must_use]
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = next.source();
    }
    line
}
