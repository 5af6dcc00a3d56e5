//! A registration while its store misbehaves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use flynn_discovery::{
    Backend, Error, Instance, RegisterOptions, Registration, RegistrationStatus, Registry, Result,
    ServiceName,
    backend::{
        Capabilities, Compare, Entry, Key, LeaseId, ListOptions, MemoryBackend, Op, Page, Prefix,
        Revision, WatchEvent,
    },
};
use futures::stream::BoxStream;
use tokio::time::{Instant, sleep, timeout};

/// What becomes of a call that changes something.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Refused at once.
    Unavailable,
    /// Commits are carried out, but their answers are lost.
    AnswerLost,
    /// Never answered, never carried out.
    Hangs,
}

/// A store behind a network that can be broken. Reads break only when it hangs.
#[derive(Debug)]
struct Breakable {
    inner: MemoryBackend,
    fault: Mutex<Fault>,
}

impl Breakable {
    async fn call<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::None | Fault::AnswerLost => call.await,
            Fault::Unavailable => Err(Error::Unavailable {
                backend: "breakable",
                why: "it is broken".to_owned(),
            }),
            Fault::Hangs => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Backend for Breakable {
    fn name(&self) -> &'static str {
        "breakable"
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<Page> {
        self.inner.list(prefix, options).await
    }
    async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Revision> {
        let committed = self.call(self.inner.commit(compares, ops)).await?;
        if *self.fault.lock().unwrap() == Fault::AnswerLost {
            return Err(Error::Unknown {
                operation: "commit",
                after: Duration::ZERO,
            });
        }
        Ok(committed)
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.call(self.inner.grant(ttl)).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.call(self.inner.keep_alive(lease)).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.call(self.inner.revoke(lease)).await
    }
    fn watch(&self, prefix: &Prefix) -> BoxStream<'static, Result<WatchEvent>> {
        self.inner.watch(prefix)
    }
}

struct Fixture {
    store: Arc<Breakable>,
    registry: Registry,
    service: ServiceName,
}

const TTL: Duration = Duration::from_secs(10);

impl Fixture {
    fn new() -> Self {
        let store = Arc::new(Breakable {
            inner: MemoryBackend::new(),
            fault: Mutex::new(Fault::None),
        });
        let backend: Arc<dyn Backend> = Arc::<Breakable>::clone(&store);
        Self {
            store,
            registry: Registry::new(backend),
            service: ServiceName::parse("www").unwrap(),
        }
    }

    fn fault(&self, fault: Fault) {
        *self.store.fault.lock().unwrap() = fault;
    }

    async fn register(&self, addr: &str) -> Registration {
        let instance = Instance::new("a", addr, "http").unwrap();
        let options = RegisterOptions::default().with_ttl(TTL);
        self.registry
            .register(&self.service, instance, options)
            .await
            .unwrap()
    }

    async fn instance(&self) -> Option<Instance> {
        self.registry
            .instances(&self.service)
            .await
            .unwrap()
            .into_iter()
            .next()
    }

    /// Ends the instance's lease behind its back.
    async fn lose_lease(&self) {
        let key = Key::parse("services/www/instances/a").unwrap();
        let entry = self.store.get(&key).await.unwrap().unwrap();
        self.store.inner.revoke(entry.lease.unwrap()).await.unwrap();
    }
}

async fn until(registration: &Registration, status: RegistrationStatus) {
    let waiting = async {
        while registration.status() != status {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("{registration:?} does not become {status:?}"));
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_lease_takes_nothing_down() {
    let fixture = Fixture::new();
    let registration = fixture.register(":1").await;
    let before = fixture.instance().await;
    for _ in 0..5 {
        fixture.fault(Fault::Unavailable);
        until(&registration, RegistrationStatus::Unconfirmed).await;
        sleep(TTL / 4).await;
        fixture.fault(Fault::None);
        until(&registration, RegistrationStatus::Registered).await;
        assert_eq!(fixture.instance().await, before);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_longer_outage_it_comes_back_as_the_youngest() {
    for fault in [Fault::Unavailable, Fault::Hangs] {
        let fixture = Fixture::new();
        let registration = fixture.register(":1").await;
        let before = fixture.instance().await.unwrap();
        fixture.fault(fault);
        sleep(3 * TTL).await;
        assert_eq!(fixture.instance().await, None, "{fault:?}");
        assert_eq!(registration.status(), RegistrationStatus::Unconfirmed);
        fixture.fault(Fault::None);
        until(&registration, RegistrationStatus::Registered).await;
        assert!(fixture.instance().await.unwrap().created > before.created);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_not_taken_for_somebody_elses() {
    let fixture = Fixture::new();
    let registration = fixture.register(":1").await;
    fixture.lose_lease().await;
    fixture.fault(Fault::AnswerLost);
    until(&registration, RegistrationStatus::Unconfirmed).await;
    until(&registration, RegistrationStatus::Registered).await;
    let written = fixture.instance().await;
    assert!(written.is_some());
    sleep(5 * TTL).await;
    assert_eq!(registration.status(), RegistrationStatus::Registered);
    assert_eq!(fixture.instance().await, written, "written once");
}

#[tokio::test(start_paused = true)]
async fn who_registers_during_an_outage_keeps_the_id() {
    let fixture = Fixture::new();
    let first = fixture.register(":1").await;
    fixture.fault(Fault::Unavailable);
    fixture.lose_lease().await;
    until(&first, RegistrationStatus::Unconfirmed).await;
    fixture.fault(Fault::None);
    // Before the first has tried again.
    let second = fixture.register(":2").await;
    until(&first, RegistrationStatus::Replaced).await;
    sleep(5 * TTL).await;
    assert_eq!(second.status(), RegistrationStatus::Registered);
    assert_eq!(fixture.instance().await.unwrap().addr, ":2");
    drop(first);
    sleep(TTL).await;
    assert_eq!(fixture.instance().await.unwrap().addr, ":2");
}

#[tokio::test(start_paused = true)]
async fn an_update_that_failed_is_not_made_later() {
    let fixture = Fixture::new();
    let registration = fixture.register(":1").await;
    let attributes = BTreeMap::from([("x".to_owned(), "y".to_owned())]);
    fixture.fault(Fault::Unavailable);
    let refused = registration.update(attributes.clone()).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })));
    fixture.fault(Fault::None);
    // Registered anew from what it remembers.
    fixture.lose_lease().await;
    sleep(TTL).await;
    assert!(fixture.instance().await.unwrap().attributes.is_empty());
    fixture.lose_lease().await;
    registration.update(attributes.clone()).await.unwrap();
    assert_eq!(fixture.instance().await.unwrap().attributes, attributes);
}

#[tokio::test(start_paused = true)]
async fn a_drop_during_an_outage_deregisters_after_it() {
    let fixture = Fixture::new();
    drop(fixture.register(":1").await);
    fixture.fault(Fault::Unavailable);
    sleep(TTL / 2).await;
    assert!(fixture.instance().await.is_some());
    fixture.fault(Fault::None);
    let begun = Instant::now();
    while fixture.instance().await.is_some() {
        sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() < TTL, "it was revoked, it did not expire");
}

#[tokio::test(start_paused = true)]
async fn deregistering_from_a_store_that_hangs_ends_and_says_so() {
    let fixture = Fixture::new();
    let registration = fixture.register(":1").await;
    fixture.fault(Fault::Hangs);
    let unknown = timeout(3 * TTL, registration.deregister()).await.unwrap();
    assert!(matches!(unknown, Err(Error::Unknown { .. })), "{unknown:?}");
    // What could not be done by hand is done by time.
    sleep(2 * TTL).await;
    assert_eq!(fixture.instance().await, None);
}
