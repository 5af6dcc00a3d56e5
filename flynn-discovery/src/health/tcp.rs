//! Healthy is what accepts a connection.

use async_trait::async_trait;
use tokio::net::TcpStream;

use super::{HealthCheck, Unhealthy};

/// Connects, and closes again.
#[derive(Debug, Clone)]
pub struct TcpCheck {
    addr: String,
}

impl TcpCheck {
    /// Connects to `addr`, `host:port`.
    #[must_use]
    pub fn new(addr: impl Into<String>) -> Self {
        Self { addr: addr.into() }
    }
}

#[async_trait]
impl HealthCheck for TcpCheck {
    async fn check(&self) -> Result<(), Unhealthy> {
        connect(&self.addr).await.map(drop)
    }
}

pub(super) async fn connect(addr: &str) -> Result<TcpStream, Unhealthy> {
    TcpStream::connect(addr)
        .await
        .map_err(|error| Unhealthy::new(format!("could not connect to {addr}: {error}")))
}
