//! What may be moved, when and where to.

use std::sync::Arc;

use crate::{
    Budget, ClusterState, GroupKind, HostState, Job, JobId, JobStatus, Phase, Taint, TaintEffect,
    Transaction,
    rebalance::{
        Candidate,
        picture::{Picture, Source},
    },
};

/// May a job leave its host?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    Now,
    /// From this time on, if nothing else comes between.
    At(u64),
    No,
}

impl<'s> Picture<'s> {
    /// May the job leave its host now? It must be up, like all of its group, and its group must be at rest.
    pub(super) fn may_leave(&self, source: &Source<'s>, now_ms: u64, pause_ms: u64) -> Leave {
        let service = self.service(source);
        let GroupKind::Service { count } = service.group.kind else {
            return Leave::No;
        };
        let is_up = |job: &&Arc<Job>| job.status.phase == Phase::Up;
        let is_whole = service.count() == count && service.jobs().all(|job| is_up(&job));
        let is_busy = self.state.jobs_of(&service.group.id).any(|job| {
            let is_leaving = job.is_stopping || job.is_moving();
            is_leaving && !job.status.phase.is_final()
        });
        if !is_whole || is_busy || source.job.spec != service.group.spec {
            // Its scheduler is at work on it, and the end of that is a change of the cell.
            return Leave::No;
        }
        if !Budget::of(self.state, service.group).allows(self.state, source.job) {
            return Leave::No;
        }
        let newest = self
            .state
            .jobs_of(&service.group.id)
            .map(|job| job.placed_at_ms);
        let end = newest.max().unwrap_or_default().saturating_add(pause_ms);
        if now_ms < end {
            Leave::At(end)
        } else {
            Leave::Now
        }
    }

    /// May a job like it be there, as far as the host and its neighbours are concerned? Room is not looked at.
    pub(super) fn may_go(&self, source: &Source<'s>, to: usize) -> bool {
        let (from, to_host) = (self.host(source.from), self.host(to));
        let spec = &source.job.spec;
        if !to_host.is_schedulable() || !self.service(source).group.belongs_on(&to_host.host) {
            return false;
        }
        let is_unwelcome = |host: &HostState| {
            let prefers = |effect| effect == TaintEffect::PreferNoSchedule;
            Taint::untolerated(&host.host.taints, &spec.tolerations, prefers).is_some()
        };
        if is_unwelcome(to_host) && !is_unwelcome(from) {
            return false;
        }
        if self.service(source).has_failed_on(&to_host.host.id) {
            return false;
        }
        !self.breaks_skew(source, to) && self.keeps_ties(source, to)
    }

    /// Do those that it wants near stay near, and those that want it?
    fn keeps_ties(&self, source: &Source<'s>, to: usize) -> bool {
        let (from, to) = (&self.host(source.from).host, &self.host(to).host);
        let affinities = &source.job.spec.affinities;
        let keeps_its_own = affinities.iter().all(|wish| {
            if wish.within.of(from) == wish.within.of(to) {
                return true;
            }
            let near = |host| self.state.has_near(host, &wish.to, &wish.within);
            if wish.weight < 0 {
                near(from) || !near(to)
            } else {
                !near(from) || near(to)
            }
        });
        let group = &source.job.group;
        keeps_its_own
            && self.ties.iter().all(|(whose, jobs, within)| {
                *whose == group || !jobs.matches(group) || within.of(from) == within.of(to)
            })
    }
}

/// The cell after the move, if a commit would let it happen: everything that starts insist on, the room of reservations
/// and quotas included.
pub(super) fn apply(
    state: &ClusterState,
    picture: &Picture<'_>,
    candidate: &Candidate<'_>,
    now_ms: u64,
) -> Option<ClusterState> {
    let job = candidate.source.job;
    // Any id that is free: nobody sees this cell.
    let mut ids = (0_u32..).filter_map(|n| JobId::parse(format!("successor-{n}")).ok());
    let successor = Job {
        id: ids.find(|id| state.job(id).is_none())?,
        host: picture.host(candidate.to).host.id.clone(),
        placed_at_ms: now_ms,
        status: JobStatus::default(),
        ..Job::clone(job)
    };
    let start = Transaction::on(state).start(successor).all_or_nothing();
    Some(state.apply(&start).ok()?.state)
}
