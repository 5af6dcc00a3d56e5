//! What came out of a simulation.

mod meter;

use std::time::Duration;

use super::{
    architecture::Architecture,
    workload::{Class, Submission},
};

pub(super) use meter::{Attempt, Meter};

/// What came out of a simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The architecture.
    pub architecture: Architecture,
    /// The workload's name.
    pub workload: String,
    /// The seed.
    pub seed: u64,
    /// How long was simulated.
    pub length: Duration,
    /// By scheduler.
    pub schedulers: Vec<SchedulerOutcome>,
    /// By workload.
    pub classes: Vec<ClassOutcome>,
    /// Over time.
    pub timeline: Vec<Moment>,
    /// Tasks that were to run at the beginning and found no room.
    pub residents_left_out: u64,
}

/// What a scheduler did.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerOutcome {
    /// Its name.
    pub name: String,
    /// The workloads it has jobs of.
    pub classes: Vec<Class>,
    /// Attempts to place a job.
    pub attempts: u64,
    /// Of these, how many were committed without a conflict.
    pub committed: u64,
    /// Of these, how many met a conflict, in whole or in part.
    pub conflicted: u64,
    /// Of these, how many found no room for any task (or, for a gang, not for all).
    pub without_room: u64,
    /// Tasks it claimed machines for.
    pub claims: u64,
    /// Of these, how many were refused.
    pub claims_refused: u64,
    /// The share of time in which it thought, in each step of time.
    pub busyness: Vec<f64>,
}

impl SchedulerOutcome {
    /// Conflicts per transaction that was committed without one, as the Omega paper counts. 0: there were none; 3: a job
    /// takes four attempts on average.
    #[must_use]
    pub fn conflict_fraction(&self) -> f64 {
        ratio(self.conflicted, self.committed)
    }

    /// The median over the steps of time.
    #[must_use]
    pub fn busyness_median(&self) -> f64 {
        median(self.busyness.clone())
    }

    /// The median absolute deviation from it.
    #[must_use]
    pub fn busyness_mad(&self) -> f64 {
        let middle = self.busyness_median();
        median(
            self.busyness
                .iter()
                .map(|value| (value - middle).abs())
                .collect(),
        )
    }
}

/// What became of the jobs of a workload.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassOutcome {
    /// The workload.
    pub class: Class,
    /// Jobs that were submitted.
    pub submitted: u64,
    /// Of these, how many were placed with all their tasks.
    pub scheduled: u64,
    /// Of these, how many were given up.
    pub abandoned: u64,
    /// Of these, how many were waiting at the end.
    pub waiting: u64,
    /// Tasks that were placed.
    pub tasks_placed: u64,
    /// Tasks of jobs that were given up or waiting at the end, which were not placed.
    pub tasks_missing: u64,
    /// Attempts per job that was attempted at all.
    pub attempts_mean: f64,
    /// The most attempts at one job.
    pub attempts_most: u32,
    /// Seconds from submission to the first attempt, in order. Jobs that have waited in vain count with what they have
    /// waited so far.
    pub waits_s: Vec<f64>,
    /// Seconds from submission until all tasks were placed, of jobs of which they were, in order.
    pub delays_s: Vec<f64>,
}

impl ClassOutcome {
    /// Of the times until the first attempt.
    #[must_use]
    pub fn wait(&self) -> Quantiles {
        Quantiles::of(&self.waits_s)
    }

    /// The share of jobs that were given up or left waiting.
    #[must_use]
    pub fn unscheduled_share(&self) -> f64 {
        ratio(self.abandoned + self.waiting, self.submitted)
    }

    /// Of the times until all tasks were placed.
    #[must_use]
    pub fn delay(&self) -> Quantiles {
        Quantiles::of(&self.delays_s)
    }
}

/// The cell at the end of a step of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// When, in seconds from the beginning.
    pub at_s: f64,
    /// The share of processor time that is taken.
    pub cpu: f64,
    /// The share of memory that is taken.
    pub memory: f64,
    /// How many tasks run.
    pub running: u64,
    /// For each scheduler, what it did in this step.
    pub schedulers: Vec<Step>,
}

/// What a scheduler did in a step of time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Step {
    /// The share of the time in which it thought.
    pub busyness: f64,
    /// Transactions without a conflict.
    pub committed: u64,
    /// Transactions with one.
    pub conflicted: u64,
    /// Jobs in its queue at the end.
    pub queued: u64,
}

/// A distribution in four numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Quantiles {
    /// The mean.
    pub mean: f64,
    /// Half are at most this.
    pub p50: f64,
    /// Nine in ten are at most this.
    pub p90: f64,
    /// 99 in a hundred are at most this.
    pub p99: f64,
}

impl Quantiles {
    /// Of numbers in order; all zero if there are none.
    #[must_use]
    pub fn of(sorted: &[f64]) -> Self {
        if sorted.is_empty() {
            return Self::default();
        }
        // Nearest rank, in whole numbers.
        let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        Self {
            mean: mean(sorted.iter().copied()),
            p50: at(50),
            p90: at(90),
            p99: at(99),
        }
    }
}

impl Outcome {
    /// Conflicts per transaction without one, over all schedulers.
    #[must_use]
    pub fn conflict_fraction(&self) -> f64 {
        let conflicted = self
            .schedulers
            .iter()
            .map(|scheduler| scheduler.conflicted)
            .sum();
        let committed = self
            .schedulers
            .iter()
            .map(|scheduler| scheduler.committed)
            .sum();
        ratio(conflicted, committed)
    }

    /// The scheduler of this name.
    #[must_use]
    pub fn scheduler(&self, name: &str) -> Option<&SchedulerOutcome> {
        self.schedulers
            .iter()
            .find(|scheduler| scheduler.name == name)
    }

    /// The median and the median absolute deviation of how busy the schedulers of a workload are; the mean of each, if it
    /// has several.
    #[must_use]
    pub fn busyness_of(&self, class: Class) -> (f64, f64) {
        let with = |value: fn(&SchedulerOutcome) -> f64| {
            let schedulers = self
                .schedulers
                .iter()
                .filter(|s| s.classes.contains(&class));
            mean(schedulers.map(value).collect::<Vec<_>>().into_iter())
        };
        (
            with(SchedulerOutcome::busyness_median),
            with(SchedulerOutcome::busyness_mad),
        )
    }

    /// What became of a workload.
    #[must_use]
    pub fn class(&self, class: Class) -> Option<&ClassOutcome> {
        self.classes.iter().find(|outcome| outcome.class == class)
    }

    /// The mean share of processor time and of memory that was taken, over the steps of time.
    #[must_use]
    pub fn utilisation(&self) -> (f64, f64) {
        (
            mean(self.timeline.iter().map(|moment| moment.cpu)),
            mean(self.timeline.iter().map(|moment| moment.memory)),
        )
    }
}

/// What happens to one job.
#[derive(Debug, Clone, Copy)]
pub(super) struct JobRecord {
    submitted_us: u64,
    pub(super) class: Class,
    tasks: u32,
    pub(super) remaining: u32,
    pub(super) attempts: u32,
    /// How many numbers of placements have been given out.
    serials: u32,
    first_attempt_us: Option<u64>,
    pub(super) fate: Fate,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Waiting,
    Scheduled { at_us: u64 },
    Abandoned,
}

impl JobRecord {
    pub(super) fn new(job: &Submission) -> Self {
        Self {
            submitted_us: job.at_us,
            class: job.class,
            tasks: job.tasks,
            remaining: job.tasks,
            attempts: 0,
            serials: 0,
            first_attempt_us: None,
            fate: Fate::Waiting,
        }
    }

    pub(super) fn next_serial(&self) -> u32 {
        self.serials
    }

    /// An attempt begins that claims so many machines.
    pub(super) fn attempt(&mut self, now_us: u64, claims: usize) {
        self.attempts += 1;
        self.first_attempt_us.get_or_insert(now_us);
        self.serials = self
            .serials
            .wrapping_add(u32::try_from(claims).unwrap_or(u32::MAX));
    }

    pub(super) fn placed(&mut self, tasks: u32) {
        self.remaining -= tasks;
    }

    pub(super) fn has_placed_none(&self) -> bool {
        self.remaining == self.tasks
    }

    pub(super) fn already_placed(&self) -> u32 {
        self.tasks - self.remaining
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52")]
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    match values.len() {
        0 => 0.0,
        count => values.sum::<f64>() / count as f64,
    }
}

/// 0 when both are; when only `whole` is 0, as if it were 1.
#[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        let quantiles = Quantiles::of(&values);
        assert_eq!(
            quantiles,
            Quantiles {
                mean: 5.5,
                p50: 5.0,
                p90: 9.0,
                p99: 10.0
            }
        );
        assert_eq!(Quantiles::of(&[]), Quantiles::default());
    }

    #[test]
    fn the_median_of_an_even_number_lies_in_the_middle() {
        assert!((median(vec![4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-12);
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
    }
}
