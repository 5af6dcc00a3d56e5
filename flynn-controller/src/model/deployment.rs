//! Deployments: the way from one release to the next.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{Counts, JobState, Tags, Time, empty_is_none, nullable, time};

/// The way of an app from one release to another.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Deployment {
    /// Its identity.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub id: String,
    /// The app's identity.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub app: String,
    /// The release before; absent for the first.
    #[serde(
        deserialize_with = "empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub old_release: Option<String>,
    /// The release to come.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub new_release: String,
    /// How it proceeds.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub strategy: String,
    /// How far it is.
    pub status: DeploymentStatus,
    /// The counts to reach: those of the old release when it began.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub processes: Counts,
    /// The tags of the formation.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub tags: Tags,
    /// How long each step may take, in seconds.
    #[serde(rename = "deploy_timeout", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// How many jobs `in-batches` moves at a time.
    #[serde(rename = "deploy_batch_size", skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// When it was created.
    #[serde(
        deserialize_with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub created_at: Option<Time>,
    /// When it ended.
    #[serde(
        deserialize_with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub finished_at: Option<Time>,
    /// Why it failed.
    #[serde(
        deserialize_with = "empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub error: Option<String>,
}

/// How far a deployment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeploymentStatus {
    /// No controller has taken it up yet.
    #[default]
    Pending,
    /// A controller moves jobs.
    Running,
    /// The new release is current.
    Complete,
    /// The old release is current, as before.
    Failed,
}

impl DeploymentStatus {
    /// Is it over?
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Failed)
    }
}

impl fmt::Display for DeploymentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
        })
    }
}

/// What happened to a deployment; the data of its events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeploymentEvent {
    /// The app's identity.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub app: String,
    /// The deployment's identity.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub deployment: String,
    /// The release the event is about.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub release: String,
    /// How far the deployment is.
    pub status: DeploymentStatus,
    /// The process type that changed.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub job_type: String,
    /// What its job does now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_state: Option<JobState>,
    /// Why it failed, in one sentence.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub error: String,
}
