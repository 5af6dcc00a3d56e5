//! Connections that change their protocol.

use tokio::io::AsyncWriteExt as _;

use crate::{backend::Backend, stage::Stage, within};

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: x\r\n\r\n";

/// Changes to a protocol that sends everything back in upper case, and says goodbye when the client has ended.
async fn shouter() -> Backend {
    Backend::start(|mut conn| async move {
        let request = conn.request().await.unwrap();
        assert_eq!(request.header("connection"), Some("upgrade"));
        assert_eq!(request.header("upgrade"), Some("websocket"));
        assert_eq!(request.header("sec-websocket-key"), Some("x"));
        let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nwelcome ";
        conn.client.send(accept).await;
        let everything = conn.client.rest().await;
        conn.client.send(everything.to_ascii_uppercase()).await;
        conn.client.send(" goodbye").await;
    })
    .await
}

#[tokio::test]
async fn an_upgraded_connection_is_carried_both_ways_to_the_end_of_each() {
    let backend = shouter().await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    // The first bytes of the new protocol right behind the request.
    client.send(format!("{ASK}early ")).await;
    let response = client.response().await;
    assert_eq!(response.status, 101);
    assert_eq!(response.header("upgrade"), Some("websocket"));
    assert_eq!(response.header("connection"), Some("upgrade"));
    client.send("late").await;
    client.stream.shutdown().await.unwrap();
    let rest = String::from_utf8(client.rest().await).unwrap();
    assert_eq!(rest, "welcome EARLY LATE goodbye");
    assert_eq!(stage.monitor.stats().upgrades, 1);
}

#[tokio::test]
async fn an_upgrade_that_the_backend_does_not_want_is_an_ordinary_answer() {
    let backend = Backend::mirror().await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    for _ in 0..2 {
        client.send(ASK).await;
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn an_upgraded_connection_ends_with_its_backend() {
    let backend = Backend::start(|mut conn| async move {
        conn.request().await;
        conn.client
            .send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
            .await;
        conn.client.exactly(4).await;
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    client.send(ASK).await;
    assert_eq!(client.response().await.status, 101);
    client.send("ping").await;
    within("the end", client.rest()).await;
}

#[tokio::test]
async fn an_upgrade_may_follow_a_body_and_not_come_before_its_end() {
    let backend = Backend::start(|mut conn| async move {
        let head = conn.head().await.unwrap();
        let early = head.contains("X-Early");
        if !early {
            assert_eq!(conn.client.exactly(4).await.unwrap(), b"body");
        }
        conn.client
            .send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
            .await;
        let everything = conn.client.rest().await;
        conn.client.send(everything).await;
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let ask = |more| {
        format!(
            "POST / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: x\r\n{more}Content-Length: 4\r\n\r\nbo"
        )
    };
    let mut client = stage.connect().await;
    client.send(ask("")).await;
    client.send("dy").await;
    assert_eq!(client.response().await.status, 101);
    client.send("new protocol").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"new protocol");
    let mut client = stage.connect().await;
    client.send(ask("X-Early: 1\r\n")).await;
    assert_eq!(client.response().await.status, 502);
}
