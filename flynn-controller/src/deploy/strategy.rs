//! In which order jobs move from the old release to the new one.

use std::fmt;

use super::{Step, Wait};
use crate::model::Counts;

/// In which order jobs move. Deterministic: the same counts, the same step.
pub trait DeployStrategy: fmt::Debug + Send + Sync + 'static {
    /// Its name on the wire.
    fn name(&self) -> &'static str;

    /// The step after these counts, which were reached; `None` when all has moved.
    fn next(&self, goal: &Counts, old: &Counts, new: &Counts) -> Option<Step>;
}

/// The names of the shipped strategies.
pub const STRATEGIES: [&str; 4] = ["all-at-once", "one-by-one", "one-down-one-up", "in-batches"];

/// The shipped strategy of this name.
#[must_use]
pub fn strategy(name: &str, batch_size: Option<u32>) -> Option<Box<dyn DeployStrategy>> {
    Some(match name {
        "all-at-once" => Box::new(AllAtOnce),
        "one-by-one" => Box::new(OneByOne),
        "one-down-one-up" => Box::new(OneDownOneUp),
        "in-batches" => Box::new(InBatches::new(
            batch_size.unwrap_or(InBatches::DEFAULT_SIZE),
        )),
        _ => return None,
    })
}

/// All new jobs at once; when they are up, all old ones stop.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllAtOnce;

impl DeployStrategy for AllAtOnce {
    fn name(&self) -> &'static str {
        "all-at-once"
    }

    fn next(&self, goal: &Counts, old: &Counts, new: &Counts) -> Option<Step> {
        if goal.iter().any(|(name, count)| get(new, name) < *count) {
            return Some(Step {
                old: old.clone(),
                new: merged(new, goal),
                wait: Wait::Up,
            });
        }
        old.values().any(|count| *count > 0).then(|| Step {
            old: old.keys().map(|name| (name.clone(), 0)).collect(),
            new: new.clone(),
            wait: Wait::Nothing,
        })
    }
}

/// Type by type and job by job: a new one comes up, then an old one goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct OneByOne;

impl DeployStrategy for OneByOne {
    fn name(&self) -> &'static str {
        "one-by-one"
    }

    fn next(&self, goal: &Counts, old: &Counts, new: &Counts) -> Option<Step> {
        roll(goal, old, new, 1)
    }
}

/// As [`OneByOne`], several jobs at a time.
#[derive(Debug, Clone, Copy)]
pub struct InBatches {
    size: u32,
}

impl InBatches {
    /// How many jobs move at a time if nobody says.
    pub const DEFAULT_SIZE: u32 = 3;

    /// So many jobs at a time, at least one.
    #[must_use]
    pub fn new(size: u32) -> Self {
        Self { size: size.max(1) }
    }
}

impl DeployStrategy for InBatches {
    fn name(&self) -> &'static str {
        "in-batches"
    }

    fn next(&self, goal: &Counts, old: &Counts, new: &Counts) -> Option<Step> {
        roll(goal, old, new, self.size)
    }
}

/// Type by type and job by job: an old one goes, then a new one comes up. For jobs of which there must not be more than
/// the count, such as those that hold a lock.
#[derive(Debug, Clone, Copy, Default)]
pub struct OneDownOneUp;

impl DeployStrategy for OneDownOneUp {
    fn name(&self) -> &'static str {
        "one-down-one-up"
    }

    fn next(&self, goal: &Counts, old: &Counts, new: &Counts) -> Option<Step> {
        for name in names(goal, old) {
            let (wanted, has_old, has_new) = (get(goal, name), get(old, name), get(new, name));
            let is_full = has_old + has_new >= wanted;
            if has_old > 0 && (is_full || has_new >= wanted) {
                return Some(Step {
                    old: with(old, name, has_old - 1),
                    new: new.clone(),
                    wait: Wait::Down,
                });
            }
            if has_new < wanted {
                return Some(Step {
                    old: old.clone(),
                    new: with(new, name, has_new + 1),
                    wait: Wait::Up,
                });
            }
        }
        None
    }
}

/// `batch` new jobs come up, then as many old ones go, type by type.
fn roll(goal: &Counts, old: &Counts, new: &Counts, batch: u32) -> Option<Step> {
    for name in names(goal, old) {
        let (wanted, has_old, has_new) = (get(goal, name), get(old, name), get(new, name));
        // Old jobs that the new ones have replaced go first.
        let surplus = has_old.saturating_sub(wanted.saturating_sub(has_new));
        if surplus > 0 {
            return Some(Step {
                old: with(old, name, has_old - surplus.min(batch)),
                new: new.clone(),
                wait: Wait::Down,
            });
        }
        if has_new < wanted {
            return Some(Step {
                old: old.clone(),
                new: with(new, name, wanted.min(has_new + batch)),
                wait: Wait::Up,
            });
        }
    }
    None
}

fn names<'a>(goal: &'a Counts, old: &'a Counts) -> impl Iterator<Item = &'a str> {
    let mut names: Vec<&str> = goal.keys().chain(old.keys()).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter()
}

fn get(counts: &Counts, name: &str) -> u32 {
    counts.get(name).copied().unwrap_or_default()
}

fn with(counts: &Counts, name: &str, count: u32) -> Counts {
    let mut counts = counts.clone();
    counts.insert(name.to_owned(), count);
    counts
}

fn merged(new: &Counts, goal: &Counts) -> Counts {
    let mut counts = new.clone();
    for (name, count) in goal {
        let slot = counts.entry(name.clone()).or_default();
        *slot = (*slot).max(*count);
    }
    counts
}
