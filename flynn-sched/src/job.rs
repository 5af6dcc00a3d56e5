//! A job: one placed copy of a group, and what its host says of it.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{GroupId, HostId, JobId, JobSpec, ReservationId};

/// One placed copy of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its identity.
    pub id: JobId,
    /// The group it belongs to.
    pub group: GroupId,
    /// The host it was placed on. A job never moves; it is replaced.
    pub host: HostId,
    /// What it is.
    pub spec: Arc<JobSpec>,
    /// Should it run (`false`) or stop and stay stopped (`true`)?
    #[serde(default)]
    pub is_stopping: bool,
    /// Why the cell takes it away from its host, if it does; kept until its end is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evicted: Option<Eviction>,
    /// When it was placed, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub placed_at_ms: u64,
    /// Which attempt of a batch job this is, from 0.
    #[serde(default)]
    pub attempt: u32,
    /// What its host last said of it.
    #[serde(default)]
    pub status: JobStatus,
}

/// Why, and how, the cell takes a job away from its host.
///
/// An evicted job is to blame for nothing: its end counts neither as a failure nor as an attempt nor as given up, and its
/// group's scheduler replaces it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[non_exhaustive]
pub enum Eviction {
    /// It stops at once: its room is needed for something more important. It is replaced when there is room again.
    Preempted {
        /// The group that needs the room.
        by: GroupId,
        /// That group's priority, higher than that of the job's own.
        priority: u8,
    },
    /// It stops when a job in its place is up elsewhere, and stays as long as there is no room for that. Not for jobs of
    /// batches and gangs: two of them would do the same work twice.
    Moving {
        /// Why, in a few words, such as `to make room for a reservation`; at most [`Eviction::WHY_MAX`] bytes.
        why: String,
    },
    /// It stops at once: it stayed longer than it was [expected](crate::JobSpec::expected) to, in room that is reserved for
    /// others who are there now. It is run anew when there is room elsewhere.
    Overstayed(Box<Overstay>),
    /// It stops at once: its host is being emptied and does not wait for its end. It is run anew elsewhere, as the same
    /// attempt. Of a gang, the jobs on other hosts go with it.
    Emptying {
        /// Why, in a few words, such as `host a has the taint broken-fan`; at most [`Eviction::WHY_MAX`] bytes.
        why: String,
    },
}

/// For whom a job that stayed too long had to go. (Apart, since every job has room for its eviction.)
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "schedulers of others write it")]
pub struct Overstay {
    /// The group that needs its room.
    pub by: GroupId,
    /// The reservation that has begun.
    pub reservation: ReservationId,
    /// When that was found, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Eviction {
    /// How long the reason of a move may be, in bytes.
    pub const WHY_MAX: usize = 200;

    /// Does the job stop before anything takes its place?
    #[must_use]
    pub fn is_at_once(&self) -> bool {
        !matches!(self, Self::Moving { .. })
    }
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preempted { by, .. } => write!(f, "its room is needed for group {by}"),
            Self::Overstayed(overstay) => write!(
                f,
                "it stayed longer than expected in room that reservation {} holds for group {}",
                overstay.reservation, overstay.by
            ),
            Self::Moving { why } | Self::Emptying { why } => f.write_str(why),
        }
    }
}

impl Job {
    /// Is it meant to leave its host as soon as a job in its place is up?
    #[must_use]
    pub fn is_moving(&self) -> bool {
        matches!(self.evicted, Some(Eviction::Moving { .. })) && !self.is_stopping
    }
}

/// What a host says of a job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobStatus {
    /// Where in its life it is.
    pub phase: Phase,
    /// The exit status of the last run: the code, or 128 + the signal.
    pub exit_status: Option<i32>,
    /// Why it is not running, in one sentence, if it should be.
    pub error: Option<String>,
    /// How often the host has started it again.
    pub restarts: u32,
    /// The ports it was given, in the order of [`JobSpec::ports`].
    pub ports: Vec<u16>,
    /// When this status was reached, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// When its present run began, in milliseconds since the Unix epoch.
    pub started_at_ms: Option<u64>,
}

/// Where in its life a job is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Placed; its host has not said anything of it yet.
    #[default]
    Pending,
    /// Its files are fetched or its process is starting; not healthy yet.
    Starting,
    /// It runs, and its health checks pass.
    Up,
    /// It ended by itself or became unhealthy, and is started again after a delay.
    Restarting,
    /// It was told to stop.
    Stopping,
    /// It ended as it should: it was stopped, or ran to completion with exit status 0. Final.
    Done,
    /// It ended with another exit status and is not started again. Final.
    Crashed,
    /// The host could not run it, or lost it. Final.
    Failed,
}

impl Phase {
    /// Is this the end of the job?
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Crashed | Self::Failed)
    }
}
