//! Taints keep jobs away from a host unless they tolerate them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A mark on a host that keeps away every job without a matching [`Toleration`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Taint {
    /// What it is about, such as `dedicated`.
    pub key: String,
    /// More of it, such as `databases`; may be empty.
    #[serde(default)]
    pub value: String,
    /// What it does to jobs that do not tolerate it.
    #[serde(default)]
    pub effect: TaintEffect,
}

/// What a taint does to jobs that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaintEffect {
    /// No new ones are placed; those that run stay.
    #[default]
    NoSchedule,
    /// New ones are placed here only if no better host is left.
    PreferNoSchedule,
    /// No new ones are placed, and those that run are moved away: those of services when others are up in their place,
    /// those of batches at once, and gangs as a whole as soon as they fit elsewhere. A toleration has no period: it holds
    /// for as long as the taint does.
    NoExecute,
}

/// Lets a job onto hosts with a taint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Toleration {
    /// The taint's key; `None` tolerates every key.
    pub key: Option<String>,
    /// The taint's value; `None` tolerates every value.
    pub value: Option<String>,
    /// The taint's effect; `None` tolerates every effect.
    pub effect: Option<TaintEffect>,
}

impl Toleration {
    /// Does it let a job bear this taint?
    #[must_use]
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self
                .value
                .as_ref()
                .is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

impl Taint {
    /// The first of `taints` with an effect that `matters` and that no toleration covers.
    pub fn untolerated<'t>(
        taints: &'t [Self],
        tolerations: &[Toleration],
        matters: impl Fn(TaintEffect) -> bool,
    ) -> Option<&'t Self> {
        taints
            .iter()
            .find(|taint| matters(taint.effect) && !tolerations.iter().any(|t| t.tolerates(taint)))
    }
}

impl TaintEffect {
    /// Does it keep new jobs away altogether?
    #[must_use]
    pub fn forbids_starts(self) -> bool {
        matches!(self, Self::NoSchedule | Self::NoExecute)
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.is_empty() {
            f.write_str(&self.key)
        } else {
            write!(f, "{}={}", self.key, self.value)
        }
    }
}
