//! Requests and answers when everybody behaves.

use flynn_router::PathPrefix;

use crate::{
    backend::Backend,
    stage::{Scene, Stage, http},
    within,
};

#[tokio::test]
async fn connections_stay_open_on_both_sides() {
    let backend = Backend::named("a").await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    for i in 0..20 {
        let response = client.get(&format!("/{i}")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "a"));
    }
    assert_eq!((backend.connections(), backend.requests()), (1, 20));
    // Another client finds the backend's connection in the pool.
    assert_eq!(stage.get("test", "/").await.0, 200);
    assert_eq!(backend.connections(), 1);
    let stats = stage.monitor.stats();
    assert_eq!(
        (stats.requests, stats.connections, stats.backend_connections),
        (21, 2, 1)
    );
}

#[tokio::test]
async fn host_and_path_choose_the_service() {
    let (root, api, any) = tokio::join!(
        Backend::named("root"),
        Backend::named("api"),
        Backend::named("any")
    );
    let prefix = PathPrefix::parse("/api").unwrap();
    let stage = Scene::new()
        .route(http("a.test", "root"))
        .await
        .route(http("a.test", "api").with_path(prefix))
        .await
        .route(http("*.test", "any"))
        .await
        .instance("root", root.addr)
        .await
        .instance("api", api.addr)
        .await
        .instance("any", any.addr)
        .await
        .start()
        .await;
    for (host, path, expected) in [
        ("a.test", "/", "root"),
        ("A.Test:8080", "/apix?/api/", "root"),
        ("a.test.", "/api", "api"),
        ("a.test", "/api/v1?x=1", "api"),
        ("b.test", "/api", "any"),
    ] {
        let (status, body) = stage.get(host, path).await;
        assert_eq!((status, body.as_str()), (200, expected), "{host}{path}");
    }
    let (status, body) = stage.get("test", "/").await;
    assert_eq!(status, 404);
    assert!(
        body.starts_with("there is no route for host \"test\" and this path (request "),
        "{body}"
    );
    assert_eq!(stage.monitor.stats().no_route, 1);
}

#[tokio::test]
async fn a_backend_sees_the_request_as_it_was_with_the_routers_headers() {
    let backend = Backend::mirror().await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    let id = "abcdefghij-1234567890";
    client
        .send(format!(
            "POST //a%2Fb/../c?d=%zz HTTP/1.1\r\nHOST: test\r\nX-CaSe: Kept\r\nX-Request-Id: {id}\r\n\
             X-Forwarded-For: 9.9.9.9\r\nConnection: X-Secret\r\nX-Secret: 1\r\nContent-Length: 4\r\n\r\nbody"
        ))
        .await;
    let seen = client.response().await.text();
    assert!(
        seen.starts_with("POST //a%2Fb/../c?d=%zz HTTP/1.1\r\nHOST: test\r\nX-CaSe: Kept\r\n"),
        "{seen}"
    );
    assert!(
        seen.contains("X-Forwarded-For: 9.9.9.9, 127.0.0.1\r\n"),
        "{seen}"
    );
    assert!(
        seen.contains(&format!("X-Forwarded-Port: {}\r\n", stage.addr.port())),
        "{seen}"
    );
    assert!(seen.contains(&format!("X-Request-Id: {id}\r\n")), "{seen}");
    assert!(
        seen.contains("X-Forwarded-Proto: http\r\nX-Forwarded-Port")
            && seen.ends_with("\r\n\r\nbody"),
        "{seen}"
    );
    assert!(
        !seen.contains("Secret") && !seen.contains("Connection"),
        "{seen}"
    );
}

#[tokio::test]
async fn every_request_has_an_id_of_its_own() {
    let backend = Backend::mirror().await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..10 {
        client
            .send("GET / HTTP/1.1\r\nHost: test\r\nX-Request-Id: short\r\n\r\n")
            .await;
        let seen = client.response().await.text();
        let id = seen
            .lines()
            .find_map(|l| l.strip_prefix("X-Request-Id: "))
            .unwrap()
            .to_owned();
        assert_eq!(id.len(), 36, "{id}");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 10);
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() {
    let backend = Backend::mirror().await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    let request =
        |i: usize| format!("POST /{i} HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n{i}");
    client.send((0..10).map(request).collect::<String>()).await;
    for i in 0..10 {
        let response = client.response().await;
        assert!(response.text().starts_with(&format!("POST /{i} ")), "{i}");
        assert!(response.text().ends_with(&i.to_string()), "{i}");
    }
}

#[tokio::test]
async fn a_client_that_asks_for_the_end_gets_it_after_the_answer() {
    let backend = Backend::named("a").await;
    let stage = Stage::simple(&[backend.addr]).await;
    for (request, connection) in [
        (
            "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
            "close",
        ),
        ("GET / HTTP/1.0\r\nHost: test\r\n\r\n", "close"),
    ] {
        let mut client = stage.connect().await;
        client.send(request).await;
        let response = client.response().await;
        assert_eq!(response.header("connection"), Some(connection));
        assert_eq!(response.text(), "a");
        client.ended().await;
    }
    assert_eq!(backend.connections(), 1, "the backend's connection stays");
    let mut client = stage.connect().await;
    let old = "GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n";
    for _ in 0..2 {
        client.send(old).await;
        assert_eq!(
            client.response().await.header("connection"),
            Some("keep-alive")
        );
    }
}

#[tokio::test]
async fn a_head_request_and_an_empty_answer_have_no_body() {
    let backend = Backend::start(|mut conn| async move {
        while let Some(request) = conn.request().await {
            let answer = match request.request_line() {
                line if line.starts_with("HEAD") => {
                    "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
                }
                line if line.contains("/304") => {
                    "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n"
                }
                _ => "HTTP/1.1 204 No Content\r\n\r\n",
            };
            conn.client.send(answer).await;
        }
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    for (method, path, status) in [
        ("HEAD", "/", 200),
        ("GET", "/304", 304),
        ("DELETE", "/", 204),
        ("HEAD", "/", 200),
    ] {
        assert_eq!(client.request(method, path).await.status, status);
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn an_old_backend_ends_its_answer_with_its_connection() {
    let backend = Backend::start(|mut conn| async move {
        if conn.request().await.is_some() {
            conn.client
                .send("HTTP/1.0 200 Fine\r\nServer: old\r\n\r\nall of it")
                .await;
        }
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    for _ in 0..3 {
        let mut client = stage.connect().await;
        let response = client.get("/").await;
        assert!(
            response.head.starts_with("HTTP/1.1 200 Fine\r\n"),
            "{}",
            response.head
        );
        assert!(response.closes());
        assert_eq!(response.text(), "all of it");
    }
    assert_eq!(backend.connections(), 3);
}

#[tokio::test]
async fn an_old_client_gets_a_chunked_answer_without_the_chunks() {
    let backend = Backend::start(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.client
                .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nT: 1\r\n\r\n")
                .await;
        }
    })
    .await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    client
        .send("GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n")
        .await;
    let response = client.response().await;
    assert_eq!(response.text(), "abcdefg");
    assert!(
        response.closes() && response.header("transfer-encoding").is_none(),
        "{}",
        response.head
    );
    let mut client = stage.connect().await;
    assert_eq!(client.get("/").await.text(), "abcdefg");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_route_without_keep_alive_uses_a_connection_for_each_request() {
    let backend = Backend::mirror().await;
    let mut route = http("test", "www");
    if let flynn_router::Rule::Http(rule) = &mut route.rule {
        rule.disable_keep_alives = true;
    }
    let scene = Scene::new().route(route).await;
    let stage = scene.instance("www", backend.addr).await.start().await;
    let mut client = stage.connect().await;
    for _ in 0..3 {
        let response = client.get("/").await;
        assert!(response.text().contains("Connection: close\r\n"));
    }
    assert_eq!(backend.connections(), 3);
}

#[tokio::test]
async fn a_sticky_route_leads_a_client_back_to_its_backend() {
    let (a, b, c) = tokio::join!(
        Backend::named("a"),
        Backend::named("b"),
        Backend::named("c")
    );
    let mut scene = Scene::new().route(http("test", "www").with_sticky()).await;
    for backend in [&a, &b, &c] {
        scene = scene.instance("www", backend.addr).await;
    }
    let mut stage = scene.start().await;
    let mut client = stage.connect().await;
    let first = client.get("/").await;
    let cookie = first.header("set-cookie").expect("a cookie").to_owned();
    assert!(
        cookie.starts_with("_backend=") && cookie.contains("; Path=/"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: x=y; {cookie}\r\n\r\n");
    for _ in 0..20 {
        client.send(&request).await;
        let response = client.response().await;
        assert_eq!(response.text(), first.text());
        assert_eq!(response.header("set-cookie"), None);
    }
    // When it is gone, another one takes over with a cookie of its own.
    let home = [&a, &b, &c]
        .into_iter()
        .zip(["a", "b", "c"])
        .find(|(_, n)| *n == first.text())
        .unwrap()
        .0;
    stage.deregister(home.addr).await;
    within("another backend", async {
        loop {
            client.send(&request).await;
            let response = client.response().await;
            if response.text() != first.text() {
                assert!(response.header("set-cookie").is_some());
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_leader_route_goes_to_the_leader() {
    let (a, b) = tokio::join!(Backend::named("a"), Backend::named("b"));
    let scene = Scene::new().route(http("test", "www").with_leader()).await;
    let scene = scene
        .instance("www", a.addr)
        .await
        .instance("www", b.addr)
        .await;
    let mut stage = scene.start().await;
    let mut client = stage.connect().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "a", "the oldest leads");
    }
    stage.deregister(a.addr).await;
    crate::until("the next leader", async || {
        (stage.get("test", "/").await.1 == "b").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_service_without_backends_is_unavailable() {
    let stage = Stage::simple(&[]).await;
    let (status, body) = stage.get("test", "/").await;
    assert_eq!(status, 503);
    assert!(
        body.starts_with("service www has no backends (request "),
        "{body}"
    );
    assert_eq!(stage.monitor.stats().no_backend, 1);
}
