//! discoverd's API, as its clients use it.

use std::{sync::Arc, time::Duration};

use flynn_discovery::{
    Registry,
    backend::MemoryBackend,
    http::{Body, Client, ClientError, RaftInfo, discovery_router},
};
use futures::{StreamExt, stream::BoxStream};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use crate::http::{TestServer, within};

/// md5("http-10.0.0.1:80") and md5("http-10.0.0.2:80").
const A: &str = "d9e73816e6d15c5664df9d9d087b858b";
const B: &str = "69f38af15f8dfaf8a19f37a56f8a6a56";

#[derive(Debug)]
struct Members;

impl RaftInfo for Members {
    fn leader(&self) -> Option<String> {
        Some("127.0.0.1:1111".to_owned())
    }

    fn peers(&self) -> Vec<String> {
        vec!["127.0.0.1:1111".to_owned(), "127.0.0.2:1111".to_owned()]
    }

    fn index(&self) -> u64 {
        42
    }
}

async fn serve() -> TestServer {
    let backend = Arc::new(MemoryBackend::new());
    let registry = Registry::new(Arc::clone(&backend) as _);
    TestServer::start(discovery_router(registry, backend, Some(Arc::new(Members)))).await
}

fn instance(n: u8) -> Value {
    let id = if n == 1 { A } else { B };
    json!({"id": id, "addr": format!("10.0.0.{n}:80"), "proto": "http", "meta": {"n": n.to_string()}})
}

async fn put_instance(client: &Client, n: u8) {
    let instance = instance(n);
    let path = format!(
        "/services/www/instances/{}",
        instance["id"].as_str().unwrap()
    );
    client.put::<()>(&path, &instance).await.unwrap();
}

fn refused(result: Result<(), ClientError>) -> (u16, String, String) {
    match result.unwrap_err() {
        ClientError::Status {
            status,
            code,
            message,
            ..
        } => (status.as_u16(), code, message),
        other => panic!("{other:?}"),
    }
}

/// `up 1`, `leader 2`, `service_meta`, `current`, ….
async fn next(events: &mut BoxStream<'static, Result<Value, ClientError>>) -> String {
    let event = within(events.next()).await.unwrap().unwrap();
    assert_eq!(event["service"], "www");
    let kind = event["kind"].as_str().unwrap().to_owned();
    match event["instance"]["meta"]["n"].as_str() {
        Some(n) => format!("{kind} {n}"),
        None => kind,
    }
}

#[tokio::test]
async fn services_are_made_once_and_removed_once() {
    let server = serve().await;
    let client = server.client();
    let new = json!({"leader_type": "oldest"});
    client.put::<()>("/services/www", &new).await.unwrap();
    let again = refused(client.put("/services/www", &json!({})).await);
    assert_eq!((again.0, again.1.as_str()), (409, "object_exists"));
    let bad = refused(client.put("/services/No_Such", &json!({})).await);
    assert_eq!((bad.0, bad.1.as_str()), (400, "validation_error"));
    let names: Vec<String> = client.get("/services").await.unwrap();
    assert_eq!(names, ["www"]);
    client.delete::<()>("/services/www").await.unwrap();
    assert_eq!(refused(client.delete("/services/www").await).0, 404);
    server.stop().await;
}

#[tokio::test]
async fn events_come_in_the_order_clients_rely_on() {
    let server = serve().await;
    let client = server.client();
    let mut early = client.events("/services/www", None).await.unwrap();
    assert_eq!(
        next(&mut early).await,
        "current",
        "a service need not exist"
    );
    client.put::<()>("/services/www", &json!({})).await.unwrap();
    put_instance(&client, 1).await;
    put_instance(&client, 2).await;
    let meta: Value = client
        .put("/services/www/meta", &json!({"data": {"a": 1}, "index": 0}))
        .await
        .unwrap();
    for expected in ["up 1", "leader 1", "up 2", "service_meta"] {
        assert_eq!(next(&mut early).await, expected);
    }
    let mut late = client.events("/services/www", None).await.unwrap();
    for expected in ["up 1", "up 2", "leader 1", "service_meta", "current"] {
        assert_eq!(next(&mut late).await, expected);
    }
    let mut leaders = client.events("/services/www/leader", None).await.unwrap();
    assert_eq!(next(&mut leaders).await, "leader 1");
    let mut ups = client
        .events("/services/www/instances", None)
        .await
        .unwrap();
    assert_eq!(next(&mut ups).await, "up 1");
    assert_eq!(next(&mut ups).await, "up 2");

    for (id, expected) in [(A, ["down 1", "leader 2"]), (B, ["down 2", "leader"])] {
        client
            .delete::<()>(&format!("/services/www/instances/{id}"))
            .await
            .unwrap();
        for event in expected {
            assert_eq!(next(&mut late).await, event);
        }
    }
    assert_eq!(next(&mut leaders).await, "leader 2");
    assert_eq!(next(&mut ups).await, "down 1");
    let index = meta["index"].as_u64().unwrap();
    assert!(index > 0);
    server.stop().await;
}

#[tokio::test]
async fn metadata_is_changed_only_by_who_knows_its_index() {
    let server = serve().await;
    let client = server.client();
    let path = "/services/www/meta";
    let set = async |index: u64| {
        client
            .put::<Value>(path, &json!({"data": [1], "index": index}))
            .await
    };
    assert_eq!(
        refused(set(0).await.map(drop)).0,
        404,
        "there is no service"
    );
    client.put::<()>("/services/www", &json!({})).await.unwrap();
    let none = refused(client.get::<Value>(path).await.map(drop));
    assert_eq!(none.2, "service meta not found");
    assert_eq!(refused(set(7).await.map(drop)).0, 412, "there is none yet");
    let index = set(0).await.unwrap()["index"].as_u64().unwrap();
    let exists = refused(set(0).await.map(drop));
    assert_eq!((exists.0, exists.1.as_str()), (409, "object_exists"));
    let stale = refused(set(index + 1).await.map(drop));
    assert_eq!((stale.0, stale.1.as_str()), (412, "precondition_failed"));
    assert!(set(index).await.unwrap()["index"].as_u64().unwrap() > index);
    let got: Value = client.get(path).await.unwrap();
    assert_eq!(got["data"], json!([1]));
    server.stop().await;
}

#[tokio::test]
async fn an_instance_is_checked_before_it_is_believed() {
    let server = serve().await;
    let client = server.client();
    let path = format!("/services/www/instances/{A}");
    let unknown = refused(client.put(&path, &instance(1)).await);
    assert_eq!(unknown.0, 404);
    client.put::<()>("/services/www", &json!({})).await.unwrap();
    for (field, value) in [("id", "x"), ("addr", "10.0.0.1"), ("proto", "HTTP")] {
        let mut bad = instance(1);
        bad[field] = json!(value);
        let (status, code, message) = refused(client.put(&path, &bad).await);
        assert_eq!((status, code.as_str()), (400, "validation_error"));
        assert!(message.starts_with(field), "{message}");
    }
    let none = refused(
        client
            .get::<Value>("/services/www/instances")
            .await
            .map(drop),
    );
    assert_eq!(none.0, 404, "no instance is answered like no service");
    put_instance(&client, 1).await;
    let listed: Value = client.get("/services/www/instances").await.unwrap();
    assert_eq!(listed[0]["addr"], "10.0.0.1:80");
    assert!(listed[0]["index"].as_u64().unwrap() > 0);
    // Deleting what is not there succeeds; in a service that is not there it does not.
    client
        .delete::<()>(&format!("/services/www/instances/{B}"))
        .await
        .unwrap();
    let elsewhere = format!("/services/other/instances/{B}");
    assert_eq!(refused(client.delete(&elsewhere).await).0, 404);
    server.stop().await;
}

#[tokio::test]
async fn heartbeats_keep_an_instance_and_changes_are_updates_in_place() {
    let server = serve().await;
    let client = server.client();
    client.put::<()>("/services/www", &json!({})).await.unwrap();
    put_instance(&client, 1).await;
    let before: Value = client.get("/services/www/leader").await.unwrap();
    let mut events = client
        .events("/services/www/instances", None)
        .await
        .unwrap();
    assert_eq!(next(&mut events).await, "up 1");
    put_instance(&client, 1).await;
    let mut changed = instance(1);
    changed["meta"]["n"] = json!("one");
    client
        .put::<()>(&format!("/services/www/instances/{A}"), &changed)
        .await
        .unwrap();
    assert_eq!(
        next(&mut events).await,
        "update one",
        "the heartbeat said nothing"
    );
    let after: Value = client.get("/services/www/leader").await.unwrap();
    assert_eq!(before["index"], after["index"]);
    server.stop().await;
}

#[tokio::test]
async fn an_instance_without_heartbeats_is_down_after_its_time() {
    let server = serve().await;
    let client = server.client();
    client.put::<()>("/services/www", &json!({})).await.unwrap();
    let started = tokio::time::Instant::now();
    put_instance(&client, 1).await;
    let mut events = client.events("/services/www", None).await.unwrap();
    for expected in ["up 1", "leader 1", "current"] {
        assert_eq!(next(&mut events).await, expected);
    }
    assert_eq!(next(&mut events).await, "down 1");
    assert!(
        started.elapsed() > Duration::from_secs(9),
        "not before its time"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_leader_chosen_by_hand_leads_only_a_manual_service() {
    let server = serve().await;
    let client = server.client();
    client.put::<()>("/services/www", &json!({})).await.unwrap();
    put_instance(&client, 1).await;
    put_instance(&client, 2).await;
    let path = "/services/www/leader";
    assert_eq!(refused(client.put(path, &json!({"id": B})).await).0, 400);
    client.delete::<()>("/services/www").await.unwrap();
    let manual = json!({"leader_type": "manual"});
    client.put::<()>("/services/www", &manual).await.unwrap();
    put_instance(&client, 1).await;
    put_instance(&client, 2).await;
    let none = refused(client.get::<Value>(path).await.map(drop));
    assert_eq!((none.0, none.2.as_str()), (404, "no leader found"));
    client.put::<()>(path, &json!({"id": B})).await.unwrap();
    let leader: Value = client.get(path).await.unwrap();
    assert_eq!(leader["id"], B);
    let both = json!({"data": 1, "index": 0, "leader_id": A});
    client
        .put::<Value>("/services/www/meta", &both)
        .await
        .unwrap();
    let leader: Value = client.get(path).await.unwrap();
    assert_eq!(leader["id"], A);
    server.stop().await;
}

#[tokio::test]
async fn answers_tell_about_the_cluster_in_both_spellings() {
    let server = serve().await;
    let client = server.client();
    let answer = client
        .bytes(Method::GET, "/ping", HeaderMap::new(), Body::empty())
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    for (name, value) in [
        ("discoverd-index", "42"),
        ("discoverd-current-index", "42"),
        ("discoverd-peers", "127.0.0.1:1111,127.0.0.2:1111"),
        ("discoverd-current-peers", "127.0.0.1:1111,127.0.0.2:1111"),
    ] {
        assert_eq!(answer.headers()[name], value);
    }
    let leader: Value = client.get("/raft/leader").await.unwrap();
    assert_eq!(leader, json!({"host": "127.0.0.1:1111"}));
    let peers: Vec<String> = client.get("/raft/peers").await.unwrap();
    assert_eq!(peers.len(), 2);
    let refused = refused(client.post("/raft/demote", &()).await);
    assert_eq!(refused.0, 400);
    let status: Value = client.get("/.well-known/status").await.unwrap();
    assert_eq!(status["data"]["status"], "healthy");
    server.stop().await;
}
