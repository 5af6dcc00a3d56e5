//! Connecting to a backend.

use std::{io, net::SocketAddr, time::Duration};

use rustix::net::sockopt;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{endpoint::Endpoint, proxy::Proxy};

/// Connects, and notes how it went.
pub(super) async fn connect(proxy: &Proxy, endpoint: &Endpoint) -> io::Result<TcpStream> {
    let connecting = timeout(proxy.limits.connect_timeout, open(endpoint.addr()));
    let result = match connecting.await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match &result {
        Ok(_) => {
            proxy.counters.backend_connections.add();
            endpoint.accepted();
        }
        Err(error) => {
            let (id, addr) = (endpoint.id(), endpoint.addr());
            tracing::debug!(%id, %addr, %error, "a backend could not be connected to");
            endpoint.refused(Instant::now());
        }
    }
    result
}

async fn open(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    // A host that is gone without a word says nothing to a connection that waits for it: probes find out.
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
    Ok(stream)
}

const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;
