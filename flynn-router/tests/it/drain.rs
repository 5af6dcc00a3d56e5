//! A router that stops.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpStream, sync::Notify};

use crate::{backend::Backend, stage::Stage, until};

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
