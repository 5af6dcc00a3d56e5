//! What was measured.

use std::collections::BTreeMap;

use crate::JobId;

use super::Metric;

/// What is known at the moment of a decision: the time, the count, and the newest samples.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    pub(super) now_ms: u64,
    pub(super) count: u32,
    pub(super) deployed_ms: Option<u64>,
    pub(super) jobs: BTreeMap<Metric, BTreeMap<JobId, JobSample>>,
    pub(super) totals: BTreeMap<Metric, (f64, u64)>,
}

/// What one job measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JobSample {
    /// The value, in the unit of the target.
    pub value: f64,
    /// When it was taken, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Since when the job is ready for work, in milliseconds since the Unix epoch; `None` if it is not.
    pub ready_since_ms: Option<u64>,
}

impl Observation {
    /// At this time (in milliseconds since the Unix epoch) the group should have this many jobs: the count that is in
    /// force, not the jobs that happen to run.
    #[must_use]
    pub fn at(now_ms: u64, count: u32) -> Self {
        Self {
            now_ms,
            count,
            ..Self::default()
        }
    }

    /// When what the group runs was last changed, in milliseconds since the Unix epoch. Remembered: it need be told once.
    #[must_use]
    pub fn deployed_at(mut self, ms: u64) -> Self {
        self.deployed_ms = Some(ms);
        self
    }

    /// Adds a job's newest sample of a metric, for a target by [`Measure::Average`](super::Measure::Average). Jobs that
    /// are not ready should be told too, or they count as missing.
    #[must_use]
    pub fn with_job(mut self, metric: &Metric, job: JobId, sample: JobSample) -> Self {
        let jobs = self.jobs.entry(metric.clone()).or_default();
        jobs.insert(job, sample);
        self
    }

    /// Adds the newest sample of a metric of the whole group, for a target by [`Measure::Total`](super::Measure::Total)
    /// or [`Measure::Level`](super::Measure::Level), and when it was taken, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn with_total(mut self, metric: &Metric, value: f64, at_ms: u64) -> Self {
        self.totals.insert(metric.clone(), (value, at_ms));
        self
    }
}
