//! Jobs as clients see them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{Env, ProcessResources, Time, empty_is_none, is_false, nullable, time};

/// A job as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    /// `host-uuid`.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub id: String,
    /// Its identity in the cell.
    #[serde(deserialize_with = "nullable")]
    pub uuid: String,
    /// The host it was placed on.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub host_id: String,
    /// The app's identity.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub app: String,
    /// The release's identity.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub release: String,
    /// Its process type; empty for a one-off job. Existing clients call it `type`.
    #[serde(
        rename = "type",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub process_type: String,
    /// Where in its life it is.
    pub state: JobState,
    /// The command and its arguments.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Free-form facts.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub meta: BTreeMap<String, String>,
    /// The exit status of the last run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// Why it does not run though it should.
    #[serde(
        deserialize_with = "empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub host_error: Option<String>,
    /// How often it was started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u32>,
    /// When it was placed.
    #[serde(
        deserialize_with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub created_at: Option<Time>,
    /// When it reached this state.
    #[serde(
        deserialize_with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub updated_at: Option<Time>,
}

/// Where in its life a job is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobState {
    /// Its host has not said anything of it yet.
    #[default]
    Pending,
    /// No host can take it.
    Blocked,
    /// It is being started.
    Starting,
    /// It runs and is healthy.
    Up,
    /// It was told to stop.
    Stopping,
    /// It ended as it should.
    Down,
    /// It ended with another status than 0.
    Crashed,
    /// It could not be run.
    Failed,
}

impl JobState {
    /// Does it run, or is it about to?
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(
            self,
            Self::Pending | Self::Blocked | Self::Starting | Self::Up | Self::Stopping
        )
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Blocked => "blocked",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Stopping => "stopping",
            Self::Down => "down",
            Self::Crashed => "crashed",
            Self::Failed => "failed",
        })
    }
}

/// A one-off job to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NewJob {
    /// The release whose artifacts (and variables, see [`NewJob::release_env`]) it uses.
    #[serde(
        rename = "release",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub release: String,
    /// What it is made of, instead of the release's artifacts.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
    /// Give it the release's variables.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub release_env: bool,
    /// The command and its arguments.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables, over those of the release.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_empty")]
    pub env: Env,
    /// Free-form facts.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub meta: BTreeMap<String, String>,
    /// Give it a terminal.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub tty: bool,
    /// The terminal's width.
    #[serde(
        rename = "tty_columns",
        deserialize_with = "nullable",
        skip_serializing_if = "is_zero"
    )]
    pub columns: u16,
    /// The terminal's height.
    #[serde(
        rename = "tty_lines",
        deserialize_with = "nullable",
        skip_serializing_if = "is_zero"
    )]
    pub lines: u16,
    /// Do not keep its output.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub disable_log: bool,
    /// What it needs and what it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ProcessResources>,
    /// Give it a directory that outlives it.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub data: bool,
    /// `user` (the default) or `background`; `system` for system apps.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub partition: String,
    /// The arguments as old clients spell them.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// The command as old clients spell it.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
}

impl NewJob {
    /// The command and its arguments, however the client spelt them.
    #[must_use]
    pub fn full_args(&self) -> Vec<String> {
        if self.args.is_empty() {
            self.entrypoint.iter().chain(&self.cmd).cloned().collect()
        } else {
            self.args.clone()
        }
    }
}

fn is_empty(env: &Env) -> bool {
    env.is_empty()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u16) -> bool {
    *n == 0
}

/// A line that a job wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLine {
    /// The host it ran on.
    #[serde(deserialize_with = "nullable")]
    pub host_id: String,
    /// The job's identity in the cell.
    #[serde(deserialize_with = "nullable")]
    pub job_id: String,
    /// The line, without its end.
    #[serde(deserialize_with = "nullable")]
    pub msg: String,
    /// The job's process type; empty for a one-off job.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub process_type: String,
    /// `app`.
    #[serde(deserialize_with = "nullable")]
    pub source: String,
    /// `stdout`, `stderr`, or `init` for what the host says.
    #[serde(deserialize_with = "nullable")]
    pub stream: String,
    /// When it was written.
    #[serde(deserialize_with = "time::optional")]
    pub timestamp: Option<Time>,
}
