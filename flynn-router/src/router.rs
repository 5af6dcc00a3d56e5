//! The router: follows routes and services, accepts connections, and drains when it stops.

mod listen;
mod routes;
mod tcp_ports;

use std::{
    collections::BTreeSet,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

pub use self::listen::listen_shared;
use self::routes::Follower;
use crate::{
    Limits, Result, Stats,
    balance::{Balancer, LeastLoaded},
    endpoint::EndpointSource,
    proxy::{Proxy, http},
    service::CookieKey,
    store::RouteStore,
};

/// Passes requests and connections on to the instances of services.
#[derive(Debug)]
pub struct Router {
    parts: Builder,
    proxy: Arc<Proxy>,
    is_ready: Arc<watch::Sender<bool>>,
}

/// What a router is built from.
#[derive(Debug)]
pub struct Builder {
    routes: Arc<dyn RouteStore>,
    endpoints: Arc<dyn EndpointSource>,
    balancer: Arc<dyn Balancer>,
    limits: Limits,
    tcp_ip: Option<IpAddr>,
    cookie_key: CookieKey,
}

impl Router {
    /// Begins with the two things a router cannot do without.
    pub fn builder(routes: Arc<dyn RouteStore>, endpoints: Arc<dyn EndpointSource>) -> Builder {
        Builder {
            routes,
            endpoints,
            balancer: Arc::new(LeastLoaded),
            limits: Limits::default(),
            tcp_ip: None,
            cookie_key: CookieKey::new(rand::random()),
        }
    }

    /// What can be asked of the router while it runs.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        Monitor {
            proxy: Arc::clone(&self.proxy),
            is_ready: self.is_ready.subscribe(),
        }
    }

    /// Serves HTTP on `listeners`, and TCP routes on their ports, until `shutdown` is ready.
    ///
    /// Then it accepts nobody but those who are in the queue already, ends idle connections, and gives what is in flight
    /// [`Limits::drain_timeout`] to end. Several routers may serve one port, see [`listen_shared`].
    /// While discovery cannot be reached, it keeps to the routes and endpoints it knows. Clients that come before it knows any
    /// wait for them a moment.
    pub async fn run(
        self,
        listeners: Vec<TcpListener>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) {
        let Self {
            parts,
            proxy,
            is_ready,
        } = self;
        let drain_timeout = parts.limits.drain_timeout;
        let room = Arc::new(Semaphore::new(parts.limits.max_connections));
        let mut acceptors = JoinSet::new();
        let mut open = Vec::with_capacity(listeners.len());
        // If that fails, so will accepting.
        let addrs = listeners.iter().filter_map(|l| l.local_addr().ok());
        let own_ports: BTreeSet<u16> = addrs.map(|addr| addr.port()).collect();
        for listener in listeners {
            let (sender, is_closed) = oneshot::channel();
            open.push(sender);
            let acceptor = Acceptor {
                listener,
                room: Arc::clone(&room),
                proxy: Arc::clone(&proxy),
                is_closed,
            };
            let serve = |proxy, stream, peer, local| http::serve(proxy, stream, peer, local);
            let first = first_table(Arc::clone(&proxy), is_ready.subscribe());
            acceptors.spawn(async move {
                first.await;
                acceptor.run(serve).await;
            });
        }
        let follower = Follower::new(parts, Arc::clone(&proxy), room, own_ports, is_ready);
        acceptors.spawn(follower.run());
        shutdown.await;
        proxy.drain.begin();
        let all = async { while acceptors.join_next().await.is_some() {} };
        if timeout(drain_timeout, all).await.is_err() {
            let open = proxy.counters.read().open_connections;
            tracing::warn!(
                open,
                "connections were still in use when the time to drain was over"
            );
        }
        acceptors.shutdown().await;
    }
}

impl Builder {
    /// Chooses endpoints by `balancer`. Default: [`LeastLoaded`].
    #[must_use]
    pub fn with_balancer(mut self, balancer: Arc<dyn Balancer>) -> Self {
        self.balancer = balancer;
        self
    }

    /// Other bounds than the default ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Serves TCP routes, each on its port of `ip`. Default: TCP routes are not served.
    #[must_use]
    pub fn with_tcp_routes(mut self, ip: IpAddr) -> Self {
        self.tcp_ip = Some(ip);
        self
    }

    /// The key of the cookies of sticky routes. Routers that share their clients must share it. Default: a random one.
    #[must_use]
    pub fn with_cookie_key(mut self, key: [u8; 32]) -> Self {
        self.cookie_key = CookieKey::new(key);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) names the setting that cannot be.
    pub fn build(self) -> Result<Router> {
        let limits = &self.limits;
        let invalid = |what: &str, why: &str| {
            Err(crate::Error::Invalid {
                what: what.to_owned(),
                why: why.to_owned(),
            })
        };
        if limits.max_connections == 0 || limits.max_connections > Semaphore::MAX_PERMITS {
            return invalid("limit max_connections", "it must be at least 1");
        }
        if limits.max_head_bytes < 1024 {
            return invalid("limit max_head_bytes", "it must be at least 1024");
        }
        let times = [
            limits.head_timeout,
            limits.keep_alive_timeout,
            limits.connect_timeout,
            limits.response_timeout,
            limits.idle_timeout,
        ];
        if times.contains(&Duration::ZERO) {
            return invalid("limits", "a timeout of zero leaves no time for anything");
        }
        Ok(Router {
            proxy: Arc::new(Proxy::new(self.limits.clone())),
            parts: self,
            is_ready: Arc::new(watch::Sender::new(false)),
        })
    }
}

/// What can be asked of a running router.
#[derive(Debug, Clone)]
pub struct Monitor {
    proxy: Arc<Proxy>,
    is_ready: watch::Receiver<bool>,
}

impl Monitor {
    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.proxy.counters.read()
    }

    /// Does the router know its routes, and for each the endpoints?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.proxy.has_table.load(Ordering::Acquire)
    }

    /// Waits until the router knows its routes. Never ends if the router ends before.
    pub async fn ready(&mut self) {
        if self.is_ready.wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Waits until the routes are known, but not for long: clients wait in the listener's queue meanwhile, instead of being told by a
/// router that has just started what the next one would have served.
async fn first_table(proxy: Arc<Proxy>, mut is_ready: watch::Receiver<bool>) {
    /// Then they are told that there are no routes yet.
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut draining = proxy.drain.listen();
    tokio::select! {
        _ = is_ready.wait_for(|ready| *ready) => {}
        () = std::future::poll_fn(|context| draining.poll(context)) => {}
        () = sleep(PATIENCE) => {}
    }
}

/// Accepts connections of one listener and owns the tasks that serve them.
pub(crate) struct Acceptor {
    pub(crate) listener: TcpListener,
    /// For as many connections as the router may have.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) proxy: Arc<Proxy>,
    /// Ready when its other end is dropped: nothing more is to be accepted.
    pub(crate) is_closed: oneshot::Receiver<()>,
}

impl Acceptor {
    /// Accepts until it is closed or the drain begins, then waits for the connections to end. Dropping it ends them.
    pub(crate) async fn run<F, S>(mut self, serve: S)
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Arc<Proxy>, TcpStream, SocketAddr, SocketAddr) -> F + Send,
    {
        let mut connections = JoinSet::new();
        let mut draining = self.proxy.drain.listen();
        let proxy = Arc::clone(&self.proxy);
        let carry = move |connections: &mut JoinSet<()>, (stream, peer, local, room): Accepted| {
            let proxy = Arc::clone(&proxy);
            proxy.counters.connections.add();
            let open = Open::new(&proxy);
            let serving = serve(proxy, stream, peer, local);
            connections.spawn(async move {
                serving.await;
                drop((open, room));
            });
        };
        loop {
            tokio::select! {
                accepted = accept(&self.listener, &self.room) => {
                    if let Some(accepted) = accepted {
                        carry(&mut connections, accepted);
                    }
                }
                _ = &mut self.is_closed => break,
                _ = connections.join_next(), if !connections.is_empty() => {}
                () = std::future::poll_fn(|context| draining.poll(context)) => break,
            }
        }
        // Whoever is in the queue takes the connection for established, and closing the listener resets it.
        for accepted in queued(self.listener, &self.room) {
            carry(&mut connections, accepted);
        }
        while connections.join_next().await.is_some() {}
    }
}

/// A connection, with its place among those that the router may have.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<Accepted> {
    /// Out of file descriptors: some will be free again soon.
    const PAUSE: Duration = Duration::from_millis(50);
    let room = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => admit(stream, peer, room).ok(),
        Err(error) if is_of_the_connection(&error) => None,
        Err(error) => {
            tracing::warn!(%error, "connections cannot be accepted");
            sleep(PAUSE).await;
            None
        }
    }
}

/// The connections that wait in the queue of a listener, which is closed after them; at most as many as there is room for.
///
/// The system is asked, not the runtime, which may not have heard of the last ones yet.
fn queued(listener: TcpListener, room: &Arc<Semaphore>) -> impl Iterator<Item = Accepted> {
    let listener = listener.into_std().ok();
    std::iter::from_fn(move || {
        let room = Arc::clone(room).try_acquire_owned().ok()?;
        let (stream, peer) = listener.as_ref()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        admit(TcpStream::from_std(stream).ok()?, peer, room).ok()
    })
}

fn admit(stream: TcpStream, peer: SocketAddr, room: OwnedSemaphorePermit) -> io::Result<Accepted> {
    let local = stream.local_addr()?;
    // A client that is gone without a word must not stay for ever, whatever it was waiting for.
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, CLIENT_KEEPALIVE)?;
    Ok((stream, peer, local, room))
}

/// After so much silence the system asks whether a client is still there.
const CLIENT_KEEPALIVE: Duration = Duration::from_secs(60);

type Accepted = (TcpStream, SocketAddr, SocketAddr, OwnedSemaphorePermit);

/// Was it only this connection that failed before it was accepted?
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// Counts an open connection, however its task ends.
struct Open(Arc<Proxy>);

impl Open {
    fn new(proxy: &Arc<Proxy>) -> Self {
        proxy.counters.open_connections.add();
        Self(Arc::clone(proxy))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.open_connections.subtract();
    }
}
