//! A store that lives as long as its value, for tests and for members that may forget.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Batch, HardState, Identity, LogEntry, LogError, LogStore, Position, Recovered, StateChange,
};

/// A log store in memory. Clones share it, so that a test can start a member again over what it left behind.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Clone, Default)]
struct Inner {
    identity: Option<Identity>,
    hard_state: HardState,
    compacted: Position,
    entries: BTreeMap<u64, LogEntry>,
    applied: Position,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryLog {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl LogStore for MemoryLog {
    fn recover(&mut self) -> Result<Recovered, LogError> {
        let inner = self.inner.lock();
        let pair = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            (Bytes::from(key.clone()), Bytes::from(value.clone()))
        };
        let recovered = Recovered {
            identity: inner.identity.clone(),
            hard_state: inner.hard_state,
            compacted: inner.compacted,
            entries: inner.entries.values().cloned().collect(),
            applied: inner.applied,
            state: inner.state.iter().map(pair).collect(),
        };
        drop(inner);
        super::check("the log in memory", &recovered)?;
        Ok(recovered)
    }

    fn write(&mut self, batch: Batch, _sync: bool) -> Result<(), LogError> {
        let mut inner = self.inner.lock();
        if let Some(position) = batch.reset_to {
            inner.state.clear();
            inner.entries.clear();
            inner.compacted = position;
        }
        if let Some(hard_state) = batch.hard_state {
            inner.hard_state = hard_state;
        }
        if let Some(first) = batch.entries.first() {
            inner.entries.split_off(&first.position.index);
        }
        for entry in batch.entries {
            inner.entries.insert(entry.position.index, entry);
        }
        for change in batch.state {
            match change {
                StateChange::Put(key, value) => inner.state.insert(key, value),
                StateChange::Delete(key) => inner.state.remove(&key),
            };
        }
        if let Some(applied) = batch.applied {
            inner.applied = applied;
        }
        if let Some(compacted) = batch.compact_to {
            inner.entries = inner.entries.split_off(&(compacted.index + 1));
            inner.compacted = compacted;
        }
        if let Some(identity) = batch.identity {
            inner.identity = Some(identity);
        }
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }
}
