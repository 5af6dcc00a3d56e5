//! Where a service's traffic can go.

mod health;
mod registry;
mod static_list;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use flynn_discovery::{Instance, InstanceId, ServiceName};
use futures::stream::BoxStream;
use tokio::{net::TcpStream, time::Instant};

use self::health::Health;
pub use self::static_list::StaticEndpoints;
use crate::{Result, pool::Pool};

/// Knows the instances of services, and says when they change.
pub trait EndpointSource: fmt::Debug + Send + Sync + 'static {
    /// The whole set at once and again after each change; of a service that is not there, the empty set.
    ///
    /// An `Err` item is the last one. The router then keeps to what it knows and watches anew.
    fn watch(&self, service: &ServiceName) -> BoxStream<'static, Result<EndpointSet>>;
}

/// The instances of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointSet {
    /// All of them.
    pub instances: Vec<Instance>,
    /// Which one leads.
    pub leader: Option<InstanceId>,
}

/// An instance that traffic is sent to, with what the router has seen of it.
#[derive(Debug)]
pub struct Endpoint {
    id: InstanceId,
    addr: SocketAddr,
    in_flight: AtomicUsize,
    health: Health,
    pool: Pool,
    cookie: Box<str>,
}

impl Endpoint {
    pub(crate) fn new(id: InstanceId, addr: SocketAddr, cookie: String) -> Self {
        Self {
            id,
            addr,
            in_flight: AtomicUsize::new(0),
            health: Health::new(),
            pool: Pool::default(),
            cookie: cookie.into(),
        }
    }

    /// The instance.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests and connections that are with it now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Is it left alone for now, because it refused connections?
    #[must_use]
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.health.is_ejected(now)
    }

    /// What a client's sticky cookie says if it belongs here.
    pub(crate) fn cookie(&self) -> &str {
        &self.cookie
    }

    /// It accepted a connection.
    pub(crate) fn accepted(&self) {
        self.health.accepted();
    }

    /// It did not accept a connection.
    pub(crate) fn refused(&self, now: Instant) {
        self.health.refused(now);
        self.pool.clear();
    }

    /// A connection that waits for use, if there is one.
    pub(crate) fn take_idle(&self, now: Instant) -> Option<TcpStream> {
        self.pool.take(now)
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep_idle(&self, stream: TcpStream, now: Instant) {
        self.pool.put(stream, now);
    }

    /// Closes connections that have waited too long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.pool.sweep(now);
    }

    /// Closes the idle connections: one of them was dead, and the others are as old.
    pub(crate) fn distrust_idle(&self) {
        self.pool.clear();
    }

    /// It is no longer of the service: what is in flight goes on, nothing else is kept.
    pub(crate) fn retire(&self) {
        self.pool.close();
    }

    /// Counts one request as in flight until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// A request that is with an endpoint.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
