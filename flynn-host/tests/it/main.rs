//! A host with real processes, in a cell in memory.
#![allow(
    clippy::unwrap_used,
    reason = "a failed assumption of a test is a failed test"
)]

mod api;
mod artifacts;
mod conformance;
mod fixture;
mod lifecycle;
mod recovery;
