//! Descriptions that no job needs any more.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Result,
    remote::{
        keys::CellKey,
        plan::{Chunk, Planner},
    },
    transaction::Change,
};

impl Planner<'_> {
    /// Deletes the descriptions of which these changes remove the last job. A commit that comes to need one of them
    /// meanwhile writes it, so that its version is another.
    pub(super) fn sweep(&self, accepted: &[Change]) -> Result<Option<Chunk>> {
        let mut left = BTreeMap::new();
        for change in accepted {
            if let Change::Remove(id) = change
                && self.after.job(id).is_none()
                && let Some(hash) = self.mirror.description(id)
            {
                let jobs = left
                    .entry(hash)
                    .or_insert_with(|| self.mirror.described(&hash));
                *jobs = u64::saturating_sub(*jobs, 1);
            }
        }
        left.retain(|_, jobs| *jobs == 0);
        if left.is_empty() {
            return Ok(None);
        }
        let mut needed = BTreeSet::new();
        for change in accepted {
            if let Change::Start(job) = change {
                needed.insert(self.descriptions.borrow_mut().of(&job.spec)?.0);
            }
        }
        let mut sweep = Chunk::default();
        for hash in left.into_keys().filter(|hash| !needed.contains(hash)) {
            sweep.expect(self.mirror, CellKey::Spec(hash));
            sweep.delete(CellKey::Spec(hash));
        }
        Ok((!sweep.ops.is_empty()).then_some(sweep))
    }
}
