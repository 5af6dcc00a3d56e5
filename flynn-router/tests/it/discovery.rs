//! Backends and routes that come and go while the router runs.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use flynn_discovery::{
    Registry,
    backend::{Condition, MemoryBackend, Revision},
};
use flynn_router::{MemoryRouteStore, Result, Route, RouteId, RouteStore, Router, StoredRoute};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinSet,
};

use crate::{
    backend::{Backend, answer},
    client::Client,
    stage::{Scene, Stage, http, register},
    until, within,
};

async fn names(stage: &Stage) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for _ in 0..20 {
        let (status, body) = stage.get("test", "/").await;
        names.insert(if status == 200 {
            body
        } else {
            status.to_string()
        });
    }
    names
}

async fn answered_by(stage: &Stage, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|&n| n.to_owned()).collect();
    until(&format!("answers by {expected:?}"), async || {
        (names(stage).await == expected).then_some(())
    })
    .await;
}

/// Routes that are not told before the gate opens.
#[derive(Debug)]
struct Gated {
    routes: MemoryRouteStore,
    gate: watch::Receiver<bool>,
}

#[async_trait]
impl RouteStore for Gated {
    async fn list(&self) -> Result<Vec<StoredRoute>> {
        self.routes.list().await
    }

    async fn get(&self, id: &RouteId) -> Result<Option<StoredRoute>> {
        self.routes.get(id).await
    }

    async fn put(&self, route: Route, condition: Condition) -> Result<Revision> {
        self.routes.put(route, condition).await
    }

    async fn remove(&self, id: &RouteId, condition: Condition) -> Result<()> {
        self.routes.remove(id, condition).await
    }

    fn watch(&self) -> BoxStream<'static, Result<Vec<Route>>> {
        let mut gate = self.gate.clone();
        let routes = self.routes.watch();
        futures::stream::once(async move {
            gate.wait_for(|open| *open).await.unwrap();
            routes
        })
        .flatten()
        .boxed()
    }
}

#[tokio::test]
async fn who_comes_before_the_routes_are_known_is_served_when_they_are() {
    let backend = Backend::named("a").await;
    let routes = MemoryRouteStore::new();
    let route = http("test", "www");
    routes.put(route, Condition::Absent).await.unwrap();
    let registry = Registry::new(Arc::new(MemoryBackend::new()));
    let _registration = register(&registry, "www", backend.addr).await;
    let (open, gate) = watch::channel(false);
    let router = Router::builder(Arc::new(Gated { routes, gate }), Arc::new(registry))
        .build()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let router = tokio::spawn(router.run(vec![listener], std::future::pending()));
    let mut client = Client::connect(addr).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let mut response = Box::pin(client.response());
    // Long enough for a router that answers at once to have done so.
    let early = tokio::time::timeout(Duration::from_millis(200), &mut response).await;
    assert!(early.is_err(), "it was answered: {early:?}");
    open.send_replace(true);
    assert_eq!(response.await.text(), "a");
    router.abort();
}

#[tokio::test]
async fn backends_come_and_go_without_a_restart() {
    let (a, b) = tokio::join!(Backend::named("a"), Backend::named("b"));
    let mut stage = Stage::simple(&[]).await;
    answered_by(&stage, &["503"]).await;
    stage.register("www", a.addr).await;
    answered_by(&stage, &["a"]).await;
    stage.register("www", b.addr).await;
    answered_by(&stage, &["a", "b"]).await;
    stage.deregister(a.addr).await;
    answered_by(&stage, &["b"]).await;
    stage.deregister(b.addr).await;
    answered_by(&stage, &["503"]).await;
}

#[tokio::test]
async fn routes_come_and_go_without_a_restart() {
    let (a, b) = tokio::join!(Backend::named("a"), Backend::named("b"));
    let mut stage = Scene::new().start().await;
    answered_by(&stage, &["404"]).await;
    stage.register("one", a.addr).await;
    stage.register("two", b.addr).await;
    let mut route = http("test", "one");
    stage
        .routes
        .put(route.clone(), Condition::Absent)
        .await
        .unwrap();
    answered_by(&stage, &["a"]).await;
    route.service = crate::stage::service("two");
    stage
        .routes
        .put(route.clone(), Condition::Any)
        .await
        .unwrap();
    answered_by(&stage, &["b"]).await;
    stage
        .routes
        .remove(&route.id, Condition::Any)
        .await
        .unwrap();
    answered_by(&stage, &["404"]).await;
}

#[tokio::test]
async fn a_backend_that_is_taken_away_finishes_what_it_has() {
    let is_gone = Arc::new(Notify::new());
    let first = Arc::new(Mutex::new(Some(Arc::clone(&is_gone))));
    let slow = Backend::start(move |mut conn| {
        let first = Arc::clone(&first);
        async move {
            while conn.request().await.is_some() {
                conn.client
                    .send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
                    .await;
                // The rest of the first answer when the test has seen that the backend is gone.
                let go_on = first.lock().unwrap().take();
                if let Some(go_on) = go_on {
                    go_on.notified().await;
                }
                conn.client.send(" rest").await;
            }
        }
    })
    .await;
    let mut stage = Stage::simple(&[slow.addr]).await;
    let mut client = stage.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    until("the request to arrive", async || {
        (slow.requests() == 1).then_some(())
    })
    .await;
    stage.deregister(slow.addr).await;
    until("the backend to be gone", async || {
        (stage.get("test", "/").await.0 == 503).then_some(())
    })
    .await;
    is_gone.notify_one();
    assert_eq!(client.response().await.text(), "half rest");
}

/// The test of the whole thing: whoever dies, no idempotent request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_die_under_load_and_no_get_fails() {
    let serve = |mut conn: crate::backend::Conn| async move {
        while conn.request().await.is_some() {
            // Long enough that most of the dead had requests in their hands.
            tokio::time::sleep(Duration::from_millis(2)).await;
            conn.respond("ok").await;
        }
    };
    let mut backends = Vec::new();
    for _ in 0..4 {
        backends.push(Backend::start(serve).await);
    }
    let addrs: Vec<_> = backends.iter().map(|b| b.addr).collect();
    let stage = Stage::simple(&addrs).await;
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        let addr = stage.addr;
        clients.spawn(async move {
            let mut client = Client::connect(addr).await;
            for i in 0..150 {
                let method = ["GET", "PUT", "DELETE", "OPTIONS"][i % 4];
                let response = client.request(method, "/").await;
                assert_eq!(
                    response.status,
                    200,
                    "{method} number {i}: {}",
                    response.text()
                );
            }
        });
    }
    // One after the other dies and comes back at the same address, while discovery still names it.
    let killer = async {
        for round in 0.. {
            let i = round % 4;
            let before = stage.monitor.stats().requests;
            drop(backends.remove(i));
            until("some requests", async || {
                (stage.monitor.stats().requests > before + 100).then_some(())
            })
            .await;
            backends.insert(i, Backend::start_on(addrs[i], serve).await);
        }
    };
    let all = async {
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
    };
    within("the clients", async {
        tokio::select! {
            () = all => {}
            () = killer => {}
        }
    })
    .await;
    assert!(stage.monitor.stats().retries > 0, "nobody died in time");
}

#[tokio::test]
async fn a_dead_backend_is_left_alone_for_a_while() {
    let alive = Backend::named("a").await;
    let dead = Backend::nobody().await;
    let stage = Stage::simple(&[dead, alive.addr]).await;
    let mut client = stage.connect().await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 200);
    }
    // Twice would mean that ejection does nothing; a slow machine may let it in again once or twice.
    assert!(
        stage.monitor.stats().retries < 10,
        "{:?}",
        stage.monitor.stats()
    );
    let again = Backend::start_on(dead, |conn| answer(conn, "b")).await;
    until("the backend to be used again", async || {
        client.get("/").await;
        (again.requests() > 0).then_some(())
    })
    .await;
}
