//! TCP routes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use flynn_discovery::backend::Condition;
use flynn_router::{Route, RouteStore as _};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use crate::{
    backend::Backend,
    client::Client,
    stage::{Scene, Stage, http, service},
    until,
};

const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn free_port() -> u16 {
    Backend::nobody().await.port()
}

/// Sends back what it gets, with its name in front, when the client has ended.
async fn echo(name: &'static str) -> Backend {
    Backend::start(move |mut conn| async move {
        conn.client.send(name).await;
        let everything = conn.client.rest().await;
        conn.client.send(everything).await;
    })
    .await
}

async fn start(scene: Scene) -> Stage {
    scene
        .start_with(|builder| builder.with_tcp_routes(IP))
        .await
}

async fn call(addr: SocketAddr, text: &str) -> Option<String> {
    let stream = TcpStream::connect(addr).await.ok()?;
    let mut client = Client::new(stream);
    client.stream.write_all(text.as_bytes()).await.ok()?;
    client.stream.shutdown().await.ok()?;
    let answer = String::from_utf8(client.rest().await).unwrap();
    (!answer.is_empty()).then_some(answer)
}

#[tokio::test]
async fn a_route_opens_its_port_and_closes_it_when_it_is_removed() {
    let backend = echo("a:").await;
    let port = free_port().await;
    let addr = SocketAddr::new(IP, port);
    let mut stage = start(Scene::new()).await;
    assert!(TcpStream::connect(addr).await.is_err());
    stage.register("db", backend.addr).await;
    let route = Route::tcp(port, service("db")).unwrap();
    stage
        .routes
        .put(route.clone(), Condition::Absent)
        .await
        .unwrap();
    let answer = until("the port to open", async || call(addr, "hello").await).await;
    assert_eq!(answer, "a:hello");
    // A connection that is there stays when its route goes.
    let mut open = Client::connect(addr).await;
    assert_eq!(open.exactly(2).await.unwrap(), b"a:");
    stage
        .routes
        .remove(&route.id, Condition::Any)
        .await
        .unwrap();
    until("the port to close", async || {
        TcpStream::connect(addr).await.is_err().then_some(())
    })
    .await;
    open.send("still here").await;
    open.stream.shutdown().await.unwrap();
    assert_eq!(open.rest().await, b"still here");
}

#[tokio::test]
async fn large_streams_pass_both_ways() {
    let backend = echo("").await;
    let port = free_port().await;
    let scene = Scene::new()
        .route(Route::tcp(port, service("db")).unwrap())
        .await;
    let stage = start(scene.instance("db", backend.addr).await).await;
    let text = "0123456789abcdef".repeat(256 * 1024);
    let answer = call(SocketAddr::new(IP, port), &text).await.unwrap();
    assert!(answer == text, "{} of {} bytes", answer.len(), text.len());
    assert_eq!(stage.monitor.stats().connections, 1);
}

#[tokio::test]
async fn a_backend_that_refuses_is_passed_over() {
    let backend = echo("a:").await;
    let port = free_port().await;
    let scene = Scene::new()
        .route(Route::tcp(port, service("db")).unwrap())
        .await;
    let scene = scene.instance("db", Backend::nobody().await).await;
    let _stage = start(scene.instance("db", backend.addr).await).await;
    for _ in 0..10 {
        assert_eq!(
            call(SocketAddr::new(IP, port), "x").await.as_deref(),
            Some("a:x")
        );
    }
}

#[tokio::test]
async fn without_a_backend_the_connection_is_reset() {
    let port = free_port().await;
    let scene = Scene::new()
        .route(Route::tcp(port, service("db")).unwrap())
        .await;
    let stage = start(scene.instance("db", Backend::nobody().await).await).await;
    assert_eq!(call(SocketAddr::new(IP, port), "x").await, None);
    until("the loss to be counted", async || {
        (stage.monitor.stats().no_backend == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_route_may_change_its_service_while_its_port_is_open() {
    let (a, b) = tokio::join!(echo("a:"), echo("b:"));
    let port = free_port().await;
    let mut route = Route::tcp(port, service("a")).unwrap();
    let scene = Scene::new().route(route.clone()).await;
    let scene = scene
        .instance("a", a.addr)
        .await
        .instance("b", b.addr)
        .await;
    let stage = start(scene).await;
    let addr = SocketAddr::new(IP, port);
    assert_eq!(call(addr, "x").await.as_deref(), Some("a:x"));
    route.service = service("b");
    stage.routes.put(route, Condition::Present).await.unwrap();
    until("the other service", async || {
        call(addr, "x").await.filter(|a| a == "b:x")
    })
    .await;
}

#[tokio::test]
async fn a_port_that_another_has_is_taken_when_it_is_free() {
    let backend = echo("a:").await;
    let other = TcpListener::bind((IP, 0)).await.unwrap();
    let addr = other.local_addr().unwrap();
    let scene = Scene::new()
        .route(Route::tcp(addr.port(), service("db")).unwrap())
        .await;
    let stage = start(scene.instance("db", backend.addr).await).await;
    assert_eq!(stage.monitor.stats().unbound_routes, 1);
    drop(other);
    let answer = until("the port to be taken", async || call(addr, "x").await).await;
    assert_eq!(answer, "a:x");
    assert_eq!(stage.monitor.stats().unbound_routes, 0);
}

/// Ports are shared with other routers, so the system would let it.
#[tokio::test]
async fn a_route_cannot_have_the_port_of_the_router_itself() {
    let backend = echo("a:").await;
    let scene = Scene::new().route(http("test", "db")).await;
    let stage = scene
        .instance("db", backend.addr)
        .await
        .start_shared(0, |builder| builder.with_tcp_routes(IP))
        .await;
    let route = Route::tcp(stage.addr.port(), service("db")).unwrap();
    stage.routes.put(route, Condition::Absent).await.unwrap();
    until("the route to be refused", async || {
        (stage.monitor.stats().unbound_routes == 1).then_some(())
    })
    .await;
    for _ in 0..10 {
        assert_eq!(stage.get("nowhere", "/").await.0, 404);
    }
}
