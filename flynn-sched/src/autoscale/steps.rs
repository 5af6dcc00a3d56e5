//! How fast a count may change in one direction.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, clock::millis};

use super::state::Counts;

/// How a count follows what is recommended, in one direction: up or down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// The deviation from the target, as a share of it, that changes nothing.
    pub(super) tolerance: f64,
    /// The stabilisation window.
    pub(super) window_ms: u64,
    pub(super) select: Select,
    pub(super) steps: Vec<Step>,
}

/// Which of several step limits counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Select {
    /// The one that allows the largest change.
    Max,
    /// The one that allows the smallest change.
    Min,
    /// The count never changes in this direction (but for the policy's bounds).
    Never,
}

/// By how much a count may change in any stretch of time that is shorter than a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub(super) amount: Amount,
    pub(super) period_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Amount {
    Jobs(u32),
    Percent(u32),
}

impl Step {
    /// At most this many jobs in any stretch shorter than `period`.
    #[must_use]
    pub fn jobs(jobs: u32, period: Duration) -> Self {
        Self {
            amount: Amount::Jobs(jobs),
            period_ms: millis(period),
        }
    }

    /// At most this percentage of the count at the beginning of any stretch shorter than `period`, rounded up, so that
    /// it is never less than one job.
    #[must_use]
    pub fn percent(percent: u32, period: Duration) -> Self {
        Self {
            amount: Amount::Percent(percent),
            period_ms: millis(period),
        }
    }

    fn of(&self, base: u32) -> u32 {
        match self.amount {
            Amount::Jobs(jobs) => jobs,
            Amount::Percent(percent) => {
                let share = (u64::from(base) * u64::from(percent)).div_ceil(100);
                u32::try_from(share).unwrap_or(u32::MAX).max(1)
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.amount {
            Amount::Jobs(jobs) => write!(f, "{jobs}")?,
            Amount::Percent(percent) => write!(f, "{percent} %")?,
        }
        write!(f, " in {}", Span(self.period_ms))
    }
}

/// A limit that holds now, and the rule it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) count: u32,
    pub(super) step: Option<Step>,
}

impl Pace {
    /// What Kubernetes does by default on the way up: no window; 4 jobs or 100 % in 15 s, whichever is more.
    #[must_use]
    pub fn up() -> Self {
        Self::new(Duration::ZERO)
            .with_step(Step::jobs(4, Self::PERIOD))
            .with_step(Step::percent(100, Self::PERIOD))
    }

    /// What Kubernetes does by default on the way down: a window of 5 minutes, and no limit to the step.
    #[must_use]
    pub fn down() -> Self {
        Self::new(Self::DOWN_WINDOW)
    }

    /// No limit to the step, a tolerance of [`Pace::TOLERANCE`], and this stabilisation window: a count is lowered only to
    /// the *highest* recommendation of the window, and raised only to the *lowest*.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self {
            tolerance: Self::TOLERANCE,
            window_ms: millis(window),
            select: Select::Max,
            steps: Vec::new(),
        }
    }

    /// The deviation from the target, as a share of it, that changes nothing: 0.1 means between 90 % and 110 %.
    #[must_use]
    pub fn with_tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Adds a step limit.
    #[must_use]
    pub fn with_step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Which of several step limits counts. Default [`Select::Max`].
    #[must_use]
    pub fn with_select(mut self, select: Select) -> Self {
        self.select = select;
        self
    }

    /// Default deviation that changes nothing.
    pub const TOLERANCE: f64 = 0.1;
    /// Default of the stabilisation window on the way down.
    pub const DOWN_WINDOW: Duration = Duration::from_secs(300);
    /// The period of the default steps.
    const PERIOD: Duration = Duration::from_secs(15);
    /// How many step limits there may be in one direction.
    pub const MAX_STEPS: usize = 8;

    pub(super) fn check(&self, name: &str) -> Result<()> {
        let invalid = |why: String| {
            Err(Error::Invalid {
                what: format!("pace {name}"),
                why,
            })
        };
        // Above one, a metric could vanish without the count going down.
        if !(0.0..1.0).contains(&self.tolerance) {
            return invalid(format!(
                "a tolerance of {} cannot be: give a share from 0 to below 1",
                self.tolerance
            ));
        }
        if self.window_ms > MAX_SPAN_MS {
            return invalid(format!(
                "a stabilisation window of {} is too long: a day is the most",
                Span(self.window_ms)
            ));
        }
        if self.steps.len() > Self::MAX_STEPS {
            return invalid(format!(
                "{} step limits are too many: {} are the most",
                self.steps.len(),
                Self::MAX_STEPS
            ));
        }
        for step in &self.steps {
            if matches!(step.amount, Amount::Jobs(0) | Amount::Percent(0)) {
                return invalid(
                    "a step of 0 would never move: use Select::Never to say so".to_owned(),
                );
            }
            if !(1..=MAX_SPAN_MS).contains(&step.period_ms) {
                return invalid(format!(
                    "a step's period of {} cannot be: give 1 ms to a day",
                    Span(step.period_ms)
                ));
            }
        }
        Ok(())
    }

    /// The longest period of the step limits.
    pub(super) fn longest_period_ms(&self) -> u64 {
        let periods = self.steps.iter().map(|step| step.period_ms);
        periods.max().unwrap_or_default()
    }

    /// The highest count that may be reached now.
    pub(super) fn highest(&self, counts: &Counts, now_ms: u64, from: u32) -> Option<Limit> {
        let limits = self.steps.iter().map(|step| {
            let base = counts.lowest(now_ms, step.period_ms).min(from);
            Limit {
                count: base.saturating_add(step.of(base)),
                step: Some(*step),
            }
        });
        match self.select {
            Select::Max => limits.max_by_key(|limit| limit.count),
            Select::Min => limits.min_by_key(|limit| limit.count),
            Select::Never => Some(Limit {
                count: from,
                step: None,
            }),
        }
    }

    /// The lowest count that may be reached now.
    pub(super) fn lowest(&self, counts: &Counts, now_ms: u64, from: u32) -> Option<Limit> {
        let limits = self.steps.iter().map(|step| {
            let base = counts.highest(now_ms, step.period_ms).max(from);
            Limit {
                count: base.saturating_sub(step.of(base)),
                step: Some(*step),
            }
        });
        match self.select {
            Select::Max => limits.min_by_key(|limit| limit.count),
            Select::Min => limits.max_by_key(|limit| limit.count),
            Select::Never => Some(Limit {
                count: from,
                step: None,
            }),
        }
    }
}

/// A stretch of time as a person says it.
pub(super) struct Span(pub(super) u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0 s"),
            ms if ms % 3_600_000 == 0 => write!(f, "{} h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => write!(f, "{} min", ms / 60_000),
            ms if ms % 1_000 == 0 => write!(f, "{} s", ms / 1_000),
            ms => write!(f, "{ms} ms"),
        }
    }
}

/// The longest window and period.
pub(super) const MAX_SPAN_MS: u64 = 24 * 3_600_000;
