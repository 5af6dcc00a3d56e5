//! The receiver against real git, ssh, pip, npm and disks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::clone_on_ref_ptr,
    clippy::missing_panics_doc,
    reason = "these are tests"
)]

mod blobs;
mod builds;
mod failures;
mod host;
mod interruptions;
mod process;
mod pushes;
mod refusals;
mod static_files;
mod tiny;
mod town;
