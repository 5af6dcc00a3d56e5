//! The controller over a memory backend, a real cell and real schedulers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails panics"
)]

mod api;
mod deploy;
mod outage;
mod platform;
mod routes;
mod store;
mod streams;
mod wire;
mod world;
