//! What an autoscaler is told once.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, clock::millis};

use super::{
    Measure, Pace, Schedule, Target,
    steps::{MAX_SPAN_MS, Span},
};

/// How a group is scaled: checked, and serialisable. Made by [`Policy::builder`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PolicyBuilder", into = "PolicyBuilder")]
pub struct Policy {
    checked: PolicyBuilder,
}

/// What is to become a [`Policy`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyBuilder {
    minimum: u32,
    maximum: u32,
    targets: Vec<Target>,
    up: Pace,
    down: Pace,
    schedules: Vec<Schedule>,
    warm_up_ms: u64,
    max_age_ms: u64,
    cooldown_ms: u64,
    cooldown: Cooldown,
    history_step_ms: u64,
}

/// What a deployment holds back for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cooldown {
    /// The count is not lowered: caches are cold, and jobs of two releases share the load.
    #[default]
    Down,
    /// The count is neither lowered nor raised by what is measured.
    Both,
}

impl Policy {
    /// A policy that keeps between `minimum` and `maximum` jobs. Give it at least one target or schedule.
    #[must_use]
    pub fn builder(minimum: u32, maximum: u32) -> PolicyBuilder {
        PolicyBuilder {
            minimum,
            maximum,
            ..PolicyBuilder::default()
        }
    }

    /// Default of [`PolicyBuilder::with_warm_up`].
    pub const WARM_UP: Duration = Duration::from_secs(30);
    /// Default of [`PolicyBuilder::with_max_age`].
    pub const MAX_AGE: Duration = Duration::from_secs(90);
    /// Default of [`PolicyBuilder::with_history_step`].
    pub const HISTORY_STEP: Duration = Duration::from_secs(60);
    /// How many targets a policy may have.
    pub const MAX_TARGETS: usize = 16;
    /// How many schedules a policy may have.
    pub const MAX_SCHEDULES: usize = 64;

    /// The least jobs at any time.
    #[must_use]
    pub fn minimum(&self) -> u32 {
        self.checked.minimum
    }

    /// The most jobs at any time.
    #[must_use]
    pub fn maximum(&self) -> u32 {
        self.checked.maximum
    }

    /// What is kept where.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.checked.targets
    }

    /// The bounds that hold at certain times.
    #[must_use]
    pub fn schedules(&self) -> &[Schedule] {
        &self.checked.schedules
    }

    pub(super) fn up(&self) -> &Pace {
        &self.checked.up
    }

    pub(super) fn down(&self) -> &Pace {
        &self.checked.down
    }

    pub(super) fn warm_up_ms(&self) -> u64 {
        self.checked.warm_up_ms
    }

    pub(super) fn max_age_ms(&self) -> u64 {
        self.checked.max_age_ms
    }

    /// Until when a deployment at this time holds what.
    pub(super) fn cooldown(&self, deployed_ms: u64) -> (u64, Cooldown) {
        let until = deployed_ms.saturating_add(self.checked.cooldown_ms);
        (until, self.checked.cooldown)
    }

    pub(super) fn history_step_ms(&self) -> u64 {
        self.checked.history_step_ms
    }
}

impl Default for PolicyBuilder {
    /// One job, no target: not a policy yet.
    fn default() -> Self {
        Self {
            minimum: 1,
            maximum: 1,
            targets: Vec::new(),
            up: Pace::up(),
            down: Pace::down(),
            schedules: Vec::new(),
            warm_up_ms: millis(Policy::WARM_UP),
            max_age_ms: millis(Policy::MAX_AGE),
            cooldown_ms: 0,
            cooldown: Cooldown::default(),
            history_step_ms: millis(Policy::HISTORY_STEP),
        }
    }
}

impl PolicyBuilder {
    /// Adds a target; of several, the one that asks for the most jobs counts.
    #[must_use]
    pub fn with_target(mut self, target: Target) -> Self {
        self.targets.push(target);
        self
    }

    /// How the count is raised. Default [`Pace::up`].
    #[must_use]
    pub fn with_up(mut self, pace: Pace) -> Self {
        self.up = pace;
        self
    }

    /// How the count is lowered. Default [`Pace::down`].
    #[must_use]
    pub fn with_down(mut self, pace: Pace) -> Self {
        self.down = pace;
        self
    }

    /// Adds bounds that hold at certain times.
    #[must_use]
    pub fn with_schedule(mut self, schedule: Schedule) -> Self {
        self.schedules.push(schedule);
        self
    }

    /// How long a job must have been ready before its samples count: a job that has just started is busy with itself.
    /// Default [`Policy::WARM_UP`].
    #[must_use]
    pub fn with_warm_up(mut self, time: Duration) -> Self {
        self.warm_up_ms = millis(time);
        self
    }

    /// How old a sample may be; an older one counts as missing. Default [`Policy::MAX_AGE`].
    #[must_use]
    pub fn with_max_age(mut self, age: Duration) -> Self {
        self.max_age_ms = millis(age);
        self
    }

    /// What a deployment holds back, and for how long. Default: nothing.
    #[must_use]
    pub fn with_cooldown(mut self, time: Duration, what: Cooldown) -> Self {
        self.cooldown_ms = millis(time);
        self.cooldown = what;
        self
    }

    /// In which steps demand is kept for forecasts. Default [`Policy::HISTORY_STEP`].
    #[must_use]
    pub fn with_history_step(mut self, step: Duration) -> Self {
        self.history_step_ms = millis(step);
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names what is wrong, why, and what would be right.
    pub fn build(self) -> Result<Policy> {
        self.check_bounds()?;
        if self.targets.len() > Policy::MAX_TARGETS {
            return too_many("targets", self.targets.len(), Policy::MAX_TARGETS);
        }
        if self.schedules.len() > Policy::MAX_SCHEDULES {
            return too_many("schedules", self.schedules.len(), Policy::MAX_SCHEDULES);
        }
        let mut known = BTreeSet::new();
        for target in &self.targets {
            target.check()?;
            if !known.insert((&target.metric, target.measure)) {
                return Err(Error::Invalid {
                    what: format!("target of {}", target.metric),
                    why: "there are two: keep one".to_owned(),
                });
            }
        }
        self.up.check("up")?;
        self.down.check("down")?;
        for schedule in &self.schedules {
            schedule.check(self.minimum, self.maximum)?;
        }
        for (what, ms, least, most) in [
            ("warm-up", self.warm_up_ms, 0, MAX_SPAN_MS),
            ("greatest age of a sample", self.max_age_ms, 1, MAX_SPAN_MS),
            ("cooldown", self.cooldown_ms, 0, MAX_SPAN_MS),
            ("history step", self.history_step_ms, 1_000, 3_600_000),
        ] {
            if !(least..=most).contains(&ms) {
                return Err(Error::Invalid {
                    what: format!("{what} of {}", Span(ms)),
                    why: format!("give {} to {}", Span(least), Span(most)),
                });
            }
        }
        Ok(Policy { checked: self })
    }

    fn check_bounds(&self) -> Result<()> {
        let what = format!("bounds of {} to {} jobs", self.minimum, self.maximum);
        let can_start = || self.targets.iter().any(|t| t.measure == Measure::Total);
        let why = if self.minimum > self.maximum {
            "the minimum is above the maximum: swap them"
        } else if self.maximum == 0 {
            "nothing could ever run: give a maximum of at least 1"
        } else if self.targets.is_empty() && self.schedules.is_empty() {
            "there is nothing to follow: add a target or a schedule"
        } else if self.minimum == 0 && !self.targets.is_empty() && !can_start() {
            "without jobs there are no samples of jobs, so that the count would stay at 0 for ever: \
             give a minimum of at least 1, or add a target of a total"
        } else {
            return Ok(());
        };
        Err(Error::Invalid {
            what,
            why: why.to_owned(),
        })
    }
}

fn too_many(what: &str, n: usize, most: usize) -> Result<Policy> {
    Err(Error::Invalid {
        what: format!("{n} {what}"),
        why: format!("at most {most} are allowed"),
    })
}

impl TryFrom<PolicyBuilder> for Policy {
    type Error = Error;
    fn try_from(builder: PolicyBuilder) -> Result<Self> {
        builder.build()
    }
}

impl From<Policy> for PolicyBuilder {
    fn from(policy: Policy) -> Self {
        policy.checked
    }
}
