//! Bodies in both directions: streamed, bounded, early and late.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{backend::Backend, stage::Stage, within};

const MIB: usize = 1024 * 1024;

/// What a router that buffers nothing can still have on the way: the system's buffers of four sockets.
const ON_THE_WAY: usize = 64 * MIB;

#[tokio::test]
async fn bodies_of_all_sizes_and_codings_arrive_whole() {
    let backend = Backend::start(|mut conn| async move {
        while let Some(request) = conn.request().await {
            let sum: u64 = request.body.iter().map(|b| u64::from(*b)).sum();
            conn.respond(&format!("{} {sum}", request.body.len())).await;
        }
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    for size in [0, 1, 100, 16 * 1024, 100_000, 3 * MIB] {
        let body: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let sum: u64 = body.iter().map(|b| u64::from(*b)).sum();
        let expected = format!("{size} {sum}");
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n"
            ))
            .await;
        client.send(&body).await;
        assert_eq!(client.response().await.text(), expected);
        client
            .send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        for chunk in body.chunks(70_000) {
            client.send(format!("{:X};ext=1\r\n", chunk.len())).await;
            client.send(chunk).await;
            client.send("\r\n").await;
        }
        client.send("0\r\nTrailer: 1\r\n\r\n").await;
        assert_eq!(client.response().await.text(), expected);
    }
    assert_eq!((backend.connections(), backend.requests()), (1, 12));
}

#[tokio::test]
async fn answers_of_all_sizes_and_codings_arrive_whole() {
    let backend = Backend::start(|mut conn| async move {
        while let Some(request) = conn.request().await {
            let size: usize = request
                .request_line()
                .split(['/', ' '])
                .nth(2)
                .unwrap()
                .parse()
                .unwrap();
            let body: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
            if request.request_line().contains("?chunked") {
                conn.client
                    .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await;
                for chunk in body.chunks(30_000) {
                    conn.client.send(format!("{:x}\r\n", chunk.len())).await;
                    conn.client.send(chunk).await;
                    conn.client.send("\r\n").await;
                }
                conn.client.send("0\r\n\r\n").await;
            } else {
                conn.client
                    .send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"))
                    .await;
                conn.client.send(&body).await;
            }
        }
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    for size in [0, 1, 16 * 1024, 17 * 1024, 100_000, 3 * MIB] {
        for coding in ["", "?chunked"] {
            client
                .send(format!(
                    "GET /{size}/{coding} HTTP/1.1\r\nHost: test\r\n\r\n"
                ))
                .await;
            let body = client.response().await.body;
            assert_eq!(body.len(), size);
            assert!(
                body.iter()
                    .enumerate()
                    .all(|(i, b)| *b == u8::try_from(i % 251).unwrap())
            );
        }
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_backend_that_does_not_read_holds_the_client_back() {
    const SIZE: usize = 512 * MIB;
    let release = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&release);
    let backend = Backend::start(move |conn| {
        let released = Arc::clone(&released);
        async move {
            released.notified().await;
            // The head first; its length is not known here, the client stops in the middle anyway.
            let mut stream = conn.client.stream;
            let mut buffer = vec![0; 64 * 1024];
            while stream.read(&mut buffer).await.unwrap_or(0) > 0 {}
        }
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    client
        .send(format!(
            "PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: {SIZE}\r\n\r\n"
        ))
        .await;
    let (taken, chunk) = (AtomicUsize::new(0), vec![0; 64 * 1024]);
    let sending = async {
        while taken.load(Ordering::SeqCst) < SIZE {
            let n = client.stream.write(&chunk).await.unwrap();
            taken.fetch_add(n, Ordering::SeqCst);
        }
    };
    tokio::pin!(sending);
    // It stalls. A slow machine gets less far, never further.
    let _ = tokio::time::timeout(Duration::from_secs(1), &mut sending).await;
    let stalled = taken.load(Ordering::SeqCst);
    assert!(stalled < ON_THE_WAY, "{stalled}");
    release.notify_one();
    within("the body to flow again", async {
        tokio::select! {
            () = &mut sending => {}
            () = async { while taken.load(Ordering::SeqCst) < 2 * ON_THE_WAY { tokio::time::sleep(Duration::from_millis(5)).await; } } => {}
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_backend_back() {
    const SIZE: usize = 512 * MIB;
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let backend = Backend::start(move |mut conn| {
        let count = Arc::clone(&count);
        async move {
            conn.request().await;
            conn.client
                .send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"))
                .await;
            let chunk = vec![0; 64 * 1024];
            while count.load(Ordering::SeqCst) < SIZE {
                match conn.client.stream.write(&chunk).await {
                    Ok(n) => count.fetch_add(n, Ordering::SeqCst),
                    Err(_) => return,
                };
            }
        }
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    // Nothing is taken for a while, after something was.
    let mut before = 0;
    let stalled = within("the answer to stall", async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            match taken.load(Ordering::SeqCst) {
                now if now > 0 && now == before => return now,
                now => before = now,
            }
        }
    })
    .await;
    assert!(stalled < ON_THE_WAY, "{stalled}");
    let mut buffer = vec![0; MIB];
    within("the body to flow again", async {
        while taken.load(Ordering::SeqCst) < 2 * ON_THE_WAY {
            let n = client.stream.read(&mut buffer).await.unwrap();
            assert!(n > 0, "the answer ended early");
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_arrives_piece_by_piece_as_it_is_made() {
    let backend = Backend::start(|mut conn| async move {
        conn.head().await;
        conn.client
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        // Each piece is made only when the one before has arrived: the client says so on the same connection's other
        // direction, which carries the body of the request.
        for i in 0..5 {
            conn.client.send(format!("1\r\n{i}\r\n")).await;
            conn.client.exactly(4 + 2).await.unwrap();
        }
        conn.client.send("0\r\n\r\n").await;
        conn.client.exactly(5).await.unwrap();
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    within("the head", client.exactly(b"HTTP/1.1 200 OK\r\n".len()))
        .await
        .unwrap();
    let mut rest = String::new();
    for i in 0..5 {
        let piece = format!("1\r\n{i}\r\n");
        within("a piece", async {
            while !rest.ends_with(&piece) {
                rest.push(char::from(client.exactly(1).await.unwrap()[0]));
            }
        })
        .await;
        client.send(format!("1\r\n{i}\r\n")).await;
    }
    client.send("0\r\n\r\n").await;
    assert!(
        rest.contains("Connection: close\r\n"),
        "the request was not complete when the answer began: {rest}"
    );
}

#[tokio::test]
async fn a_refusal_that_comes_before_the_body_is_passed_on() {
    let backend = Backend::start(|mut conn| async move {
        conn.client.message("").await;
        let refusal = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\nConnection: close\r\n\r\ntoo big";
        conn.client.send(refusal).await;
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    // A body that the test's reader would wait for, if it waited.
    let mut client = stage.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nX-No-Body: 1\r\n\r\n")
        .await;
    client.send("5\r\nhello\r\n0\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (413, "too big")
    );
}

#[tokio::test]
async fn an_early_refusal_of_a_long_body_is_not_lost() {
    let backend = Backend::start(|mut conn| async move {
        conn.head().await;
        conn.client
            .send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
            .await;
        conn.client.rest().await;
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10000000\r\n\r\n")
        .await;
    client.send(vec![0; 100_000]).await;
    let response = client.response().await;
    assert_eq!((response.status, response.text().as_str()), (401, "no"));
    assert!(response.closes(), "the rest of the body is not wanted");
}

#[tokio::test]
async fn a_client_may_wait_for_the_word_to_continue() {
    let backend = Backend::start(|mut conn| async move {
        while let Some(head) = conn.head().await {
            assert!(head.contains("Expect: 100-continue\r\n"));
            conn.client
                .send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
                .await;
            let body = conn.client.exactly(5).await.unwrap();
            conn.respond(std::str::from_utf8(&body).unwrap()).await;
        }
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    for _ in 0..2 {
        client
            .send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            .await;
        let hints = client.response().await;
        assert_eq!((hints.status, hints.header("link")), (103, Some("</a>")));
        assert_eq!(client.response().await.status, 100);
        client.send("hello").await;
        let response = client.response().await;
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let backend = Backend::mirror().await;
    let short = Duration::from_millis(100);
    let stage = Stage::limited(&[backend.addr], |limits| limits.idle_timeout = short).await;
    let mut client = stage.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    let response = client.response().await;
    assert_eq!(response.status, 408);
    client.ended().await;
}
