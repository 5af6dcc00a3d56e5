//! The contract on the memory backend, alone and through the decorators; and what is special about it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use flynn_discovery::{
    Backend, Error,
    backend::{
        Condition, Key, MemoryBackend, Op, Prefix, PrefixedBackend, TracedBackend, WatchEvent,
        list_all,
    },
    conformance::{Harness, Skip},
};
use futures::StreamExt;

struct Memory;

#[async_trait]
impl Harness for Memory {
    async fn fresh(&self) -> Result<Arc<dyn Backend>, Skip> {
        Ok(Arc::new(MemoryBackend::new()))
    }
}

flynn_discovery::backend_conformance!(Memory);

mod decorated {
    use super::*;

    struct Decorated;

    #[async_trait]
    impl Harness for Decorated {
        /// A namespace next to another one that holds the same keys.
        async fn fresh(&self) -> Result<Arc<dyn Backend>, Skip> {
            let store: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
            for neighbour in ["a", "d/a", "services/www/config", "ns", "ns0/a", "n/s/a"] {
                let key = Key::parse(neighbour).unwrap();
                store.put(&key, "x".into(), Condition::Any).await.unwrap();
            }
            let namespace = Prefix::parse("ns/of/mine/").unwrap();
            let prefixed = PrefixedBackend::new(store, namespace);
            Ok(Arc::new(TracedBackend::new(Arc::new(prefixed))))
        }
    }

    flynn_discovery::backend_conformance!(Decorated);
}

#[tokio::test]
async fn a_namespace_is_a_part_of_the_store_below_it() {
    let store: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let namespace = Prefix::parse("ns/").unwrap();
    let part = PrefixedBackend::new(Arc::clone(&store), namespace.clone());
    let key = Key::parse("a").unwrap();
    part.commit(vec![], vec![Op::put(key.clone(), "x")])
        .await
        .unwrap();
    let whole = list_all(&*store, &Prefix::root()).await.unwrap();
    assert_eq!(whole.len(), 1);
    assert_eq!(whole[0].key.as_str(), "ns/a");
    let conflict = part.put(&key, "y".into(), Condition::Absent).await;
    assert!(matches!(conflict, Err(Error::Conflict { key: named }) if named == key));
    let too_long = Key::parse("x".repeat(Key::MAX_LEN)).unwrap();
    let refused = part.get(&too_long).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn its_watches_end_with_it() {
    let backend = MemoryBackend::new();
    let mut watch = backend.watch(&Prefix::root());
    assert!(matches!(
        watch.next().await,
        Some(Ok(WatchEvent::Reset { .. }))
    ));
    backend.grant(Duration::from_secs(1)).await.unwrap();
    drop(backend);
    assert!(matches!(
        watch.next().await,
        Some(Err(Error::Closed { .. }))
    ));
    assert!(watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_when_its_time_is_over_and_not_before() {
    let backend = MemoryBackend::new();
    let lease = backend.grant(Duration::from_secs(10)).await.unwrap();
    let key = Key::parse("a").unwrap();
    let op = Op::Put {
        key: key.clone(),
        value: "x".into(),
        lease: Some(lease),
    };
    backend.commit(vec![], vec![op]).await.unwrap();
    let longer = backend.grant(Duration::from_secs(3600)).await.unwrap();
    let is_there = async || backend.get(&key).await.unwrap().is_some();
    let sleep = tokio::time::sleep;
    sleep(Duration::from_millis(9_990)).await;
    assert!(is_there().await);
    backend.keep_alive(lease).await.unwrap();
    sleep(Duration::from_millis(9_990)).await;
    assert!(is_there().await);
    sleep(Duration::from_millis(20)).await;
    assert!(!is_there().await);
    backend.keep_alive(longer).await.unwrap();
}
