//! The jobs of one group, sorted by what they mean for its count.

use std::{collections::HashMap, sync::Arc};

use crate::{
    ClusterState, Group, HostId, HostState, Job, Phase,
    scheduler::{Context, backoff::ended_ms},
    transaction::Change,
};

/// The jobs of one group, sorted by what they mean for its count.
#[derive(Debug, Default)]
pub(super) struct Roster<'s> {
    /// They count: they run, or will, or their host has been lost only for a moment.
    pub(super) staying: Vec<&'s Arc<Job>>,
    /// They run, and are to be replaced: their host is draining, the cell moves them, or they run what the group no
    /// longer is.
    pub(super) leaving: Vec<&'s Arc<Job>>,
    /// They are told to stop and have not said yet that they did.
    pub(super) stopping: Vec<&'s Arc<Job>>,
    /// Their host has been lost for longer than the grace.
    pub(super) lost: Vec<&'s Arc<Job>>,
    /// They are at their end, the oldest end first.
    pub(super) ended: Vec<&'s Arc<Job>>,
}

impl<'s> Roster<'s> {
    pub(super) fn of(
        state: &'s ClusterState,
        group: &Group,
        lost_grace_ms: u64,
        context: &mut Context<'_>,
    ) -> Self {
        let mut roster = Self::default();
        for job in state.jobs_of(&group.id) {
            let host = state.host(&job.host);
            if job.status.phase.is_final() {
                roster.ended.push(job);
            } else if is_lost(host, lost_grace_ms, context) {
                roster.lost.push(job);
            } else if job.is_stopping {
                roster.stopping.push(job);
            } else if host.is_some_and(|host| host.host.is_draining)
                || job.is_moving()
                || !is_current(job, group)
            {
                roster.leaving.push(job);
            } else {
                roster.staying.push(job);
            }
        }
        roster.ended.sort_by_key(|job| ended_ms(job));
        roster
    }

    /// The jobs that ended without being told to, and run what the group is.
    pub(super) fn failures(&self, group: &Group) -> impl Iterator<Item = &'s Job> {
        self.ended
            .iter()
            .copied()
            .filter(|job| !job.is_stopping && is_current(job, group))
            .map(AsRef::as_ref)
    }

    /// Removes the oldest ends, so that at most `history` are kept.
    pub(super) fn trim(&self, history: usize) -> impl Iterator<Item = Change> {
        let surplus = self.ended.len().saturating_sub(history);
        self.ended[..surplus]
            .iter()
            .map(|job| Change::Remove(job.id.clone()))
    }
}

fn is_current(job: &Job, group: &Group) -> bool {
    Arc::ptr_eq(&job.spec, &group.spec) || job.spec == group.spec
}

/// Has the host been lost for longer than the grace? If it has been lost for less, asks to look again.
pub(super) fn is_lost(host: Option<&HostState>, grace_ms: u64, context: &mut Context<'_>) -> bool {
    let Some(host) = host else {
        return true;
    };
    let Some(since) = host.lost_since_ms else {
        return false;
    };
    let end = since.saturating_add(grace_ms);
    if context.now_ms() < end {
        context.wake_at(end);
    }
    context.now_ms() >= end
}

/// Sorts jobs by how little they would be missed: those on vanished hosts, those that are not up, those whose host has
/// not confirmed them since it came back, those that share their host with others of the group; of equals the newest.
pub(super) fn by_expendability(state: &ClusterState, jobs: &mut [&Arc<Job>]) {
    let is_gone = |job: &Job| {
        state
            .host(&job.host)
            .is_none_or(|host| host.lost_since_ms.is_some())
    };
    // The best first, to number the jobs of each host.
    let worth = |job: &Job| {
        (
            is_gone(job),
            job.status.phase != Phase::Up,
            !state.is_confirmed(&job.id),
            job.placed_at_ms,
        )
    };
    jobs.sort_by(|a, b| worth(a).cmp(&worth(b)).then_with(|| a.id.cmp(&b.id)));
    let mut on_host: HashMap<HostId, u32> = HashMap::new();
    let mut keyed: Vec<_> = jobs
        .iter()
        .map(|job| {
            let nth = on_host.entry(job.host.clone()).or_default();
            *nth += 1;
            let (gone, down, unconfirmed, placed) = worth(job);
            ((gone, down, unconfirmed, *nth, placed), *job)
        })
        .collect();
    keyed.sort_by(|(a_key, a), (b_key, b)| b_key.cmp(a_key).then_with(|| b.id.cmp(&a.id)));
    for (place, (_, job)) in jobs.iter_mut().zip(keyed) {
        *place = job;
    }
}
