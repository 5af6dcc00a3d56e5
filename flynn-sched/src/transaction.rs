//! A transaction: what a scheduler proposes against a snapshot.

use std::sync::Arc;

use crate::{ClusterState, Group, GroupId, HostId, Job, JobId};

/// Staged changes against one snapshot. Nothing happens before [`Cluster::commit`](crate::Cluster::commit).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// What happens when one of them does not fit.
    pub mode: Mode,
    /// What counts as a conflict.
    pub conflict: Conflict,
    /// The revision of the snapshot it was made from.
    pub basis: u64,
}

/// One staged change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Places a job on its host.
    Start(Arc<Job>),
    /// Tells a job to stop. Stopping a job that is gone succeeds.
    Stop(JobId),
    /// Forgets a job that is final, or whose host is lost.
    Remove(JobId),
    /// Writes a group.
    PutGroup(Arc<Group>),
    /// Removes a group; its jobs are stopped by the schedulers.
    RemoveGroup(GroupId),
}

/// What happens when a change does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Mode {
    /// What fits is applied, the rest is refused and named.
    #[default]
    Incremental,
    /// All of it or nothing (gang scheduling).
    AllOrNothing,
}

/// What counts as a conflict with changes since the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Conflict {
    /// The host no longer has room, is gone or is draining (fine-grained).
    #[default]
    ResourceFit,
    /// Anything about the host changed since the snapshot (coarse-grained).
    Sequence,
}

/// What became of a transaction.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The state after it.
    pub state: Arc<ClusterState>,
    /// What was not applied.
    pub refused: Vec<Refused>,
}

/// A change that was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The change.
    pub change: Change,
    /// The host it failed on, if it was about one.
    pub host: Option<HostId>,
    /// Why, in a sentence fragment.
    pub why: String,
}
