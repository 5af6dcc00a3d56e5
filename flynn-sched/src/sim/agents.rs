//! The simulated hosts: what becomes of jobs, and when.

use std::{cmp::Reverse, collections::BinaryHeap, ops::Range, sync::Arc};

use rand::RngExt;

use crate::{
    HostId, Job, JobId, JobStatus, Phase,
    clock::millis,
    sim::{Behaviour, Sim},
};

/// What will happen, the soonest first; of the same moment what was planned first.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Reverse<(u64, u64, Planned)>>,
    planned: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Planned {
    job: JobId,
    /// A host that was lost and came back runs its jobs anew: what was planned before does not happen.
    joined: u64,
    phase: Phase,
    exit_status: Option<i32>,
}

impl Agenda {
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }
}

impl Sim {
    /// Lets time pass, and happen what was planned.
    pub(super) fn pass_until(&mut self, end: u64) {
        while self.agenda.next_ms().is_some_and(|at| at <= end) {
            let Some(Reverse((at, _, planned))) = self.agenda.heap.pop() else {
                break;
            };
            self.now_ms = self.now_ms.max(at);
            self.happen(&planned);
        }
        self.now_ms = self.now_ms.max(end);
    }

    /// The host begins with a job.
    pub(super) fn plan_start(&mut self, job: &Job) {
        let up = self.plan(job, 20..400, Phase::Up, None);
        let behaviour = self.behaviours.get(&job.group).copied();
        let is_batch = self
            .state
            .group(&job.group)
            .is_some_and(|group| group.kind.ends());
        let behaviour = behaviour.unwrap_or_else(|| {
            if is_batch {
                Behaviour::Completes(std::time::Duration::from_millis(
                    self.rng.random_range(500..5000),
                ))
            } else {
                Behaviour::Runs
            }
        });
        let (lasts, has_failed) = match behaviour {
            Behaviour::Runs => return,
            Behaviour::Completes(lasts) => (lasts, false),
            Behaviour::Fails(lasts) => (lasts, true),
            Behaviour::Flaky(lasts, share) => (lasts, self.rng.random_bool(share.clamp(0.0, 1.0))),
        };
        let end = up - self.now_ms + millis(lasts).max(1);
        if has_failed {
            self.plan_end(job, end..end + 1, Phase::Crashed, Some(1));
        } else {
            self.plan_end(job, end..end + 1, Phase::Done, Some(0));
        }
    }

    pub(super) fn plan_end(
        &mut self,
        job: &Job,
        after_ms: Range<u64>,
        phase: Phase,
        exit_status: Option<i32>,
    ) {
        self.plan(job, after_ms, phase, exit_status);
    }

    /// A host came back: what the cell still wants of it runs again, what is to stop has stopped.
    pub(super) fn restart_jobs(&mut self, host: &HostId) {
        let jobs: Vec<Arc<Job>> = self.state.jobs_on(host).cloned().collect();
        for job in jobs {
            if job.status.phase.is_final() {
                continue;
            }
            if job.is_stopping {
                self.plan_end(&job, 10..200, Phase::Done, None);
            } else {
                self.plan_start(&job);
            }
        }
    }

    fn plan(
        &mut self,
        job: &Job,
        after_ms: Range<u64>,
        phase: Phase,
        exit_status: Option<i32>,
    ) -> u64 {
        let at = self.now_ms + self.rng.random_range(after_ms);
        let joined = self.state.host(&job.host).map_or(0, |host| host.joined);
        self.agenda.planned += 1;
        let planned = Planned {
            job: job.id.clone(),
            joined,
            phase,
            exit_status,
        };
        let order = self.agenda.planned;
        self.agenda.heap.push(Reverse((at, order, planned)));
        at
    }

    fn happen(&mut self, planned: &Planned) {
        let Some(job) = self.state.job(&planned.job).cloned() else {
            return;
        };
        let host = self.state.host(&job.host);
        let is_running_there =
            host.is_some_and(|host| host.lost_since_ms.is_none() && host.joined == planned.joined);
        let is_late = job.is_stopping && planned.phase == Phase::Up;
        if !is_running_there || is_late || job.status.phase.is_final() {
            return;
        }
        let status = JobStatus {
            phase: planned.phase,
            exit_status: planned.exit_status,
            since_ms: self.now_ms,
            ..JobStatus::default()
        };
        self.report(&job, status);
    }
}
