//! The cell's state: immutable, shared, cheap to keep.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::{Group, GroupId, Host, HostId, Job, JobId, Resources};

/// All hosts, groups and jobs of a cell at one revision. Cloning it is O(1).
#[derive(Debug, Clone, Default)]
pub struct ClusterState {
    pub(crate) revision: u64,
    pub(crate) hosts: OrdMap<HostId, HostState>,
    pub(crate) groups: OrdMap<GroupId, Arc<Group>>,
    pub(crate) jobs: OrdMap<JobId, Arc<Job>>,
    pub(crate) jobs_by_group: OrdMap<GroupId, OrdSet<JobId>>,
}

/// A host and what is promised on it.
#[derive(Debug, Clone)]
pub struct HostState {
    /// What the host says about itself.
    pub host: Arc<Host>,
    /// Grows with every change of the host or of its jobs' placement.
    pub version: u64,
    /// When its lease ended, in milliseconds since the Unix epoch; `None` while it is alive.
    pub lost_since_ms: Option<u64>,
    /// The sum of its jobs' requests.
    pub promised: Resources,
    /// Its jobs.
    pub jobs: OrdSet<JobId>,
}

impl HostState {
    /// What is left to promise.
    #[must_use]
    pub fn free(&self) -> Resources {
        self.host.capacity.saturating_sub(&self.promised)
    }

    /// May new jobs be placed here?
    #[must_use]
    pub fn is_schedulable(&self) -> bool {
        self.lost_since_ms.is_none() && !self.host.is_draining
    }
}

impl ClusterState {
    /// The revision; it grows with every change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All hosts, lost ones included, by id.
    pub fn hosts(&self) -> impl Iterator<Item = &HostState> {
        self.hosts.values()
    }

    /// One host.
    #[must_use]
    pub fn host(&self, id: &HostId) -> Option<&HostState> {
        self.hosts.get(id)
    }

    /// All groups, by id.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.values()
    }

    /// One group.
    #[must_use]
    pub fn group(&self, id: &GroupId) -> Option<&Arc<Group>> {
        self.groups.get(id)
    }

    /// All jobs, by id.
    pub fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values()
    }

    /// One job.
    #[must_use]
    pub fn job(&self, id: &JobId) -> Option<&Arc<Job>> {
        self.jobs.get(id)
    }

    /// The jobs of a group, by id, whether the group still exists or not.
    pub fn jobs_of(&self, group: &GroupId) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs_by_group
            .get(group)
            .into_iter()
            .flatten()
            .filter_map(|id| self.jobs.get(id))
    }

    /// The jobs placed on a host, by id.
    pub fn jobs_on(&self, host: &HostId) -> impl Iterator<Item = &Arc<Job>> {
        self.hosts
            .get(host)
            .into_iter()
            .flat_map(|h| h.jobs.iter())
            .filter_map(|id| self.jobs.get(id))
    }
}
