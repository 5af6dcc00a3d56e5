//! The `sdutil` command against a real discovery server, around real servers nobody here wrote: redis and nginx.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod exec;
mod expose;
mod fixture;
