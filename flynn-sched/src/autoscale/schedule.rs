//! Bounds that hold at certain times.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

use super::{Policy, weekly::Weekly};

/// A floor, a ceiling or both, that hold at certain times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    pub(super) name: String,
    pub(super) when: When,
    #[serde(default)]
    pub(super) floor: Option<u32>,
    #[serde(default)]
    pub(super) ceiling: Option<u32>,
}

/// When a schedule holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum When {
    /// Every week anew.
    Weekly(Weekly),
    /// Once.
    Once {
        /// From this moment on, in milliseconds since the Unix epoch.
        from_ms: u64,
        /// Until just before this one.
        to_ms: u64,
    },
}

impl When {
    /// Does it hold at this moment (in milliseconds since the Unix epoch)?
    #[must_use]
    pub fn covers(&self, now_ms: u64) -> bool {
        match self {
            Self::Weekly(weekly) => weekly.covers(now_ms),
            Self::Once { from_ms, to_ms } => (*from_ms..*to_ms).contains(&now_ms),
        }
    }
}

impl Schedule {
    /// A schedule that does nothing yet; the name is for explanations.
    #[must_use]
    pub fn new(name: impl Into<String>, when: When) -> Self {
        Self {
            name: name.into(),
            when,
            floor: None,
            ceiling: None,
        }
    }

    /// Every week anew, as [`Weekly`] is written: `mon-fri 08:00-18:00 Europe/Berlin`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the position in `weekly` and what is expected there.
    pub fn weekly(name: impl Into<String>, weekly: &str) -> Result<Self> {
        Ok(Self::new(name, When::Weekly(weekly.parse()?)))
    }

    /// At least this many jobs. Where floors overlap the highest counts, and a floor counts more than a ceiling.
    #[must_use]
    pub fn with_floor(mut self, count: u32) -> Self {
        self.floor = Some(count);
        self
    }

    /// At most this many jobs. Where ceilings overlap the lowest counts.
    #[must_use]
    pub fn with_ceiling(mut self, count: u32) -> Self {
        self.ceiling = Some(count);
        self
    }

    pub(super) fn check(&self, minimum: u32, maximum: u32) -> Result<()> {
        let invalid = |why: String| {
            Err(Error::Invalid {
                what: format!("schedule {:?}", self.name),
                why,
            })
        };
        if self.name.is_empty() || self.name.len() > 100 {
            return invalid("give it a name of 1 to 100 bytes".to_owned());
        }
        let within = minimum..=maximum;
        for (what, bound) in [("floor", self.floor), ("ceiling", self.ceiling)] {
            if let Some(bound) = bound.filter(|bound| !within.contains(bound)) {
                return invalid(format!(
                    "its {what} of {bound} is outside of {minimum} to {maximum}: change it, or the policy's bounds"
                ));
            }
        }
        match (self.floor, self.ceiling) {
            (None, None) => invalid("it has neither a floor nor a ceiling: give one".to_owned()),
            (Some(floor), Some(ceiling)) if floor > ceiling => invalid(format!(
                "its floor of {floor} is above its ceiling of {ceiling}"
            )),
            _ if matches!(self.when, When::Once { from_ms, to_ms } if from_ms >= to_ms) => {
                invalid("it ends before it begins".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// The bounds at one moment, and the schedules that they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bounds<'p> {
    pub(super) floor: (u32, Option<&'p str>),
    pub(super) ceiling: (u32, Option<&'p str>),
}

impl Policy {
    /// The least and the most jobs at this moment (in milliseconds since the Unix epoch), schedules included.
    #[must_use]
    pub fn bounds_at(&self, now_ms: u64) -> std::ops::RangeInclusive<u32> {
        let bounds = self.bounds(now_ms);
        bounds.floor.0..=bounds.ceiling.0
    }

    pub(super) fn bounds(&self, now_ms: u64) -> Bounds<'_> {
        let mut bounds = Bounds {
            floor: (self.minimum(), None),
            ceiling: (self.maximum(), None),
        };
        for schedule in self.schedules().iter().filter(|s| s.when.covers(now_ms)) {
            let name = Some(schedule.name.as_str());
            if let Some(floor) = schedule.floor.filter(|floor| *floor > bounds.floor.0) {
                bounds.floor = (floor, name);
            }
            if let Some(ceiling) = schedule.ceiling.filter(|most| *most < bounds.ceiling.0) {
                bounds.ceiling = (ceiling, name);
            }
        }
        if bounds.floor.0 > bounds.ceiling.0 {
            bounds.ceiling = bounds.floor;
        }
        bounds
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weekly(weekly) => write!(f, "{weekly}"),
            Self::Once { from_ms, to_ms } => write!(f, "from {from_ms} to {to_ms} ms"),
        }
    }
}
