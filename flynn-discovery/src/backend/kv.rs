//! The pure leased, versioned map that memory and Raft share: commands in, outcome and changes out.
//!
//! [`KvState`] has no clock, no tasks and no randomness: the same commands in the same order give the same state
//! everywhere. It is also the quickest way to a [`Backend`](super::Backend) of your own: keep a [`KvState`], make its
//! commands durable, publish its changes with [`WatchHub`](super::watch::WatchHub) and its lease times with
//! [`Deadlines`](super::deadlines::Deadlines).

use std::{ops::Bound, time::Duration};

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::{
    Change, Compare, Condition, Entry, Key, LeaseId, ListOptions, MAX_COMMIT_LEN, MAX_OPS,
    MAX_VALUE_LEN, Op, Page, Prefix, Revision,
};
use crate::{Error, Result};

/// Keys, leases and the revision counter, as an immutable-when-shared structure: a clone costs O(1) and is a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KvState {
    entries: OrdMap<Key, Entry>,
    leases: OrdMap<LeaseId, Lease>,
    revision: Revision,
    /// Leases are numbered from one and no number is given twice, so that a late renewal never hits a stranger's lease.
    last_lease: LeaseId,
}

/// A lease and the keys that end with it: each key here has an entry that names the lease, and the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    ttl_ms: u64,
    keys: OrdSet<Key>,
}

/// Everything that changes a [`KvState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Command {
    /// [`Backend::commit`](super::Backend::commit).
    Commit {
        /// What must hold.
        compares: Vec<Compare>,
        /// What to do then.
        ops: Vec<Op>,
    },
    /// Makes a new lease; the state chooses its id.
    Grant {
        /// How long it lives without being renewed, in milliseconds.
        ttl_ms: u64,
    },
    /// Ends a lease on its owner's wish.
    Revoke {
        /// The lease.
        lease: LeaseId,
    },
    /// Ends leases whose time is over, as one change.
    Expire {
        /// The leases.
        leases: Vec<LeaseId>,
    },
}

impl Command {
    /// A grant for `ttl`, which is brought into the range of lease times.
    #[must_use]
    pub fn grant(ttl: Duration) -> Self {
        let ttl = ttl.clamp(Duration::from_millis(1), MAX_TTL);
        Self::Grant {
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Checks the limits, which need no state; [`KvState::apply`] does it too. To be called before a command is sent
    /// or logged.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the limit.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Commit { compares, ops } => check_commit(compares, ops),
            Self::Grant { .. } | Self::Revoke { .. } | Self::Expire { .. } => Ok(()),
        }
    }
}

/// The longest lease; a longer time is shortened to it.
pub const MAX_TTL: Duration = Duration::from_hours(366 * 24);

/// What a command did.
#[derive(Debug)]
pub struct Applied {
    /// The answer to whoever asked.
    pub result: Result<Outcome>,
    /// What watchers are to be told, if anything changed; in the order of the ops.
    pub changes: Option<(Revision, Vec<Change>)>,
}

/// The answer to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// A commit, revoke or expiry was carried out; the revision of the change, or the present one if nothing changed.
    Committed(Revision),
    /// A lease was made.
    Granted(LeaseId),
}

/// What of a state is not entries: the small first part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Header {
    /// The revision of the snapshot.
    pub revision: Revision,
    /// The highest lease id ever given.
    pub last_lease: LeaseId,
    /// The leases that live.
    pub leases: Vec<LeaseInfo>,
}

/// A lease without its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeaseInfo {
    /// The lease.
    pub id: LeaseId,
    /// Its time to live, in milliseconds.
    pub ttl_ms: u64,
}

impl LeaseInfo {
    /// Its time to live.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}

impl KvState {
    /// An empty state at revision zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Carries out one command. A refused command changes nothing.
    pub fn apply(&mut self, command: Command) -> Applied {
        match command {
            Command::Commit { compares, ops } => self.commit(&compares, ops),
            Command::Grant { ttl_ms } => {
                self.last_lease = LeaseId(self.last_lease.0 + 1);
                let lease = Lease {
                    ttl_ms,
                    keys: OrdSet::new(),
                };
                self.leases.insert(self.last_lease, lease);
                Applied {
                    result: Ok(Outcome::Granted(self.last_lease)),
                    changes: None,
                }
            }
            Command::Revoke { lease } => self.end_leases(&[lease]),
            Command::Expire { leases } => self.end_leases(&leases),
        }
    }

    /// The entry of one key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// One page of the entries under `prefix`.
    #[must_use]
    pub fn list(&self, prefix: &Prefix, options: &ListOptions) -> Page {
        let limit = options.limit.clamp(1, ListOptions::MAX_LIMIT);
        let mut page = Page {
            entries: Vec::new(),
            revision: self.revision,
            more: false,
        };
        let mut bytes = 0;
        for entry in self.under(prefix, options.after.as_ref()) {
            bytes += entry.key.as_str().len() + entry.value.len();
            let is_full =
                page.entries.len() == limit || (bytes > PAGE_BYTES && !page.entries.is_empty());
            if is_full {
                page.more = true;
                break;
            }
            page.entries.push(entry.clone());
        }
        page
    }

    /// The entries under `prefix` and behind `after`, in the order of their keys.
    pub fn under<'a>(
        &'a self,
        prefix: &'a Prefix,
        after: Option<&'a Key>,
    ) -> impl Iterator<Item = &'a Entry> {
        let start = match after {
            Some(after) if after.as_str() >= prefix.as_str() => Bound::Excluded(after.as_str()),
            Some(_) | None => Bound::Included(prefix.as_str()),
        };
        self.entries
            .range::<_, str>((start, Bound::Unbounded))
            .map(|(_, entry)| entry)
            .take_while(|entry| prefix.contains(&entry.key))
    }

    /// The revision of the last change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The highest lease id ever given.
    #[must_use]
    pub fn last_lease(&self) -> LeaseId {
        self.last_lease
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Are there no keys?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The time to live of a lease; `None` when the lease is gone.
    #[must_use]
    pub fn ttl(&self, lease: LeaseId) -> Option<Duration> {
        self.leases
            .get(&lease)
            .map(|lease| Duration::from_millis(lease.ttl_ms))
    }

    /// Every lease that lives, for whoever keeps their deadlines.
    pub fn leases(&self) -> impl Iterator<Item = LeaseInfo> {
        self.leases.iter().map(|(id, lease)| LeaseInfo {
            id: *id,
            ttl_ms: lease.ttl_ms,
        })
    }

    /// The first part of a snapshot; [`entries`](Self::entries) are the rest.
    #[must_use]
    pub fn header(&self) -> Header {
        Header {
            revision: self.revision,
            last_lease: self.last_lease,
            leases: self.leases().collect(),
        }
    }

    /// Every entry, in the order of the keys.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The state a snapshot was taken of.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when the parts contradict each other.
    pub fn import(header: Header, entries: impl IntoIterator<Item = Entry>) -> Result<Self> {
        let refuse = |why: String| Err(Error::Protocol { why });
        let mut state = Self {
            revision: header.revision,
            last_lease: header.last_lease,
            ..Self::default()
        };
        for LeaseInfo { id, ttl_ms } in header.leases {
            if id > header.last_lease {
                return refuse(format!(
                    "a snapshot holds lease {id}, which was never given"
                ));
            }
            let keys = OrdSet::new();
            state.leases.insert(id, Lease { ttl_ms, keys });
        }
        for entry in entries {
            if entry.created > entry.version || entry.version > header.revision {
                let key = &entry.key;
                return refuse(format!("a snapshot holds {key} from after its revision"));
            }
            if let Some(id) = entry.lease {
                let Some(lease) = state.leases.get_mut(&id) else {
                    let key = &entry.key;
                    return refuse(format!("a snapshot holds {key} but not its lease {id}"));
                };
                lease.keys.insert(entry.key.clone());
            }
            state.entries.insert(entry.key.clone(), entry);
        }
        Ok(state)
    }

    fn commit(&mut self, compares: &[Compare], ops: Vec<Op>) -> Applied {
        if let Err(error) = self.admit(compares, &ops) {
            return Applied {
                result: Err(error),
                changes: None,
            };
        }
        let revision = self.revision.next();
        let mut changes = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let mut entry = Entry {
                        key,
                        value,
                        version: revision,
                        created: revision,
                        lease,
                    };
                    self.put(&mut entry);
                    changes.push(Change::Put(entry));
                }
                Op::Delete { key } => {
                    if self.remove(&key) {
                        changes.push(Change::Delete(key));
                    }
                }
            }
        }
        self.applied(revision, changes)
    }

    /// Would this transaction be carried out?
    fn admit(&self, compares: &[Compare], ops: &[Op]) -> Result<()> {
        check_commit(compares, ops)?;
        for Compare { key, condition } in compares {
            let holds = *condition == Condition::Any || condition.holds(self.entries.get(key));
            if !holds {
                return Err(Error::Conflict { key: key.clone() });
            }
        }
        for op in ops {
            if let Op::Put {
                lease: Some(id), ..
            } = op
                && !self.leases.contains_key(id)
            {
                return Err(Error::LeaseLost { lease: *id });
            }
        }
        Ok(())
    }

    /// Writes an entry and gives it the creation of the one it replaces.
    fn put(&mut self, entry: &mut Entry) {
        let previous_lease = if let Some(present) = self.entries.get_mut(&entry.key) {
            entry.created = present.created;
            std::mem::replace(present, entry.clone()).lease
        } else {
            self.entries.insert(entry.key.clone(), entry.clone());
            None
        };
        if previous_lease == entry.lease {
            return;
        }
        self.detach(previous_lease, &entry.key);
        if let Some(lease) = entry.lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(entry.key.clone());
        }
    }

    /// Removes a key; was it there?
    fn remove(&mut self, key: &Key) -> bool {
        let Some(entry) = self.entries.remove(key) else {
            return false;
        };
        self.detach(entry.lease, key);
        true
    }

    fn detach(&mut self, lease: Option<LeaseId>, key: &Key) {
        if let Some(lease) = lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.remove(key);
        }
    }

    fn end_leases(&mut self, ids: &[LeaseId]) -> Applied {
        let mut changes = Vec::new();
        for id in ids {
            let Some(lease) = self.leases.remove(id) else {
                continue; // it ended in another way before this command came
            };
            for key in &lease.keys {
                self.entries.remove(key);
                changes.push(Change::Delete(key.clone()));
            }
        }
        self.applied(self.revision.next(), changes)
    }

    /// Counts the revision, if there was a change.
    fn applied(&mut self, revision: Revision, changes: Vec<Change>) -> Applied {
        let has_changes = !changes.is_empty();
        if has_changes {
            self.revision = revision;
        }
        Applied {
            result: Ok(Outcome::Committed(self.revision)),
            changes: has_changes.then_some((revision, changes)),
        }
    }
}

/// A page ends early at this many bytes, so that an answer always fits into memory and into a message.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

fn check_commit(compares: &[Compare], ops: &[Op]) -> Result<()> {
    let refuse = |what: String, why: String| Err(Error::Invalid { what, why });
    let count = compares.len() + ops.len();
    if count > MAX_OPS {
        return refuse(
            format!("a transaction of {count} compares and ops"),
            format!("at most {MAX_OPS} are allowed: split it"),
        );
    }
    let mut bytes = 0;
    for op in ops {
        let (key, len) = match op {
            Op::Put { key, value, .. } => (key, value.len()),
            Op::Delete { key } => (key, 0),
        };
        if len > MAX_VALUE_LEN {
            return refuse(
                format!("the value of {key}, {len} bytes"),
                format!("a value has at most {MAX_VALUE_LEN} bytes: keep large data elsewhere"),
            );
        }
        bytes += key.as_str().len() + len;
    }
    if bytes > MAX_COMMIT_LEN {
        return refuse(
            format!("a transaction of {bytes} bytes"),
            format!("at most {MAX_COMMIT_LEN} are allowed: split it"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
