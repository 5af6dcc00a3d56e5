//! The integration tests of discovery, one binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
mod remote;
