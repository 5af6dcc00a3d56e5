//! Events, and the catalog that follows the changes they tell of.

use std::sync::Arc;

use futures::{StreamExt as _, stream::BoxStream};

use super::{DEADLINE, a_release, an_app, to};
use crate::{
    Result, Store,
    model::{Event, EventKind},
    store::{EventFilter, NewEvent},
};

fn ping(n: usize) -> NewEvent {
    let app = if n.is_multiple_of(2) { "even" } else { "odd" };
    NewEvent::new(EventKind::Route, app, format!("r{n}"), &n)
}

async fn next(events: &mut BoxStream<'static, Result<Event>>) -> Event {
    let event = tokio::time::timeout(DEADLINE, events.next()).await;
    event
        .expect("an event comes")
        .expect("the stream goes on")
        .unwrap()
}

/// Each has a higher number than the one before, and is found by it.
pub async fn events_are_numbered_in_order(store: Arc<impl Store + ?Sized>) {
    let written = futures::future::try_join_all((0..20).map(|n| store.record(ping(n))))
        .await
        .unwrap();
    let all = store.events(&EventFilter::default()).await.unwrap();
    assert_eq!(all.len(), 20);
    assert!(
        all.is_sorted_by(|a, b| a.id > b.id),
        "newest first, each once"
    );
    for event in written {
        assert!(event.created_at.is_some());
        assert_eq!(store.event(event.id).await.unwrap(), Some(event));
    }
    assert_eq!(store.event(0).await.unwrap(), None);
    assert_eq!(store.event(-1).await.unwrap(), None);
}

/// By app, kind, object, bounds and count.
pub async fn an_events_filter_is_heeded(store: Arc<impl Store + ?Sized>) {
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(store.record(ping(n)).await.unwrap().id);
    }
    an_app(&*store, "blog").await;
    let found = async |filter: EventFilter| -> Vec<i64> {
        store
            .events(&filter)
            .await
            .unwrap()
            .into_iter()
            .map(|event| event.id)
            .collect()
    };
    let even = EventFilter {
        app: Some("even".to_owned()),
        ..EventFilter::default()
    };
    assert_eq!(found(even).await, [ids[8], ids[6], ids[4], ids[2], ids[0]]);
    let apps = EventFilter {
        kinds: vec![EventKind::App],
        ..EventFilter::default()
    };
    assert_eq!(found(apps).await.len(), 1);
    let one = EventFilter {
        object_id: Some("r3".to_owned()),
        ..EventFilter::default()
    };
    assert_eq!(found(one).await, [ids[3]]);
    let some = EventFilter {
        since: Some(ids[1]),
        before: Some(ids[7]),
        count: Some(2),
        ..EventFilter::default()
    };
    assert_eq!(found(some).await, [ids[6], ids[5]]);
}

/// Whenever it begins, and whatever is written meanwhile.
pub async fn a_watch_of_events_misses_nothing_and_says_nothing_twice(
    store: Arc<impl Store + ?Sized>,
) {
    let first = store.record(ping(0)).await.unwrap().id;
    let writes = async {
        for n in 1..60 {
            store.record(ping(n)).await.unwrap();
        }
    };
    let reads = async {
        let mut seen = Vec::new();
        let mut events = store.watch_events(Some(0));
        while seen.len() < 60 {
            seen.push(next(&mut events).await.id);
        }
        seen
    };
    let ((), seen, late) = tokio::join!(writes, reads, async {
        tokio::task::yield_now().await;
        next(&mut store.watch_events(Some(first))).await.id
    });
    let expected: Vec<i64> = (first..first + 60).collect();
    assert_eq!(seen, expected);
    assert_eq!(late, first + 1);
}

/// The first event is the first that is written after it began.
pub async fn a_watch_from_now_on_has_no_past(store: Arc<impl Store + ?Sized>) {
    for n in 0..5 {
        store.record(ping(n)).await.unwrap();
    }
    let mut events = store.watch_events(None);
    let reads = async { (next(&mut events).await.id, next(&mut events).await.id) };
    let writes = async {
        loop {
            store.record(ping(9)).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let (first, second) = tokio::select! {
        seen = reads => seen,
        () = writes => unreachable!("it writes for ever"),
    };
    assert!(first > 5, "{first} was written before");
    assert_eq!(second, first + 1);
}

/// The newest is always said.
pub async fn the_catalog_follows_every_change(store: Arc<impl Store + ?Sized>) {
    let mut catalogs = store.watch();
    let mut until = async |what: &str, holds: &(dyn Fn(&crate::Catalog) -> bool + Sync)| {
        let found = async {
            loop {
                let catalog = catalogs.next().await.expect("the stream goes on").unwrap();
                if holds(&catalog) {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, found)
            .await
            .unwrap_or_else(|_| panic!("{what}"));
    };
    until("it begins with nothing", &|catalog| {
        *catalog == crate::Catalog::default()
    })
    .await;
    let app = an_app(&*store, "blog").await;
    let release = a_release(&*store, &app).await;
    let request = store.scale(to(&release, &[("web", 2)])).await.unwrap();
    let key = (app.id.clone(), release.id.clone());
    until("app, release and formation are there", &|catalog| {
        catalog.apps.contains_key(&app.id)
            && catalog.releases.contains_key(&release.id)
            && catalog
                .formations
                .get(&key)
                .is_some_and(|f| f.processes["web"] == 2)
            && catalog.pending_scales().any(|r| r.id == request.id)
    })
    .await;
    store.finish_scale(&request).await.unwrap();
    until("the request is over", &|catalog| {
        catalog.pending_scales().next().is_none()
    })
    .await;
    store.begin_deletion("blog").await.unwrap();
    until("the deletion has begun", &|catalog| {
        catalog.deletions.contains_key(&app.id) && catalog.formations.is_empty()
    })
    .await;
    store.finish_deletion(&app.id, Vec::new()).await.unwrap();
    until("nothing is left", &|catalog| {
        catalog.apps.is_empty() && catalog.releases.is_empty() && catalog.deletions.is_empty()
    })
    .await;
}
