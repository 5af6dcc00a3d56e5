//! The controller: its API, and what makes the cell follow it.

mod keys;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use flynn_controller::{Controller, DiscoveryStore, Platform, http::Server};
use flynn_discovery::{
    Backend,
    http::{Secret, serve},
};
use flynn_router::DiscoveryRouteStore;
use flynn_sched::{Cluster, remote::DiscoveryCluster};
use tokio::{net::TcpListener, sync::watch};

pub use self::keys::{BackendKeys, allow_key};
use crate::{
    member::{self, Member},
    settings, signals,
    streams::HostStreams,
};

/// What a controller is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The domain apps get their names in.
    pub default_route_domain: Option<String>,
    /// The key to the hosts' APIs.
    pub token: Secret,
}

/// The controller as a job of the platform. Several may run.
///
/// # Errors
///
/// When the environment is not that of a job of the platform, or the port is taken.
pub async fn main() -> Result<()> {
    let stop = signals::shutdown()?;
    let member = Member::from_env()?;
    let addr = settings::at(member.addr, member::port("PORT", 0)?);
    let listener = TcpListener::bind(&addr)
        .await
        .with_context(|| format!("the controller cannot listen on {addr}"))?;
    let config = Config {
        default_route_domain: std::env::var("DEFAULT_ROUTE_DOMAIN").ok(),
        token: member.token.clone(),
    };
    tracing::info!(%addr, "controlling");
    run(
        Arc::clone(&member.backend),
        member.cluster(),
        config,
        listener,
        async {
            let signal = stop.await;
            tracing::info!(%signal, "stopping");
        },
    )
    .await
}

/// Serves the API and drives deployments until `shutdown`.
///
/// # Errors
///
/// When the listener fails.
pub async fn run(
    backend: Arc<dyn Backend>,
    cluster: Arc<DiscoveryCluster>,
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let store = Arc::new(DiscoveryStore::new(Arc::clone(&backend)));
    let routes = Arc::new(DiscoveryRouteStore::new(Arc::clone(&backend)));
    let streams = Arc::new(HostStreams::new(config.token));
    let mut platform =
        Platform::new(store, cluster as Arc<dyn Cluster>, routes).with_streams(streams);
    if let Some(domain) = &config.default_route_domain {
        platform = platform.with_default_route_domain(domain);
    }
    let (keys, following) = BackendKeys::follow(backend);
    let server = Server::new(platform.clone(), Arc::new(keys));

    let (stopping, stopped) = watch::channel(false);
    let until = |mut stopped: watch::Receiver<bool>| async move {
        // The sender is dropped only when we return.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let controller = tokio::spawn(Controller::new(platform).run(until(stopped.clone())));
    let serving = tokio::spawn(serve(listener, server.into_router(), until(stopped)));
    shutdown.await;
    stopping.send_replace(true);
    let served = serving.await?;
    controller.await?;
    following.abort();
    Ok(served?)
}
