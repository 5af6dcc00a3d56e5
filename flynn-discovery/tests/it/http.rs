//! The HTTP conventions, over real sockets.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Redirect},
    routing::{get, post},
};
use bytes::Bytes;
use flynn_discovery::http::{
    Body, Client, ClientError, Failure, Health, Json, Keys, Limits, RequestId, Secret,
    accept_upgrade, events, ndjson, require_key, serve_with, status_route,
};
use futures::{StreamExt, stream};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// A server in this process, on a port of its own.
#[derive(Debug)]
pub(crate) struct TestServer {
    pub(crate) addr: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl TestServer {
    pub(crate) async fn start(app: Router) -> Self {
        Self::start_with(app, Limits::default(), "127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_with(app: Router, limits: Limits, addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { _ = stopped.await };
        let task = tokio::spawn(serve_with(listener, app, limits, shutdown));
        Self { addr, stop, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(vec![self.url()]).unwrap()
    }

    /// Stops it and waits for it.
    pub(crate) async fn stop(self) {
        _ = self.stop.send(());
        within(self.task).await.unwrap().unwrap();
    }

    /// Ends it as a crash would: all connections break.
    pub(crate) async fn kill(self) {
        self.task.abort();
        _ = self.task.await;
    }
}

/// No test waits longer than this for anything.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("this should not take 30 s")
}

/// An address that refuses connections: a port that was free a moment ago.
pub(crate) async fn dead_endpoint() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Sends `request` as it is; gives everything that comes back until the server closes.
async fn raw(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The server may answer and close before it has read all.
    _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match within(stream.read(&mut chunk)).await {
            Ok(0) | Err(_) => break,
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
        }
    }
    String::from_utf8(answer).unwrap()
}

/// The status line and the JSON body of an answer.
fn parts(answer: &str) -> (&str, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.lines().next().unwrap(),
        serde_json::from_str(body).unwrap(),
    )
}

fn echo() -> Router {
    Router::new()
        .route("/echo", post(async |Json(value): Json<Value>| Json(value)))
        .route("/text", get(async || "text"))
}

#[tokio::test]
async fn oversized_headers_are_answered_431_with_a_sentence() {
    let server = TestServer::start(echo()).await;
    let large = format!(
        "GET /text HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "x".repeat(40_000)
    );
    let many = format!(
        "GET /text HTTP/1.1\r\nhost: a\r\n{}\r\n",
        "x: 1\r\n".repeat(200)
    );
    for request in [large, many] {
        let answer = raw(server.addr, request.as_bytes()).await;
        let (status, body) = parts(&answer);
        assert_eq!(status, "HTTP/1.1 431 Request Header Fields Too Large");
        assert_eq!(
            body["message"],
            "the request's headers are over 32768 bytes or 100 lines: send smaller ones"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_answered_400_with_a_sentence() {
    let server = TestServer::start(echo()).await;
    for request in [
        "nonsense\r\n\r\n",
        "GET /text HTTP/1.1\r\nbad header\r\n\r\n",
        "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
    ] {
        let answer = raw(server.addr, request.as_bytes()).await;
        let (status, body) = parts(&answer);
        assert_eq!(status, "HTTP/1.1 400 Bad Request", "{request}");
        let message = body["message"].as_str().unwrap();
        assert!(message.starts_with("the request is not well-formed HTTP/1.1: check"));
    }
    let bad_chunk = "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n\
                     transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n";
    let answer = raw(server.addr, bad_chunk.as_bytes()).await;
    let (status, body) = parts(&answer);
    assert_eq!(status, "HTTP/1.1 400 Bad Request");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("check its length or chunks"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for() {
    let limits = Limits::default().with_header_read_timeout(Duration::from_millis(100));
    let server = TestServer::start_with(echo(), limits, "127.0.0.1:0".parse().unwrap()).await;
    assert_eq!(raw(server.addr, b"GET /text HTTP/1.1\r\nx: ").await, "");
    server.stop().await;
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let limits = Limits::default().with_max_connections(1);
    let server = TestServer::start_with(echo(), limits, "127.0.0.1:0".parse().unwrap()).await;
    let mut first = TcpStream::connect(server.addr).await.unwrap();
    first
        .write_all(b"GET /text HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    first.read_u8().await.unwrap();
    let answer = raw(server.addr, b"GET /text HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (status, body) = parts(&answer);
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(body["retry"], true);
    drop(first);
    server.stop().await;
}

#[tokio::test]
async fn a_request_id_is_echoed_and_one_is_made_when_there_is_none() {
    let app = Router::new().route(
        "/",
        get(async |request: Request| request.extensions().get::<RequestId>().unwrap().to_string()),
    );
    let server = TestServer::start(app).await;
    let client = server.client();
    let headers = HeaderMap::from_iter([(
        http::HeaderName::from_static("x-request-id"),
        http::HeaderValue::from_static("abc-1"),
    )]);
    let answer = client
        .bytes(Method::GET, "/", headers, Body::empty())
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-request-id"], "abc-1");
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "abc-1"
    );
    let answer = client
        .bytes(Method::GET, "/", HeaderMap::new(), Body::empty())
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-request-id"].len(), 32);
    server.stop().await;
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_500_and_the_server_lives() {
    async fn broken() -> String {
        panic!("a bug")
    }
    let server = TestServer::start(echo().route("/panic", get(broken))).await;
    let client = server.client();
    let error = client.get::<Value>("/panic").await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!(error.to_string(), "Something went wrong");
    let echoed: Value = client.post("/echo", &json!({"a": 1})).await.unwrap();
    assert_eq!(echoed, json!({"a": 1}));
    server.stop().await;
}

#[tokio::test]
async fn only_a_request_with_the_key_gets_through() {
    let keys = Keys::new(vec![Secret::new("s3cret")]).with_open_path("/ping");
    let app = require_key(echo().route("/ping", get(async || ())), keys);
    let server = TestServer::start(app).await;
    let good = server.client().with_key(Secret::new("s3cret"));
    let _: Value = good.post("/echo", &json!(1)).await.unwrap();
    for client in [
        server.client(),
        server.client().with_key(Secret::new("guess")),
    ] {
        let error = client.with_noun("controller").get::<Value>("/text").await;
        let error = error.unwrap_err();
        assert!(matches!(error, ClientError::Denied { .. }));
        assert_eq!(
            error.to_string(),
            format!(
                "the controller at {} refused the key; check that it is the one of this cluster",
                server.url()
            )
        );
    }
    server.client().get::<()>("/ping").await.unwrap();
    let answer = raw(
        server.addr,
        b"GET /text HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"));
    assert!(answer.ends_with("\r\n\r\n"), "the body is empty");
    server.stop().await;
}

#[tokio::test]
async fn the_status_page_says_how_the_service_is() {
    let app = status_route("dev", async || Health::unhealthy("no quorum"));
    let server = TestServer::start(app).await;
    let answer = raw(
        server.addr,
        b"GET /.well-known/status HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    )
    .await;
    let (status, body) = parts(&answer);
    assert_eq!(status, "HTTP/1.1 500 Internal Server Error");
    assert_eq!(
        body,
        json!({"data": {"status": "unhealthy", "detail": "no quorum", "version": "dev"}})
    );
    assert!(answer.contains("{\n  \"data\""), "it is pretty-printed");
    server.stop().await;
}

#[tokio::test]
async fn shutdown_ends_event_streams_and_lets_requests_finish() {
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = move || {
        let mut released = released.clone();
        async move {
            released.wait_for(|yes| *yes).await.unwrap();
            Json("done")
        }
    };
    let forever = async || events(stream::iter([Ok(1)]).chain(stream::pending()));
    let app = Router::new()
        .route("/forever", get(forever))
        .route("/slow", get(slow));
    let server = TestServer::start(app).await;
    let client = server.client();
    let mut stream = client.events::<u8>("/forever", Some(0)).await.unwrap();
    assert_eq!(within(stream.next()).await.unwrap().unwrap(), 1);
    let request = tokio::spawn(async move { client.get::<String>("/slow").await });
    tokio::task::yield_now().await;
    let TestServer { stop, task, .. } = server;
    // The slow request has been received when its handler waits.
    within(async {
        while release.receiver_count() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stop.send(()).unwrap();
    assert!(
        within(stream.next()).await.is_none(),
        "the stream ended cleanly"
    );
    release.send_replace(true);
    assert_eq!(within(request).await.unwrap().unwrap(), "done");
    within(task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refused_endpoint_is_passed_over_and_the_good_one_remembered() {
    let server = TestServer::start(echo()).await;
    let client = Client::new(vec![dead_endpoint().await, server.url()]).unwrap();
    for n in 0..3 {
        let echoed: Value = client.post("/echo", &json!(n)).await.unwrap();
        assert_eq!(echoed, json!(n));
    }
    // A streamed body, too: nobody had read it when the first endpoint refused.
    let fresh = Client::new(vec![dead_endpoint().await, server.url()]).unwrap();
    let body = Body::from_stream(stream::iter(
        ["[1,", "2]"].map(|part| Ok::<_, std::io::Error>(Bytes::from(part))),
    ));
    let json = HeaderMap::from_iter([(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    )]);
    let answer = fresh
        .bytes(Method::POST, "/echo", json, body)
        .await
        .unwrap();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "[1,2]"
    );
    server.stop().await;
}

#[tokio::test]
async fn when_nothing_answers_the_error_says_what_where_and_what_next() {
    let endpoint = dead_endpoint().await;
    let client = Client::new(vec![endpoint.clone()])
        .unwrap()
        .with_noun("controller");
    let error = client.get::<Value>("/apps").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot reach the controller at {endpoint}: connection refused; is it running, and is the address right?"
        )
    );
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_redirect_is_followed_with_the_same_method_body_and_headers() {
    let target = TestServer::start(echo().route(
        "/stream",
        get(async |headers: HeaderMap| {
            assert_eq!(headers["accept"], "text/event-stream");
            events(stream::iter([Ok("x")]))
        }),
    ))
    .await;
    let to = target.url();
    let away = move |request: Request| {
        let to = format!("{to}{}", request.uri().path());
        async move { Redirect::temporary(&to) }
    };
    let server = TestServer::start(Router::new().fallback(away)).await;
    let client = server.client();
    let echoed: Value = client.post("/echo", &json!({"b": [1, 2]})).await.unwrap();
    assert_eq!(echoed, json!({"b": [1, 2]}));
    let mut stream = client.events::<String>("/stream", None).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), "x");
    server.stop().await;
    target.stop().await;
}

#[tokio::test]
async fn a_server_that_is_unavailable_is_passed_over() {
    let down = async || Failure::unavailable("no leader").into_response();
    let down = TestServer::start(Router::new().fallback(down)).await;
    let up = TestServer::start(echo()).await;
    let client = Client::new(vec![down.url(), up.url()]).unwrap();
    let _: Value = client.post("/echo", &json!(1)).await.unwrap();
    let error = down.client().get::<Value>("/").await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.to_string(), "no leader");
    down.stop().await;
    up.stop().await;
}

#[tokio::test]
async fn what_was_sent_and_not_answered_is_not_called_refused() {
    // Accepts, reads, and closes without an answer.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            _ = stream.read(&mut buffer).await;
        }
    });
    let client = Client::new(vec![url]).unwrap();
    let error = within(client.post::<Value>("/", &json!(1)))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Lost { .. }), "{error}");
    assert!(!error.is_transient());
    task.abort();
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_a_timeout() {
    let app = Router::new().fallback(async || std::future::pending::<()>().await);
    let limits = Limits::default().with_drain_timeout(Duration::from_millis(10));
    let server = TestServer::start_with(app, limits, "127.0.0.1:0".parse().unwrap()).await;
    let client = server.client().with_timeout(Duration::from_millis(50));
    let error = client.post::<Value>("/x", &json!(1)).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("it may or may not have happened")
    );
    server.stop().await;
}

#[tokio::test]
async fn an_upload_may_take_longer_than_its_answer() {
    let app = Router::new().route("/", post(async |body: Bytes| body.len().to_string()));
    let server = TestServer::start(app).await;
    let client = server.client().with_timeout(Duration::from_secs(2));
    // Slower than the timeout as a whole, but never silent for so long.
    let parts = stream::unfold(0, async |n| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (n < 30).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(b"part")), n + 1))
    });
    let body = Body::from_stream(parts);
    let answer = client
        .bytes(Method::POST, "/", HeaderMap::new(), body)
        .await;
    let answer = answer.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.to_bytes(), "120");
    server.stop().await;
}

#[tokio::test]
async fn a_bare_404_and_a_404_with_an_envelope_both_mean_not_found() {
    let app = echo().route("/json", get(async || Failure::not_found("no such app")));
    let server = TestServer::start(app).await;
    let client = server.client();
    let bare = client.get::<Value>("/nowhere").await.unwrap_err();
    assert!(matches!(bare, ClientError::NotFound { .. }));
    let json = client.get::<Value>("/json").await.unwrap_err();
    assert!(matches!(json, ClientError::Status { .. }));
    assert!(bare.is_not_found() && json.is_not_found());
    assert_eq!(json.to_string(), "no such app");
    server.stop().await;
}

#[tokio::test]
async fn an_upgraded_connection_is_raw_in_both_directions() {
    async fn attach(request: Request) -> Result<axum::response::Response, Failure> {
        let (response, body, pending) = accept_upgrade(request, "flynn-attach/0")?;
        let body = body.collect().await.unwrap().to_bytes();
        tokio::spawn(async move {
            let mut raw = pending.connected().await.unwrap();
            raw.write_all(&body).await.unwrap();
            let mut buffer = [0; 4];
            raw.read_exact(&mut buffer).await.unwrap();
            raw.write_all(&buffer).await.unwrap();
        });
        Ok(response)
    }
    let server = TestServer::start(Router::new().route("/attach", post(attach))).await;
    let client = server.client();
    let mut raw = client
        .upgrade(Method::POST, "/attach", "flynn-attach/0", &json!([1]))
        .await
        .unwrap();
    raw.write_all(b"ping").await.unwrap();
    let mut answer = String::new();
    within(raw.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "[1]ping");
    let error = client
        .post::<Value>("/attach", &json!(1))
        .await
        .unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::BAD_REQUEST));
    server.stop().await;
}

#[tokio::test]
async fn streams_are_read_in_every_dialect_and_end_with_their_error() {
    let text = ": hello\r\n\r\nid: 1\r\nevent: x\r\ndata: 1\r\n\r\n\ndata:2\n\n:\nevent: error\ndata: it broke\n\n";
    let app = Router::new()
        .route("/sse", get(async move || text))
        .route(
            "/lines",
            get(async || ndjson(stream::iter([Ok(1), Ok(2), Err(Failure::conflict("busy"))]))),
        )
        .route("/garbage", get(async || "data: {\n\n"));
    let server = TestServer::start(app).await;
    let client = server.client();
    for (path, message) in [("/sse", "it broke"), ("/lines", "busy")] {
        let stream = match path {
            "/sse" => client.events::<u8>(path, None).await,
            _ => client.lines::<u8>(path).await,
        };
        let items: Vec<_> = within(stream.unwrap().collect::<Vec<_>>()).await;
        assert_eq!(items.len(), 3, "{items:?}");
        assert_eq!(*items[0].as_ref().unwrap(), 1);
        assert_eq!(*items[1].as_ref().unwrap(), 2);
        assert_eq!(items[2].as_ref().unwrap_err().to_string(), message);
    }
    let stream = client.events::<Value>("/garbage", None).await.unwrap();
    let items: Vec<_> = within(stream.collect::<Vec<_>>()).await;
    assert!(matches!(items[..], [Err(ClientError::Protocol { .. })]));
    server.stop().await;
}
