//! A journal in memory.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use flynn_sched::JobId;
use parking_lot::Mutex;

use super::{Change, Journal, Record};
use crate::Result;

/// A journal in memory. Clones share it, so a clone is what a restarted daemon finds.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal {
    records: Arc<Mutex<BTreeMap<JobId, Record>>>,
}

impl MemoryJournal {
    /// An empty journal.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn load(&self) -> Result<Vec<Record>> {
        Ok(self.records.lock().values().cloned().collect())
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<()> {
        let mut records = self.records.lock();
        for change in changes {
            apply(&mut records, change);
        }
        Ok(())
    }
}

pub(super) fn apply(records: &mut BTreeMap<JobId, Record>, change: Change) {
    match change {
        Change::Put(record) => {
            records.insert(record.job.id.clone(), *record);
        }
        Change::Remove(id) => {
            records.remove(&id);
        }
    }
}
