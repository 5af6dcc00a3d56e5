//! The router from outside: real sockets on both sides, and both sides misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails panics"
)]

mod backend;
mod client;
mod stage;

mod abuse;
mod access_log;
mod bodies;
mod discovery;
mod drain;
mod http;
mod retries;
mod store;
mod tcp;
mod upgrade;

use std::{future::Future, time::Duration};

/// How long anything may take before a test says what it waited for.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for `future`, and says what for if that takes too long.
async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {DEADLINE:?} for {what}"),
    }
}

/// Tries again until `attempt` gives something.
async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}
