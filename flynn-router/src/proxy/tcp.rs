//! A TCP connection to a port of the router, carried to a backend.

use std::{net::SocketAddr, sync::Arc};

use tokio::{io::copy_bidirectional_with_sizes, net::TcpStream, time::Instant};

use super::{Proxy, TcpTarget, connect::connect};
use crate::{
    buffer::Buffer,
    retry::MAX_ATTEMPTS,
    service::{HowTried, Tried, Wish},
};

/// Carries one connection until both sides have ended.
///
/// Another backend is tried only while connecting: from the first byte on, the connection belongs to one.
pub(crate) async fn serve(
    proxy: Arc<Proxy>,
    target: TcpTarget,
    mut client: TcpStream,
    peer: SocketAddr,
) {
    // What this says about latency is the embedder's: without it small answers wait for others to join them.
    if client.set_nodelay(true).is_err() {
        return;
    }
    let started = Instant::now();
    let view = target.service.view();
    let mut tried = Tried::default();
    for attempt in 0..MAX_ATTEMPTS {
        let wish = Wish {
            leader: target.leader,
            sticky: None,
            random: rand::random(),
            now: Instant::now(),
        };
        let Some(endpoint) = view.choose(wish, &tried) else {
            break;
        };
        if attempt > 0 {
            proxy.counters.retries.add();
        }
        let _in_flight = endpoint.begin();
        let Ok(mut backend) = connect(&proxy, &endpoint).await else {
            tried.push(endpoint, HowTried::Refused);
            continue;
        };
        let copied =
            copy_bidirectional_with_sizes(&mut client, &mut backend, Buffer::LARGE, Buffer::LARGE);
        let (up, down, error) = match copied.await {
            Ok((up, down)) => (up, down, None),
            Err(error) => (0, 0, Some(error)),
        };
        let backend = endpoint.addr();
        let error = error.as_ref().map(tracing::field::display);
        let duration_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let service = target.service.name();
        tracing::info!(
            target: "flynn_router::access",
            %service, client = %peer, %backend, up, down, duration_us, error,
            "connection"
        );
        return;
    }
    proxy.counters.no_backend.add();
    let service = target.service.name();
    tracing::info!(target: "flynn_router::access", %service, client = %peer, "connection without a backend");
    // No protocol, no sentence: a reset at least says that nothing was served. If it fails the connection just ends.
    let _ = client.set_zero_linger();
}
