//! When to stop.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// Resolves with the first SIGTERM or SIGINT.
///
/// # Errors
///
/// When the handlers cannot be installed.
pub fn shutdown() -> Result<impl Future<Output = &'static str> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
