//! The router: HTTP on one port, TCP routes on theirs, both on this host's address.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use flynn_router::{DiscoveryRouteStore, Router};
use tokio::net::TcpListener;

use crate::{
    member::{self, Member},
    settings, signals,
};

/// The router as a job of the platform.
///
/// # Errors
///
/// When the environment is not that of a job of the platform, or the port is taken.
pub async fn main() -> Result<()> {
    let stop = signals::shutdown()?;
    let member = Member::from_env()?;
    let addr = settings::at(member.addr, member::port("HTTP_PORT", 80)?);
    let listener = TcpListener::bind(&addr).await.with_context(|| {
        format!("the router cannot listen on {addr}: is the port taken, or reserved for root?")
    })?;
    let routes = Arc::new(DiscoveryRouteStore::new(Arc::clone(&member.backend)));
    let router = Router::builder(routes, Arc::new(member.registry))
        .with_tcp_routes(member.addr)
        .build()?;
    tracing::info!(%addr, "routing");
    router
        .run(vec![listener], async {
            let signal = stop.await;
            tracing::info!(%signal, "draining");
        })
        .await;
    Ok(())
}
