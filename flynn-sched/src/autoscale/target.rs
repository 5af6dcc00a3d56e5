//! What is measured, and the value it is kept at.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The name of something that is measured: 1 to 100 letters, digits, `-`, `_`, `.`, `/` or `:`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Metric(Arc<str>);

impl Metric {
    /// Processor time, named `cpu`. In which unit is the caller's choice, as long as samples and target agree: a share
    /// of what a job requests is the custom.
    #[must_use]
    pub fn cpu() -> Self {
        Self("cpu".into())
    }

    /// Memory, named `memory`; the unit is the caller's choice.
    #[must_use]
    pub fn memory() -> Self {
        Self("memory".into())
    }

    /// Requests a second, named `requests`.
    #[must_use]
    pub fn requests() -> Self {
        Self("requests".into())
    }

    /// Any other metric.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says which characters are allowed.
    pub fn parse(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
        if (1..=100).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err(Error::Invalid {
                what: format!("metric {name:?}"),
                why: "use 1 to 100 of letters, digits and -_./:".to_owned(),
            })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for Metric {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        Self::parse(name)
    }
}

impl From<Metric> for String {
    fn from(metric: Metric) -> Self {
        metric.0.as_ref().to_owned()
    }
}

/// How the samples of a metric are compared with its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Measure {
    /// One sample for each job; their mean is kept at the target. (Kubernetes: `Utilization` and `AverageValue` of pods.)
    Average,
    /// One sample for all jobs together, such as the requests a second that reach a service or the length of a queue;
    /// its share for one job is kept at the target. (Kubernetes: `AverageValue` of an object, and what KEDA does.) The
    /// only measure that can raise a count from zero.
    Total,
    /// One sample that is not a sum, such as a latency or the age of the oldest message; it is kept at the target itself,
    /// on the assumption that it is inversely proportional to the count. (Kubernetes: `Value`.)
    Level,
}

/// A metric and the value it is kept at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub(super) metric: Metric,
    pub(super) measure: Measure,
    pub(super) value: f64,
    #[serde(default)]
    pub(super) activation: f64,
}

impl Target {
    /// Keeps the mean over the jobs at `value`. [`Measure::Average`].
    #[must_use]
    pub fn average(metric: Metric, value: f64) -> Self {
        Self::new(metric, Measure::Average, value)
    }

    /// Has one job for each `value` of the total. [`Measure::Total`].
    #[must_use]
    pub fn total(metric: Metric, value: f64) -> Self {
        Self::new(metric, Measure::Total, value)
    }

    /// Keeps the metric itself at `value`. [`Measure::Level`].
    #[must_use]
    pub fn level(metric: Metric, value: f64) -> Self {
        Self::new(metric, Measure::Level, value)
    }

    /// Of a total: up to this value no job is needed at all; above it at least one is. Default 0. (KEDA's
    /// `activationValue`.) It matters only where the policy's minimum is zero.
    #[must_use]
    pub fn with_activation(mut self, value: f64) -> Self {
        self.activation = value;
        self
    }

    fn new(metric: Metric, measure: Measure, value: f64) -> Self {
        Self {
            metric,
            measure,
            value,
            activation: 0.0,
        }
    }

    /// The metric.
    #[must_use]
    pub fn metric(&self) -> &Metric {
        &self.metric
    }

    /// How it is measured.
    #[must_use]
    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// The value it is kept at.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }

    pub(super) fn check(&self) -> Result<()> {
        let invalid = |why: String| {
            Err(Error::Invalid {
                what: format!("target of {}", self.metric),
                why,
            })
        };
        if !self.value.is_finite() || self.value < Self::MIN_VALUE {
            return invalid(format!(
                "{} is not above zero: give a finite value of at least {:e}",
                self.value,
                Self::MIN_VALUE
            ));
        }
        if !self.activation.is_finite() || self.activation < 0.0 {
            return invalid(format!(
                "an activation of {} cannot be: give a finite value of at least 0",
                self.activation
            ));
        }
        if self.activation > 0.0 && self.measure != Measure::Total {
            return invalid("only a total has an activation: use Target::total".to_owned());
        }
        Ok(())
    }

    /// The smallest target: below it, dividing by it would tell nothing.
    const MIN_VALUE: f64 = 1e-9;
}
