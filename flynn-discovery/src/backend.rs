//! The one trait everything rests on: a consistent store of small values with leases, watches and transactions.
//!
//! Implement [`Backend`] to bring your own store; use `Registry` over it in an application.

pub mod deadlines;
mod key;
pub mod kv;
mod memory;
mod prefixed;
#[cfg(feature = "raft")]
pub mod raft;
#[cfg(feature = "http")]
mod remote;
mod traced;
pub mod watch;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

#[cfg(feature = "http")]
pub use self::remote::RemoteBackend;
pub use self::{
    key::{Key, Prefix},
    memory::MemoryBackend,
    prefixed::PrefixedBackend,
    traced::{Counters, TracedBackend},
};

/// A consistent store of small values with leases, watches and transactions.
///
/// All revisions of one store come from one counter: a later change has a higher revision, and
/// [`Entry::version`] of an entry is the revision of the transaction that last wrote it. Revisions survive restarts of
/// a durable backend.
///
/// # Contract
///
/// Each sentence below is a case of the conformance suite.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// The kind of backend, for messages: `memory`, `raft`, `remote`, ….
    fn name(&self) -> &'static str;

    /// What this backend promises beyond the contract, and its limits.
    fn capabilities(&self) -> Capabilities;

    /// Reads one key. The read is linearizable where [`Capabilities::linearizable_reads`] says so.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when no quorum or no server can be reached.
    async fn get(&self, key: &Key) -> Result<Option<Entry>>;

    /// Reads one page of the keys under `prefix`, in the order of the keys.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<Page>;

    /// Carries out all `ops` in order as one atomic change if every one of `compares` holds, or nothing.
    ///
    /// Returns the revision of the change; every entry written has it as its version. Deleting an absent key succeeds.
    /// A transaction that changes nothing returns the store's present revision. A put of a key that exists replaces
    /// value and lease and keeps [`Entry::created`]. At most [`MAX_OPS`] compares and ops together, and
    /// [`MAX_COMMIT_LEN`] bytes of keys and values.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] names the first compare that does not hold; [`Error::LeaseLost`] when a put names a lease
    /// that is gone; [`Error::Invalid`] over a limit: nothing is changed in these cases. [`Error::Unavailable`]: it was
    /// certainly not carried out. [`Error::Unknown`]: it may have been.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have been carried out.
    async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Revision>;

    /// Grants a lease that lives for `ttl` from now and from each [`keep_alive`](Self::keep_alive).
    ///
    /// `ttl` is raised to [`Capabilities::min_ttl`] if it is shorter. A lease may outlive its time (after a change of
    /// the store's leader it is given a full `ttl` anew), never the reverse.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    async fn grant(&self, ttl: Duration) -> Result<LeaseId>;

    /// Renews a lease.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`] when it has expired or was revoked.
    async fn keep_alive(&self, lease: LeaseId) -> Result<()>;

    /// Ends a lease and deletes its keys as one atomic change. Revoking a lease that is gone succeeds.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    async fn revoke(&self, lease: LeaseId) -> Result<()>;

    /// Follows the keys under `prefix`.
    ///
    /// The stream begins with [`WatchEvent::Reset`] and says it again whenever changes may have been missed (a slow
    /// consumer, a lost connection, a snapshot). In between, each transaction that touched the prefix is one
    /// [`WatchEvent::Changes`], in the order of revisions, none missing. The stream reconnects by itself; an `Err` item
    /// is its last and means it cannot go on (access denied, closed).
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the watch; dropping a pending `next` loses nothing.
    fn watch(&self, prefix: &Prefix) -> BoxStream<'static, Result<WatchEvent>>;

    /// Writes one key: [`commit`](Self::commit) with one put.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    async fn put(&self, key: &Key, value: Bytes, condition: Condition) -> Result<Revision> {
        let compares = condition.on(key).into_iter().collect();
        let op = Op::Put {
            key: key.clone(),
            value,
            lease: None,
        };
        self.commit(compares, vec![op]).await
    }

    /// Deletes one key: [`commit`](Self::commit) with one delete.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    async fn delete(&self, key: &Key, condition: Condition) -> Result<Revision> {
        let compares = condition.on(key).into_iter().collect();
        self.commit(compares, vec![Op::Delete { key: key.clone() }])
            .await
    }
}

/// Reads all keys under `prefix`, page by page.
///
/// The pages may come from different revisions; follow [`Backend::watch`] for one consistent view.
///
/// # Errors
///
/// As [`Backend::list`]; [`Error::Protocol`] when the pages do not advance.
pub async fn list_all(backend: &dyn Backend, prefix: &Prefix) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let after = entries.last().map(|entry| entry.key.clone());
        let options = ListOptions {
            after: after.clone(),
            ..ListOptions::default()
        };
        let page = backend.list(prefix, options).await?;
        let goes_on = page
            .entries
            .first()
            .is_some_and(|e| Some(&e.key) > after.as_ref());
        if page.more && !goes_on {
            let why = format!("a page of {prefix} did not begin after {after:?}");
            return Err(Error::Protocol { why });
        }
        entries.extend(page.entries);
        if !page.more {
            return Ok(entries);
        }
    }
}

/// The most compares and ops in one [`Backend::commit`], together.
pub const MAX_OPS: usize = 4096;

/// The longest value, in bytes; a backend may allow less ([`Capabilities::max_value_len`]).
pub const MAX_VALUE_LEN: usize = 1024 * 1024;

/// The most bytes of keys and values in one [`Backend::commit`].
pub const MAX_COMMIT_LEN: usize = 8 * 1024 * 1024;

/// A position in the store's history. Zero is before every change.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The identity of a lease.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

/// A key with its value and history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value, at most [`Capabilities::max_value_len`] bytes.
    pub value: Bytes,
    /// The revision that last wrote it.
    pub version: Revision,
    /// The revision that created it; a deleted and re-created key is a new creation.
    pub created: Revision,
    /// The lease whose end deletes it.
    pub lease: Option<LeaseId>,
}

/// What must hold of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Condition {
    /// Anything.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key exists and was last written by this revision.
    Version(Revision),
}

impl Condition {
    /// This condition as a compare on `key`; `None` if it always holds.
    #[must_use]
    pub fn on(self, key: &Key) -> Option<Compare> {
        (self != Self::Any).then(|| Compare {
            key: key.clone(),
            condition: self,
        })
    }

    /// Does it hold of `entry`?
    #[must_use]
    pub fn holds(self, entry: Option<&Entry>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => entry.is_none(),
            Self::Present => entry.is_some(),
            Self::Version(version) => entry.is_some_and(|e| e.version == version),
        }
    }
}

/// A precondition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The key it is about.
    pub key: Key,
    /// What must hold of it.
    pub condition: Condition,
}

/// One change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// The lease to attach; `None` detaches it from any.
        lease: Option<LeaseId>,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: Key,
    },
}

impl Op {
    /// A put without a lease.
    #[must_use]
    pub fn put(key: Key, value: impl Into<Bytes>) -> Self {
        Self::Put {
            key,
            value: value.into(),
            lease: None,
        }
    }

    /// A delete.
    #[must_use]
    pub fn delete(key: Key) -> Self {
        Self::Delete { key }
    }
}

/// Which page of a list.
#[derive(Debug, Clone)]
pub struct ListOptions {
    /// Only keys after this one.
    pub after: Option<Key>,
    /// At most so many, and at least one; default and upper bound [`ListOptions::MAX_LIMIT`]. A page of large values may
    /// hold fewer: [`Page::more`] says whether the list goes on.
    pub limit: usize,
}

impl ListOptions {
    /// The largest page.
    pub const MAX_LIMIT: usize = 1000;
}

impl Default for ListOptions {
    fn default() -> Self {
        Self {
            after: None,
            limit: Self::MAX_LIMIT,
        }
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The entries, in the order of their keys.
    pub entries: Vec<Entry>,
    /// The store's revision at the time of the read.
    pub revision: Revision,
    /// Are there keys after the last of `entries`?
    pub more: bool,
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WatchEvent {
    /// The whole set as of `revision`; forget what was known before.
    Reset {
        /// All entries under the prefix, in the order of their keys.
        entries: Vec<Entry>,
        /// The revision of this view.
        revision: Revision,
    },
    /// What one transaction changed under the prefix, in the order of its ops.
    Changes {
        /// The changes.
        changes: Vec<Change>,
        /// The transaction's revision.
        revision: Revision,
    },
}

/// One changed key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Change {
    /// The key was written.
    Put(Entry),
    /// The key was deleted, by a transaction or with its lease.
    Delete(Key),
}

impl Change {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete(key) => key,
        }
    }
}

/// What a backend promises, and its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Acknowledged writes survive a restart.
    pub is_durable: bool,
    /// A read sees every write acknowledged before it began.
    pub linearizable_reads: bool,
    /// The shortest lease.
    pub min_ttl: Duration,
    /// The longest value, in bytes.
    pub max_value_len: usize,
}

macro_rules! number_like {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
number_like!(Revision, LeaseId);
