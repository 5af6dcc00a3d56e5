//! A transaction: what a scheduler proposes against a snapshot.

use std::sync::Arc;

use crate::{
    ClusterState, Eviction, Group, GroupId, GroupStatus, HostId, Job, JobId, Namespace, Quota,
    Reservation, ReservationId,
};

mod apply;

pub use apply::Applied;

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

impl Transaction {
    /// An empty transaction against `snapshot`: incremental, conflicting by resource fit.
    #[must_use]
    pub fn on(snapshot: &ClusterState) -> Self {
        Self {
            basis: snapshot.revision(),
            ..Self::default()
        }
    }

    /// All of it or nothing.
    #[must_use]
    pub fn all_or_nothing(mut self) -> Self {
        self.mode = Mode::AllOrNothing;
        self
    }

    /// Conflicts with anything that changed about a host since the snapshot.
    #[must_use]
    pub fn by_sequence(mut self) -> Self {
        self.conflict = Conflict::Sequence;
        self
    }

    /// Does it change nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Adds a change.
    #[must_use]
    pub fn with(mut self, change: Change) -> Self {
        self.changes.push(change);
        self
    }

    /// Adds [`Change::Start`].
    #[must_use]
    pub fn start(self, job: impl Into<Arc<Job>>) -> Self {
        self.with(Change::Start(job.into()))
    }

    /// Adds [`Change::Stop`].
    #[must_use]
    pub fn stop(self, job: JobId) -> Self {
        self.with(Change::Stop(job))
    }

    /// Adds [`Change::Evict`].
    #[must_use]
    pub fn evict(self, job: JobId, why: Eviction) -> Self {
        self.with(Change::Evict { job, why })
    }

    /// Adds [`Change::Remove`].
    #[must_use]
    pub fn remove(self, job: JobId) -> Self {
        self.with(Change::Remove(job))
    }

    /// Adds [`Change::PutGroup`].
    #[must_use]
    pub fn put_group(self, group: impl Into<Arc<Group>>) -> Self {
        self.with(Change::PutGroup(group.into()))
    }

    /// Adds [`Change::RemoveGroup`].
    #[must_use]
    pub fn remove_group(self, group: GroupId) -> Self {
        self.with(Change::RemoveGroup(group))
    }
}

/// One staged change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Places a job on its host. Its id must be new: draw it, as [`JobIds`](crate::scheduler::JobIds) does, or choose it. Of
    /// two that choose the same one at the same time, one is refused. (An id in the shape of a random UUID is taken to be
    /// drawn: a stored cell does not look whether somebody else starts one just like it on another host in that moment.)
    Start(Arc<Job>),
    /// Tells a job to stop. Stopping a job that is gone succeeds.
    Stop(JobId),
    /// Takes a job away from its host, at once or by moving it. Evicting a job that is gone, at its end or told to stop
    /// already succeeds and changes nothing.
    ///
    /// A preemption is refused when the group it is made for is gone, has another priority than it says or failed its guard; when the job's
    /// own group is not strictly less important; when the job is of the system and the group it is made for is not; and
    /// when the [`Budget`](crate::Budget) of the job's group does not allow it. Emptying a host is refused when that budget
    /// does not allow it, and when the host (for a gang: that of each of its jobs) neither drains by a set time nor has a
    /// taint that drives the job out; so is an eviction of who overstayed, where the reservation is not active or not its
    /// group's, or the job should not have ended by then, is in room of its own, or is of the system. A move is refused to jobs of batches and gangs.
    Evict {
        /// The job.
        job: JobId,
        /// Why, and how.
        why: Eviction,
    },
    /// Forgets a job that is final, or whose host is lost. Removing a job that is gone succeeds.
    Remove(JobId),
    /// Writes a group.
    PutGroup(Arc<Group>),
    /// Removes a group; its jobs are stopped by the schedulers.
    RemoveGroup(GroupId),
    /// A guard: refused, together with all later changes of the transaction to this group and its jobs, unless the
    /// group's version is still this. Two schedulers in charge of one group use it to never start the same job twice.
    ExpectGroup {
        /// The group.
        group: GroupId,
        /// Its [`ClusterState::group_version`] in the snapshot.
        version: u64,
    },
    /// Writes what the group's scheduler says of it. The default removes the note. Where the nominations change, so does
    /// the group's version. Refused when an earlier change of the
    /// transaction to the group or its jobs was refused: it would tell of what did not happen.
    Note {
        /// The group.
        group: GroupId,
        /// What is said.
        status: Arc<GroupStatus>,
    },
    /// Writes a quota. What is used already stays, even if it is more.
    PutQuota(Arc<Quota>),
    /// Removes a namespace's quota. Removing one that is gone succeeds.
    RemoveQuota(Namespace),
    /// Writes a reservation, over the one with the same id if there is one. Refused, naming the host, where its claims do
    /// not fit into its window beside the jobs that will be there and what others have reserved.
    PutReservation(Arc<Reservation>),
    /// Removes a reservation that ends at this time or before. Removing one that is gone, or ends later, succeeds without
    /// effect: whoever clears away what has ended must not hit what has just been prolonged.
    RemoveReservation {
        /// The reservation.
        id: ReservationId,
        /// In milliseconds since the Unix epoch; `u64::MAX` removes it whenever it ends.
        ending_by_ms: u64,
    },
    /// Forgets a lost host that has no jobs. Forgetting an unknown host succeeds.
    ForgetHost(HostId),
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
    /// Could it fit after a new look at the cell? `false`: the change itself is wrong.
    pub is_conflict: bool,
}
