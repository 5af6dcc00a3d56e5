//! What is sent again, and what is not.

use crate::{
    backend::{Backend, answer},
    stage::Stage,
};

/// A backend that takes the first request of each connection and ends it without an answer.
async fn mute() -> Backend {
    Backend::start(|mut conn| async move {
        conn.request().await;
    })
    .await
}

/// A backend that answers one request of each connection and ends it at the second.
async fn forgetful() -> Backend {
    Backend::start(|mut conn| async move {
        conn.request().await;
        conn.respond("once").await;
        conn.request().await;
    })
    .await
}

#[tokio::test]
async fn a_backend_that_refuses_is_passed_over_whatever_the_method() {
    let alive = Backend::named("a").await;
    let stage = Stage::simple(&[Backend::nobody().await, alive.addr]).await;
    let mut client = stage.connect().await;
    for method in ["GET", "POST", "PATCH"] {
        for _ in 0..5 {
            assert_eq!(client.request(method, "/").await.status, 200, "{method}");
        }
    }
    let body = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(body).await;
    client.send("5\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn when_all_refuse_the_service_is_unavailable() {
    let (a, b) = (Backend::nobody().await, Backend::nobody().await);
    let stage = Stage::simple(&[a, b]).await;
    let mut client = stage.connect().await;
    for _ in 0..3 {
        let response = client.get("/").await;
        assert_eq!(response.status, 503);
        assert!(
            response
                .text()
                .starts_with("no backend of service www accepts connections"),
            "{}",
            response.text()
        );
    }
    assert_eq!(stage.monitor.stats().no_backend, 3);
}

#[tokio::test]
async fn an_ejected_backend_is_the_last_resort_and_comes_back() {
    let reserved = Backend::nobody().await;
    let stage = Stage::simple(&[reserved]).await;
    assert_eq!(stage.get("test", "/").await.0, 503);
    let _back = Backend::start_on(reserved, |conn| answer(conn, "back")).await;
    // At once: there is no other.
    assert_eq!(stage.get("test", "/").await, (200, "back".to_owned()));
}

#[tokio::test]
async fn a_get_whose_connection_dies_is_sent_to_another_backend() {
    let (mute, alive) = tokio::join!(mute(), Backend::named("a"));
    let stage = Stage::simple(&[mute.addr, alive.addr]).await;
    let mut client = stage.connect().await;
    for _ in 0..30 {
        let response = client.get("/").await;
        assert_eq!((response.status, response.text().as_str()), (200, "a"));
    }
    assert!(mute.requests() > 0, "some of them were there first");
    assert!(stage.monitor.stats().retries > 0);
}

#[tokio::test]
async fn an_idempotent_request_with_a_small_body_is_sent_again_with_it() {
    let (mute, alive) = tokio::join!(mute(), Backend::mirror());
    let stage = Stage::simple(&[mute.addr, alive.addr]).await;
    let mut client = stage.connect().await;
    for _ in 0..20 {
        client
            .send("PUT /x HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello")
            .await;
        let response = client.response().await;
        assert_eq!(response.status, 200);
        assert!(
            response.text().starts_with("PUT /x ") && response.text().ends_with("\r\n\r\nhello")
        );
    }
    assert!(mute.requests() > 0);
}

#[tokio::test]
async fn a_post_that_was_sent_is_never_sent_again() {
    let (one, two) = tokio::join!(mute(), mute());
    let stage = Stage::simple(&[one.addr, two.addr]).await;
    let mut client = stage.connect().await;
    for i in 1..=10 {
        let response = client.request("POST", "/").await;
        assert_eq!(response.status, 502);
        assert!(
            response
                .text()
                .starts_with("the backend ended the connection without an answer")
        );
        assert_eq!(one.requests() + two.requests(), i);
    }
    assert_eq!(stage.monitor.stats().retries, 0);
}

#[tokio::test]
async fn a_request_that_kills_backends_does_not_kill_them_all() {
    let mut backends = Vec::new();
    for _ in 0..6 {
        backends.push(mute().await);
    }
    let addrs: Vec<_> = backends.iter().map(|b| b.addr).collect();
    let stage = Stage::simple(&addrs).await;
    let response = stage.connect().await.get("/").await;
    assert_eq!(response.status, 502);
    assert_eq!(backends.iter().map(Backend::requests).sum::<usize>(), 3);
}

#[tokio::test]
async fn a_kept_connection_that_the_backend_ends_costs_nobody_an_answer() {
    let backend = forgetful().await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    for _ in 0..20 {
        let response = client.get("/").await;
        assert_eq!((response.status, response.text().as_str()), (200, "once"));
    }
}

#[tokio::test]
async fn after_a_half_sent_head_of_an_answer_a_get_is_sent_again() {
    let broken = Backend::start(|mut conn| async move {
        conn.request().await;
        conn.client.send("HTTP/1.1 200 OK\r\nContent-").await;
    })
    .await;
    let alive = Backend::named("a").await;
    let stage = Stage::simple(&[broken.addr, alive.addr]).await;
    let mut client = stage.connect().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "a");
    }
    assert!(broken.requests() > 0);
}
