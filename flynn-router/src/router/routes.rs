//! Following the routes: each new list becomes a table, the services it names, and the ports it needs.

use std::{
    collections::{BTreeSet, HashMap},
    future::poll_fn,
    sync::Arc,
    time::Duration,
};

use flynn_discovery::{Backoff, ServiceName};
use futures::{StreamExt as _, future::join_all};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{Builder, tcp_ports::TcpPorts};
use crate::{
    Route, Rule,
    proxy::{HttpTarget, Proxy, TcpTarget},
    service::Service,
    table::RouteTable,
};

/// Keeps the router's table, services and ports up to date.
pub(super) struct Follower {
    parts: Builder,
    proxy: Arc<Proxy>,
    services: HashMap<ServiceName, Arc<Service>>,
    ports: Option<TcpPorts>,
    is_ready: Arc<watch::Sender<bool>>,
}

impl Follower {
    pub(super) fn new(
        parts: Builder,
        proxy: Arc<Proxy>,
        room: Arc<Semaphore>,
        own_ports: BTreeSet<u16>,
        is_ready: Arc<watch::Sender<bool>>,
    ) -> Self {
        let tcp_ip = parts.tcp_ip;
        let ports = tcp_ip.map(|ip| TcpPorts::new(ip, Arc::clone(&proxy), room, own_ports));
        Self {
            parts,
            proxy,
            services: HashMap::new(),
            ports,
            is_ready,
        }
    }

    /// Follows the routes until the drain begins, then waits for the connections of TCP routes to end.
    pub(super) async fn run(mut self) {
        let mut draining = self.proxy.drain.listen();
        tokio::select! {
            () = poll_fn(|context| draining.poll(context)) => {}
            () = self.follow() => {}
        }
        if let Some(ports) = self.ports {
            ports.drained().await;
        }
    }

    async fn follow(&mut self) {
        /// A port that another process has may be free later.
        const TRY_PORTS_AGAIN: Duration = Duration::from_secs(1);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let mut lists = self.parts.routes.watch();
            loop {
                let Ok(item) = timeout(TRY_PORTS_AGAIN, lists.next()).await else {
                    if let Some(ports) = &mut self.ports {
                        ports.try_again();
                    }
                    continue;
                };
                match item {
                    Some(Ok(routes)) => {
                        backoff.reset();
                        self.apply(routes).await;
                    }
                    Some(Err(error)) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "routes are not known to be current"
                        );
                        break;
                    }
                    None => break,
                }
            }
            backoff.wait().await;
        }
    }

    async fn apply(&mut self, routes: Vec<Route>) {
        self.follow_services(&routes).await;
        let service = |route: &Route| Arc::clone(&self.services[&route.service]);
        let http = routes.iter().filter_map(|route| {
            let rule = route.rule.as_http()?;
            let target = HttpTarget {
                service: service(route),
                leader: route.leader,
                sticky: rule.sticky,
                disable_keep_alives: rule.disable_keep_alives,
            };
            Some((&rule.domain, &rule.path, Arc::new(target)))
        });
        let table = RouteTable::build(http);
        let tcp: HashMap<u16, TcpTarget> = routes
            .iter()
            .filter_map(|route| match route.rule {
                Rule::Tcp { port } => {
                    let service = service(route);
                    let leader = route.leader;
                    Some((port, TcpTarget { service, leader }))
                }
                Rule::Http(_) => None,
            })
            .collect();
        self.proxy.replace_table(table);
        tracing::info!(routes = routes.len(), "routes are in use");
        match &mut self.ports {
            Some(ports) => ports.apply(tcp),
            None if tcp.is_empty() => {}
            None => tracing::warn!(
                routes = tcp.len(),
                "TCP routes are not served by this router"
            ),
        }
        self.is_ready.send_replace(true);
    }

    /// Starts to follow what is new and ends following what is gone.
    async fn follow_services(&mut self, routes: &[Route]) {
        /// A new route must not be answered with 503 only because its endpoints were not looked up yet.
        const LOOK_UP: Duration = Duration::from_secs(2);
        let mut new = Vec::new();
        for route in routes {
            if !self.services.contains_key(&route.service) {
                let service = Arc::new(Service::start(
                    route.service.clone(),
                    Arc::clone(&self.parts.endpoints),
                    Arc::clone(&self.parts.balancer),
                    self.parts.cookie_key.clone(),
                ));
                new.push(Arc::clone(&service));
                self.services.insert(route.service.clone(), service);
            }
        }
        self.services
            .retain(|name, _| routes.iter().any(|route| route.service == *name));
        // Past that time they are used as they become known.
        let _ = timeout(LOOK_UP, join_all(new.iter().map(|s| s.known()))).await;
    }
}
