//! The contract of a [`RouteStore`], case by case. Run it on your own store:
//!
//! ```ignore
//! flynn_router::route_store_conformance!(my_store, async { Arc::new(MyStore::new()) });
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a case that fails panics"
)]

use std::{sync::Arc, time::Duration};

use flynn_discovery::{
    ServiceName,
    backend::{Condition, Revision},
};
use futures::{StreamExt as _, stream::BoxStream};

use crate::{Domain, Error, PathPrefix, Result, Route, RouteStore};

/// How long a case waits for an event.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Writes one test for each case, in a module `$name`, against what the future `$store` makes: an
/// `Arc<dyn RouteStore>` (or of a type that implements it) that nobody else uses.
#[macro_export]
macro_rules! route_store_conformance {
    ($name:ident, $store:expr) => {
        $crate::route_store_conformance!(@cases $name, $store,
            what_was_put_is_read_back,
            the_list_is_oldest_first,
            a_second_route_for_the_same_domain_and_path_is_refused_with_the_first,
            a_second_route_for_the_same_port_is_refused,
            a_refused_route_changes_nothing,
            another_path_of_the_same_domain_is_another_route,
            conditions_are_checked,
            a_route_may_move_and_leaves_its_place_free,
            a_removed_route_leaves_its_place_free,
            removing_an_absent_route_succeeds,
            of_many_creations_of_one_domain_one_succeeds,
            a_watch_gives_the_whole_list_at_once_and_after_each_change,
        );
    };
    (@cases $name:ident, $store:expr, $($case:ident,)*) => {
        mod $name {
            #[allow(unused_imports, reason = "the store's expression may need them")]
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    let store = $store.await;
                    $crate::conformance::$case(store).await;
                }
            )*
        }
    };
}

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

fn http(domain: &str, path: &str) -> Route {
    Route::http(Domain::parse(domain).unwrap(), service("www"))
        .with_path(PathPrefix::parse(path).unwrap())
}

/// A route put is read back by id and in the list, with the revision the put returned.
pub async fn what_was_put_is_read_back(store: Arc<impl RouteStore + ?Sized>) {
    let route = http("example.com", "/a")
        .with_sticky()
        .with_parent_ref("controller/apps/1");
    let version = store.put(route.clone(), Condition::Absent).await.unwrap();
    let stored = store.get(&route.id).await.unwrap().unwrap();
    assert_eq!((&stored.route, stored.version), (&route, version));
    assert_eq!(store.list().await.unwrap(), [stored]);
}

/// The order of the list is the order of creation, whatever is written later.
pub async fn the_list_is_oldest_first(store: Arc<impl RouteStore + ?Sized>) {
    let routes = [
        http("c.com", "/"),
        Route::tcp(3000, service("db")).unwrap(),
        http("a.com", "/"),
    ];
    for route in &routes {
        store.put(route.clone(), Condition::Absent).await.unwrap();
    }
    store
        .put(routes[0].clone(), Condition::Present)
        .await
        .unwrap();
    let list: Vec<_> = store
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|s| s.route)
        .collect();
    assert_eq!(list, routes);
}

/// The error names the route that is in the way.
pub async fn a_second_route_for_the_same_domain_and_path_is_refused_with_the_first(
    store: Arc<impl RouteStore + ?Sized>,
) {
    let first = http("example.com", "/a");
    store.put(first.clone(), Condition::Absent).await.unwrap();
    let second = http("EXAMPLE.com", "/a/");
    match store.put(second, Condition::Absent).await {
        Err(Error::Duplicate { route }) => assert_eq!(*route, first),
        other => panic!("{other:?}"),
    }
}

/// Ports are unique too.
pub async fn a_second_route_for_the_same_port_is_refused(store: Arc<impl RouteStore + ?Sized>) {
    let tcp = || Route::tcp(3000, service("db")).unwrap();
    store.put(tcp(), Condition::Absent).await.unwrap();
    let again = store.put(tcp(), Condition::Any).await;
    assert!(matches!(again, Err(Error::Duplicate { .. })), "{again:?}");
}

/// Neither a duplicate nor a failed condition leaves a trace.
pub async fn a_refused_route_changes_nothing(store: Arc<impl RouteStore + ?Sized>) {
    let (first, second) = (http("a.com", "/"), http("b.com", "/"));
    store.put(first.clone(), Condition::Absent).await.unwrap();
    store.put(second.clone(), Condition::Absent).await.unwrap();
    let before = store.list().await.unwrap();
    let mut moved = second.clone();
    moved.rule = first.rule.clone();
    store.put(moved, Condition::Any).await.unwrap_err();
    let mut moved = second;
    moved.rule = http("c.com", "/").rule;
    store
        .put(moved, Condition::Version(Revision(u64::MAX)))
        .await
        .unwrap_err();
    assert_eq!(store.list().await.unwrap(), before);
    store
        .put(http("c.com", "/"), Condition::Absent)
        .await
        .unwrap();
}

/// Only domain and path together are unique.
pub async fn another_path_of_the_same_domain_is_another_route(
    store: Arc<impl RouteStore + ?Sized>,
) {
    for (domain, path) in [
        ("a.com", "/"),
        ("a.com", "/x"),
        ("a.com", "/x/y"),
        ("*.a.com", "/"),
    ] {
        store
            .put(http(domain, path), Condition::Absent)
            .await
            .unwrap();
    }
    assert_eq!(store.list().await.unwrap().len(), 4);
}

/// Absent, present and version conditions hold for put and remove.
pub async fn conditions_are_checked(store: Arc<impl RouteStore + ?Sized>) {
    let conflict = |result: Result<Revision>| {
        assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
    };
    let route = http("a.com", "/");
    conflict(store.put(route.clone(), Condition::Present).await);
    conflict(
        store
            .put(route.clone(), Condition::Version(Revision(1)))
            .await,
    );
    let first = store.put(route.clone(), Condition::Absent).await.unwrap();
    conflict(store.put(route.clone(), Condition::Absent).await);
    let second = store
        .put(route.clone(), Condition::Version(first))
        .await
        .unwrap();
    assert!(second > first);
    conflict(store.put(route.clone(), Condition::Version(first)).await);
    let refused = store.remove(&route.id, Condition::Version(first)).await;
    assert!(
        matches!(refused, Err(Error::Conflict { .. })),
        "{refused:?}"
    );
    store
        .remove(&route.id, Condition::Version(second))
        .await
        .unwrap();
    assert_eq!(store.get(&route.id).await.unwrap(), None);
}

/// A route that is replaced by one for other traffic frees the old place and takes the new one.
pub async fn a_route_may_move_and_leaves_its_place_free(store: Arc<impl RouteStore + ?Sized>) {
    let mut route = http("old.com", "/");
    store.put(route.clone(), Condition::Absent).await.unwrap();
    route.rule = http("new.com", "/").rule;
    store.put(route.clone(), Condition::Present).await.unwrap();
    store
        .put(http("old.com", "/"), Condition::Absent)
        .await
        .unwrap();
    let taken = store.put(http("new.com", "/"), Condition::Absent).await;
    assert!(matches!(taken, Err(Error::Duplicate { .. })), "{taken:?}");
}

/// After a removal the same traffic can be routed by another route.
pub async fn a_removed_route_leaves_its_place_free(store: Arc<impl RouteStore + ?Sized>) {
    let route = http("a.com", "/");
    store.put(route.clone(), Condition::Absent).await.unwrap();
    store.remove(&route.id, Condition::Any).await.unwrap();
    assert_eq!(store.get(&route.id).await.unwrap(), None);
    store
        .put(http("a.com", "/"), Condition::Absent)
        .await
        .unwrap();
}

/// Callers want it gone, and it is; only a condition can object.
pub async fn removing_an_absent_route_succeeds(store: Arc<impl RouteStore + ?Sized>) {
    let id = http("a.com", "/").id;
    store.remove(&id, Condition::Any).await.unwrap();
    let refused = store.remove(&id, Condition::Present).await;
    assert!(
        matches!(refused, Err(Error::Conflict { .. })),
        "{refused:?}"
    );
}

/// The check and the write are one change.
pub async fn of_many_creations_of_one_domain_one_succeeds(store: Arc<impl RouteStore + ?Sized>) {
    let puts = (0..16).map(|_| store.put(http("a.com", "/"), Condition::Absent));
    let results = futures::future::join_all(puts).await;
    assert_eq!(
        results.iter().filter(|r| r.is_ok()).count(),
        1,
        "{results:?}"
    );
    assert_eq!(store.list().await.unwrap().len(), 1);
}

/// No second code path for reconnecting: each item is the whole truth.
pub async fn a_watch_gives_the_whole_list_at_once_and_after_each_change(
    store: Arc<impl RouteStore + ?Sized>,
) {
    let first = http("a.com", "/");
    store.put(first.clone(), Condition::Absent).await.unwrap();
    let mut watch = store.watch();
    until(&mut watch, |routes| routes == [first.clone()]).await;
    let second = Route::tcp(3000, service("db")).unwrap();
    store.put(second.clone(), Condition::Absent).await.unwrap();
    until(&mut watch, |routes| {
        routes == [first.clone(), second.clone()]
    })
    .await;
    let changed = first.clone().with_sticky();
    store.put(changed.clone(), Condition::Any).await.unwrap();
    until(&mut watch, |routes| {
        routes == [changed.clone(), second.clone()]
    })
    .await;
    store.remove(&first.id, Condition::Any).await.unwrap();
    until(&mut watch, |routes| routes == [second.clone()]).await;
}

async fn until(
    watch: &mut BoxStream<'static, Result<Vec<Route>>>,
    is_expected: impl Fn(&[Route]) -> bool + Send + Sync,
) {
    let mut last = Vec::new();
    let seen = tokio::time::timeout(DEADLINE, async {
        while !is_expected(&last) {
            last = watch.next().await.expect("the watch goes on").unwrap();
        }
    });
    assert!(
        seen.await.is_ok(),
        "the watch never gave the expected list, but {last:?}"
    );
}
