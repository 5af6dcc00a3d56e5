//! The jobs of one group, sorted by what they mean for its count.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    ClusterState, Group, HostId, HostState, Job, JobId, Phase,
    scheduler::{Context, backoff::ended_ms, making_room::was_preempted},
    transaction::Change,
};

/// The jobs of one group, sorted by what they mean for its count.
#[derive(Debug, Default)]
pub(super) struct Roster<'s> {
    /// They count: they run, or will, or their host has been lost only for a moment.
    pub(super) staying: Vec<&'s Arc<Job>>,
    /// They run, and are to be replaced: their host is draining or tainted, the cell moves them, or they run what the
    /// group no longer is.
    pub(super) leaving: Vec<&'s Arc<Job>>,
    /// They are told to stop and have not said yet that they did.
    pub(super) stopping: Vec<&'s Arc<Job>>,
    /// Their host has been lost for longer than the grace.
    pub(super) lost: Vec<&'s Arc<Job>>,
    /// They are at their end, the oldest end first.
    pub(super) ended: Vec<&'s Arc<Job>>,
    /// They were told to go for something more important, and went; the oldest first. Each is kept until it is replaced.
    pub(super) displaced: Vec<&'s Arc<Job>>,
    /// How many are told to go for something more important by the same round.
    going: usize,
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
            if job.status.phase.is_final() && was_preempted(job) {
                roster.displaced.push(job);
            } else if job.status.phase.is_final() {
                roster.ended.push(job);
            } else if is_lost(host, lost_grace_ms, context) {
                roster.lost.push(job);
            } else if job.is_stopping {
                roster.stopping.push(job);
            } else if must_leave(job, host) || job.is_moving() || !is_current(job, group) {
                roster.leaving.push(job);
            } else {
                roster.staying.push(job);
            }
        }
        roster.ended.sort_by_key(|job| ended_ms(job));
        roster.displaced.sort_by_key(|job| ended_ms(job));
        roster
    }

    /// How many of the missing jobs went for something more important. They come back when there is room, and nobody is
    /// preempted for them in turn.
    pub(super) fn preempted(&self, missing: usize) -> usize {
        let stopping = self.stopping.iter().filter(|job| was_preempted(job));
        (self.displaced.len() + stopping.count() + self.going).min(missing)
    }

    /// Forgets those that have been replaced.
    pub(super) fn forget_displaced(&self, missing: usize) -> impl Iterator<Item = Change> {
        let replaced = self.displaced.len().saturating_sub(missing);
        self.displaced[..replaced]
            .iter()
            .map(|job| Change::Remove(job.id.clone()))
    }

    /// How many leave only because the cell moves them: they can stay where they are for now.
    pub(super) fn movers(&self, state: &ClusterState, group: &Group) -> usize {
        let only_moves = |job: &&&Arc<Job>| {
            job.is_moving() && is_current(job, group) && !must_leave(job, state.host(&job.host))
        };
        self.leaving.iter().filter(only_moves).count()
    }

    /// These jobs are being stopped by the same round.
    pub(super) fn let_go(&mut self, going: &BTreeSet<JobId>) {
        for list in [&mut self.staying, &mut self.leaving] {
            let (gone, kept): (Vec<_>, Vec<_>) =
                list.drain(..).partition(|job| going.contains(&job.id));
            *list = kept;
            self.going += gone.len();
            self.stopping.extend(gone);
        }
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

/// Does its host want to be rid of it: is it draining, or does it have a taint that the job does not bear?
pub(super) fn must_leave(job: &Job, host: Option<&HostState>) -> bool {
    host.is_some_and(|host| host.host.is_draining || host.host.drives_out(&job.spec).is_some())
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
