//! What a simulated cell is asked to run.

pub mod azure;
pub mod google;
mod rows;
pub mod synthetic;

use std::{fmt, sync::Arc, time::Duration};

use crate::{Error, Result};

use super::cell::{Amount, Machine, Task};

pub use rows::{BrokenRow, Rows};

/// Batch or service: the two workloads of the Omega paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Class {
    /// Runs to completion.
    Batch,
    /// Runs for long.
    Service,
}

impl Class {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Batch, Self::Service];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Service => "service",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A job: tasks that are submitted together and need the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// When it is submitted, in microseconds from the beginning.
    pub at_us: u64,
    /// Its workload.
    pub class: Class,
    /// How many tasks it has.
    pub tasks: u32,
    /// What each needs.
    pub task: Task,
    /// How long they run once placed.
    pub durations: Durations,
}

/// How long the tasks of a job run, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durations {
    /// All equally long.
    Same(u64),
    /// One after the other in the order in which tasks are placed, and again from the first when there are more.
    Each(Arc<[u64]>),
}

impl Durations {
    /// That of the task that is placed as number `placed`.
    #[must_use]
    pub fn of(&self, placed: u32) -> u64 {
        match self {
            Self::Same(duration) => *duration,
            Self::Each(all) if all.is_empty() => 0,
            Self::Each(all) => all[placed as usize % all.len()],
        }
    }
}

/// Machines, what runs on them when the simulation begins, and what is submitted to them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Workload {
    /// What it is called.
    pub name: String,
    /// The machines.
    pub machines: Vec<Machine>,
    /// What is placed at the beginning, by nobody's work. When they are submitted does not matter.
    pub residents: Vec<Submission>,
    /// What is submitted, the earliest first.
    pub submissions: Vec<Submission>,
}

impl Workload {
    /// How many machines a cell may have.
    pub const MAX_MACHINES: usize = 1_000_000;
    /// How many jobs there may be, residents included.
    pub const MAX_JOBS: usize = 20_000_000;
    /// How many tasks one job may have.
    pub const MAX_TASKS: u32 = 1_000_000;

    /// Can it be simulated?
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is wrong: no machines, or too many of something, or submissions out of order.
    pub fn validate(&self) -> Result<()> {
        let invalid = |why: String| Error::Invalid {
            what: format!("workload {:?}", self.name),
            why,
        };
        if self.machines.is_empty() {
            return Err(invalid("has no machines: give it at least one".to_owned()));
        }
        if self.machines.len() > Self::MAX_MACHINES {
            return Err(invalid(format!(
                "has {} machines, at most {} can be simulated",
                self.machines.len(),
                Self::MAX_MACHINES
            )));
        }
        let jobs = self.residents.len() + self.submissions.len();
        if jobs > Self::MAX_JOBS {
            return Err(invalid(format!(
                "has {jobs} jobs, at most {} can be simulated: simulate fewer hours",
                Self::MAX_JOBS
            )));
        }
        let all = || self.residents.iter().chain(&self.submissions);
        if let Some(job) = all().find(|job| job.tasks == 0 || job.tasks > Self::MAX_TASKS) {
            return Err(invalid(format!(
                "has a job of {} tasks: between 1 and {} are allowed",
                job.tasks,
                Self::MAX_TASKS
            )));
        }
        if !self.submissions.is_sorted_by_key(|job| job.at_us) {
            return Err(invalid(
                "has submissions out of order: sort them by time".to_owned(),
            ));
        }
        Ok(())
    }

    /// The same on so many equal machines.
    #[must_use]
    pub fn on(mut self, machine: Machine, count: u32) -> Self {
        self.machines = vec![machine; count as usize];
        self
    }

    /// The same on as many equal machines as it takes for the busiest minute of this length to fill them to this degree
    /// (more than 0, at most 1), if all tasks were placed as soon as they are submitted.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there would be more than [`Workload::MAX_MACHINES`], or the degree makes no sense.
    pub fn sized(self, machine: Machine, degree: f64, length: Duration) -> Result<Self> {
        let invalid = |why: String| Error::Invalid {
            what: format!("cell for workload {:?}", self.name),
            why,
        };
        if !(degree > 0.0 && degree <= 1.0) || machine.capacity.is_exhausted() {
            return Err(invalid(
                "needs machines with cores and memory, to be filled to more than 0 and at most 1"
                    .to_owned(),
            ));
        }
        let peak = self.peak(length);
        let needed = |peak: u64, each: u64| share(peak, each) / degree;
        let count = needed(peak.cpu_millis, machine.capacity.cpu_millis)
            .max(needed(peak.memory_bytes, machine.capacity.memory_bytes))
            .ceil()
            .max(1.0);
        let most = u32::try_from(Self::MAX_MACHINES).map_or(f64::INFINITY, f64::from);
        if count > most {
            return Err(invalid(format!(
                "would have {count} machines, at most {most} are possible: take larger ones"
            )));
        }
        Ok(self.on(machine, whole(count)))
    }

    /// What is needed in the busiest minute, if all tasks are placed as soon as they are submitted.
    fn peak(&self, length: Duration) -> Amount {
        let minute = |at_us: u64| (at_us / MINUTE_US).min(length.as_secs() / 60);
        let minutes = usize::try_from(length.as_secs() / 60).unwrap_or_default() + 2;
        // What begins and what ends in each minute.
        let mut begins = vec![Amount::default(); minutes];
        let mut ends = vec![Amount::default(); minutes];
        let at = |minute: u64| usize::try_from(minute).unwrap_or_default();
        for job in self.residents.iter().chain(&self.submissions) {
            for task in 0..job.tasks {
                let end = job.at_us.saturating_add(job.durations.of(task));
                let (first, after) = (at(minute(job.at_us)), at(minute(end) + 1));
                begins[first] = begins[first].saturating_add(&job.task.amount);
                ends[after] = ends[after].saturating_add(&job.task.amount);
            }
        }
        let (mut now, mut peak) = (Amount::default(), Amount::default());
        for (begins, ends) in begins.iter().zip(&ends) {
            now = now.saturating_sub(ends).saturating_add(begins);
            peak.cpu_millis = peak.cpu_millis.max(now.cpu_millis);
            peak.memory_bytes = peak.memory_bytes.max(now.memory_bytes);
        }
        peak
    }

    /// When the last job is submitted.
    #[must_use]
    pub fn length(&self) -> Duration {
        Duration::from_micros(self.submissions.last().map_or(0, |job| job.at_us))
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share needs no more than 52 bits"
)]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is checked before"
)]
fn whole(count: f64) -> u32 {
    count as u32
}

const MINUTE_US: u64 = 60_000_000;
