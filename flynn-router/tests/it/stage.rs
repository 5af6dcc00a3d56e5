//! A router with its routes and its discovery in memory.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use flynn_discovery::{
    Instance, InstanceId, RegisterOptions, Registration, Registry, ServiceName,
    backend::{Condition, MemoryBackend},
};
use flynn_router::{
    Builder, Domain, Limits, MemoryRouteStore, Monitor, Route, RouteStore as _, Router,
    listen_shared,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::{client::Client, within};

pub(crate) struct Stage {
    pub(crate) addr: SocketAddr,
    pub(crate) routes: MemoryRouteStore,
    pub(crate) registry: Registry,
    pub(crate) monitor: Monitor,
    registrations: Vec<Registration>,
    stop: Option<oneshot::Sender<()>>,
    router: Option<JoinHandle<()>>,
}

/// What is there before the router starts.
pub(crate) struct Scene {
    routes: MemoryRouteStore,
    registry: Registry,
    registrations: Vec<Registration>,
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

pub(crate) fn http(domain: &str, name: &str) -> Route {
    Route::http(Domain::parse(domain).unwrap(), service(name))
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self {
            routes: MemoryRouteStore::new(),
            registry: Registry::new(Arc::new(MemoryBackend::new())),
            registrations: Vec::new(),
        }
    }

    /// A scene with the route `test` → service `www` at `addrs`.
    pub(crate) async fn simple(addrs: &[SocketAddr]) -> Self {
        let mut scene = Self::new().route(http("test", "www")).await;
        for addr in addrs {
            scene = scene.instance("www", *addr).await;
        }
        scene
    }

    pub(crate) async fn route(self, route: Route) -> Self {
        self.routes.put(route, Condition::Absent).await.unwrap();
        self
    }

    pub(crate) async fn instance(mut self, name: &str, addr: SocketAddr) -> Self {
        let registration = register(&self.registry, name, addr).await;
        self.registrations.push(registration);
        self
    }

    pub(crate) async fn start(self) -> Stage {
        self.start_with(|builder| builder).await
    }

    pub(crate) async fn start_with(self, change: impl FnOnce(Builder) -> Builder) -> Stage {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.start_on(listener, change).await
    }

    /// On a port that it shares with others; port 0: one of its own, until others come.
    pub(crate) async fn start_shared(
        self,
        port: u16,
        change: impl FnOnce(Builder) -> Builder,
    ) -> Stage {
        let listener = listen_shared(([127, 0, 0, 1], port).into()).unwrap();
        self.start_on(listener, change).await
    }

    async fn start_on(
        self,
        listener: TcpListener,
        change: impl FnOnce(Builder) -> Builder,
    ) -> Stage {
        let builder = Router::builder(
            Arc::new(self.routes.clone()),
            Arc::new(self.registry.clone()),
        );
        let router = change(builder).build().unwrap();
        let addr = listener.local_addr().unwrap();
        let mut monitor = router.monitor();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = router.run(vec![listener], async {
            let _ = stopped.await;
        });
        let router = tokio::spawn(running);
        within("the router to know its routes", monitor.ready()).await;
        Stage {
            addr,
            routes: self.routes,
            registry: self.registry,
            monitor,
            registrations: self.registrations,
            stop: Some(stop),
            router: Some(router),
        }
    }
}

impl Stage {
    /// A router in front of `addrs` for host `test`.
    pub(crate) async fn simple(addrs: &[SocketAddr]) -> Self {
        Scene::simple(addrs).await.start().await
    }

    /// The same with limits changed.
    pub(crate) async fn limited(addrs: &[SocketAddr], change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        let scene = Scene::simple(addrs).await;
        scene
            .start_with(|builder| builder.with_limits(limits))
            .await
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// One GET on a connection of its own.
    pub(crate) async fn get(&self, host: &str, path: &str) -> (u16, String) {
        let mut client = self.connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        client.send(head).await;
        let response = client.response().await;
        (response.status, response.text())
    }

    pub(crate) async fn register(&mut self, name: &str, addr: SocketAddr) {
        let registration = register(&self.registry, name, addr).await;
        self.registrations.push(registration);
    }

    /// Takes the registration of `addr` back.
    pub(crate) async fn deregister(&mut self, addr: SocketAddr) {
        let id = id_of(addr);
        let position = self.registrations.iter().position(|r| *r.id() == id);
        let registration = self.registrations.remove(position.unwrap());
        registration.deregister().await.unwrap();
    }

    /// Tells the router to stop.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until the router has ended.
    pub(crate) async fn ended(&mut self) {
        let router = self.router.take().unwrap();
        within("the router to end", router).await.unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(router) = &self.router {
            router.abort();
        }
    }
}

fn id_of(addr: SocketAddr) -> InstanceId {
    InstanceId::parse(format!("i{}", addr.port())).unwrap()
}

pub(crate) async fn register(registry: &Registry, name: &str, addr: SocketAddr) -> Registration {
    let instance = Instance {
        id: id_of(addr),
        addr: addr.to_string(),
        proto: "http".to_owned(),
        attributes: BTreeMap::new(),
        created: 0,
    };
    registry
        .register(&service(name), instance, RegisterOptions::default())
        .await
        .unwrap()
}
