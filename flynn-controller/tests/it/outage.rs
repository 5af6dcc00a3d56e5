//! A store that fails, and one whose answers are lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flynn_controller::{
    Controller, DiscoveryStore, Platform, Store,
    model::{App, new_id},
    store::EventFilter,
};
use flynn_discovery::{
    Backend, Error, Result,
    backend::{
        Capabilities, Compare, Entry, Key, LeaseId, ListOptions, MemoryBackend, Op, Page, Prefix,
        Revision, WatchEvent,
    },
};
use flynn_router::MemoryRouteStore;
use futures::stream::BoxStream;

use crate::world::{World, release_of, scale_to};

/// A backend that fails as it is told.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Backend>,
    /// So many calls are refused.
    refused: AtomicU32,
    /// So many commits are carried out, and their answers lost.
    answers_lost: AtomicU32,
    /// So many commits are lost before they are carried out.
    requests_lost: AtomicU32,
}

impl Faulty {
    fn over(inner: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            refused: AtomicU32::new(0),
            answers_lost: AtomicU32::new(0),
            requests_lost: AtomicU32::new(0),
        })
    }

    fn check(&self) -> Result<()> {
        if take(&self.refused) {
            return Err(Error::Unavailable {
                backend: "faulty",
                why: "the test says so".to_owned(),
            });
        }
        Ok(())
    }
}

fn take(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        .is_ok()
}

fn unknown<T>() -> Result<T> {
    Err(Error::Unknown {
        operation: "commit",
        after: Duration::from_secs(1),
    })
}

#[async_trait]
impl Backend for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.check()?;
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<Page> {
        self.check()?;
        self.inner.list(prefix, options).await
    }
    async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Revision> {
        self.check()?;
        if take(&self.requests_lost) {
            return unknown();
        }
        let revision = self.inner.commit(compares, ops).await?;
        if take(&self.answers_lost) {
            return unknown();
        }
        Ok(revision)
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.check()?;
        self.inner.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.check()?;
        self.inner.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.check()?;
        self.inner.revoke(lease).await
    }
    fn watch(&self, prefix: &Prefix) -> BoxStream<'static, Result<WatchEvent>> {
        self.inner.watch(prefix)
    }
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_happens_once() {
    let faulty = Faulty::over(Arc::new(MemoryBackend::new()));
    let store = DiscoveryStore::new(Arc::<Faulty>::clone(&faulty));
    for (n, fault) in [&faulty.answers_lost, &faulty.requests_lost]
        .into_iter()
        .enumerate()
    {
        fault.store(1, Ordering::SeqCst);
        let app = App {
            id: new_id(),
            ..App::named(format!("app-{n}"))
        };
        assert_eq!(
            store.create_app(app.clone()).await.unwrap(),
            app,
            "it is known to have happened"
        );
        assert_eq!(
            store.events(&EventFilter::default()).await.unwrap().len(),
            n + 1
        );
    }
    let error = store
        .create_app(App {
            id: new_id(),
            ..App::named("app-0")
        })
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "app app-0 already exists");
}

#[tokio::test]
async fn a_store_that_is_out_of_reach_is_a_transient_error() {
    let faulty = Faulty::over(Arc::new(MemoryBackend::new()));
    let store = DiscoveryStore::new(Arc::<Faulty>::clone(&faulty));
    faulty.refused.store(1, Ordering::SeqCst);
    let error = store
        .create_app(App {
            id: new_id(),
            ..App::named("blog")
        })
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(store.apps().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_controller_outlives_an_outage_of_its_store() {
    let world = World::with_hosts(1).await;
    let faulty = Faulty::over(Arc::clone(&world.backend));
    let platform = Platform::new(
        Arc::new(DiscoveryStore::new(Arc::<Faulty>::clone(&faulty))),
        Arc::<flynn_sched::DiscoveryCluster>::clone(&world.cluster),
        Arc::new(MemoryRouteStore::new()),
    );
    let controller = Controller::new(platform)
        .with_claim_ttl(Duration::from_millis(600))
        .start();
    let app = world
        .platform
        .create_app(App {
            strategy: "one-by-one".to_owned(),
            ..App::named("blog")
        })
        .await
        .unwrap();
    let old = world
        .platform
        .create_release(release_of(&app, "ok"))
        .await
        .unwrap();
    world.platform.deploy("blog", &old.id).await.unwrap();
    world.platform.scale(scale_to(&old, 3)).await.unwrap();
    world.until_up(&old, "web", 3).await;
    let new = world
        .platform
        .create_release(release_of(&app, "ok"))
        .await
        .unwrap();
    world.platform.deploy("blog", &new.id).await.unwrap();
    let deployed = new.clone();
    world
        .until("it is on its way", move |state| {
            crate::world::up(state, &deployed, "web") >= 1
        })
        .await;
    // Some answers are lost and then a good many calls are refused: the claims may run out meanwhile.
    faulty.answers_lost.store(2, Ordering::SeqCst);
    faulty.refused.store(30, Ordering::SeqCst);
    world.until_up(&new, "web", 3).await;
    world.until_up(&old, "web", 0).await;
    assert_eq!(
        faulty.refused.load(Ordering::SeqCst),
        0,
        "the outage was noticed"
    );
    controller.stop().await;
}
