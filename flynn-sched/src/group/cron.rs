//! When a job is to run again and again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A timetable and what becomes of its runs: what the `CronScheduler` (feature `cron`) goes by.
///
/// Each run is a [`Batch`](crate::GroupKind::Batch) group of its own, named after the group and the time it was due, as
/// in `backup.20261121T023000Z`, so that however many schedulers look at the group, a run is written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cron {
    /// Five fields (minute, hour, day of month, month, day of week), or six with seconds before them; `@hourly` to
    /// `@yearly` are known. With the feature `cron`, `Timetable::parse` says what is wrong with one and where.
    pub expression: String,
    /// The time zone that the expression is read in, by its IANA name, such as `Europe/Zurich`.
    #[serde(default = "utc")]
    pub zone: String,
    /// How many jobs each run has.
    #[serde(default = "one")]
    pub count: u32,
    /// How often a job of a run that did not end with 0 is tried again.
    #[serde(default)]
    pub retries: u32,
    /// What becomes of runs whose time passed while no scheduler was there to see it.
    #[serde(default)]
    pub missed: Missed,
    /// What happens when a run is due and an earlier one has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// A run that is later than this is not started any more. `None`: it is started however late, as far as `missed`
    /// asks for it.
    #[serde(
        default,
        with = "crate::spec::opt_millis",
        rename = "start_deadline_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub start_deadline: Option<Duration>,
    /// Nothing is started while this is set. Runs that fall into such a time are not missed, they are not due at all.
    #[serde(default)]
    pub is_suspended: bool,
    /// How many runs that succeeded are kept to look at.
    #[serde(default = "Cron::default_keep_succeeded")]
    pub keep_succeeded: u32,
    /// How many runs that failed are kept to look at.
    #[serde(default = "one")]
    pub keep_failed: u32,
}

impl Cron {
    /// The most that [`Missed::RunAll`] makes up for, whatever it asks for.
    pub const MAX_MADE_UP: u32 = 1000;

    /// One job a run, in UTC; missed runs are skipped, and so are runs that would overlap.
    #[must_use]
    pub fn new(expression: impl Into<String>) -> Self {
        Self {
            expression: expression.into(),
            zone: utc(),
            count: 1,
            retries: 0,
            missed: Missed::default(),
            overlap: Overlap::default(),
            start_deadline: None,
            is_suspended: false,
            keep_succeeded: Self::default_keep_succeeded(),
            keep_failed: 1,
        }
    }

    fn default_keep_succeeded() -> u32 {
        3
    }
}

/// What becomes of runs that are more than a minute late because no scheduler was there when they were due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "policy")]
#[non_exhaustive]
pub enum Missed {
    /// They are not made up for.
    #[default]
    Skip,
    /// One run is made up for all of them: the latest.
    RunOnce,
    /// They are all made up for, the oldest first.
    RunAll {
        /// Of more than this, only the latest are; at most [`Cron::MAX_MADE_UP`].
        limit: u32,
    },
}

/// What happens when a run is due and an earlier one of the group has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Overlap {
    /// It does not run. (With [`Missed::RunAll`] it waits for the earlier one to end, so that none is left out.)
    #[default]
    Forbid,
    /// Both run.
    Allow,
    /// The earlier one is stopped and removed.
    Replace,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn one() -> u32 {
    1
}
