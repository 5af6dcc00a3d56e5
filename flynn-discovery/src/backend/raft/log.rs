//! Where a member keeps its log and its copy of the state: the trait, and what is written.

mod memory;
#[cfg(feature = "raft-rocksdb")]
mod rocksdb;

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::memory::MemoryLog;
#[cfg(feature = "raft-rocksdb")]
pub use self::rocksdb::RocksLog;
use super::member::MemberId;
use crate::BoxError;

/// Stable storage of one member: its log, its vote, and the state the log led to.
///
/// A store is written by one thread and read only in [`recover`](Self::recover); in between the member works from
/// memory. It knows nothing of what keys and values mean.
///
/// # Contract
///
/// - A [`Batch`] is atomic, and batches take effect in the order of their writes: after a crash the store holds what a
///   prefix of the writes made of it, and that prefix includes every write with `sync`.
/// - What `recover` returns agrees with itself, or it fails with [`LogError::Damaged`]: a member that forgot what it
///   had acknowledged must not vote.
pub trait LogStore: fmt::Debug + Send + 'static {
    /// Opens the store, or opens it again after a failed write, and reads all of it.
    ///
    /// # Errors
    ///
    /// [`LogError`] says what an operator has to do.
    fn recover(&mut self) -> Result<Recovered, LogError>;

    /// Writes one batch; with `sync` it is on stable storage when this returns.
    ///
    /// # Errors
    ///
    /// After any error the store may be in any state between before and after; only [`recover`](Self::recover) may be
    /// called then.
    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), LogError>;

    /// Does what is written survive the process?
    fn is_durable(&self) -> bool;
}

/// One atomic change of a store. The fields are carried out in their order.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Forget the state and the log, because a snapshot takes their place: the log continues behind this position.
    pub reset_to: Option<Position>,
    /// Term, vote and commit index.
    pub hard_state: Option<HardState>,
    /// New entries; they replace every entry from the first one's index on.
    pub entries: Vec<LogEntry>,
    /// Changes of the state.
    pub state: Vec<StateChange>,
    /// The last entry whose changes are in `state` or in earlier batches.
    pub applied: Option<Position>,
    /// Forget the log up to and including this position.
    pub compact_to: Option<Position>,
    /// Who this store belongs to.
    pub identity: Option<Identity>,
}

impl Batch {
    /// Does it change nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reset_to.is_none()
            && self.hard_state.is_none()
            && self.entries.is_empty()
            && self.state.is_empty()
            && self.applied.is_none()
            && self.compact_to.is_none()
            && self.identity.is_none()
    }
}

/// Everything a store holds.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Who it belongs to; `None` for an empty store.
    pub identity: Option<Identity>,
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// The log begins behind this position.
    pub compacted: Position,
    /// The log, without gaps.
    pub entries: Vec<LogEntry>,
    /// The last entry that `state` includes.
    pub applied: Position,
    /// The state, in the order of the keys.
    pub state: Vec<(Bytes, Bytes)>,
}

/// Who a store belongs to. A store is of one member of one cell for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cell's name.
    pub cell: String,
    /// The member.
    pub member: MemberId,
    /// A random number of this store, made with it.
    pub store: u64,
    /// The member holds all it ever acknowledged: it is no replacement for a store that was lost.
    pub is_proven: bool,
    /// The stores it knows other members by.
    pub known: BTreeMap<MemberId, u64>,
    /// The members, with their stores, that were new together with this one.
    pub fellows: BTreeMap<MemberId, u64>,
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Position {
    /// Its index.
    pub index: u64,
    /// The term of the entry there.
    pub term: u64,
}

/// What a member must remember across restarts besides its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term.
    pub term: u64,
    /// The vote given in it; zero for none.
    pub vote: u64,
    /// The last entry known to be committed.
    pub commit: u64,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place.
    pub position: Position,
    /// What kind of entry, in the consensus core's numbering.
    pub kind: u8,
    /// What it says.
    pub data: Bytes,
    /// What belongs to a membership change.
    pub context: Bytes,
}

impl LogEntry {
    /// About how much room it takes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len() + self.context.len() + ENTRY_OVERHEAD
    }

    /// Never: every entry takes room.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// What an entry takes besides its data.
const ENTRY_OVERHEAD: usize = 32;

/// One change of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a store that passes over a change would be wrong"
)]
pub enum StateChange {
    /// A key has this value.
    Put(Vec<u8>, Vec<u8>),
    /// A key is gone.
    Delete(Vec<u8>),
}

impl StateChange {
    /// About how much room it takes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

/// Why a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// No room; the member pauses and tries again until there is some.
    #[error("no space is left for {place}")]
    Full {
        /// The store, for example its directory.
        place: String,
        /// The underlying error.
        source: BoxError,
    },
    /// Something that was written is not there any more.
    #[error("{place} is damaged: {what}")]
    Damaged {
        /// The store, for example its directory.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// Another process has it open.
    #[error("{place} is in use by another process")]
    InUse {
        /// The store, for example its directory.
        place: String,
    },
    /// The disk failed.
    #[error("{place} failed")]
    Failed {
        /// The store, for example its directory.
        place: String,
        /// The underlying error.
        source: BoxError,
    },
}

/// Checks what every store must hold of itself after a crash.
///
/// # Errors
///
/// [`LogError::Damaged`] names what contradicts what.
pub fn check(place: &str, recovered: &Recovered) -> Result<(), LogError> {
    let damaged = |what: String| {
        Err(LogError::Damaged {
            place: place.to_owned(),
            what,
        })
    };
    let Recovered {
        compacted,
        applied,
        hard_state,
        entries,
        ..
    } = recovered;
    let mut last = *compacted;
    for entry in entries {
        let position = entry.position;
        if position.index != last.index + 1 {
            return damaged(format!(
                "the log has entry {} where {} is expected",
                position.index,
                last.index + 1
            ));
        }
        if position.term < last.term {
            return damaged(format!(
                "entry {} is of term {}, which is before its predecessor's {}",
                position.index, position.term, last.term
            ));
        }
        last = position;
    }
    if applied.index < compacted.index {
        return damaged(format!(
            "the state is of entry {}, but the log begins behind {}",
            applied.index, compacted.index
        ));
    }
    if applied.index > last.index {
        return damaged(format!(
            "the state is of entry {}, but the log ends at {}",
            applied.index, last.index
        ));
    }
    if hard_state.commit > last.index {
        return damaged(format!(
            "entry {} was committed, but the log ends at {}",
            hard_state.commit, last.index
        ));
    }
    if hard_state.term < last.term {
        return damaged(format!(
            "the log ends in term {}, but the member's own term is {}",
            last.term, hard_state.term
        ));
    }
    Ok(())
}
