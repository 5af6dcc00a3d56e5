//! A [`Backend`] of your own: everything in one JSON file, for one process and settings you may want to read.
//!
//! What a store must do about transactions, leases and watches is in the toolkit already: `KvState` decides,
//! `WatchHub` tells, `Deadlines` remembers. What is left to a backend is where the state lives. `tests/conformance.rs`
//! runs the whole contract on it.

mod file;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use flynn_discovery::{
    Error, Result,
    backend::{
        Backend, Capabilities, Compare, Entry, Key, LeaseId, ListOptions, MAX_VALUE_LEN, Op, Page,
        Prefix, Revision, WatchEvent,
        deadlines::Deadlines,
        kv::{Command, KvState, Outcome},
        watch::WatchHub,
    },
};
use futures::{StreamExt, stream::BoxStream};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use crate::file::JsonFile;

/// A [`Backend`] in one JSON file. Every change writes the file anew, so it suits hundreds of keys, not millions.
#[derive(Debug)]
pub struct JsonBackend {
    shared: Arc<Shared>,
    expiry: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// Held while a change is written: one change at a time, in the order of revisions.
    file: Arc<tokio::sync::Mutex<JsonFile>>,
    /// What the file holds; replaced after it was written.
    state: Mutex<KvState>,
    deadlines: Mutex<Deadlines>,
    /// The next deadline has come nearer.
    sooner: Notify,
    hub: WatchHub,
}

impl JsonBackend {
    /// Opens the file, which is made if it is absent. Leases get their full time anew.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] when the file is damaged, or another process has opened it.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let (file, state) = unblocked(move || JsonFile::open(path)).await?;
        let mut deadlines = Deadlines::new();
        for lease in state.leases() {
            deadlines.insert(lease.id, lease.ttl(), Instant::now());
        }
        let shared = Arc::new(Shared {
            file: Arc::new(tokio::sync::Mutex::new(file)),
            state: Mutex::new(state),
            deadlines: Mutex::new(deadlines),
            sooner: Notify::new(),
            hub: WatchHub::new(NAME),
        });
        let expiry = tokio::spawn(expire(Arc::clone(&shared)));
        Ok(Self { shared, expiry })
    }
}

impl Drop for JsonBackend {
    fn drop(&mut self) {
        self.expiry.abort();
        self.shared.hub.close();
    }
}

#[async_trait]
impl Backend for JsonBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_durable: true,
            linearizable_reads: true,
            min_ttl: MIN_TTL,
            max_value_len: MAX_VALUE_LEN,
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        Ok(self.shared.state().get(key).cloned())
    }

    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<Page> {
        Ok(self.shared.state().list(prefix, &options))
    }

    async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Revision> {
        let command = Command::Commit { compares, ops };
        match Shared::apply(&self.shared, command).await? {
            Outcome::Committed(revision) => Ok(revision),
            other => unreachable!("a commit is answered with a revision, not {other:?}"),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let ttl = ttl.max(MIN_TTL);
        match Shared::apply(&self.shared, Command::grant(ttl)).await? {
            Outcome::Granted(lease) => {
                let ttl = self.shared.state().ttl(lease).unwrap_or(ttl);
                self.shared.deadlines().insert(lease, ttl, Instant::now());
                self.shared.sooner.notify_one();
                Ok(lease)
            }
            other => unreachable!("a grant is answered with a lease, not {other:?}"),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        match self.shared.deadlines().renew(lease, Instant::now()) {
            true => Ok(()),
            false => Err(Error::LeaseLost { lease }),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        Shared::apply(&self.shared, Command::Revoke { lease }).await?;
        self.shared.deadlines().remove(lease);
        Ok(())
    }

    fn watch(&self, prefix: &Prefix) -> BoxStream<'static, Result<WatchEvent>> {
        let shared = Arc::clone(&self.shared);
        self.shared
            .hub
            .watch(prefix, move || shared.state().clone())
            .boxed()
    }
}

impl Shared {
    /// Writes first, then shows, then tells: what anyone has seen survives a crash. Once begun it is carried out, also
    /// when the caller has gone away.
    async fn apply(shared: &Arc<Self>, command: Command) -> Result<Outcome> {
        let file = Arc::clone(&shared.file).lock_owned().await;
        let shared = Arc::clone(shared);
        unblocked(move || {
            let mut next = shared.state().clone(); // O(1): a change copies only what it touches
            let applied = next.apply(command);
            let outcome = applied.result?;
            file.write(&next)?;
            *shared.state() = next;
            if let Some((revision, changes)) = applied.changes {
                shared.hub.publish(revision, &changes);
            }
            Ok(outcome)
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, KvState> {
        self.state.lock().expect("no panic while the lock is held")
    }

    fn deadlines(&self) -> MutexGuard<'_, Deadlines> {
        self.deadlines
            .lock()
            .expect("no panic while the lock is held")
    }
}

/// Ends each lease at its deadline, until the backend aborts it.
async fn expire(shared: Arc<Shared>) {
    loop {
        let (leases, next) = {
            let mut deadlines = shared.deadlines();
            let leases: Vec<LeaseId> = deadlines.due(Instant::now()).collect();
            // Gone before their keys are, so that nobody renews a lease that is about to end.
            for lease in &leases {
                deadlines.remove(*lease);
            }
            (leases, deadlines.next())
        };
        if !leases.is_empty() {
            let command = Command::Expire {
                leases: leases.clone(),
            };
            if Shared::apply(&shared, command).await.is_err() {
                // The disk is full, say: try again later.
                for lease in leases {
                    shared
                        .deadlines()
                        .insert(lease, EXPIRY_RETRY, Instant::now());
                }
            }
            continue;
        }
        match next {
            Some(next) => tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = shared.sooner.notified() => {}
            },
            None => shared.sooner.notified().await,
        }
    }
}

/// File work, away from the threads that drive the rest.
async fn unblocked<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Closed { backend: NAME })?
}

const NAME: &str = "json";
const MIN_TTL: Duration = Duration::from_millis(100);
const EXPIRY_RETRY: Duration = Duration::from_secs(1);
