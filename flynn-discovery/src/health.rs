//! Is an instance fit to serve? Checks, and when to believe them.
//!
//! ```no_run
//! # async fn example() -> flynn_discovery::Result<()> {
//! use std::sync::Arc;
//! use flynn_discovery::health::{self, HealthEvent, HttpCheck, MonitorConfig};
//! use futures::StreamExt;
//!
//! let check = Arc::new(HttpCheck::new("127.0.0.1:8080", "/health")?.with_body("ok"));
//! let mut events = health::watch(check, MonitorConfig::default());
//! while let Some(event) = events.next().await {
//!     match event {
//!         HealthEvent::Up => { /* register */ }
//!         HealthEvent::Down { why } => { /* deregister, and say why */ }
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod exec;
mod http;
mod monitor;
mod tcp;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

pub use self::{
    exec::ExecCheck,
    http::HttpCheck,
    monitor::{Health, Monitor, MonitorConfig},
    tcp::TcpCheck,
};

/// One way to find out whether an instance is fit to serve.
#[async_trait]
pub trait HealthCheck: fmt::Debug + Send + Sync + 'static {
    /// Checks once. It need not bound its own time: whoever calls it does.
    ///
    /// # Errors
    ///
    /// [`Unhealthy`] says what is wrong, in words for the owner of the instance.
    ///
    /// # Cancel safety
    ///
    /// A dropped check leaves nothing running.
    async fn check(&self) -> Result<(), Unhealthy>;
}

/// Why a check failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
#[non_exhaustive]
pub struct Unhealthy {
    /// What was wrong, for example `10.0.0.1:80 refused the connection`.
    pub why: String,
}

impl Unhealthy {
    /// Unhealthy because of `why`.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }
}

/// A change in the health of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthEvent {
    /// It is fit to serve.
    Up,
    /// It no longer is.
    Down {
        /// What the last check said.
        why: String,
    },
}

/// Checks again and again and tells each change. It begins unknown: the first event is [`HealthEvent::Up`], whenever
/// that comes. Dropping the stream ends the checks.
#[must_use]
pub fn watch(
    check: Arc<dyn HealthCheck>,
    config: MonitorConfig,
) -> BoxStream<'static, HealthEvent> {
    let first = (check, Monitor::new(config), Duration::ZERO);
    stream::unfold(first, |(check, mut monitor, mut wait)| async move {
        loop {
            tokio::time::sleep(wait).await;
            let result = within(monitor.config().timeout, &*check).await;
            let flipped = monitor.record(result.is_ok());
            wait = monitor.interval();
            if flipped {
                let event = match result {
                    Ok(()) => HealthEvent::Up,
                    Err(Unhealthy { why }) => HealthEvent::Down { why },
                };
                return Some((event, (check, monitor, wait)));
            }
            if let Err(unhealthy) = result {
                tracing::debug!(?check, why = unhealthy.why, "check failed");
            }
        }
    })
    .boxed()
}

/// Checks once, for at most `timeout`.
///
/// # Errors
///
/// [`Unhealthy`] as the check says, or that it took too long.
pub async fn within(timeout: Duration, check: &dyn HealthCheck) -> Result<(), Unhealthy> {
    match tokio::time::timeout(timeout, check.check()).await {
        Ok(result) => result,
        Err(_) => Err(Unhealthy::new(format!("no answer within {timeout:?}"))),
    }
}
