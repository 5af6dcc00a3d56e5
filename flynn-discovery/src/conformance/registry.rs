//! [`Registry`] over the backend: the same service semantics everywhere.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::stream::BoxStream;
use serde_json::json;
use tokio::time::timeout;

use super::{SOON, assert_conflict, next, until};
use crate::{
    Error, Instance, InstanceId, LeaderPolicy, RegisterOptions, Registration, RegistrationStatus,
    Registry, Result, ServiceConfig, ServiceEvent, ServiceName,
    backend::{Backend, Key},
};

/// A registered instance is found as it was registered, and its service with it.
pub async fn a_registered_instance_is_found_and_its_service_too(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    assert_eq!(registry.instances(&www()).await.unwrap(), []);
    assert_eq!(registry.leader(&www()).await.unwrap(), None);
    let instance = Instance::new("web.1_a-B", "[::1]:8080", "http")
        .unwrap()
        .with_attribute("VERSION", "7 \"quoted\"")
        .with_attribute("", "");
    let registration = registry
        .register(&www(), instance.clone(), patient())
        .await
        .unwrap();
    assert_eq!(registration.status(), RegistrationStatus::Registered);
    let found = registry.instances(&www()).await.unwrap();
    assert!(found[0].created > 0);
    let expected = Instance {
        created: found[0].created,
        ..instance
    };
    assert_eq!(found, [expected]);
    assert_eq!(
        registry.service(&www()).await.unwrap(),
        Some(ServiceConfig::new(LeaderPolicy::Oldest))
    );
}

/// Instances are listed oldest first, whatever their ids.
pub async fn instances_are_listed_oldest_first(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    let mut registrations = Vec::new();
    for id in ["c", "a", "d", "b"] {
        registrations.push(register(&registry, id).await);
    }
    assert_eq!(ids(&registry).await, ["c", "a", "d", "b"]);
}

/// The oldest instance leads; when it goes, the next oldest does.
pub async fn the_oldest_instance_leads_and_then_the_next(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    let c = register(&registry, "c").await;
    let a = register(&registry, "a").await;
    let b = register(&registry, "b").await;
    assert_eq!(leader(&registry).await.unwrap(), "c");
    c.deregister().await.unwrap();
    assert_eq!(leader(&registry).await.unwrap(), "a");
    b.deregister().await.unwrap();
    assert_eq!(leader(&registry).await.unwrap(), "a");
    a.deregister().await.unwrap();
    assert_eq!(leader(&registry).await, None);
}

/// A deregistered instance is gone when `deregister` returns.
pub async fn a_deregistered_instance_is_gone_at_once(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    let stays = register(&registry, "a").await;
    let mut statuses = {
        let goes = register(&registry, "b").await;
        let statuses = goes.statuses();
        goes.deregister().await.unwrap();
        statuses
    };
    assert_eq!(ids(&registry).await, ["a"]);
    let mut last = None;
    while let Some(status) = timeout(SOON, futures::StreamExt::next(&mut statuses))
        .await
        .expect("the statuses end with the registration")
    {
        last = Some(status);
    }
    assert_eq!(last, Some(RegistrationStatus::Deregistered));
    assert_eq!(stays.status(), RegistrationStatus::Registered);
}

/// A dropped registration is taken out in the background, long before its time to live is over.
pub async fn a_dropped_registration_is_gone_soon(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    drop(register(&registry, "a").await);
    until("the instance taken out", || async {
        ids(&registry).await.is_empty()
    })
    .await;
}

/// A registration is renewed: it outlives its time to live several times.
pub async fn a_registration_outlives_its_time_to_live(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    let mut ttl = registry
        .backend()
        .capabilities()
        .min_ttl
        .max(Duration::from_millis(500));
    // On a machine too busy to renew in time it may rightly be lost, and come back: once more, with more time.
    for _ in 0..5 {
        let options = RegisterOptions::default().with_ttl(ttl);
        let registration = registry
            .register(&www(), instance("a"), options)
            .await
            .unwrap();
        let before = registry.instances(&www()).await.unwrap();
        tokio::time::sleep(4 * ttl).await;
        let after = registry.instances(&www()).await.unwrap();
        if before == after && before.len() == 1 {
            return;
        }
        registration.deregister().await.unwrap();
        ttl *= 3;
    }
    panic!("no registration outlived its time to live, the longest of {ttl:?}");
}

/// A registration whose lease was lost comes back by itself, as the youngest.
pub async fn a_registration_whose_lease_was_lost_comes_back(backend: Arc<dyn Backend>) {
    let registry = Registry::new(Arc::clone(&backend));
    let options = RegisterOptions::default().with_ttl(Duration::from_secs(1));
    let registration = registry
        .register(&www(), instance("a"), options)
        .await
        .unwrap();
    let _other = register(&registry, "b").await;
    let entry = backend.get(&key_of("a")).await.unwrap();
    let lease = entry.and_then(|entry| entry.lease).expect("it is leased");
    backend.revoke(lease).await.unwrap();
    until("the instance registered anew", || async {
        ids(&registry).await == ["b", "a"]
    })
    .await;
    until("that to be known", || async {
        registration.status() == RegistrationStatus::Registered
    })
    .await;
}

/// An update replaces the attributes and keeps the place in the order.
pub async fn an_update_keeps_the_place_in_the_order(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    let a = register(&registry, "a").await;
    let _b = register(&registry, "b").await;
    let before = registry.leader(&www()).await.unwrap().unwrap();
    let attributes = BTreeMap::from([("weight".to_owned(), "2".to_owned())]);
    a.update(attributes.clone()).await.unwrap();
    let after = registry.leader(&www()).await.unwrap().unwrap();
    assert_eq!(
        after,
        Instance {
            attributes,
            ..before
        }
    );
    a.update(BTreeMap::new()).await.unwrap();
    a.deregister().await.unwrap();
    assert_eq!(ids(&registry).await, ["b"]);
}

/// An instance registered again replaces the first: the end of the first does not take it down.
pub async fn an_instance_registered_again_replaces_the_first(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    let first = register(&registry, "a").await;
    let _b = register(&registry, "b").await;
    let moved = Instance {
        addr: "10.0.0.2:80".to_owned(),
        ..instance("a")
    };
    let second = registry.register(&www(), moved, patient()).await.unwrap();
    let update = first.update(BTreeMap::new()).await;
    assert!(matches!(update, Err(Error::Conflict { .. })), "{update:?}");
    assert_eq!(first.status(), RegistrationStatus::Replaced);
    first.deregister().await.unwrap();
    let found = registry.instances(&www()).await.unwrap();
    let found: Vec<_> = found.iter().map(|i| (i.id.as_str(), &*i.addr)).collect();
    assert_eq!(found, [("a", "10.0.0.2:80"), ("b", ADDR)]);
    second.deregister().await.unwrap();
    assert_eq!(ids(&registry).await, ["b"]);
}

/// Heartbeats register an instance, keep it and update it, and do not change its place.
pub async fn heartbeats_keep_an_instance_and_its_place(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    let beat = |instance| async { registry.heartbeat(&www(), instance, SOON).await };
    let unknown = beat(instance("a")).await;
    assert!(
        matches!(unknown, Err(Error::NotFound { .. })),
        "{unknown:?}"
    );
    registry
        .create_service(&www(), LeaderPolicy::Oldest)
        .await
        .unwrap();
    let a = beat(instance("a")).await.unwrap();
    let b = beat(instance("b")).await.unwrap();
    assert!(a.created > 0 && a.created < b.created);
    assert_eq!(beat(instance("a")).await.unwrap(), a);
    let updated = instance("a").with_attribute("x", "y");
    assert_eq!(beat(updated.clone()).await.unwrap().created, a.created);
    let expected = Instance {
        created: a.created,
        ..updated
    };
    assert_eq!(registry.instances(&www()).await.unwrap(), [expected, b]);
}

/// An instance whose heartbeats stop goes down.
pub async fn an_instance_without_heartbeats_goes_down(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    registry
        .create_service(&www(), LeaderPolicy::Oldest)
        .await
        .unwrap();
    let mut watch = registry.watch(&www());
    assert_eq!(tell(&mut watch, 1).await, ["reset"]);
    let ttl = Duration::from_millis(300);
    registry
        .heartbeat(&www(), instance("a"), ttl)
        .await
        .unwrap();
    assert_eq!(
        tell(&mut watch, 4).await,
        ["up a", "leader a", "down a", "leader none"]
    );
}

/// An instance can be taken out by its id.
pub async fn an_instance_can_be_taken_out(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    let _registration = register(&registry, "a").await;
    registry.remove_instance(&www(), &id("a")).await.unwrap();
    registry.remove_instance(&www(), &id("a")).await.unwrap();
    assert!(ids(&registry).await.is_empty());
}

/// A service is created once, and removed with all that belongs to it.
pub async fn a_service_is_created_once_and_can_be_removed(backend: Arc<dyn Backend>) {
    let registry = Registry::new(Arc::clone(&backend));
    let create = || registry.create_service(&WWW, LeaderPolicy::Manual);
    create().await.unwrap();
    let again = create().await;
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    let _registration = register(&registry, "a").await;
    registry.set_leader(&www(), &id("a")).await.unwrap();
    registry
        .set_metadata(&www(), &json!({"a": 1}), 0)
        .await
        .unwrap();
    registry.remove_service(&www()).await.unwrap();
    assert_eq!(registry.service(&www()).await.unwrap(), None);
    assert_eq!(registry.metadata(&www()).await.unwrap(), None);
    assert!(ids(&registry).await.is_empty());
    let gone = registry.remove_service(&www()).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    create().await.unwrap();
}

/// All services are listed, also behind one with many instances.
pub async fn all_services_are_listed(backend: Arc<dyn Backend>) {
    let registry = Registry::new(Arc::clone(&backend));
    assert_eq!(registry.services().await.unwrap(), []);
    for name in ["www-2", "db", "www", "0"] {
        let name = ServiceName::parse(name).unwrap();
        registry
            .create_service(&name, LeaderPolicy::default())
            .await
            .unwrap();
    }
    let many = (0..1100).map(|i| super::put(&format!("services/db/instances/{i}"), "{}"));
    super::commit(&backend, many.collect()).await;
    let names = registry.services().await.unwrap();
    let mut names: Vec<_> = names.iter().map(ServiceName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["0", "db", "www", "www-2"]);
}

/// A service that does not exist is said not to.
pub async fn what_is_unknown_is_said_to_be(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    let unknown = |result: Result<()>| match result {
        Err(error @ Error::NotFound { .. }) => {
            assert_eq!(error.to_string(), "service www does not exist");
        }
        other => panic!("not said to be unknown: {other:?}"),
    };
    unknown(registry.remove_service(&www()).await);
    unknown(registry.set_leader(&www(), &id("a")).await);
    unknown(registry.remove_instance(&www(), &id("a")).await);
    for expected in [0, 7] {
        let set = registry.set_metadata(&www(), &json!(1), expected).await;
        unknown(set.map(drop));
        let set = registry
            .set_metadata_and_leader(&www(), &json!(1), expected, &id("a"))
            .await;
        unknown(set.map(drop));
    }
    assert_eq!(registry.metadata(&www()).await.unwrap(), None);
}

/// A manual service is led by whom was chosen, while that is registered.
pub async fn a_manual_service_is_led_by_whom_was_chosen(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    registry
        .create_service(&www(), LeaderPolicy::Manual)
        .await
        .unwrap();
    let _a = register(&registry, "a").await;
    let b = register(&registry, "b").await;
    assert_eq!(leader(&registry).await, None);
    registry.set_leader(&www(), &id("b")).await.unwrap();
    assert_eq!(leader(&registry).await.unwrap(), "b");
    b.deregister().await.unwrap();
    assert_eq!(leader(&registry).await, None);
    registry.set_leader(&www(), &id("nobody")).await.unwrap();
    assert_eq!(leader(&registry).await, None);
    registry.set_leader(&www(), &id("a")).await.unwrap();
    assert_eq!(leader(&registry).await.unwrap(), "a");
    let other = ServiceName::parse("oldest").unwrap();
    registry
        .create_service(&other, LeaderPolicy::Oldest)
        .await
        .unwrap();
    let refused = registry.set_leader(&other, &id("a")).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
}

/// Metadata changes only from the index that was expected.
pub async fn metadata_is_compared_and_set(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    registry
        .create_service(&www(), LeaderPolicy::Oldest)
        .await
        .unwrap();
    let set = |data, expected| {
        let registry = registry.clone();
        async move { registry.set_metadata(&WWW, &data, expected).await }
    };
    assert_conflict(set(json!(0), 7).await, META);
    let first = set(json!({"a": [1, null, "x"]}), 0).await.unwrap();
    let exists = set(json!(0), 0).await;
    assert!(matches!(exists, Err(Error::Exists { .. })), "{exists:?}");
    let second = set(json!("two"), first).await.unwrap();
    assert!(second > first);
    assert_conflict(set(json!(0), first).await, META);
    let metadata = registry.metadata(&www()).await.unwrap().unwrap();
    assert_eq!((metadata.data, metadata.index), (json!("two"), second));
}

/// Metadata and leader change together or not at all.
pub async fn metadata_and_leader_change_together(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    registry
        .create_service(&www(), LeaderPolicy::Manual)
        .await
        .unwrap();
    let _a = register(&registry, "a").await;
    let _b = register(&registry, "b").await;
    let mut watch = registry.watch(&www());
    assert_eq!(tell(&mut watch, 1).await, ["reset"]);
    let set = |expected, id: &'static str| {
        let registry = registry.clone();
        let id = InstanceId::parse(id).unwrap();
        async move {
            registry
                .set_metadata_and_leader(&WWW, &json!(id.as_str()), expected, &id)
                .await
        }
    };
    let first = set(0, "a").await.unwrap();
    assert_conflict(set(first + 1, "b").await, META);
    assert_eq!(leader(&registry).await.unwrap(), "a");
    set(first, "b").await.unwrap();
    assert_eq!(leader(&registry).await.unwrap(), "b");
    assert_eq!(
        tell(&mut watch, 4).await,
        ["meta \"a\"", "leader a", "meta \"b\"", "leader b"]
    );
}

/// A watch tells an instance first and then the leader it makes or unmakes.
pub async fn a_watch_tells_the_leader_after_its_cause(backend: Arc<dyn Backend>) {
    let registry = Registry::new(backend);
    let mut watch = registry.watch(&www());
    assert_eq!(tell(&mut watch, 1).await, ["reset"]);
    let a = register(&registry, "a").await;
    let b = register(&registry, "b").await;
    a.update(BTreeMap::from([("x".to_owned(), "y".to_owned())]))
        .await
        .unwrap();
    registry.set_metadata(&www(), &json!([1]), 0).await.unwrap();
    a.deregister().await.unwrap();
    b.deregister().await.unwrap();
    assert_eq!(
        tell(&mut watch, 9).await,
        [
            "up a",
            "leader a",
            "up b",
            "update a",
            "meta [1]",
            "down a",
            "leader b",
            "down b",
            "leader none"
        ]
    );
}

/// The next `count` events, in short.
async fn tell(watch: &mut BoxStream<'static, Result<ServiceEvent>>, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    while told.len() < count {
        let leader = |leader: Option<Instance>| {
            leader.map_or_else(|| "none".to_owned(), |leader| leader.id.to_string())
        };
        let so_far = format!("an event of the service after {told:?}");
        told.push(match next(watch, &so_far).await {
            ServiceEvent::Reset { .. } => "reset".to_owned(),
            ServiceEvent::Up(instance) => format!("up {}", instance.id),
            ServiceEvent::Update(instance) => format!("update {}", instance.id),
            ServiceEvent::Down(instance) => format!("down {}", instance.id),
            ServiceEvent::Leader(instance) => format!("leader {}", leader(instance)),
            ServiceEvent::Metadata(Some(metadata)) => format!("meta {}", metadata.data),
            ServiceEvent::Metadata(None) => "meta none".to_owned(),
        });
    }
    told
}

async fn register(registry: &Registry, id: &str) -> Registration {
    registry
        .register(&www(), instance(id), patient())
        .await
        .unwrap()
}

/// A time to live that no pause of a busy machine exceeds.
fn patient() -> RegisterOptions {
    RegisterOptions::default().with_ttl(20 * SOON)
}

async fn ids(registry: &Registry) -> Vec<String> {
    let instances = registry.instances(&www()).await.unwrap();
    instances.iter().map(|i| i.id.to_string()).collect()
}

async fn leader(registry: &Registry) -> Option<String> {
    let leader = registry.leader(&www()).await.unwrap();
    leader.map(|leader| leader.id.to_string())
}

fn www() -> ServiceName {
    WWW.clone()
}

static WWW: std::sync::LazyLock<ServiceName> =
    std::sync::LazyLock::new(|| ServiceName::parse("www").unwrap());

fn id(text: &str) -> InstanceId {
    InstanceId::parse(text).unwrap()
}

fn instance(id: &str) -> Instance {
    Instance::new(id, ADDR, "http").unwrap()
}

fn key_of(id: &str) -> Key {
    super::key(&format!("services/www/instances/{id}"))
}

const ADDR: &str = "10.0.0.1:80";
const META: &str = "services/www/meta";
