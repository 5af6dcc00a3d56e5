//! The backend in this process's memory: for tests, for one process, and as the reference for the others.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, future::OptionFuture, stream::BoxStream};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::{
    Backend, Capabilities, Compare, Entry, Key, LeaseId, ListOptions, MAX_VALUE_LEN, Op, Page,
    Prefix, Revision, WatchEvent,
    deadlines::Deadlines,
    kv::{Command, KvState, Outcome},
    watch::WatchHub,
};
use crate::{Error, Result};

/// A complete [`Backend`] in this process's memory. What is in it ends with it, and so do its watches.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> flynn_discovery::Result<()> {
/// use flynn_discovery::backend::{Backend, Condition, Key, MemoryBackend};
///
/// let backend = MemoryBackend::new();
/// let key = Key::parse("greeting")?;
/// let version = backend.put(&key, "hello".into(), Condition::Absent).await?;
/// backend.put(&key, "hello, world".into(), Condition::Version(version)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryBackend {
    shared: Arc<Shared>,
    /// Ends leases. Started with the first one, so that a backend can be made outside of a runtime.
    expiry: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    hub: WatchHub,
    /// The next deadline has come nearer.
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Store {
    state: KvState,
    deadlines: Deadlines,
}

impl MemoryBackend {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                store: Mutex::default(),
                hub: WatchHub::new(NAME),
                sooner: Notify::new(),
            }),
            expiry: Mutex::default(),
        }
    }

    fn ensure_expiry(&self) {
        let mut expiry = self.expiry.lock();
        // A finished task belonged to a runtime that is gone.
        if expiry.as_ref().is_none_or(JoinHandle::is_finished) {
            *expiry = Some(tokio::spawn(expire(Arc::clone(&self.shared))));
        }
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for MemoryBackend {
    fn drop(&mut self) {
        if let Some(expiry) = self.expiry.get_mut() {
            expiry.abort();
        }
        self.shared.hub.close();
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_durable: false,
            linearizable_reads: true,
            min_ttl: MIN_TTL,
            max_value_len: MAX_VALUE_LEN,
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        Ok(self.shared.store.lock().state.get(key).cloned())
    }

    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<Page> {
        let state = self.shared.snapshot();
        Ok(state.list(prefix, &options))
    }

    async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Revision> {
        self.shared.revise(Command::Commit { compares, ops })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.ensure_expiry();
        let command = Command::grant(ttl.max(MIN_TTL));
        let now = Instant::now();
        let mut store = self.shared.store.lock();
        let Outcome::Granted(lease) = self.shared.apply(&mut store, command)? else {
            unreachable!("a grant is answered with a lease");
        };
        let ttl = store.state.ttl(lease).unwrap_or(ttl);
        store.deadlines.insert(lease, ttl, now);
        drop(store);
        self.shared.sooner.notify_one();
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let now = Instant::now();
        if self.shared.store.lock().deadlines.renew(lease, now) {
            Ok(())
        } else {
            Err(Error::LeaseLost { lease })
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.shared.revise(Command::Revoke { lease }).map(drop)
    }

    fn watch(&self, prefix: &Prefix) -> BoxStream<'static, Result<WatchEvent>> {
        let shared = Arc::clone(&self.shared);
        self.shared
            .hub
            .watch(prefix, move || shared.snapshot())
            .boxed()
    }
}

impl Shared {
    fn snapshot(&self) -> KvState {
        self.store.lock().state.clone()
    }

    fn revise(&self, command: Command) -> Result<Revision> {
        match self.apply(&mut self.store.lock(), command)? {
            Outcome::Committed(revision) => Ok(revision),
            Outcome::Granted(_) => unreachable!("only a grant is answered with a lease"),
        }
    }

    /// Applies and publishes under the store's lock, so that watchers hear of commits in the order of revisions.
    fn apply(&self, store: &mut Store, command: Command) -> Result<Outcome> {
        match &command {
            Command::Revoke { lease } => store.deadlines.remove(*lease),
            Command::Expire { leases } => {
                for lease in leases {
                    store.deadlines.remove(*lease);
                }
            }
            Command::Commit { .. } | Command::Grant { .. } => {}
        }
        let applied = store.state.apply(command);
        if let Some((revision, changes)) = applied.changes {
            self.hub.publish(revision, &changes);
        }
        applied.result
    }
}

/// Ends each lease at its deadline, until the backend aborts it.
async fn expire(shared: Arc<Shared>) {
    loop {
        let next = {
            let now = Instant::now();
            let mut store = shared.store.lock();
            let leases: Vec<LeaseId> = store.deadlines.due(now).collect();
            if !leases.is_empty() {
                tracing::debug!(?leases, "leases expired");
                // An expiry has no limit to exceed and nobody to answer.
                let _ = shared.apply(&mut store, Command::Expire { leases });
            }
            store.deadlines.next()
        };
        let due: OptionFuture<_> = next.map(tokio::time::sleep_until).into();
        tokio::select! {
            Some(()) = due => {}
            () = shared.sooner.notified() => {}
        }
    }
}

const NAME: &str = "memory";

/// Short enough for tests, long enough to be renewed in time on a busy machine.
const MIN_TTL: Duration = Duration::from_millis(10);
