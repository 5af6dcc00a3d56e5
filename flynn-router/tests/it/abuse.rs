//! Clients and backends that break the rules.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{backend::Backend, stage::Stage, within};

/// A backend that keeps every byte it is sent and answers each request it can read.
async fn recorder() -> (Backend, Arc<Mutex<String>>) {
    let seen = Arc::new(Mutex::new(String::new()));
    let record = Arc::clone(&seen);
    let backend = Backend::start(move |mut conn| {
        let record = Arc::clone(&record);
        async move {
            while let Some(request) = conn.request().await {
                record.lock().unwrap().push_str(&request.head);
                record.lock().unwrap().push_str(&request.text());
                conn.respond("ok").await;
            }
        }
    })
    .await;
    (backend, seen)
}

/// Each is one request, or one and a half, that some proxies and some servers read differently. None of it may reach a
/// backend as a second request.
const SMUGGLERS: &[(&str, u16)] = &[
    (
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345G",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n12345",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5,6\r\n\r\n12345G",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: +5\r\n\r\n12345",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length : 5\r\n\r\n12345",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length\r\n: 5\r\n\r\n12345",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123456\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\nG0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\nG\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nG",
        400,
    ),
    (
        "POST / HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("GET / HTTP/1.1\r\nHost: test\r\nHost: other\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET http://other/ HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: te st\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: test\r\nX\x00Y: 1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: test\r\nX: a\x00b\r\n\r\n", 400),
    ("GET / HTTP/3.7\r\nHost: test\r\n\r\n", 505),
    ("GET  / HTTP/1.1\r\nHost: test\r\n\r\n", 400),
    ("CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n", 405),
    ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400),
];

#[tokio::test]
async fn what_could_be_read_differently_is_refused_and_the_connection_ended() {
    let (backend, seen) = recorder().await;
    let stage = Stage::simple(&[backend.addr]).await;
    for (request, status) in SMUGGLERS {
        let mut client = stage.connect().await;
        client.send(request).await;
        client
            .send("GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n")
            .await;
        let response = client.response().await;
        assert_eq!(response.status, *status, "{request:?}");
        assert!(response.closes(), "{request:?}");
        let text = response.text();
        assert!(
            text.contains(" (request ") && text.ends_with(")\n"),
            "{text:?}"
        );
        client.ended().await;
    }
    assert_eq!(backend.requests(), 0, "{}", seen.lock().unwrap());
    let refused = u64::try_from(SMUGGLERS.len()).unwrap();
    assert_eq!(stage.monitor.stats().refused, refused);
    assert_eq!(
        stage.get("test", "/").await.0,
        200,
        "others are served as before"
    );
}

#[tokio::test]
async fn a_chunk_that_goes_wrong_later_ends_the_request() {
    let (backend, seen) = recorder().await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    crate::until("the backend to be connected to", async || {
        (backend.connections() == 1).then_some(())
    })
    .await;
    client.send("3\r\nabcX").await;
    let response = client.response().await;
    assert_eq!(response.status, 400);
    client.ended().await;
    assert_eq!(backend.requests(), 0, "{}", seen.lock().unwrap());
}

#[tokio::test]
async fn connection_cannot_remove_what_the_router_answers_for() {
    let (backend, seen) = recorder().await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\
             Connection: content-length, host, x-forwarded-for, x-request-id\r\n\r\nhi",
        )
        .await;
    assert_eq!(client.response().await.status, 200);
    let seen = seen.lock().unwrap().clone();
    for expected in [
        "Host: test\r\n",
        "Content-Length: 2\r\n",
        "X-Forwarded-For: 127.0.0.1\r\n",
        "X-Request-Id: ",
    ] {
        assert!(seen.contains(expected), "{expected} in {seen}");
    }
}

#[tokio::test]
async fn an_oversized_head_is_refused_however_it_arrives() {
    let (backend, _) = recorder().await;
    let stage = Stage::limited(&[backend.addr], |limits| limits.max_head_bytes = 8 * 1024).await;
    let long = |n: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n",
            "a".repeat(n)
        )
    };
    let many = format!(
        "GET / HTTP/1.1\r\nHost: test\r\n{}\r\n",
        "a: b\r\n".repeat(101)
    );
    let endless = format!("GET /{}", "a".repeat(10_000));
    for request in [long(8 * 1024), many, endless] {
        let mut client = stage.connect().await;
        client.send(&request).await;
        assert_eq!(client.response().await.status, 431, "{}", &request[..40]);
        client.ended().await;
    }
    let mut client = stage.connect().await;
    client.send(long(7 * 1024)).await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn a_client_that_sends_its_head_byte_by_byte_is_served_or_cut_off() {
    let (backend, _) = recorder().await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    for byte in b"\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n" {
        client.send([*byte]).await;
    }
    assert_eq!(client.response().await.status, 200);

    let short = Duration::from_millis(200);
    let stage = Stage::limited(&[backend.addr], |limits| limits.head_timeout = short).await;
    let mut client = stage.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: te").await;
    let response = client.response().await;
    assert_eq!(response.status, 408);
    client.ended().await;
    // One that says nothing is not worth an answer.
    stage.connect().await.ended().await;
}

#[tokio::test]
async fn a_waiting_connection_is_closed_after_its_time() {
    let (backend, _) = recorder().await;
    let short = Duration::from_millis(50);
    let stage = Stage::limited(&[backend.addr], |limits| limits.keep_alive_timeout = short).await;
    let mut client = stage.connect().await;
    assert_eq!(client.get("/").await.status, 200);
    client.ended().await;
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_their_turn() {
    let (backend, _) = recorder().await;
    let stage = Stage::limited(&[backend.addr], |limits| limits.max_connections = 2).await;
    let mut first = stage.connect().await;
    let mut second = stage.connect().await;
    assert_eq!(first.get("/").await.status, 200);
    assert_eq!(second.get("/").await.status, 200);
    let mut third = stage.connect().await;
    third.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(first.get("/").await.status, 200);
    assert_eq!(stage.monitor.stats().open_connections, 2);
    drop(first);
    assert_eq!(third.response().await.status, 200);
}

#[tokio::test]
async fn a_backend_that_speaks_no_http_is_a_bad_gateway() {
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ] {
        let backend = Backend::start(move |mut conn| async move {
            if conn.request().await.is_some() {
                conn.client.send(answer).await;
                conn.client.rest().await;
            }
        })
        .await;
        let stage = Stage::simple(&[backend.addr]).await;
        let mut client = stage.connect().await;
        let response = client.get("/").await;
        assert_eq!(response.status, 502, "{answer:?}");
        assert!(response.text().contains("not an HTTP response"));
        assert_eq!(backend.requests(), 1, "what was answered is not sent again");
        assert_eq!(
            client.get("/").await.status,
            502,
            "the client's connection stays"
        );
    }
}

#[tokio::test]
async fn a_backend_that_speaks_unasked_does_not_answer_the_next_request() {
    const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for at_once in [true, false] {
        let is_poisoned = Arc::new(AtomicBool::new(false));
        let poisoned = Arc::clone(&is_poisoned);
        let backend = Backend::start(move |mut conn| {
            let poisoned = Arc::clone(&poisoned);
            async move {
                while conn.request().await.is_some() {
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";
                    if at_once {
                        conn.client.send(format!("{answer}{POISON}")).await;
                    } else {
                        conn.client.send(answer).await;
                        conn.client.send(POISON).await;
                    }
                    poisoned.store(true, Ordering::SeqCst);
                }
            }
        })
        .await;
        let stage = Stage::simple(&[backend.addr]).await;
        let mut client = stage.connect().await;
        for i in 1..=5 {
            assert_eq!(client.get("/").await.text(), "good");
            crate::until("the poison", async || {
                is_poisoned.swap(false, Ordering::SeqCst).then_some(())
            })
            .await;
            assert_eq!(
                backend.connections(),
                i,
                "a poisoned connection is not used again"
            );
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_short_does_not_look_complete() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n",
    ] {
        let backend = Backend::start(move |mut conn| async move {
            if conn.request().await.is_some() {
                conn.client.send(head).await;
            }
        })
        .await;
        let stage = Stage::simple(&[backend.addr]).await;
        let mut client = stage.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        assert!(client.try_response().await.is_none(), "{head:?}");
        assert_eq!(stage.monitor.stats().bad_gateway, 1);
    }
}

#[tokio::test]
async fn a_backend_that_never_answers_times_out() {
    let backend = Backend::start(|mut conn| async move {
        conn.request().await;
        conn.client.rest().await;
    })
    .await;
    let short = Duration::from_millis(100);
    let stage = Stage::limited(&[backend.addr], |limits| limits.response_timeout = short).await;
    let mut client = stage.connect().await;
    let response = client.get("/").await;
    assert_eq!(response.status, 504);
    assert_eq!(backend.requests(), 1, "it is not asked again");
    assert_eq!(stage.monitor.stats().timeouts, 1);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_back() {
    let backend = Backend::start(|mut conn| async move {
        conn.request().await;
        // Ends only when the router ends the connection.
        conn.client.rest().await;
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    crate::until("the request to arrive", async || {
        (backend.requests() == 1).then_some(())
    })
    .await;
    drop(client);
    within("the router to notice", async {
        while stage.monitor.stats().client_gone == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
