//! Where a job may run.

use serde::{Deserialize, Serialize};

use crate::{Domain, Host, Jobs};

mod expression;
mod parse;

pub use expression::{Expression, ParseExpressionError};

/// A condition on the host of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Constraint {
    /// The host has the tag `key` with this value.
    Tag {
        /// The tag's name.
        key: String,
        /// Its value.
        value: String,
    },
    /// The expression is true of the host.
    Expression(Expression),
    /// No two jobs of the group on one host.
    DistinctHosts,
    /// At least one of these jobs is in the same place (affinity). Where the job is meant itself, the first of them may
    /// be anywhere, as with the pod affinity of Kubernetes.
    Near {
        /// The others.
        jobs: Jobs,
        /// What counts as one place.
        within: Domain,
    },
    /// None of these jobs is in the same place (anti-affinity). It holds both ways: they are not placed beside this job
    /// either.
    Apart {
        /// The others.
        jobs: Jobs,
        /// What counts as one place.
        within: Domain,
    },
}

impl Constraint {
    /// Does the host as such meet it? Constraints about other jobs are met by every host as such.
    #[must_use]
    pub fn admits(&self, host: &Host) -> bool {
        match self {
            Self::Tag { key, value } => host.tags.get(key) == Some(value),
            Self::Expression(expression) => expression.admits(host),
            Self::DistinctHosts | Self::Near { .. } | Self::Apart { .. } => true,
        }
    }

    /// Is it about the host as such, and not about other jobs?
    pub(crate) fn is_of_hosts(&self) -> bool {
        !matches!(
            self,
            Self::DistinctHosts | Self::Near { .. } | Self::Apart { .. }
        )
    }

    /// What `host` lacks to meet it, in a sentence fragment.
    #[must_use]
    pub fn lack(&self, host: &Host) -> String {
        match self {
            Self::Tag { key, value } => match host.tags.get(key) {
                Some(other) => format!("needs the tag {key}={value}, it is {other}"),
                None => format!("needs the tag {key}={value}, there is none"),
            },
            Self::Expression(expression) => expression.lack(host),
            Self::DistinctHosts => "has a job of the group already".to_owned(),
            Self::Near { jobs, within } => {
                format!("has no job of {jobs} in its {}", within.name())
            }
            Self::Apart { jobs, within } => format!("has a job of {jobs} in its {}", within.name()),
        }
    }
}
