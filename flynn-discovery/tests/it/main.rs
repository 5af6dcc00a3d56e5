//! The crate seen from outside: one binary, one module per subject.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on ends, and says why"
)]

#[cfg(feature = "http")]
mod discovery_api;
mod health;
#[cfg(feature = "http")]
mod http;
mod memory;
#[cfg(feature = "raft-rocksdb")]
mod raft;
mod registration;
#[cfg(feature = "http")]
mod remote;
