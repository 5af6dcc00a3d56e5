//! Descriptions that no job needs any more.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    remote::{
        keys::CellKey,
        plan::{Chunk, steps::Planner},
    },
    transaction::Change,
};

impl Planner<'_> {
    /// Deletes the descriptions of which these changes remove the last job, but for those that the steps write. A commit
    /// that comes to need one of them meanwhile writes it, so that its version is another.
    pub(super) fn sweep<'c>(
        &self,
        accepted: &[Change],
        steps: impl Iterator<Item = &'c Chunk>,
    ) -> Option<Chunk> {
        // A job may be removed twice by one transaction; it counts once.
        let removed: BTreeSet<_> = accepted
            .iter()
            .filter_map(|change| match change {
                Change::Remove(id) => Some(id),
                _ => None,
            })
            .collect();
        let mut left = BTreeMap::new();
        for id in removed {
            if self.after.job(id).is_none()
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
            return None;
        }
        let written: BTreeSet<_> = steps.flat_map(|step| step.ops.keys()).collect();
        let mut sweep = Chunk::default();
        for hash in left.into_keys() {
            let key = CellKey::Spec(hash);
            if !written.contains(&key) {
                sweep.expect(self.mirror, key.clone());
                sweep.delete(key);
            }
        }
        (!sweep.ops.is_empty()).then_some(sweep)
    }
}
