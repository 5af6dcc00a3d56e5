//! The router: HTTP on one port, TCP routes on theirs, both on this host's address.
//!
//! Several routers of a host share these ports. So that one which does not serve yet is not taken for one that does, only
//! because a connection to the port succeeds, each tells its status on a port of its own.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use flynn_discovery::http::{Health, serve, status_route};
use flynn_router::{DiscoveryRouteStore, Router, listen_shared};
use tokio::{net::TcpListener, sync::watch};

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
    let addr = SocketAddr::new(member.addr, member::port("HTTP_PORT", 80)?);
    let listener = listen_shared(addr).with_context(|| {
        format!("the router cannot listen on {addr}: is the port taken, or reserved for root?")
    })?;
    let routes = Arc::new(DiscoveryRouteStore::new(Arc::clone(&member.backend)));
    let router = Router::builder(routes, Arc::new(member.registry))
        .with_tcp_routes(member.addr)
        .build()?;
    let monitor = router.monitor();
    let status = status_route(env!("CARGO_PKG_VERSION"), move || {
        let is_ready = monitor.is_ready();
        async move {
            match is_ready {
                true => Health::healthy(),
                false => Health::unhealthy("the routes are not known yet"),
            }
        }
    });
    let status_addr = settings::at(member.addr, member::port("PORT_1", 0)?);
    let status_listener = TcpListener::bind(&status_addr)
        .await
        .with_context(|| format!("the router cannot tell its status on {status_addr}"))?;
    let (stopping, mut stopped) = watch::channel(false);
    let serving = tokio::spawn(serve(status_listener, status, async move {
        // The sender is dropped only when this function ends.
        let _ = stopped.wait_for(|stop| *stop).await;
    }));
    tracing::info!(%addr, %status_addr, "routing");
    router
        .run(vec![listener], async {
            let signal = stop.await;
            tracing::info!(%signal, "draining");
        })
        .await;
    stopping.send_replace(true);
    serving.await??;
    Ok(())
}
