//! Desired state: how many jobs of a kind there should be.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{GroupId, JobSpec};

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
    /// Who wrote it, so that writers do not clean up after each other; the controller writes `controller`.
    #[serde(default)]
    pub owner: String,
}

fn default_priority() -> u8 {
    50
}

/// How many jobs a group has, and which scheduler is in charge of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
}
