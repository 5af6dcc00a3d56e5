//! The ports of TCP routes: bound while there is a route, given back when it is gone.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, oneshot},
    task::JoinSet,
};

use super::{Acceptor, listen_shared};
use crate::proxy::{Proxy, TcpTarget, tcp};

/// The listeners of TCP routes.
pub(super) struct TcpPorts {
    ip: IpAddr,
    proxy: Arc<Proxy>,
    room: Arc<Semaphore>,
    /// Where this router itself listens. Since ports are shared with other routers, the system would not refuse them.
    own: BTreeSet<u16>,
    open: HashMap<u16, Port>,
    /// Routes whose port is another's.
    waiting: HashMap<u16, TcpTarget>,
    /// One for each open port, and for each closed one that still has connections.
    acceptors: JoinSet<()>,
}

struct Port {
    target: Arc<ArcSwap<TcpTarget>>,
    /// Dropping it closes the port; its connections go on.
    _open: oneshot::Sender<()>,
}

impl TcpPorts {
    pub(super) fn new(
        ip: IpAddr,
        proxy: Arc<Proxy>,
        room: Arc<Semaphore>,
        own: BTreeSet<u16>,
    ) -> Self {
        Self {
            ip,
            proxy,
            room,
            own,
            open: HashMap::new(),
            waiting: HashMap::new(),
            acceptors: JoinSet::new(),
        }
    }

    /// Makes the open ports those of `targets`. A port whose route only changed stays open, and so do its connections.
    pub(super) fn apply(&mut self, targets: HashMap<u16, TcpTarget>) {
        self.open.retain(|port, _| targets.contains_key(port));
        self.waiting.clear();
        for (port, target) in targets {
            match self.open.get(&port) {
                Some(open) => open.target.store(Arc::new(target)),
                None => {
                    self.waiting.insert(port, target);
                }
            }
        }
        self.bind(true);
    }

    /// Tries to bind what could not be bound before.
    pub(super) fn try_again(&mut self) {
        while self.acceptors.try_join_next().is_some() {}
        if !self.waiting.is_empty() {
            self.bind(false);
        }
    }

    /// Waits until all connections have ended; the drain has closed the ports.
    pub(super) async fn drained(mut self) {
        while self.acceptors.join_next().await.is_some() {}
    }

    fn bind(&mut self, is_first: bool) {
        for (port, target) in std::mem::take(&mut self.waiting) {
            let addr = SocketAddr::new(self.ip, port);
            let listener = if self.own.contains(&port) {
                Err(io::ErrorKind::AddrInUse.into())
            } else {
                listen_shared(addr)
            };
            match listener {
                Ok(listener) => {
                    tracing::info!(%addr, service = %target.service.name(), "a TCP route is open");
                    let open = self.open_port(listener, target);
                    self.open.insert(port, open);
                }
                Err(error) => {
                    if is_first {
                        tracing::error!(%addr, %error, "a TCP route cannot be served: its port cannot be bound");
                    }
                    self.waiting.insert(port, target);
                }
            }
        }
        let unbound = u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        self.proxy.counters.unbound_routes.set(unbound);
    }

    fn open_port(&mut self, listener: TcpListener, target: TcpTarget) -> Port {
        let target = Arc::new(ArcSwap::from_pointee(target));
        let (open, is_closed) = oneshot::channel();
        let acceptor = Acceptor {
            listener,
            room: Arc::clone(&self.room),
            proxy: Arc::clone(&self.proxy),
            is_closed,
        };
        let current = Arc::clone(&target);
        let serve = move |proxy, stream, peer, _local| {
            let target = TcpTarget::clone(&current.load());
            tcp::serve(proxy, target, stream, peer)
        };
        self.acceptors.spawn(acceptor.run(serve));
        Port {
            target,
            _open: open,
        }
    }
}
