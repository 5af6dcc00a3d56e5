//! The ports of TCP routes: bound while there is a route, given back when it is gone.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, oneshot},
    task::JoinSet,
};

use super::Acceptor;
use crate::proxy::{Proxy, TcpTarget, tcp};

/// The listeners of TCP routes.
pub(super) struct TcpPorts {
    ip: IpAddr,
    proxy: Arc<Proxy>,
    room: Arc<Semaphore>,
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
    pub(super) fn new(ip: IpAddr, proxy: Arc<Proxy>, room: Arc<Semaphore>) -> Self {
        Self {
            ip,
            proxy,
            room,
            open: HashMap::new(),
            waiting: HashMap::new(),
            acceptors: JoinSet::new(),
        }
    }

    /// Makes the open ports those of `targets`. A port whose route only changed stays open, and so do its connections.
    pub(super) async fn apply(&mut self, targets: HashMap<u16, TcpTarget>) {
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
        self.bind(true).await;
    }

    /// Tries to bind what could not be bound before.
    pub(super) async fn try_again(&mut self) {
        while self.acceptors.try_join_next().is_some() {}
        if !self.waiting.is_empty() {
            self.bind(false).await;
        }
    }

    /// Waits until all connections have ended; the drain has closed the ports.
    pub(super) async fn drained(mut self) {
        while self.acceptors.join_next().await.is_some() {}
    }

    async fn bind(&mut self, is_first: bool) {
        for (port, target) in std::mem::take(&mut self.waiting) {
            let addr = SocketAddr::new(self.ip, port);
            match TcpListener::bind(addr).await {
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
