//! Listening on a port together with other routers.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Listens on `addr` with `SO_REUSEPORT`: other routers of the same user that listen with it too may have the same
/// address, and the kernel spreads new connections over them. That is how a host runs several, and how one replaces another
/// without a moment in which nobody listens.
///
/// Among others that share their ports it also takes away the error that says that a port is taken; who needs that listens
/// with [`TcpListener::bind`].
///
/// # Errors
///
/// Those of the system, such as [`io::ErrorKind::AddrInUse`] when somebody has the port and does not share it.
///
/// # Panics
///
/// Outside of a Tokio runtime with IO.
pub fn listen_shared(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// How many connections wait to be accepted; as many as `TcpListener::bind` lets.
const BACKLOG: u32 = 1024;
