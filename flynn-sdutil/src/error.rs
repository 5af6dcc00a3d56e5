//! What can go wrong, with the exit status scripts have always seen for it.

use std::{ffi::OsString, io};

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line says something that cannot be.
    #[error("{what}: {why}")]
    Usage {
        /// What was given.
        what: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// There is no such network interface, or it has no address.
    #[error("interface {interface} {why}")]
    NoAddress {
        /// The name that was given.
        interface: String,
        /// What is wrong with it.
        why: String,
    },
    /// The program could not be started.
    #[error("cannot start {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: OsString,
        /// Why.
        source: io::Error,
    },
    /// The operating system refused something.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// No instance came up in time.
    #[error(
        "service {service} has no instance{matching} after {waited_s} s; is it running and healthy?"
    )]
    Nobody {
        /// The service.
        service: String,
        /// Which instances were looked for.
        matching: String,
        /// How long was waited.
        waited_s: u64,
    },
    /// Another process has registered the same address for the same service.
    #[error(
        "{addr} is now registered as {service} by another process; two servers cannot share one address"
    )]
    Replaced {
        /// The service.
        service: String,
        /// The address.
        addr: String,
    },
    /// Discovery failed.
    #[error(transparent)]
    Discovery(#[from] flynn_discovery::Error),
}

impl Error {
    /// The exit status: 65 for an interface without an address, 127 and 126 for a program that is missing or cannot be
    /// run, as shells do; else 1.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::NoAddress { .. } => 65,
            Self::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Spawn { .. } => 126,
            _ => 1,
        }
    }
}
