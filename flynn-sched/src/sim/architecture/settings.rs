//! What is simulated besides the workload and the architecture.

use std::time::Duration;

use crate::{Error, Result, sim::workload::Class};

/// How long a decision takes: `job + task × tasks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThinkTime {
    /// For the job.
    pub job: Duration,
    /// For each of its tasks.
    pub task: Duration,
}

impl ThinkTime {
    /// For so many tasks, in microseconds.
    pub(super) fn of(&self, tasks: u32) -> u64 {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        micros(self.task)
            .saturating_mul(u64::from(tasks))
            .saturating_add(micros(self.job))
    }
}

impl Default for ThinkTime {
    /// The paper's estimate for a real scheduler: 0.1 s a job and 5 ms a task.
    fn default() -> Self {
        Self {
            job: Duration::from_millis(100),
            task: Duration::from_millis(5),
        }
    }
}

/// How long decisions take for each workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThinkTimes {
    /// For batch jobs.
    pub batch: ThinkTime,
    /// For service jobs.
    pub service: ThinkTime,
}

impl ThinkTimes {
    /// The default, but `t_job` of service jobs.
    #[must_use]
    pub fn with_service_job(job: Duration) -> Self {
        let mut times = Self::default();
        times.service.job = job;
        times
    }

    pub(super) fn of(&self, class: Class) -> ThinkTime {
        match class {
            Class::Batch => self.batch,
            Class::Service => self.service,
        }
    }
}

/// When a job is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// After so many attempts of which none has placed a task.
    pub without_progress: u32,
    /// After so many attempts.
    pub in_all: u32,
}

impl Default for Patience {
    /// As in the paper: 1,000 attempts; and 100 in which no task found a place.
    fn default() -> Self {
        Self {
            without_progress: 100,
            in_all: 1_000,
        }
    }
}

/// What is simulated besides the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The seed of all random choices.
    pub seed: u64,
    /// How long.
    pub length: Duration,
    /// The steps in which things are measured over time.
    pub bucket: Duration,
    /// How long decisions take.
    pub think: ThinkTimes,
    /// When jobs are given up.
    pub patience: Patience,
    /// How long a job for which there was no room waits for the next attempt.
    pub retry_delay: Duration,
}

impl Settings {
    /// How many steps of time there may be.
    pub const MAX_BUCKETS: u64 = 100_000;

    /// The defaults for this seed and length: hourly measurements (or 24 if it is less than a day), the paper's think times
    /// and patience, and a second between attempts.
    #[must_use]
    pub fn new(seed: u64, length: Duration) -> Self {
        let hour = Duration::from_secs(3600);
        // Rounded up, or there would be one step too many.
        let step_us = u64::try_from(length.as_micros().div_ceil(24))
            .unwrap_or(u64::MAX)
            .max(1);
        Self {
            seed,
            length,
            bucket: hour.min(Duration::from_micros(step_us)),
            think: ThinkTimes::default(),
            patience: Patience::default(),
            retry_delay: Duration::from_secs(1),
        }
    }

    /// The same with other think times.
    #[must_use]
    pub fn with_think(mut self, think: ThinkTimes) -> Self {
        self.think = think;
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        let invalid = |what: &str, why: &str| {
            Err(Error::Invalid {
                what: format!("simulation {what}"),
                why: why.to_owned(),
            })
        };
        let year = Duration::from_secs(366 * 24 * 3600);
        if self.length.as_micros() == 0 || self.length > year {
            return invalid("length", "must be more than zero and at most a year");
        }
        let micros = self.bucket.as_micros();
        if micros == 0 || self.length.as_micros() / micros > u128::from(Self::MAX_BUCKETS) {
            return invalid(
                "step",
                "must be more than zero, and there may be 100000 steps at most",
            );
        }
        if self.retry_delay.as_micros() == 0 {
            return invalid("retry delay", "must be more than zero");
        }
        if self.patience.in_all == 0 || self.patience.without_progress == 0 {
            return invalid("patience", "must be one attempt at least");
        }
        Ok(())
    }
}
