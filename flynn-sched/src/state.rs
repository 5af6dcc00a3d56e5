//! The cell's state: immutable, shared, cheap to keep.

use std::{ops::Bound, sync::Arc};

use imbl::{OrdMap, OrdSet};

use crate::{
    Constraint, Domain, Group, GroupId, GroupStatus, Host, HostId, Job, JobId, Jobs, Named,
    Namespace, Quota, Resources, Usage,
};

mod edit;
mod events;
mod keeping_apart;
mod nominated;
mod reserved;

pub(crate) use keeping_apart::KeepingApart;

/// All hosts, groups and jobs of a cell at one revision. Cloning it is O(1).
#[derive(Debug, Clone, Default)]
pub struct ClusterState {
    revision: u64,
    hosts: OrdMap<HostId, HostState>,
    groups: OrdMap<GroupId, Arc<Group>>,
    /// Of groups that exist or have jobs.
    group_versions: OrdMap<GroupId, u64>,
    notes: OrdMap<GroupId, Arc<GroupStatus>>,
    jobs: OrdMap<JobId, JobEntry>,
    jobs_by_group: OrdMap<GroupId, OrdSet<JobId>>,
    /// Which of the jobs that are not final keep which others apart.
    keeping_apart: KeepingApart,
    quotas: OrdMap<Namespace, Arc<Quota>>,
    usage: OrdMap<Namespace, Usage>,
    reserved: reserved::Reserved,
    nominated: nominated::Nominated,
}

/// A job and what is known about what is known of it.
#[derive(Debug, Clone)]
struct JobEntry {
    job: Arc<Job>,
    /// The revision of its newest status report; 0 before the first.
    reported: u64,
    /// The revision that last wrote what it should be.
    #[cfg(feature = "remote")]
    version: u64,
}

/// A host and what is promised on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostState {
    /// What the host says about itself.
    pub host: Arc<Host>,
    /// The revision of the last change of the host or of its jobs' placement (not of their status).
    pub version: u64,
    /// When its lease ended, in milliseconds since the Unix epoch; `None` while it is alive.
    pub lost_since_ms: Option<u64>,
    /// When it (re)joined the cell, in milliseconds since the Unix epoch, as seen by this observer.
    pub joined_ms: u64,
    /// The revision of that.
    pub joined: u64,
    /// When it was lost the last time before it returned, in milliseconds since the Unix epoch.
    pub returned_from_ms: Option<u64>,
    /// The sum of the requests of its jobs that are not final.
    pub promised: Resources,
    /// The sum of their requests of named resources.
    pub promised_named: Named,
    /// Its jobs.
    pub jobs: OrdSet<JobId>,
    /// How many of them are not final and insist on ports.
    pub with_ports: u32,
}

impl HostState {
    /// What is left to promise.
    #[must_use]
    pub fn free(&self) -> Resources {
        self.host.allocatable().saturating_sub(&self.promised)
    }

    /// May new jobs be placed here?
    #[must_use]
    pub fn is_schedulable(&self) -> bool {
        self.lost_since_ms.is_none() && !self.host.is_draining && self.host.unhealthy.is_none()
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

    /// The hosts by id, to be compared with those of another state.
    pub(crate) fn host_map(&self) -> &OrdMap<HostId, HostState> {
        &self.hosts
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

    /// The revision of the last change of a group or of its jobs' placement (not of their status); 0 for a group that
    /// does not exist and has no jobs.
    #[must_use]
    pub fn group_version(&self, id: &GroupId) -> u64 {
        self.group_versions.get(id).copied().unwrap_or_default()
    }

    /// What the group's scheduler says of it, if it has anything to say.
    #[must_use]
    pub fn group_status(&self, id: &GroupId) -> Option<&Arc<GroupStatus>> {
        self.notes.get(id)
    }

    /// What the schedulers say of all groups that they have anything to say of, by group.
    pub fn group_statuses(&self) -> impl Iterator<Item = (&GroupId, &Arc<GroupStatus>)> {
        self.notes.iter()
    }

    /// All jobs, by id.
    pub fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values().map(|entry| &entry.job)
    }

    /// One job.
    #[must_use]
    pub fn job(&self, id: &JobId) -> Option<&Arc<Job>> {
        self.jobs.get(id).map(|entry| &entry.job)
    }

    /// Has the job's host said how it is since the host last joined? What it said earlier may be out of date.
    #[must_use]
    pub fn is_confirmed(&self, job: &JobId) -> bool {
        self.jobs.get(job).is_some_and(|entry| {
            let joined = self.hosts.get(&entry.job.host).map(|host| host.joined);
            entry.reported > 0 && joined.is_some_and(|joined| entry.reported > joined)
        })
    }

    /// The revision that last wrote what the job should be.
    #[cfg(feature = "remote")]
    pub(crate) fn job_version(&self, id: &JobId) -> Option<u64> {
        self.jobs.get(id).map(|entry| entry.version)
    }

    /// The jobs of a group, by id, whether the group still exists or not.
    pub fn jobs_of(&self, group: &GroupId) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs_by_group
            .get(group)
            .into_iter()
            .flatten()
            .filter_map(|id| self.job(id))
    }

    /// The jobs placed on a host, by id.
    pub fn jobs_on(&self, host: &HostId) -> impl Iterator<Item = &Arc<Job>> {
        self.hosts
            .get(host)
            .into_iter()
            .flat_map(|h| h.jobs.iter())
            .filter_map(|id| self.job(id))
    }

    /// The jobs whose group does not exist (any more), by group.
    pub fn orphans(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs_by_group
            .iter()
            .filter(|(group, _)| !self.groups.contains_key(*group))
            .flat_map(|(_, jobs)| jobs)
            .filter_map(|id| self.job(id))
    }

    /// All quotas, by namespace.
    pub fn quotas(&self) -> impl Iterator<Item = &Arc<Quota>> {
        self.quotas.values()
    }

    /// The quota of a namespace, if it has one.
    #[must_use]
    pub fn quota(&self, namespace: &Namespace) -> Option<&Arc<Quota>> {
        self.quotas.get(namespace)
    }

    /// What the jobs of a namespace that are not at their end ask for; nothing for a namespace without such jobs.
    #[must_use]
    pub fn usage(&self, namespace: &Namespace) -> Usage {
        self.usage.get(namespace).cloned().unwrap_or_default()
    }

    /// The jobs that are meant and not at their end.
    pub fn live(&self, jobs: &Jobs) -> impl Iterator<Item = &Arc<Job>> {
        self.meant(jobs)
            .flatten()
            .filter_map(|id| self.job(id))
            .filter(|job| !job.status.phase.is_final())
    }

    /// The ids of the jobs that are meant, by group.
    fn meant(&self, jobs: &Jobs) -> impl Iterator<Item = &OrdSet<JobId>> {
        let (first, prefix) = match jobs {
            Jobs::Group(id) => (id.as_str(), None),
            Jobs::Prefix(prefix) => (prefix.as_str(), Some(prefix.as_str())),
        };
        self.jobs_by_group
            .range::<_, str>((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(group, _)| match prefix {
                Some(prefix) => group.as_str().starts_with(prefix),
                None => group.as_str() == first,
            })
            .map(|(_, ids)| ids)
    }

    /// Are so many jobs meant, or fewer? Those at their end count too.
    fn are_at_most(&self, jobs: &Jobs, most: usize) -> bool {
        let mut count = 0;
        self.meant(jobs).all(|ids| {
            count += ids.len();
            count <= most
        })
    }

    /// Is one of the jobs in the same place as `host`?
    #[must_use]
    pub fn has_near(&self, host: &Host, jobs: &Jobs, within: &Domain) -> bool {
        if *within == Domain::Host {
            // Those on the host are fewer than those of a large group, and those of a small group fewer than they.
            let here = self.host(&host.id).map_or(0, |host| host.jobs.len());
            return if self.are_at_most(jobs, here) {
                self.live(jobs).any(|job| job.host == host.id)
            } else {
                self.jobs_on(&host.id)
                    .any(|job| jobs.matches(&job.group) && !job.status.phase.is_final())
            };
        }
        self.live(jobs).any(|job| {
            self.host(&job.host)
                .is_some_and(|other| within.of(&other.host) == within.of(host))
        })
    }

    /// May a job of `group` that must be near one of the jobs be on `host`? The first of those that are to be near each
    /// other may be anywhere: there is nobody to be near to yet.
    pub(crate) fn is_near(
        &self,
        host: &Host,
        group: &GroupId,
        jobs: &Jobs,
        within: &Domain,
    ) -> bool {
        self.has_near(host, jobs, within) || jobs.matches(group) && self.live(jobs).next().is_none()
    }

    /// A group whose jobs must be apart from those of `group` and has one in the same place as `host`.
    #[must_use]
    pub fn repelled_by(&self, host: &Host, group: &GroupId) -> Option<&GroupId> {
        let (within, near) = self.repelling(host, group)?;
        let keeps_apart = |constraint: &Constraint| {
            matches!(constraint, Constraint::Apart { jobs, within: domain }
                if domain == within && jobs.matches(group))
        };
        self.jobs_on(near)
            .find(|job| {
                !job.status.phase.is_final() && job.spec.constraints.iter().any(keeps_apart)
            })
            .map(|job| &job.group)
    }

    /// Is the job's host being emptied of it: does it drain by a set time, or have a taint that drives the job out?
    pub(crate) fn is_pressed(&self, job: &Job) -> bool {
        let Some(host) = self.host(&job.host) else {
            return false;
        };
        let host = &host.host;
        let drains = host.is_draining && host.drain_by_ms.is_some();
        !job.status.phase.is_final() && (drains || host.drives_out(&job.spec).is_some())
    }

    /// Is there a job in the same place as `host` that keeps jobs of `group` apart?
    pub(crate) fn is_repelled(&self, host: &Host, group: &GroupId) -> bool {
        self.has_repelling() && self.repelling(host, group).is_some()
    }

    /// A host in the same place as `host` with a job that keeps those of `group` out of this domain.
    fn repelling<'s>(
        &'s self,
        host: &Host,
        group: &'s GroupId,
    ) -> Option<(&'s Domain, &'s HostId)> {
        self.keeping_apart.from(group).find_map(|(within, hosts)| {
            let near = if *within == Domain::Host {
                hosts.get_key_value(&host.id).map(|(id, _)| id)
            } else {
                hosts.keys().find(|id| {
                    self.host(id)
                        .is_some_and(|other| within.of(&other.host) == within.of(host))
                })
            };
            Some((within, near?))
        })
    }

    /// Which jobs keep which others apart.
    pub(crate) fn keeping_apart(&self) -> &KeepingApart {
        &self.keeping_apart
    }

    /// Does any job keep others apart?
    #[must_use]
    pub fn has_repelling(&self) -> bool {
        !self.keeping_apart.is_empty()
    }
}
