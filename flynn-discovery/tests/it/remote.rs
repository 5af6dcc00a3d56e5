//! `RemoteBackend` against a real server over `MemoryBackend`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use flynn_discovery::{
    Backend, Error,
    backend::{
        Change, Condition, Key, LeaseId, MemoryBackend, Op, Prefix, RemoteBackend, WatchEvent,
    },
    conformance::{Harness, Skip},
    http::{Keys, Limits, Secret, kv_router, require_key, serve as serve_http},
};
use futures::{StreamExt, future::join_all};

use crate::http::{TestServer, dead_endpoint, within};

struct Remote;

#[async_trait]
impl Harness for Remote {
    /// A server of its own, which ends with the case's runtime.
    async fn fresh(&self) -> Result<Arc<dyn Backend>, Skip> {
        let app = kv_router(Arc::new(MemoryBackend::new()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve_http(listener, app, std::future::pending()));
        let remote = RemoteBackend::connect(vec![url], None).await.unwrap();
        Ok(Arc::new(remote))
    }
}

flynn_discovery::backend_conformance!(Remote);

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

async fn serve(store: &Arc<MemoryBackend>) -> TestServer {
    TestServer::start(kv_router(Arc::clone(store) as Arc<dyn Backend>)).await
}

async fn serve_again(store: &Arc<MemoryBackend>, addr: SocketAddr) -> TestServer {
    let app = kv_router(Arc::clone(store) as Arc<dyn Backend>);
    TestServer::start_with(app, Limits::default(), addr).await
}

/// The keys of a reset, or the keys of changes with their sign.
fn said(event: &WatchEvent) -> String {
    match event {
        WatchEvent::Reset { entries, .. } => {
            let keys: Vec<_> = entries.iter().map(|e| e.key.as_str()).collect();
            format!("reset {}", keys.join(" "))
        }
        WatchEvent::Changes { changes, .. } => {
            let changes: Vec<_> = changes
                .iter()
                .map(|change| match change {
                    Change::Put(entry) => format!("+{}", entry.key),
                    Change::Delete(key) => format!("-{key}"),
                    _ => unreachable!(),
                })
                .collect();
            changes.join(" ")
        }
        _ => unreachable!(),
    }
}

#[tokio::test]
async fn a_wrong_key_is_denied_in_every_operation() {
    let store = Arc::new(MemoryBackend::new());
    let keys = Keys::new(vec![Secret::new("right")]);
    let server = TestServer::start(require_key(kv_router(store), keys)).await;
    let right = Some(Secret::new("right"));
    let remote = RemoteBackend::connect(vec![server.url()], right).await;
    remote.unwrap().get(&key("a")).await.unwrap();
    for wrong in [None, Some(Secret::new("wrong"))] {
        let denied = RemoteBackend::connect(vec![server.url()], wrong.clone()).await;
        assert!(matches!(denied, Err(Error::Denied { .. })));
        let remote = RemoteBackend::new(vec![server.url()], wrong).unwrap();
        let denied = [
            remote.get(&key("a")).await.map(drop),
            remote
                .put(&key("a"), Bytes::new(), Condition::Any)
                .await
                .map(drop),
            remote.keep_alive(LeaseId(1)).await,
            remote.grant(Duration::from_secs(1)).await.map(drop),
        ];
        for result in denied {
            assert!(matches!(result, Err(Error::Denied { .. })), "{result:?}");
        }
        let mut watch = remote.watch(&Prefix::root());
        assert!(matches!(
            within(watch.next()).await,
            Some(Err(Error::Denied { .. }))
        ));
        assert!(
            within(watch.next()).await.is_none(),
            "the error is the last"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn what_was_never_sent_is_unavailable_and_what_was_sent_is_unknown() {
    let remote = RemoteBackend::new(vec![dead_endpoint().await], None).unwrap();
    let refused = remote.put(&key("a"), Bytes::new(), Condition::Any).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })));

    // A server that takes the commit and dies.
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let app = Router::new().fallback(async move || {
        arrived.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    let server = TestServer::start(app).await;
    let remote = Arc::new(RemoteBackend::new(vec![server.url()], None).unwrap());
    let commit = tokio::spawn({
        let remote = Arc::clone(&remote);
        async move { remote.put(&key("a"), Bytes::new(), Condition::Any).await }
    });
    let read = tokio::spawn(async move { remote.get(&key("a")).await });
    for _ in 0..2 {
        within(arrivals.recv()).await.unwrap();
    }
    server.kill().await;
    let unknown = within(commit).await.unwrap();
    assert!(
        matches!(
            unknown,
            Err(Error::Unknown {
                operation: "commit",
                ..
            })
        ),
        "{unknown:?}"
    );
    let unavailable = within(read).await.unwrap();
    assert!(
        matches!(unavailable, Err(Error::Unavailable { .. })),
        "{unavailable:?}"
    );
}

#[tokio::test]
async fn one_of_two_endpoints_may_be_dead() {
    let store = Arc::new(MemoryBackend::new());
    let server = serve(&store).await;
    let endpoints = vec![dead_endpoint().await, server.url()];
    let remote = RemoteBackend::connect(endpoints, None).await.unwrap();
    remote
        .put(&key("a"), "1".into(), Condition::Absent)
        .await
        .unwrap();
    let mut watch = remote.watch(&Prefix::root());
    assert_eq!(
        said(&within(watch.next()).await.unwrap().unwrap()),
        "reset a"
    );
    server.stop().await;
}

#[tokio::test]
async fn requests_move_to_the_other_server_when_one_dies() {
    let store = Arc::new(MemoryBackend::new());
    let (first, second) = (serve(&store).await, serve(&store).await);
    let endpoints = vec![first.url(), second.url()];
    let remote = RemoteBackend::new(endpoints, None).unwrap();
    remote
        .put(&key("a"), "1".into(), Condition::Any)
        .await
        .unwrap();
    let mut watch = remote.watch(&Prefix::root());
    assert_eq!(
        said(&within(watch.next()).await.unwrap().unwrap()),
        "reset a"
    );
    first.kill().await;
    let found = within(remote.get(&key("a"))).await.unwrap();
    assert_eq!(found.unwrap().value, "1");
    within(remote.put(&key("b"), "2".into(), Condition::Any))
        .await
        .unwrap();
    // The watch has moved too; what it missed is in its reset.
    let event = within(watch.next()).await.unwrap().unwrap();
    assert!(said(&event).starts_with("reset a"), "{event:?}");
    second.stop().await;
}

#[tokio::test]
async fn a_watch_outlives_a_restart_of_the_server_and_says_reset() {
    let store = Arc::new(MemoryBackend::new());
    let server = serve(&store).await;
    let addr = server.addr;
    let remote = RemoteBackend::new(vec![server.url()], None).unwrap();
    let mut watch = remote.watch(&Prefix::parse("w/").unwrap());
    assert_eq!(
        said(&within(watch.next()).await.unwrap().unwrap()),
        "reset "
    );
    remote
        .commit(
            vec![],
            vec![
                Op::put(key("w/a"), "1"),
                Op::put(key("x"), "1"),
                Op::delete(key("w/b")),
            ],
        )
        .await
        .unwrap();
    assert_eq!(said(&within(watch.next()).await.unwrap().unwrap()), "+w/a");
    // Once it dies, once it shuts down in order.
    server.kill().await;
    store
        .put(&key("w/missed"), "1".into(), Condition::Any)
        .await
        .unwrap();
    let server = serve_again(&store, addr).await;
    let event = within(watch.next()).await.unwrap().unwrap();
    assert_eq!(said(&event), "reset w/a w/missed");
    server.stop().await;
    let server = serve_again(&store, addr).await;
    let event = within(watch.next()).await.unwrap().unwrap();
    assert_eq!(said(&event), "reset w/a w/missed");
    server.stop().await;
}

#[tokio::test]
async fn many_leases_are_renewed_and_each_hears_of_its_own_loss() {
    let store = Arc::new(MemoryBackend::new());
    let server = serve(&store).await;
    let remote = RemoteBackend::new(vec![server.url()], None).unwrap();
    let ttl = Duration::from_secs(60);
    let leases = join_all((0..200).map(|_| remote.grant(ttl))).await;
    let leases: Vec<LeaseId> = leases.into_iter().map(Result::unwrap).collect();
    remote.revoke(leases[7]).await.unwrap();
    let renewed = within(join_all(leases.iter().map(|l| remote.keep_alive(*l)))).await;
    for (n, result) in renewed.into_iter().enumerate() {
        match result {
            Ok(()) => assert_ne!(n, 7),
            Err(Error::LeaseLost { lease }) => assert_eq!(lease, leases[7]),
            Err(error) => panic!("{error}"),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_large_store_arrives_whole_in_one_reset() {
    let store = Arc::new(MemoryBackend::new());
    let server = serve(&store).await;
    let remote = RemoteBackend::connect(vec![server.url()], None)
        .await
        .unwrap();
    let value = Bytes::from(vec![b'x'; 2000]);
    let ops = (0..3000).map(|n| Op::put(key(&format!("k/{n:05}")), value.clone()));
    let revision = remote.commit(vec![], ops.collect()).await.unwrap();
    let mut watch = remote.watch(&Prefix::parse("k/").unwrap());
    let event = within(watch.next()).await.unwrap().unwrap();
    let WatchEvent::Reset {
        entries,
        revision: at,
    } = event
    else {
        panic!("{event:?}")
    };
    assert_eq!((entries.len(), at), (3000, revision));
    assert!(
        entries
            .iter()
            .all(|e| e.value == value && e.version == revision)
    );
    server.stop().await;
}

#[tokio::test]
async fn keys_of_any_allowed_character_arrive_as_they_are() {
    let store = Arc::new(MemoryBackend::new());
    let server = serve(&store).await;
    let remote = RemoteBackend::new(vec![server.url()], None).unwrap();
    let odd = key("a&b=c/%41?#+\"<>\\/~");
    remote
        .put(&odd, Bytes::from_static(&[0, 255]), Condition::Absent)
        .await
        .unwrap();
    let found = remote.get(&odd).await.unwrap().unwrap();
    assert_eq!(found, store.get(&odd).await.unwrap().unwrap());
    let conflict = remote.put(&odd, Bytes::new(), Condition::Absent).await;
    assert!(matches!(conflict, Err(Error::Conflict { key }) if key == odd));
    server.stop().await;
}
