//! The store over the memory backend.

use std::sync::Arc;

use flynn_controller::{
    DiscoveryStore, Store,
    model::{App, EventKind, new_id},
    store::{EventFilter, MAX_EVENTS, NewEvent},
};
use flynn_discovery::{Backend, backend::MemoryBackend};
use futures::StreamExt as _;

flynn_controller::store_conformance!(memory, async {
    Arc::new(DiscoveryStore::new(Arc::new(MemoryBackend::new())))
});

#[tokio::test]
async fn two_controllers_write_one_sequence_of_events() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let stores = [
        DiscoveryStore::new(Arc::clone(&backend)),
        DiscoveryStore::new(backend),
    ];
    let writes = (0..60_usize).map(|n| {
        let app = App {
            id: new_id(),
            ..App::named(format!("app-{n}"))
        };
        stores[n % 2].create_app(app)
    });
    futures::future::try_join_all(writes).await.unwrap();
    let events = stores[0].events(&EventFilter::default()).await.unwrap();
    let ids: Vec<i64> = events.iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..=60).rev().collect::<Vec<i64>>());
    let mut followed = stores[1].watch_events(Some(0));
    for id in 1..=60 {
        assert_eq!(followed.next().await.unwrap().unwrap().id, id);
    }
}

#[tokio::test]
async fn only_the_newest_events_are_kept() {
    let store = DiscoveryStore::new(Arc::new(MemoryBackend::new()));
    let last = i64::try_from(MAX_EVENTS).unwrap() + 5;
    for n in 0..last {
        store
            .record(NewEvent::new(EventKind::Route, "", "r", &n))
            .await
            .unwrap();
    }
    assert_eq!(store.event(5).await.unwrap(), None);
    assert!(store.event(6).await.unwrap().is_some());
    let all = store.events(&EventFilter::default()).await.unwrap();
    assert_eq!((all.len() as u64, all[0].id), (MAX_EVENTS, last));
}
