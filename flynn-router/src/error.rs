//! What can go wrong, named by what the caller can do about it.

use std::net::SocketAddr;

use crate::{Route, RouteId};

/// The result of a router operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on routes or on the router failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another route has this domain and path, or this TCP port: change or remove that one.
    #[error("route {} has {} already", .route.id, .route.rule)]
    Duplicate {
        /// The route that is in the way.
        route: Box<Route>,
    },
    /// The route is not as expected; nothing was changed. Read again and decide anew.
    #[error("route {id} is not as expected")]
    Conflict {
        /// The route.
        id: RouteId,
    },
    /// The caller's input is not acceptable; trying again cannot help.
    #[error("{what}: {why}")]
    Invalid {
        /// What was given.
        what: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// Discovery failed: the store of routes or the source of endpoints.
    #[error("discovery failed while {operation}")]
    Discovery {
        /// What was being done.
        operation: &'static str,
        /// Discovery's error.
        source: flynn_discovery::Error,
    },
    /// An address could not be listened on.
    #[error("could not listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl Error {
    /// May the same operation be tried again as it is, with a chance to succeed?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Discovery { source, .. } => source.is_transient(),
            Self::Duplicate { .. }
            | Self::Conflict { .. }
            | Self::Invalid { .. }
            | Self::Listen { .. } => false,
        }
    }
}

/// Names what failed when discovery's error is the cause.
pub(crate) fn while_(operation: &'static str) -> impl FnOnce(flynn_discovery::Error) -> Error {
    move |source| Error::Discovery { operation, source }
}
