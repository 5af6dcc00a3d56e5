//! Deployments, decided without clocks or sockets: which counts come next, whether they were reached, when to give up.
//!
//! A [`DeployStrategy`] says in which order jobs move; a [`Rollout`] carries it out step by step. Each step is gated by
//! health: new jobs must be up before old ones stop. A rollout that fails is taken back as a whole.
//!
//! ```text
//!            next counts            reached?                 next counts
//!   start ───────────────▶ waiting ──────────▶ (strategy) ───────────────▶ waiting … ──▶ complete
//!                             │ crashes ≥ 5, or too long
//!                             ▼
//!                          failed: old counts restored, new jobs removed
//! ```

mod observe;
mod strategy;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    observe::{Observed, SETTLE, Trouble, TypeState, observe},
    strategy::{
        AllAtOnce, DeployStrategy, InBatches, OneByOne, OneDownOneUp, STRATEGIES, strategy,
    },
};
use crate::model::Counts;

/// The strategy of an app that does not name one.
pub const DEFAULT_STRATEGY: &str = "all-at-once";

/// How long a step may take if the app does not say, in seconds.
pub const DEFAULT_TIMEOUT: u32 = 120;

/// How often jobs of the new release may crash before the deployment is given up.
pub const MAX_CRASHES: u32 = 5;

/// How far a deployment is. It is stored after each step, so that any controller can go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollout {
    /// How many jobs of the old release are wanted now.
    pub old: Counts,
    /// How many jobs of the new release are wanted now.
    pub new: Counts,
    /// What the present step waits for.
    pub wait: Wait,
    /// When the present step began, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The process types that the present step moves.
    pub moving: Vec<String>,
    /// How often each job of the new release has crashed, by job.
    pub crashes: BTreeMap<String, u32>,
}

/// What a step waits for before the next one is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Wait {
    /// Nothing.
    #[default]
    Nothing,
    /// The new jobs are up.
    Up,
    /// The old jobs that are not wanted are gone.
    Down,
}

/// Counts to set, and what to wait for then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// How many jobs of the old release.
    pub old: Counts,
    /// How many jobs of the new release.
    pub new: Counts,
    /// What to wait for.
    pub wait: Wait,
}

/// What does not change in the course of a deployment.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// In which order jobs move.
    pub strategy: &'a dyn DeployStrategy,
    /// The counts to reach.
    pub goal: &'a Counts,
    /// How long a step may take.
    pub timeout: Duration,
}

/// What a rollout asks of the world. This enum is everything a deployment can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Set the counts of both releases to those in the rollout.
    Scale,
    /// All has moved: make the new release current.
    Complete,
    /// Restore the old counts, remove the new jobs, and tell why.
    Fail {
        /// Why, in one sentence.
        reason: String,
    },
    /// Look again at this time at the latest, in milliseconds since the Unix epoch.
    WakeAt(u64),
}

impl Rollout {
    /// Takes the state of the jobs; returns what must be done about it.
    pub fn step(&mut self, plan: Plan<'_>, now_ms: u64, observed: &Observed) -> Action {
        if let Some(reason) = self.count_crashes(plan, observed) {
            return Action::Fail { reason };
        }
        if !self.is_reached(observed) {
            let timeout_ms = u64::try_from(plan.timeout.as_millis()).unwrap_or(u64::MAX);
            let deadline = self.since_ms.saturating_add(timeout_ms);
            if now_ms < deadline {
                return Action::WakeAt(
                    observed
                        .settles_at_ms
                        .map_or(deadline, |at| at.min(deadline)),
                );
            }
            // Old jobs that stop slowly are no fault of the new release: the deployment goes on without waiting.
            if self.wait == Wait::Up {
                return Action::Fail {
                    reason: self.timed_out(plan, observed),
                };
            }
        }
        match plan.strategy.next(plan.goal, &self.old, &self.new) {
            Some(step) => {
                self.moving = match step.wait {
                    Wait::Up => changed(&self.new, &step.new),
                    Wait::Down | Wait::Nothing => changed(&self.old, &step.old),
                };
                self.old = step.old;
                self.new = step.new;
                self.wait = step.wait;
                self.since_ms = now_ms;
                Action::Scale
            }
            None => Action::Complete,
        }
    }

    fn is_reached(&self, observed: &Observed) -> bool {
        match self.wait {
            Wait::Nothing => true,
            Wait::Up => self.missing(observed).next().is_none(),
            Wait::Down => self.old.iter().all(|(name, count)| {
                let state = observed.old.get(name);
                let live = state.map_or(0, |s| s.live);
                live <= count.saturating_mul(state.map_or(1, |s| s.per_count))
            }),
        }
    }

    /// The types of which too few new jobs are up.
    fn missing<'a>(&'a self, observed: &'a Observed) -> impl Iterator<Item = &'a str> {
        self.new.iter().filter_map(|(name, count)| {
            let state = observed.new.get(name);
            let wanted = count.saturating_mul(state.map_or(1, |s| s.per_count));
            (state.map_or(0, |s| s.up) < wanted).then_some(name.as_str())
        })
    }

    /// Notes crashes of new jobs; says why the deployment is to be given up if there were too many.
    fn count_crashes(&mut self, plan: Plan<'_>, observed: &Observed) -> Option<String> {
        let mut worst: Option<(&str, &Trouble)> = None;
        for (name, state) in &observed.new {
            for trouble in &state.troubles {
                let crashes = self.crashes.entry(trouble.job.clone()).or_default();
                *crashes = (*crashes).max(trouble.crashes);
                worst = match worst {
                    Some((_, w)) if w.crashes >= trouble.crashes => worst,
                    _ => Some((name, trouble)),
                };
            }
        }
        let total = self
            .crashes
            .values()
            .fold(0_u32, |sum, n| sum.saturating_add(*n));
        if total < MAX_CRASHES {
            return None;
        }
        let (name, cause) = match worst {
            Some((name, trouble)) => (name, trouble.cause.as_deref().unwrap_or("it ended at once")),
            None => ("a process", "it ended at once"),
        };
        let times = match worst {
            Some((_, trouble)) if trouble.restarts > 0 => plural(trouble.restarts, "restart"),
            _ => plural(total, "failed start"),
        };
        let state = observed.new.get(name);
        let verb = if state.is_some_and(|s| s.up > 0) {
            "keeps crashing"
        } else {
            "failed to start"
        };
        Some(format!(
            "{name} {verb}: {cause} ({times}); {}",
            outlook(plan)
        ))
    }

    fn timed_out(&self, plan: Plan<'_>, observed: &Observed) -> String {
        let name = self.missing(observed).next().unwrap_or("a process");
        let wanted = self.new.get(name).copied().unwrap_or_default();
        let seconds = plan.timeout.as_secs();
        let (up, cause) = match observed.new.get(name) {
            None => (0, "no job of it was placed"),
            Some(state) => {
                let trouble = state.troubles.iter().find_map(|t| t.cause.as_deref());
                let cause = trouble
                    .or(state.blocked.as_deref())
                    .unwrap_or(if state.live == 0 {
                        "no job of it was placed"
                    } else {
                        "its jobs are still starting; does it listen on the port in $PORT?"
                    });
                (state.up, cause)
            }
        };
        let wanted = wanted.saturating_mul(observed.new.get(name).map_or(1, |s| s.per_count));
        format!(
            "{name} did not come up within {seconds} s, {up} of {wanted} {} up: {cause}; {}",
            if wanted == 1 { "is" } else { "are" },
            outlook(plan)
        )
    }
}

/// The types whose counts differ.
fn changed(before: &Counts, after: &Counts) -> Vec<String> {
    let differs = |name: &&String| before.get(*name) != after.get(*name);
    after.keys().filter(differs).cloned().collect()
}

/// What the pusher wants to know first.
fn outlook(plan: Plan<'_>) -> &'static str {
    if plan.goal.values().any(|count| *count > 0) {
        "the old release still serves"
    } else {
        "nothing of it runs"
    }
}

fn plural(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
