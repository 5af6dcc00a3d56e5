//! What was decided, and why.

use std::fmt;

use serde::Serialize;

use crate::{
    ClusterState, Error, Group, GroupId, GroupKind, Result, Transaction, transaction::Change,
};

use super::{
    Cooldown, Measure, Metric,
    steps::{Span, Step},
};

/// How many jobs a group should have, and why. Its [`Display`](fmt::Display) is one sentence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// How many jobs there should be.
    pub count: u32,
    /// How many there should have been so far.
    pub from: u32,
    /// Everything that had a say, in the order of its turn.
    pub because: Vec<Reason>,
}

impl Decision {
    /// Is anything to be done?
    #[must_use]
    pub fn is_change(&self) -> bool {
        self.count != self.from
    }

    /// The transaction that writes the count into a service group; empty if nothing is to be done. It is guarded: if the
    /// group or its jobs change before it is committed, it is refused, and the next decision sees what they became.
    ///
    /// # Errors
    ///
    /// [`Error::GroupChanged`] when the group is gone, or its count is not the one that was decided about: observe and
    /// decide again. [`Error::Invalid`] when it is not a service.
    pub fn transaction(&self, state: &ClusterState, group: &GroupId) -> Result<Transaction> {
        let changed = |why: String| Error::GroupChanged {
            group: group.clone(),
            why,
        };
        let known = state
            .group(group)
            .ok_or_else(|| changed("it is gone".to_owned()))?;
        let GroupKind::Service { count } = known.kind else {
            return Err(Error::Invalid {
                what: format!("group {group}"),
                why: "only services are scaled by load: leave it out".to_owned(),
            });
        };
        if count != self.from {
            return Err(changed(format!(
                "its count is {count}, and {} was decided about: decide again",
                self.from
            )));
        }
        if !self.is_change() {
            return Ok(Transaction::on(state));
        }
        let kind = GroupKind::Service { count: self.count };
        let guard = Change::ExpectGroup {
            group: group.clone(),
            version: state.group_version(group),
        };
        let scaled = Group {
            kind,
            ..Group::clone(known)
        };
        Ok(Transaction::on(state).with(guard).put_group(scaled))
    }
}

/// Something that had a say in a decision. Its [`Display`](fmt::Display) is a sentence fragment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// A target asks for this many jobs.
    Asked {
        /// The metric.
        metric: Metric,
        /// How it is measured.
        measure: Measure,
        /// What was measured: the mean over the jobs, the total, or the level.
        value: f64,
        /// What it is kept at.
        target: f64,
        /// The count that would keep it there; the present one if that is near enough.
        count: u32,
        /// For how many jobs there was no sample that counts.
        unknown: u32,
    },
    /// There is no sample of the metric that counts: the count is not lowered.
    Missing {
        /// The metric.
        metric: Metric,
    },
    /// Samples that are not a number, infinite, negative or from the future were ignored.
    Ignored {
        /// How many.
        samples: u32,
    },
    /// A forecast asks for more.
    Forecast {
        /// Its name.
        forecast: String,
        /// The metric.
        metric: Metric,
        /// How far ahead it looks, in milliseconds.
        horizon_ms: u64,
        /// The demand that is expected, summed over the jobs.
        demand: f64,
        /// The count for it.
        count: u32,
    },
    /// There is no target; the minimum is kept.
    NoTarget,
    /// A deployment holds the count.
    Deployed {
        /// How long ago it was, in milliseconds.
        ago_ms: u64,
        /// What it holds back.
        holds: Cooldown,
    },
    /// The count is not lowered further: this much was asked for in the stabilisation window.
    Peak {
        /// The highest recommendation in the window.
        count: u32,
        /// The window, in milliseconds.
        window_ms: u64,
    },
    /// The count is not raised further: this little was asked for in the stabilisation window.
    Trough {
        /// The lowest recommendation in the window.
        count: u32,
        /// The window, in milliseconds.
        window_ms: u64,
    },
    /// A step limit holds it back.
    Step {
        /// The furthest that may be reached now.
        count: u32,
        /// The limit; `None`: changes in this direction are switched off.
        limit: Option<Step>,
    },
    /// There must be at least this many.
    Floor {
        /// How many.
        count: u32,
        /// The schedule that says so; `None`: the policy's minimum.
        schedule: Option<String>,
    },
    /// There must be at most this many.
    Ceiling {
        /// How many.
        count: u32,
        /// The schedule that says so; `None`: the policy's maximum.
        schedule: Option<String>,
    },
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count.cmp(&self.from) {
            std::cmp::Ordering::Equal => write!(f, "stay at {}", self.from)?,
            std::cmp::Ordering::Greater => write!(f, "go up from {} to {}", self.from, self.count)?,
            std::cmp::Ordering::Less => write!(f, "go down from {} to {}", self.from, self.count)?,
        }
        for (n, reason) in self.because.iter().enumerate() {
            write!(f, "{}{reason}", if n == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked {
                metric,
                measure,
                value,
                target,
                count,
                unknown,
            } => {
                let per = match measure {
                    Measure::Average => " a job",
                    Measure::Total => " in total",
                    Measure::Level => "",
                };
                let each = match measure {
                    Measure::Total => " a job",
                    Measure::Average | Measure::Level => "",
                };
                let (value, target) = (Number(*value), Number(*target));
                write!(
                    f,
                    "{metric} asks for {count} ({value}{per}, target {target}{each}"
                )?;
                match unknown {
                    0 => f.write_str(")"),
                    1 => f.write_str(", 1 job without a sample that counts)"),
                    n => write!(f, ", {n} jobs without a sample that counts)"),
                }
            }
            Self::Missing { metric } => {
                write!(
                    f,
                    "there is no fresh sample of {metric}, so nothing goes down"
                )
            }
            Self::Ignored { samples: 1 } => f.write_str("1 sample made no sense"),
            Self::Ignored { samples } => write!(f, "{samples} samples made no sense"),
            Self::Forecast {
                forecast,
                metric,
                horizon_ms,
                demand,
                count,
            } => {
                let (demand, horizon) = (Number(*demand), Span(*horizon_ms));
                write!(
                    f,
                    "{forecast} expects {metric} of {demand} in {horizon}, for {count}"
                )
            }
            Self::NoTarget => f.write_str("there is no target, so the minimum will do"),
            Self::Deployed { ago_ms, holds } => {
                let what = match holds {
                    Cooldown::Down => "lower",
                    Cooldown::Both => "change",
                };
                let ago = Span(ago_ms / 1000 * 1000);
                write!(f, "a deployment {ago} ago holds back what would {what} it")
            }
            Self::Peak { count, window_ms } => {
                write!(f, "the last {} asked for up to {count}", Span(*window_ms))
            }
            Self::Trough { count, window_ms } => {
                write!(
                    f,
                    "the last {} asked for as few as {count}",
                    Span(*window_ms)
                )
            }
            Self::Step {
                count,
                limit: Some(limit),
            } => {
                write!(f, "a step of at most {limit} allows {count}")
            }
            Self::Step { limit: None, .. } => f.write_str("this direction is switched off"),
            Self::Floor {
                count,
                schedule: None,
            } => write!(f, "the minimum is {count}"),
            Self::Ceiling {
                count,
                schedule: None,
            } => write!(f, "the maximum is {count}"),
            Self::Floor {
                count,
                schedule: Some(name),
            } => {
                write!(f, "schedule {name} wants at least {count}")
            }
            Self::Ceiling {
                count,
                schedule: Some(name),
            } => {
                write!(f, "schedule {name} wants at most {count}")
            }
        }
    }
}

/// A number with no more digits than a person reads.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            n if n >= 1e12 || n > 0.0 && n < 1e-3 => return write!(f, "{:.2e}", self.0),
            n if n >= 100.0 => 0,
            n if n >= 10.0 => 1,
            n if n >= 1.0 => 2,
            _ => 3,
        };
        let text = format!("{:.digits$}", self.0);
        match text.contains('.') {
            true => f.write_str(text.trim_end_matches('0').trim_end_matches('.')),
            false => f.write_str(&text),
        }
    }
}
