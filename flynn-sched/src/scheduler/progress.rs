//! How far a batch is.

use std::sync::Arc;

use crate::{
    ClusterState, Forgotten, Group, Job, Phase,
    clock::millis,
    scheduler::{
        BatchScheduler, Context,
        backoff::{ended_ms, how_it_ended},
        making_room::was_preempted,
        roster::is_lost,
    },
    transaction::Change,
};

/// How far a batch is, by attempt.
#[derive(Debug, Default)]
pub(super) struct Progress<'s> {
    /// Jobs at their end, remembered or still there.
    ended: Vec<Forgotten>,
    /// Of the failed ones, those whose delay has not passed.
    early: Vec<u32>,
    /// Jobs that are not at their end.
    pub(super) live: Vec<&'s Arc<Job>>,
    live_by_attempt: Vec<u32>,
    /// Jobs that the cell took away.
    displaced: Vec<&'s Arc<Job>>,
    /// What will be remembered of jobs that are removed, after this round.
    pub(super) forgotten: Vec<Forgotten>,
    pub(super) removals: Vec<Change>,
    /// Failed jobs whose successors are waiting for their delay.
    pub(super) waiting: u32,
    /// How a job that this state shows failed.
    last_failure: Option<String>,
    /// What the group's status says so far.
    said: Option<String>,
}

impl<'s> Progress<'s> {
    pub(super) fn of(
        scheduler: &BatchScheduler,
        state: &'s ClusterState,
        group: &Group,
        context: &mut Context<'_>,
    ) -> Self {
        let mut progress = Self::default();
        if let Some(status) = state.group_status(&group.id) {
            progress.forgotten.clone_from(&status.forgotten);
            progress.ended.clone_from(&status.forgotten);
            progress.said.clone_from(&status.blocked);
        }
        let mut finals: Vec<&Arc<Job>> = Vec::new();
        for job in state.jobs_of(&group.id) {
            if job.status.phase.is_final() && was_evicted(job) {
                progress.displaced.push(job);
            } else if job.status.phase.is_final() {
                finals.push(job);
                progress.count_end(job, scheduler, context);
            } else if is_lost(state.host(&job.host), millis(scheduler.lost_grace), context) {
                progress.give_up_lost(job);
            } else {
                progress.live.push(job);
                *at(&mut progress.live_by_attempt, job.attempt) += 1;
            }
        }
        finals.sort_by_key(|job| ended_ms(job));
        if let Some(job) = finals.iter().rev().find(|job| has_failed(job)) {
            progress.last_failure = Some(how_it_ended(job));
        }
        let surplus = finals.len().saturating_sub(scheduler.history);
        for job in &finals[..surplus] {
            progress.removals.push(Change::Remove(job.id.clone()));
            count(at(&mut progress.forgotten, job.attempt), job);
        }
        progress
    }

    /// How many went for something more important, and have not been replaced. Nobody is preempted for them in turn.
    pub(super) fn displaced(&self) -> u32 {
        let gone = self.displaced.iter().chain(&self.live);
        let gone = gone.filter(|job| was_evicted(job) && was_preempted(job));
        u32::try_from(gone.count()).unwrap_or(u32::MAX)
    }

    /// Forgets those that have been replaced.
    pub(super) fn forget_displaced(
        &mut self,
        missing: u32,
    ) -> impl Iterator<Item = Change> + use<> {
        self.displaced.sort_by_key(|job| ended_ms(job));
        let kept = usize::try_from(missing).unwrap_or(usize::MAX);
        let replaced = self.displaced.len().saturating_sub(kept);
        let removals: Vec<Change> = self
            .displaced
            .drain(..replaced)
            .map(|job| Change::Remove(job.id.clone()))
            .collect();
        removals.into_iter()
    }

    fn count_end(&mut self, job: &Job, scheduler: &BatchScheduler, context: &mut Context<'_>) {
        count(at(&mut self.ended, job.attempt), job);
        if has_failed(job) {
            let delay = scheduler.backoff.delay_ms(job.attempt.saturating_add(1));
            let due = ended_ms(job).min(context.now_ms()).saturating_add(delay);
            if due > context.now_ms() {
                *at(&mut self.early, job.attempt) += 1;
                context.wake_at(due);
            }
        }
    }

    /// The job's host is lost: it is removed, so that the host stops it should it return, and counts as failed.
    fn give_up_lost(&mut self, job: &Job) {
        self.removals.push(Change::Remove(job.id.clone()));
        if was_evicted(job) {
            return;
        }
        for counts in [&mut self.ended, &mut self.forgotten] {
            let counts = at(counts, job.attempt);
            if job.is_stopping {
                counts.stopped += 1;
            } else {
                counts.failed += 1;
            }
        }
        self.last_failure = Some(format!("its host {} was lost", job.host));
    }

    /// How many jobs to start now, by attempt.
    pub(super) fn wanted(&mut self, count: u32, retries: u32) -> Vec<u32> {
        let mut wanted = Vec::new();
        let open = count.saturating_sub(self.succeeded());
        let mut room = open.saturating_sub(self.live_count());
        let attempts = u32::try_from(self.ended.len().max(1)).unwrap_or(u32::MAX);
        let mut due_here = count;
        for attempt in 0..=attempts.min(retries) {
            let ended = get(&self.ended, attempt);
            let started = ended
                .succeeded
                .saturating_add(ended.failed)
                .saturating_add(ended.stopped)
                .saturating_add(get(&self.live_by_attempt, attempt));
            let n = due_here.saturating_sub(started).min(room);
            room -= n;
            wanted.push(n);
            let early = get(&self.early, attempt);
            due_here = ended.failed.saturating_sub(early);
            if attempt < retries {
                let started_next = started_at(self, attempt + 1);
                self.waiting += ended.failed.saturating_sub(started_next).min(early);
            }
        }
        wanted
    }

    fn live_count(&self) -> u32 {
        u32::try_from(self.live.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn succeeded(&self) -> u32 {
        self.ended.iter().map(|ended| ended.succeeded).sum()
    }

    /// How many jobs failed for the last time or were stopped.
    pub(super) fn given_up(&self, retries: u32) -> u32 {
        let stopped: u32 = self.ended.iter().map(|ended| ended.stopped).sum();
        let failed: u32 = (0_u32..)
            .zip(&self.ended)
            .filter(|(attempt, _)| *attempt >= retries)
            .map(|(_, ended)| ended.failed)
            .sum();
        stopped.saturating_add(failed)
    }

    pub(super) fn reason(&self, failed: u32, retries: u32) -> String {
        let tries = match retries {
            0 => "once".to_owned(),
            1 => "twice".to_owned(),
            n => format!("{} times", u64::from(n) + 1),
        };
        match (&self.last_failure, &self.said) {
            (Some(last), _) => format!("{failed} {GIVEN_UP} after being tried {tries}: {last}"),
            // The failed job is forgotten, what was said of it is not.
            (None, Some(said)) if said.contains(GIVEN_UP) => said.clone(),
            (None, _) => format!("{failed} {GIVEN_UP}: stopped"),
        }
    }
}

fn started_at(progress: &Progress<'_>, attempt: u32) -> u32 {
    let ended = get(&progress.ended, attempt);
    ended.succeeded + ended.failed + ended.stopped + get(&progress.live_by_attempt, attempt)
}

/// A job that was told to stop is not to blame for how it ended.
fn has_failed(job: &Job) -> bool {
    !job.is_stopping && job.status.phase != Phase::Done
}

/// The cell took it away: it has neither succeeded nor failed nor been stopped by anybody, and is run anew as the same
/// attempt.
fn was_evicted(job: &Job) -> bool {
    job.is_stopping && job.evicted.is_some()
}

fn count(counts: &mut Forgotten, job: &Job) {
    if job.is_stopping {
        counts.stopped += 1;
    } else if has_failed(job) {
        counts.failed += 1;
    } else {
        counts.succeeded += 1;
    }
}

fn index(attempt: u32) -> usize {
    usize::try_from(attempt).unwrap_or(usize::MAX)
}

fn at<T: Default + Clone>(by_attempt: &mut Vec<T>, attempt: u32) -> &mut T {
    let index = index(attempt).min(MAX_ATTEMPTS);
    if by_attempt.len() <= index {
        by_attempt.resize(index + 1, T::default());
    }
    &mut by_attempt[index]
}

fn get<T: Default + Copy>(by_attempt: &[T], attempt: u32) -> T {
    by_attempt.get(index(attempt)).copied().unwrap_or_default()
}

/// Attempts beyond this are counted together; with delays of a minute it takes weeks to get here.
const MAX_ATTEMPTS: usize = 10_000;

const GIVEN_UP: &str = "given up";
