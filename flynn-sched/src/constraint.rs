//! Where a job may run.

use serde::{Deserialize, Serialize};

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
    /// No two jobs of the group on one host.
    DistinctHosts,
}
