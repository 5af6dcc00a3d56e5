//! What has been claimed and released since the snapshot, for those who ask where other groups' jobs are.

use std::collections::BTreeMap;

use crate::{ClusterState, GroupId, HostId, JobSpec, Jobs, placement::Tally, state::KeepingApart};

#[derive(Debug, Default)]
pub(super) struct Claims {
    /// How many there have been, releases included. Tells who else has claimed since one looked.
    pub(super) count: u64,
    /// How many more (or fewer) jobs each group has on which slots.
    by_group: BTreeMap<GroupId, BTreeMap<u32, i64>>,
    /// The slots that are not as the snapshot says.
    pub(super) touched: Vec<usize>,
    pub(super) keeping_apart: KeepingApart,
}

impl Claims {
    pub(super) fn on(state: &ClusterState) -> Self {
        Self {
            keeping_apart: state.keeping_apart().clone(),
            ..Self::default()
        }
    }

    /// Forgets all; returns the slots where something was.
    pub(super) fn restart(&mut self, state: &ClusterState) -> Vec<usize> {
        let before = std::mem::replace(self, Self::on(state));
        self.count = before.count + 1;
        before.touched
    }

    pub(super) fn add(&mut self, at: usize, host: &HostId, spec: &JobSpec, tally: &Tally) {
        self.note(at, tally.group(), 1);
        self.keeping_apart.add(spec, host);
    }

    pub(super) fn sub(&mut self, at: usize, host: &HostId, spec: &JobSpec, tally: &Tally) {
        self.note(at, tally.group(), -1);
        self.keeping_apart.sub(spec, host);
    }

    fn note(&mut self, at: usize, group: &GroupId, more: i64) {
        self.count += 1;
        let slots = match self.by_group.get_mut(group) {
            Some(slots) => slots,
            None => self.by_group.entry(group.clone()).or_default(),
        };
        *slots.entry(super::places::number(at)).or_default() += more;
    }

    /// How many more jobs one group has on which slots.
    pub(super) fn of_group(&self, group: &GroupId) -> impl Iterator<Item = (usize, i64)> {
        let slots = self.by_group.get(group).into_iter().flatten();
        slots.map(|(slot, more)| (*slot as usize, *more))
    }

    /// The same of many.
    pub(super) fn of_jobs<'c>(&'c self, jobs: &'c Jobs) -> impl Iterator<Item = (usize, i64)> {
        jobs.within(&self.by_group)
            .flatten()
            .map(|(slot, more)| (*slot as usize, *more))
    }
}
