//! Desired state: how many jobs of a kind there should be.

mod cron;

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{GroupId, HostId, JobId, JobSpec};

pub use cron::{Cron, Missed, Overlap};

/// A group of interchangeable jobs and how many of them there should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its identity.
    pub id: GroupId,
    /// How many, and what happens when they end.
    pub kind: GroupKind,
    /// What each of them is.
    pub spec: Arc<JobSpec>,
    /// Higher goes first; 0 to 100, users' default 50.
    #[serde(default = "default_priority")]
    pub priority: u8,
    /// How many of its jobs may be down while the cell takes another one away by its own will (preemption, drains,
    /// rebalancing); `None`: one of them, or a tenth if that is more, and any number of a batch. What fails by itself
    /// fails; but the cell adds nothing to it below this floor. [`Budget`](crate::Budget) does the sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<u32>,
    /// How long it is kept once it is complete (see [`GroupStatus::is_complete`]); then its scheduler removes it and its
    /// jobs. `None`: until whoever wrote it removes it.
    #[serde(
        default,
        with = "crate::spec::opt_millis",
        rename = "keep_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub keep: Option<Duration>,
    /// Who wrote it, so that writers do not clean up after each other; the controller writes `controller`.
    #[serde(default)]
    pub owner: String,
}

fn default_priority() -> u8 {
    Group::PRIORITY
}

impl Group {
    /// Default of [`priority`](Self::priority).
    pub const PRIORITY: u8 = 50;

    /// A group with nothing said of it but what it is: change the fields that differ.
    #[must_use]
    pub fn new(id: GroupId, kind: GroupKind, spec: impl Into<Arc<JobSpec>>) -> Self {
        Self {
            id,
            kind,
            spec: spec.into(),
            priority: Self::PRIORITY,
            max_unavailable: None,
            keep: None,
            owner: String::new(),
        }
    }
}

/// How many jobs a group has, and which scheduler is in charge of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[non_exhaustive]
pub enum GroupKind {
    /// `count` long-running jobs, spread and replaced: the service scheduler's.
    Service {
        /// How many.
        count: u32,
    },
    /// `per_host` long-running jobs on every matching host: the service scheduler's.
    Omni {
        /// How many on each host.
        per_host: u32,
    },
    /// `count` jobs that run to completion; each is tried anew at most `retries` times: the batch scheduler's.
    Batch {
        /// How many.
        count: u32,
        /// How often a job that did not end with 0 is tried again.
        retries: u32,
    },
    /// `count` jobs that run to completion together: all of them are started at once, or none. When one of them fails or
    /// its host is lost, the others are stopped and the whole gang is tried anew, at most `retries` times: the gang
    /// scheduler's.
    Gang {
        /// How many.
        count: u32,
        /// How often the gang is tried again after one of its jobs failed.
        retries: u32,
    },
    /// Runs that begin at given times, each a batch group of its own: the cron scheduler's.
    Cron(Box<Cron>),
}

impl GroupKind {
    /// Do the jobs of such a group end by themselves?
    #[must_use]
    pub fn ends(&self) -> bool {
        matches!(self, Self::Batch { .. } | Self::Gang { .. })
    }
}

/// What a group's scheduler says of it: what is missing and why, and how far a batch is. The default says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStatus {
    /// How many jobs should be placed and are not.
    pub missing: u32,
    /// Why they are not placed, or why a batch was given up, in one sentence that names what is lacking.
    pub blocked: Option<String>,
    /// Since when it is blocked, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How many jobs of a batch ended with 0.
    pub succeeded: u32,
    /// How many jobs of a batch were given up: they failed as often as they may, or were stopped.
    pub failed: u32,
    /// A batch has run: nothing more will be started.
    pub is_complete: bool,
    /// What must be remembered of a batch's jobs that the cell no longer keeps, by attempt. Of a gang: one entry, which
    /// counts its attempts that failed or were stopped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<Forgotten>,
    /// When a batch or a gang became complete, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_ms: Option<u64>,
    /// The hosts that are kept for a gang that has waited for long: schedulers start nothing there that is not of a
    /// higher priority.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HostId>,
    /// Where room is being made for jobs of the group, whose start waits for it. It is not given to groups of a lower
    /// priority.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nominated: Vec<Nomination>,
    /// When the last run of a cron group was due, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run_ms: Option<u64>,
    /// When the next run of a cron group is due, or the next attempt of a gang, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run_ms: Option<u64>,
    /// Up to when a cron group's runs have been decided on, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_ms: Option<u64>,
}

/// A host on which room is being made for one job of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nomination {
    /// The host.
    pub host: HostId,
    /// The jobs that were told to go.
    pub victims: Vec<JobId>,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

impl Nomination {
    /// How many a group may have at once; the rest waits.
    pub const MAX_OF_GROUP: usize = 256;
}

/// How many jobs of one attempt of a batch the cell has forgotten, by how they ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Forgotten {
    /// They ended with 0.
    pub succeeded: u32,
    /// They ended otherwise, or their host was lost; each may have a successor in the next attempt.
    pub failed: u32,
    /// They were stopped; they have no successor.
    pub stopped: u32,
}
