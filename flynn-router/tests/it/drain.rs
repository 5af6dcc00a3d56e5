//! A router that stops.

use std::{io::Write as _, sync::Arc, time::Duration};

use flynn_router::listen_shared;
use tokio::{net::TcpStream, sync::Notify};

use crate::{
    backend::Backend,
    client::Client,
    stage::{Scene, Stage},
    until,
};

/// Answers when it is told.
async fn patient(go: &Arc<Notify>) -> Backend {
    let go = Arc::clone(go);
    Backend::start(move |mut conn| {
        let go = Arc::clone(&go);
        async move {
            while conn.request().await.is_some() {
                go.notified().await;
                conn.respond("at last").await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_is_in_flight_is_finished_and_what_is_idle_is_closed() {
    let go = Arc::new(Notify::new());
    let backend = patient(&go).await;
    let mut stage = Stage::simple(&[backend.addr]).await;
    let mut idle = stage.connect().await;
    let mut used = stage.connect().await;
    go.notify_one();
    assert_eq!(used.get("/").await.status, 200);
    let mut busy = stage.connect().await;
    busy.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    until("the request to arrive", async || {
        (backend.requests() == 2).then_some(())
    })
    .await;
    stage.stop();
    idle.ended().await;
    used.ended().await;
    until("new connections to be refused", async || {
        TcpStream::connect(stage.addr).await.is_err().then_some(())
    })
    .await;
    go.notify_one();
    let response = busy.response().await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (200, "at last")
    );
    assert!(response.closes());
    busy.ended().await;
    stage.ended().await;
    assert_eq!(stage.monitor.stats().open_connections, 0);
}

#[tokio::test]
async fn what_takes_too_long_is_cut_off() {
    let go = Arc::new(Notify::new());
    let backend = patient(&go).await;
    let short = Duration::from_millis(100);
    let mut stage = Stage::limited(&[backend.addr], |limits| limits.drain_timeout = short).await;
    let mut client = stage.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    until("the request to arrive", async || {
        (backend.requests() == 1).then_some(())
    })
    .await;
    stage.stop();
    stage.ended().await;
    assert!(client.try_response().await.is_none());
    assert_eq!(stage.monitor.stats().open_connections, 0);
}

#[tokio::test]
async fn a_router_with_nothing_to_do_ends_at_once() {
    let mut stage = Stage::simple(&[]).await;
    stage.stop();
    stage.ended().await;
}

/// This test's only thread is the router's too: nobody accepts between the connections and the stop.
#[tokio::test]
async fn who_waits_in_the_queue_when_the_router_stops_is_served() {
    let backend = Backend::named("hello").await;
    let mut stage = Stage::simple(&[backend.addr]).await;
    stage.stop();
    let waiting: Vec<Client> = (0..8)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(stage.addr).unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                .unwrap();
            stream.set_nonblocking(true).unwrap();
            Client::new(TcpStream::from_std(stream).unwrap())
        })
        .collect();
    for mut client in waiting {
        let response = client.response().await;
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    }
    stage.ended().await;
}

#[tokio::test]
async fn one_of_two_routers_on_a_port_stops_and_no_request_fails() {
    let backend = Backend::named("hello").await;
    let scene = Scene::simple(&[backend.addr]).await;
    let mut first = scene.start_shared(0, |builder| builder).await;
    let scene = Scene::simple(&[backend.addr]).await;
    let second = scene
        .start_shared(first.addr.port(), |builder| builder)
        .await;
    // The system spreads connections by their addresses, so it takes some until both had one.
    let served = |stage: &Stage| stage.monitor.stats().requests;
    until("both to serve", async || {
        assert_eq!(second.get("test", "/").await.0, 200);
        (served(&first) > 0 && served(&second) > 0).then_some(())
    })
    .await;
    first.stop();
    let before = served(&second);
    for _ in 0..20 {
        assert_eq!(second.get("test", "/").await.0, 200);
    }
    first.ended().await;
    for _ in 0..20 {
        assert_eq!(second.get("test", "/").await.0, 200);
    }
    assert!(served(&second) >= before + 20);
}

#[tokio::test]
async fn a_port_whose_owner_does_not_share_it_is_taken() {
    let stage = Stage::simple(&[]).await;
    let error = listen_shared(stage.addr).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}
