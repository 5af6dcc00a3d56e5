//! Runs schedulers on a state until they have nothing more to do.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    ClusterState, HostId, JobId, JobStatus, Phase, Scheduler,
    clock::millis,
    scheduler::{Context, SeededIds},
    transaction::Change,
};

/// A state on which schedulers have nothing more to do.
#[derive(Debug, Clone)]
pub struct Rested {
    /// The state.
    pub state: ClusterState,
    /// When they came to rest, in milliseconds since the Unix epoch: the time of the last change they made, or that of
    /// the beginning.
    pub at_ms: u64,
    /// Did they come to rest? `false`: they still made proposals after [`MAX_ROUNDS`](Self::MAX_ROUNDS) at one moment, or
    /// asked to be called at more than [`MAX_MOMENTS`](Self::MAX_MOMENTS).
    pub is_at_rest: bool,
}

impl Rested {
    /// How often schedulers are called at one moment.
    pub const MAX_ROUNDS: usize = 200;
    /// How many moments there may be.
    pub const MAX_MOMENTS: usize = 10_000;

    /// Runs schedulers on `state`, from `now_ms` (milliseconds since the Unix epoch) for at most the simulated time
    /// `horizon`, until they have nothing more to do.
    ///
    /// Where nothing is to be done before a scheduler's next wish to be called, the time is that of the wish. Hosts are
    /// perfect: a job that is placed on a host that is there is up at once, and one that is told to stop has stopped. No
    /// job ends by itself, so that batches never finish.
    ///
    /// The same arguments, and schedulers in the same condition, give the same result.
    pub fn run(
        state: &ClusterState,
        now_ms: u64,
        horizon: Duration,
        schedulers: &mut [&mut dyn Scheduler],
    ) -> Self {
        let end = now_ms.saturating_add(millis(horizon));
        let mut run = Run {
            state: obey(state.clone(), now_ms),
            now_ms,
            changed_ms: now_ms,
            ids: SeededIds::new(state.revision()),
        };
        for _ in 0..Self::MAX_MOMENTS {
            let Some(wish) = run.settle(schedulers) else {
                return run.end(false);
            };
            match wish {
                Some(ms) if ms.max(run.now_ms + 1) <= end => run.now_ms = ms.max(run.now_ms + 1),
                _ => return run.end(true),
            }
        }
        run.end(false)
    }
}

struct Run {
    state: ClusterState,
    now_ms: u64,
    changed_ms: u64,
    ids: SeededIds,
}

impl Run {
    /// Calls schedulers at this moment until they come to rest, and returns when they wish to be called again; `None` if
    /// they do not come to rest.
    fn settle(&mut self, schedulers: &mut [&mut dyn Scheduler]) -> Option<Option<u64>> {
        for _ in 0..Rested::MAX_ROUNDS {
            let mut is_quiet = true;
            let mut wish: Option<u64> = None;
            for scheduler in schedulers.iter_mut() {
                let mut context = Context::new(self.now_ms, &mut self.ids);
                let transaction = scheduler.schedule(&self.state, &mut context);
                wish = [wish, context.wakes_at()].into_iter().flatten().min();
                // There is nobody else: what is refused now would be refused again.
                let Ok(applied) = self.state.apply(&transaction) else {
                    continue;
                };
                if applied.accepted.is_empty() {
                    continue;
                }
                is_quiet = false;
                self.state = applied.state;
                let tells = |change: &Change| matches!(change, Change::Note { .. });
                let forgets = |change: &Change| matches!(change, Change::ForgetHost(_));
                if !applied.accepted.iter().all(|c| tells(c) || forgets(c)) {
                    self.changed_ms = self.now_ms;
                    self.state = obey(std::mem::take(&mut self.state), self.now_ms);
                }
            }
            if is_quiet {
                return Some(wish);
            }
        }
        None
    }

    fn end(self, is_at_rest: bool) -> Rested {
        Rested {
            state: self.state,
            at_ms: self.changed_ms,
            is_at_rest,
        }
    }
}

/// The state after all hosts that are there have done what they should.
fn obey(state: ClusterState, now_ms: u64) -> ClusterState {
    let mut reports: BTreeMap<HostId, Vec<(JobId, JobStatus)>> = BTreeMap::new();
    for job in state.jobs() {
        let phase = if job.is_stopping {
            Phase::Done
        } else {
            Phase::Up
        };
        let is_there = |id| state.host(id).is_some_and(|h| h.lost_since_ms.is_none());
        let status = &job.status;
        let is_known = status.phase == phase && state.is_confirmed(&job.id);
        if status.phase.is_final() || is_known || !is_there(&job.host) {
            continue;
        }
        let is_new = status.phase != phase;
        let status = JobStatus {
            phase,
            since_ms: if is_new { now_ms } else { status.since_ms },
            started_at_ms: status.started_at_ms.or(Some(now_ms)),
            ..status.clone()
        };
        let report = reports.entry(job.host.clone()).or_default();
        report.push((job.id.clone(), status));
    }
    let report = |state: ClusterState, (host, statuses)| state.reported(&host, statuses);
    reports.into_iter().fold(state, report)
}
