//! The route stores against their contract.

use std::sync::Arc;

use flynn_discovery::backend::{Backend as _, MemoryBackend, Prefix, list_all};
use flynn_router::{DiscoveryRouteStore, MemoryRouteStore, RouteStore as _};

use crate::stage::http;

flynn_router::route_store_conformance!(memory, async { Arc::new(MemoryRouteStore::new()) });
flynn_router::route_store_conformance!(discovery, async {
    Arc::new(DiscoveryRouteStore::new(Arc::new(MemoryBackend::new())))
});

#[tokio::test]
async fn a_removed_route_leaves_no_keys_behind() {
    use flynn_discovery::backend::Condition::{Absent, Any, Present};
    let backend = Arc::new(MemoryBackend::new());
    let store = DiscoveryRouteStore::new(Arc::clone(&backend) as Arc<_>);
    let mut route = http("a.com", "www");
    store.put(route.clone(), Absent).await.unwrap();
    route.rule = http("b.com", "www").rule;
    store.put(route.clone(), Present).await.unwrap();
    let root = Prefix::root();
    assert_eq!(list_all(&*backend, &root).await.unwrap().len(), 2);
    store.remove(&route.id, Any).await.unwrap();
    assert_eq!(list_all(&*backend, &root).await.unwrap(), []);
}

#[tokio::test]
async fn a_damaged_entry_does_not_take_the_other_routes_off_the_air() {
    use flynn_discovery::backend::{Condition::Any, Key};
    use futures::StreamExt as _;
    let backend = Arc::new(MemoryBackend::new());
    let store = DiscoveryRouteStore::new(Arc::clone(&backend) as Arc<_>);
    let route = http("a.com", "www");
    store.put(route.clone(), Any).await.unwrap();
    let key = Key::parse("router/routes/http/broken").unwrap();
    backend.put(&key, "not JSON".into(), Any).await.unwrap();
    let list = crate::within("the routes", store.watch().next()).await;
    assert_eq!(list.unwrap().unwrap(), [route]);
    assert!(store.list().await.is_err());
}
