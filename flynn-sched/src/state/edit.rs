//! Raw edits: facts written into the state without asking whether they are allowed. [`Transaction`](crate::Transaction)
//! asks before; what a store reports has been asked already.
//!
//! Every edit keeps the indices and sums right: `promised` is the sum over a host's jobs that are not final,
//! `usage` the same by namespace, `jobs_by_group` and [`HostState::jobs`] hold exactly the jobs there are.

use std::sync::Arc;

use crate::{
    Group, GroupId, GroupStatus, Host, HostId, Job, JobId, JobSpec, JobStatus, Named, Namespace,
    Quota, Resources, id::Head as _,
};

use super::{ClusterState, HostState, JobEntry};

impl ClusterState {
    /// Moves the revision forward.
    pub(crate) fn reach(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// The host is alive, has been since the revision `created`, and said this about itself in `version`.
    pub(crate) fn put_host(&mut self, host: Arc<Host>, created: u64, version: u64, now_ms: u64) {
        match self.hosts.get_mut(&host.id) {
            Some(known) => {
                let is_restarted = known.host.incarnation != host.incarnation;
                if known.lost_since_ms.is_some() || is_restarted {
                    known.joined = if is_restarted { version } else { created };
                    known.joined_ms = now_ms;
                }
                known.returned_from_ms = known.lost_since_ms.take().or(known.returned_from_ms);
                known.version = known.version.max(version);
                known.host = host;
            }
            None => {
                let mut state = empty(host, version, None);
                state.joined = created;
                state.joined_ms = now_ms;
                self.hosts.insert(state.host.id.clone(), state);
            }
        }
    }

    /// The host is (still) not there; `host` is what it last said about itself. The moment it was first missed is kept.
    #[cfg(feature = "remote")]
    pub(crate) fn put_lost_host(&mut self, host: Arc<Host>, version: u64, now_ms: u64) {
        match self.hosts.get_mut(&host.id) {
            Some(known) => {
                known.lost_since_ms = known.lost_since_ms.or(Some(now_ms));
                known.version = known.version.max(version);
                known.host = host;
            }
            None => {
                let state = empty(host, version, Some(now_ms));
                self.hosts.insert(state.host.id.clone(), state);
            }
        }
    }

    /// The host has vanished. Unknown hosts stay unknown.
    pub(crate) fn lose_host(&mut self, id: &HostId, version: u64, now_ms: u64) {
        if let Some(known) = self.hosts.get_mut(id) {
            known.lost_since_ms = known.lost_since_ms.or(Some(now_ms));
            known.version = known.version.max(version);
        }
    }

    /// Takes over from an earlier state what only observers know: since when hosts are lost or there.
    #[cfg(feature = "remote")]
    pub(crate) fn remember(&mut self, earlier: &Self) {
        let known: Vec<HostId> = self.hosts.keys().cloned().collect();
        for id in known {
            let (Some(before), Some(now)) = (earlier.hosts.get(&id), self.hosts.get_mut(&id))
            else {
                continue;
            };
            match (now.lost_since_ms, before.lost_since_ms) {
                (Some(_), Some(since)) => now.lost_since_ms = Some(since),
                (None, Some(since)) => now.returned_from_ms = Some(since),
                (None, None) if now.host.incarnation == before.host.incarnation => {
                    now.joined = before.joined;
                    now.joined_ms = before.joined_ms;
                    now.returned_from_ms = before.returned_from_ms;
                }
                (Some(_) | None, None) => {}
            }
        }
    }

    /// Forgets a host; if jobs are placed on it, it stays as a lost one, so that they have a host.
    pub(crate) fn remove_host(&mut self, id: &HostId, version: u64, now_ms: u64) {
        if self.hosts.get(id).is_some_and(|host| host.jobs.is_empty()) {
            self.hosts.remove(id);
        } else {
            self.lose_host(id, version, now_ms);
        }
    }

    /// Something about the host's placements changed in `version`.
    pub(crate) fn touch_host(&mut self, id: &HostId, version: u64) {
        if let Some(host) = self.hosts.get_mut(id) {
            host.version = host.version.max(version);
        }
    }

    pub(crate) fn put_group(&mut self, group: Arc<Group>, version: u64) {
        self.groups.insert(group.id.clone(), Arc::clone(&group));
        self.touch_group(&group.id, version);
    }

    pub(crate) fn remove_group(&mut self, id: &GroupId, version: u64) {
        self.groups.remove(id);
        let before = self.notes.remove(id);
        self.nominated.change(id, before.as_deref(), None);
        self.touch_group(id, version);
    }

    /// Something about the group or its placements changed in `version`. A group that neither exists nor has jobs has
    /// no version.
    pub(crate) fn touch_group(&mut self, id: &GroupId, version: u64) {
        if self.groups.contains_key(id) || self.jobs_by_group.contains_key(id) {
            let now = self.group_version(id).max(version);
            self.group_versions.insert(id.clone(), now);
        } else {
            self.group_versions.remove(id);
        }
    }

    /// Writes a note; the default is none.
    pub(crate) fn put_note(&mut self, group: &GroupId, status: Arc<GroupStatus>) {
        let before = self.notes.get(group).map(AsRef::as_ref);
        self.nominated.change(group, before, Some(&status));
        if *status == GroupStatus::default() {
            self.notes.remove(group);
        } else {
            self.notes.insert(group.clone(), status);
        }
    }

    /// Writes what a job should be; what its host said of it stays, if the job is known.
    pub(crate) fn put_job(&mut self, mut job: Arc<Job>, version: u64, now_ms: u64) {
        let mut reported = 0;
        if let Some(known) = self.jobs.get(&job.id) {
            reported = known.reported;
            if job.status != known.job.status {
                let status = known.job.status.clone();
                Arc::make_mut(&mut job).status = status;
            }
            self.unlink(&job.id);
        }
        self.link(job, reported, version, now_ms);
    }

    /// Puts a job that is in no index into all of them.
    fn link(&mut self, mut job: Arc<Job>, reported: u64, version: u64, now_ms: u64) {
        self.count_in(&mut job, version, now_ms);
        if let Some(host) = self.hosts.get_mut(&job.host) {
            host.jobs.insert(job.id.clone());
        }
        self.jobs_by_group
            .entry(job.group.clone())
            .or_default()
            .insert(job.id.clone());
        let entry = JobEntry {
            job,
            reported,
            #[cfg(feature = "remote")]
            version,
        };
        self.jobs.insert(entry.job.id.clone(), entry);
    }

    /// Counts a job that is in no index in all sums. Its host is known afterwards.
    pub(crate) fn count_in(&mut self, job: &mut Arc<Job>, version: u64, now_ms: u64) {
        if let Some(group) = self.groups.get(&job.group)
            && !Arc::ptr_eq(&job.spec, &group.spec)
            && job.spec == group.spec
        {
            // A cell of many equal jobs keeps one description.
            let spec = Arc::clone(&group.spec);
            Arc::make_mut(job).spec = spec;
        }
        let host = match self.hosts.get_mut(&job.host) {
            Some(host) => host,
            None => {
                let unknown = Arc::new(unknown_host(job.host.clone()));
                let lost = empty(unknown, version, Some(now_ms));
                self.hosts.entry(job.host.clone()).or_insert(lost)
            }
        };
        host.version = host.version.max(version);
        let is_live = !job.status.phase.is_final();
        if is_live {
            host.promised = host.promised.saturating_add(&job.spec.request);
            if !job.spec.named.is_empty() {
                host.promised_named.add(&job.spec.named);
            }
            host.with_ports += u32::from(job.spec.fixed_ports().next().is_some());
            let namespace = &job.spec.namespace;
            match self.usage.get_mut(namespace) {
                Some(usage) => usage.add(&job.spec),
                None => self
                    .usage
                    .entry(namespace.clone())
                    .or_default()
                    .add(&job.spec),
            }
            self.keeping_apart.add(&job.spec, &job.host);
        }
        match self.group_versions.get_mut(&job.group) {
            Some(known) => *known = version.max(*known),
            None => {
                self.group_versions.insert(job.group.clone(), version);
            }
        }
    }

    /// Puts jobs that are in no index, are [counted in](Self::count_in) and of which nobody has reported yet into all
    /// indices: into each in an order in which what lies beside each other in memory is written one after the other.
    pub(crate) fn enlist(&mut self, jobs: Vec<Arc<Job>>) {
        let of_groups = jobs.chunk_by(|a, b| a.group == b.group);
        for of_group in of_groups {
            let ids = self.jobs_by_group.entry(of_group[0].group.clone());
            let ids = ids.or_default();
            for job in of_group {
                ids.insert(job.id.clone());
            }
        }
        let by = |head: fn(&Job) -> u64| {
            let mut order: Vec<(u64, u32)> =
                (0..).zip(&jobs).map(|(n, job)| (head(job), n)).collect();
            order.sort_unstable();
            order.into_iter().map(|(_, n)| &jobs[n as usize])
        };
        let on_hosts: Vec<&Arc<Job>> = by(|job| job.host.head()).collect();
        for on_host in on_hosts.chunk_by(|a, b| a.host == b.host) {
            if let Some(host) = self.hosts.get_mut(&on_host[0].host) {
                for job in on_host {
                    host.jobs.insert(job.id.clone());
                }
            }
        }
        let mut by_id: Vec<&Arc<Job>> = by(|job| job.id.head()).collect();
        for near in by_id.chunks_mut(SCATTERED) {
            scatter(near);
            for job in near {
                debug_assert!(!self.jobs.contains_key(&job.id), "its start was checked");
                let job = Arc::clone(job);
                let entry = JobEntry {
                    job,
                    reported: 0,
                    // No store has written it.
                    #[cfg(feature = "remote")]
                    version: 0,
                };
                self.jobs.insert(entry.job.id.clone(), entry);
            }
        }
    }

    pub(crate) fn remove_job(&mut self, id: &JobId, version: u64) {
        if let Some(job) = self.unlink(id) {
            self.jobs.remove(id);
            self.touch_host(&job.host, version);
            self.touch_group(&job.group, version);
        }
    }

    /// Writes what a host says of a job. Final is final: later reports are dropped. Returns whether anything changed.
    pub(crate) fn put_status(&mut self, id: &JobId, status: JobStatus, version: u64) -> bool {
        let Some(entry) = self.jobs.get_mut(id) else {
            return false;
        };
        if entry.job.status.phase.is_final() {
            return false;
        }
        let is_final = status.phase.is_final();
        entry.reported = version;
        let job = Arc::make_mut(&mut entry.job);
        job.status = status;
        if is_final {
            let (host, spec) = (job.host.clone(), Arc::clone(&job.spec));
            self.release(&host, &spec);
        }
        true
    }

    /// Takes the job out of indices and sums.
    fn unlink(&mut self, id: &JobId) -> Option<Arc<Job>> {
        let job = Arc::clone(&self.jobs.get(id)?.job);
        if let Some(host) = self.hosts.get_mut(&job.host) {
            host.jobs.remove(id);
        }
        if !job.status.phase.is_final() {
            self.release(&job.host, &job.spec);
        }
        if let Some(jobs) = self.jobs_by_group.get_mut(&job.group) {
            jobs.remove(id);
            if jobs.is_empty() {
                self.jobs_by_group.remove(&job.group);
            }
        }
        Some(job)
    }

    /// Takes what a job asked for out of the sums.
    fn release(&mut self, id: &HostId, spec: &JobSpec) {
        if let Some(host) = self.hosts.get_mut(id) {
            host.promised = host.promised.saturating_sub(&spec.request);
            if !spec.named.is_empty() {
                host.promised_named.sub(&spec.named);
            }
            let has_ports = spec.fixed_ports().next().is_some();
            host.with_ports = host.with_ports.saturating_sub(u32::from(has_ports));
        }
        self.keeping_apart.sub(spec, id);
        if let Some(usage) = self.usage.get_mut(&spec.namespace) {
            usage.sub(spec);
            if usage.jobs == 0 {
                self.usage.remove(&spec.namespace);
            }
        }
    }

    pub(crate) fn put_quota(&mut self, quota: Arc<Quota>) {
        self.quotas.insert(quota.namespace.clone(), quota);
    }

    pub(crate) fn remove_quota(&mut self, namespace: &Namespace) {
        self.quotas.remove(namespace);
    }
}

fn empty(host: Arc<Host>, version: u64, lost_since_ms: Option<u64>) -> HostState {
    HostState {
        host,
        version,
        lost_since_ms,
        joined_ms: 0,
        joined: 0,
        returned_from_ms: None,
        promised: Resources::default(),
        promised_named: Named::default(),
        jobs: imbl::OrdSet::new(),
        with_ports: 0,
    }
}

/// Stands for a host that jobs name and nobody knows.
fn unknown_host(id: HostId) -> Host {
    Host::new(id, Resources::default())
}

/// Takes neighbours apart. A tree that is filled strictly in order splits every leaf when it is full and never comes back to
/// the first half; filled like this, its leaves are as full as those of one that is filled in no order at all.
fn scatter<T>(sorted: &mut [T]) {
    let len = sorted.len();
    for n in 0..len {
        sorted.swap(n, (n * STRIDE + STRIDE / 2) % len);
    }
}

/// How many jobs that are neighbours are written in no order.
const SCATTERED: usize = 128;
/// A prime number that is far from all powers of two.
const STRIDE: usize = 47;
