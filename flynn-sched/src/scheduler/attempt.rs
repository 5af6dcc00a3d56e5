//! One attempt of a gang, and what is left of earlier ones.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    ClusterState, Eviction, Forgotten, Group, Job, JobId, Phase,
    scheduler::{
        Context,
        backoff::{ended_ms, how_it_ended},
        leaving::Push,
        replicas::stop,
        roster::is_lost,
    },
    transaction::Change,
};

/// The jobs of a gang, told apart by whether they belong to its present attempt.
#[derive(Debug, Default)]
pub(super) struct Attempt<'s> {
    members: Vec<&'s Arc<Job>>,
    /// Of the members, those whose host is lost.
    lost: Vec<&'s Arc<Job>>,
    /// Jobs of earlier attempts that are not at their end.
    leftover: Vec<&'s Arc<Job>>,
    /// Jobs of earlier attempts whose host is lost.
    leftover_lost: Vec<&'s Arc<Job>>,
    /// Jobs of earlier attempts that are at their end, the oldest end first.
    ended: Vec<&'s Arc<Job>>,
}

/// How an attempt stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has not been started.
    Absent,
    /// Its jobs run, or did: `done` of them ended with 0.
    Running {
        /// How many.
        done: u32,
    },
    /// All its jobs ended with 0.
    Succeeded,
    /// One of its jobs failed, or was stopped by somebody else: the others are to stop.
    Broken {
        /// What happened, in a few words.
        why: String,
        /// Whose doing is it?
        cause: Cause,
    },
}

/// Why an attempt is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The job's own fault, or its host's: it counts as a failure.
    Failure,
    /// Somebody else's: it is tried anew after a delay.
    Stopped,
    /// A host is being emptied: it is tried anew at once.
    Moved,
}

impl<'s> Attempt<'s> {
    pub(super) fn of(
        state: &'s ClusterState,
        group: &Group,
        number: u32,
        lost_grace_ms: u64,
        context: &mut Context<'_>,
    ) -> Self {
        let mut attempt = Self::default();
        for job in state.jobs_of(&group.id) {
            let is_final = job.status.phase.is_final();
            let is_lost = !is_final && is_lost(state.host(&job.host), lost_grace_ms, context);
            if job.attempt == number {
                attempt.members.push(job);
                attempt.lost.extend(is_lost.then_some(job));
            } else if is_final {
                attempt.ended.push(job);
            } else if is_lost {
                attempt.leftover_lost.push(job);
            } else {
                attempt.leftover.push(job);
            }
        }
        attempt.ended.sort_by_key(|job| ended_ms(job));
        attempt
    }

    /// Have all jobs of earlier attempts ended?
    pub(super) fn is_clear(&self) -> bool {
        self.leftover.is_empty() && self.leftover_lost.is_empty()
    }

    pub(super) fn outcome(&self, count: u32) -> Outcome {
        if self.members.is_empty() {
            return if count == 0 {
                Outcome::Succeeded
            } else {
                Outcome::Absent
            };
        }
        let broken = |why: String, cause| Outcome::Broken { why, cause };
        // Before all else: what fails because others of it are stopped is not to blame.
        if let Some(why) = self.members.iter().find_map(|job| emptying(job)) {
            return broken(why.to_string(), Cause::Moved);
        }
        let has_failed = |job: &&&Arc<Job>| {
            let phase = job.status.phase;
            phase.is_final() && phase != Phase::Done && !job.is_stopping
        };
        if let Some(job) = self.members.iter().find(has_failed) {
            return broken(
                format!("a job ended with {}", how_it_ended(job)),
                Cause::Failure,
            );
        }
        if let Some(job) = self.lost.first() {
            return broken(format!("host {} was lost", job.host), Cause::Failure);
        }
        if let Some(job) = self.members.iter().find(|job| job.is_stopping) {
            let why = match &job.evicted {
                Some(why) => format!("job {} was stopped: {why}", job.id),
                None => format!("job {} was stopped", job.id),
            };
            return broken(why, Cause::Stopped);
        }
        let there = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        if there != count {
            return broken(
                format!("it has {there} jobs and should have {count}"),
                Cause::Stopped,
            );
        }
        let done = self
            .members
            .iter()
            .filter(|job| job.status.phase.is_final());
        match u32::try_from(done.count()).unwrap_or(u32::MAX) {
            done if done == count => Outcome::Succeeded,
            done => Outcome::Running { done },
        }
    }

    /// Its jobs that are not at their end.
    pub(super) fn running(&self) -> impl Iterator<Item = &'s Arc<Job>> {
        let members = self.members.iter().copied();
        members.filter(|job| !job.status.phase.is_final())
    }

    /// What presses its jobs away from their hosts, if something does: what does not wait before what does.
    pub(super) fn push(&self, state: &ClusterState, context: &mut Context<'_>) -> Option<Push> {
        let pushes: Vec<Push> = self
            .running()
            .filter_map(|job| Push::on(state, job, context))
            .collect();
        let overdue = pushes.iter().find(|push| push.is_overdue);
        overdue.or_else(|| pushes.first()).cloned()
    }

    /// Stops what runs of the attempt, and forgets what was lost with its host.
    pub(super) fn end(&self) -> impl Iterator<Item = Change> {
        let is_running = |job: &&&Arc<Job>| !job.status.phase.is_final() && !job.is_stopping;
        let lost: BTreeSet<&JobId> = self.lost.iter().map(|job| &job.id).collect();
        let running = self.members.iter().filter(is_running);
        running
            .map(move |job| {
                if lost.contains(&job.id) {
                    remove(job)
                } else {
                    stop(job)
                }
            })
            .chain(
                self.lost
                    .iter()
                    .filter(|job| job.is_stopping)
                    .map(|job| remove(job)),
            )
    }

    /// Stops what still runs of earlier attempts, and forgets the oldest ends beyond `history`; of a gang that is
    /// complete, the present attempt's ends count as well.
    pub(super) fn clear_earlier(&self, history: usize, is_complete: bool) -> Vec<Change> {
        let mut changes: Vec<Change> = self.leftover_lost.iter().map(|job| remove(job)).collect();
        let running = self.leftover.iter().filter(|job| !job.is_stopping);
        changes.extend(running.map(|job| stop(job)));
        let mut ended = self.ended.clone();
        if is_complete {
            let members = self.members.iter().copied();
            ended.extend(members.filter(|job| job.status.phase.is_final()));
        }
        let surplus = ended.len().saturating_sub(history);
        changes.extend(ended[..surplus].iter().map(|job| remove(job)));
        changes
    }
}

/// Why it was told to go, if that was to empty a host.
fn emptying(job: &Job) -> Option<&Eviction> {
    let evicted = job.evicted.as_ref().filter(|_| job.is_stopping);
    evicted.filter(|why| matches!(why, Eviction::Emptying { .. }))
}

fn remove(job: &Job) -> Change {
    Change::Remove(job.id.clone())
}

/// The number of a gang's present attempt, after so many that are over.
pub(super) fn number(past: Forgotten) -> u32 {
    past.failed.saturating_add(past.stopped)
}

/// What to say of a gang whose last attempt is over.
pub(super) fn describe(past: Forgotten, retries: u32, why: &str) -> String {
    let tries = u64::from(retries) + 1;
    if past.failed > retries {
        format!("given up after attempt {} of {tries}: {why}", past.failed)
    } else {
        format!("attempt {} of {tries} is over: {why}", past.failed.max(1))
    }
}
