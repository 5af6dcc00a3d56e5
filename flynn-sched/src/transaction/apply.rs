//! The rules: which change fits which state. Pure; the one place that every cell asks.

mod evict;
mod nominate;
mod reserve;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Budget, ClusterState, Constraint, Error, GroupId, Host, HostId, Job, JobId, Namespace, Result,
    Taint, TaintEffect,
    transaction::{Change, Conflict, Mode, Refused, Transaction},
};

/// What applying a transaction to a state gives.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The state after it, one revision later if anything was accepted.
    pub state: ClusterState,
    /// What was applied, in order, without the guards.
    pub accepted: Vec<Change>,
    /// What was not.
    pub refused: Vec<Refused>,
}

impl ClusterState {
    /// Applies a transaction: all or nothing, or as much as fits, as its mode says.
    ///
    /// `self` need not be the snapshot that the transaction was made from; what happened in between is what conflicts
    /// are about.
    ///
    /// # Errors
    ///
    /// In [`Mode::AllOrNothing`], the first change that does not fit: [`Error::Conflict`], [`Error::GroupChanged`],
    /// [`Error::UnknownHost`] or [`Error::Invalid`].
    pub fn apply(&self, transaction: &Transaction) -> Result<Applied> {
        let mut applying = Applying {
            before: self,
            state: self.clone(),
            revision: self.revision() + 1,
            transaction,
            closed: BTreeSet::new(),
            incomplete: BTreeSet::new(),
            budgets: BTreeMap::new(),
        };
        let mut accepted = Vec::with_capacity(transaction.changes.len());
        let mut refused = Vec::new();
        for change in &transaction.changes {
            match applying.change(change) {
                Ok(()) if matches!(change, Change::ExpectGroup { .. }) => {}
                Ok(()) => accepted.push(change.clone()),
                Err(no) if transaction.mode == Mode::AllOrNothing => {
                    return Err(no.into_error(change));
                }
                Err(no) => {
                    applying.remember_refusal(change);
                    refused.push(Refused {
                        change: change.clone(),
                        is_conflict: no.is_conflict(),
                        host: no.host,
                        why: no.why,
                    });
                }
            }
        }
        let mut state = applying.state;
        if !accepted.is_empty() {
            state.reach(self.revision() + 1);
        }
        Ok(Applied {
            state,
            accepted,
            refused,
        })
    }
}

/// Why not.
struct No {
    host: Option<HostId>,
    kind: NoKind,
    why: String,
}

#[derive(PartialEq, Eq)]
enum NoKind {
    /// The cell has moved on.
    Conflict,
    /// The group has moved on.
    Group(GroupId),
    /// The namespace has no room.
    Quota(Namespace),
    /// There is no such host.
    Unknown,
    /// The change is wrong in itself.
    Invalid,
}

impl No {
    fn conflict(host: &HostId, why: impl Into<String>) -> Self {
        Self {
            host: Some(host.clone()),
            kind: NoKind::Conflict,
            why: why.into(),
        }
    }

    fn group(group: &GroupId, why: impl Into<String>) -> Self {
        Self {
            host: None,
            kind: NoKind::Group(group.clone()),
            why: why.into(),
        }
    }

    fn invalid(why: impl Into<String>) -> Self {
        Self {
            host: None,
            kind: NoKind::Invalid,
            why: why.into(),
        }
    }

    fn is_conflict(&self) -> bool {
        self.kind != NoKind::Invalid
    }

    fn into_error(self, change: &Change) -> Error {
        match (self.kind, self.host) {
            (NoKind::Conflict, Some(host)) => Error::Conflict {
                host,
                why: self.why,
            },
            (NoKind::Unknown, Some(host)) => Error::UnknownHost { host },
            (NoKind::Group(group), _) => Error::GroupChanged {
                group,
                why: self.why,
            },
            (NoKind::Quota(namespace), _) => Error::QuotaExceeded {
                namespace,
                why: self.why,
            },
            (NoKind::Conflict | NoKind::Unknown | NoKind::Invalid, _) => Error::Invalid {
                what: change.subject(),
                why: self.why,
            },
        }
    }
}

impl Change {
    /// What the change is about, for messages.
    fn subject(&self) -> String {
        match self {
            Self::Start(job) => format!("start of job {}", job.id),
            Self::Stop(job) => format!("stop of job {job}"),
            Self::Evict { job, .. } => format!("eviction of job {job}"),
            Self::Remove(job) => format!("removal of job {job}"),
            Self::PutGroup(group) => format!("group {}", group.id),
            Self::RemoveGroup(group) => format!("removal of group {group}"),
            Self::ExpectGroup { group, .. } => format!("guard of group {group}"),
            Self::Note { group, .. } => format!("note of group {group}"),
            Self::PutQuota(quota) => format!("quota of namespace {}", quota.namespace),
            Self::RemoveQuota(namespace) => format!("removal of the quota of {namespace}"),
            Self::PutReservation(reservation) => format!("reservation {}", reservation.id),
            Self::RemoveReservation { id, .. } => format!("removal of reservation {id}"),
            Self::ForgetHost(host) => format!("forgetting host {host}"),
        }
    }
}

struct Applying<'t> {
    before: &'t ClusterState,
    state: ClusterState,
    revision: u64,
    transaction: &'t Transaction,
    /// Groups whose guard failed.
    closed: BTreeSet<GroupId>,
    /// Groups of which a change was refused: what is noted of them would not be true.
    incomplete: BTreeSet<GroupId>,
    /// Of groups whose jobs were preempted, as long as nothing else was changed about them.
    budgets: BTreeMap<GroupId, Budget>,
}

impl Applying<'_> {
    fn change(&mut self, change: &Change) -> Result<(), No> {
        match change {
            Change::Start(job) => self.start(job),
            Change::Stop(id) => self.stop(id),
            Change::Evict { job, why } => self.evict(job, why),
            Change::Remove(id) => self.remove(id),
            Change::PutGroup(group) => {
                self.open(&group.id)?;
                self.budgets.remove(&group.id);
                self.state.put_group(Arc::clone(group), self.revision);
                Ok(())
            }
            Change::RemoveGroup(group) => {
                self.open(group)?;
                self.budgets.remove(group);
                self.state.remove_group(group, self.revision);
                Ok(())
            }
            Change::ExpectGroup { group, version } => {
                if self.before.group_version(group) == *version {
                    return Ok(());
                }
                self.closed.insert(group.clone());
                self.open(group)
            }
            Change::Note { group, status } => {
                self.open(group)?;
                if self.state.group(group).is_none() {
                    return Err(No::invalid("there is no such group"));
                }
                if self.incomplete.contains(group) {
                    return Err(No::group(group, "it tells of changes that were refused"));
                }
                let known = self.state.group_status(group);
                let has_moved = known.is_some_and(|known| known.nominated != status.nominated)
                    || known.is_none() && !status.nominated.is_empty();
                self.state.put_note(group, Arc::clone(status));
                if has_moved {
                    // Two schedulers must not both make room for the same jobs.
                    self.state.touch_group(group, self.revision);
                }
                Ok(())
            }
            Change::PutQuota(quota) => {
                self.state.put_quota(Arc::clone(quota));
                Ok(())
            }
            Change::RemoveQuota(namespace) => {
                self.state.remove_quota(namespace);
                Ok(())
            }
            Change::PutReservation(reservation) => self.put_reservation(reservation),
            Change::RemoveReservation { id, ending_by_ms } => {
                self.remove_reservation(id, *ending_by_ms);
                Ok(())
            }
            Change::ForgetHost(id) => self.forget_host(id),
        }
    }

    fn remember_refusal(&mut self, change: &Change) {
        let group = match change {
            Change::Start(job) => Some(&job.group),
            Change::Stop(id) | Change::Remove(id) => self.state.job(id).map(|job| &job.group),
            Change::PutGroup(group) => Some(&group.id),
            Change::RemoveGroup(group)
            | Change::ExpectGroup { group, .. }
            | Change::Note { group, .. } => Some(group),
            // Its group's scheduler has not proposed it.
            Change::Evict { .. }
            | Change::ForgetHost(_)
            | Change::PutQuota(_)
            | Change::RemoveQuota(_)
            | Change::PutReservation(_)
            | Change::RemoveReservation { .. } => None,
        };
        if let Some(group) = group.cloned() {
            self.incomplete.insert(group);
        }
    }

    fn start(&mut self, job: &Arc<Job>) -> Result<(), No> {
        self.open(&job.group)?;
        if let Some(other) = self.state.job(&job.id) {
            return Err(No::invalid(format!(
                "a job with this id exists already on host {}",
                other.host
            )));
        }
        self.unchanged(&job.host)?;
        let Some(host) = self.state.host(&job.host) else {
            return Err(No {
                host: Some(job.host.clone()),
                kind: NoKind::Unknown,
                why: "is not in the cluster".to_owned(),
            });
        };
        if host.lost_since_ms.is_some() {
            return Err(No::conflict(&job.host, "is lost"));
        }
        if host.host.is_draining {
            return Err(No::conflict(&job.host, "is draining"));
        }
        if let Some(why) = &host.host.unhealthy {
            return Err(No::conflict(&job.host, format!("is unhealthy: {why}")));
        }
        let forbids = TaintEffect::forbids_starts;
        if let Some(taint) = Taint::untolerated(&host.host.taints, &job.spec.tolerations, forbids) {
            return Err(No::conflict(
                &job.host,
                format!("has the taint {taint}, which the job does not tolerate"),
            ));
        }
        if let Some(shortage) = host.free().shortage(&job.spec.request) {
            return Err(No::conflict(&job.host, shortage));
        }
        let shortage = || {
            let taken = &host.promised_named;
            host.host.named.shortage(taken, &job.spec.named)
        };
        if !job.spec.named.is_empty()
            && let Some(shortage) = shortage()
        {
            return Err(No::conflict(&job.host, shortage));
        }
        self.held_for_others(job, host)?;
        self.kept_for_more_important(job, host)?;
        self.quota(job)?;
        self.constraints(job, &host.host)?;
        let mut job = Arc::clone(job);
        if job.is_stopping || job.evicted.is_some() {
            return Err(No::invalid("it is to stop already"));
        }
        if job.status != crate::JobStatus::default() {
            // What a host says, only hosts say.
            Arc::make_mut(&mut job).status = crate::JobStatus::default();
        }
        self.budgets.remove(&job.group);
        self.state.start_job(job, self.revision);
        Ok(())
    }

    fn quota(&self, job: &Job) -> Result<(), No> {
        let namespace = &job.spec.namespace;
        let Some(quota) = self.state.quota(namespace) else {
            return Ok(());
        };
        match quota.exceeded(&self.state.usage(namespace), &job.spec) {
            Some(why) => Err(No {
                host: None,
                kind: NoKind::Quota(namespace.clone()),
                why,
            }),
            None => Ok(()),
        }
    }

    fn constraints(&self, job: &Job, host: &Host) -> Result<(), No> {
        for constraint in &job.spec.constraints {
            if !constraint.admits(host) {
                return Err(No::conflict(&host.id, constraint.lack(host)));
            }
            let is_met = match constraint {
                Constraint::Near { jobs, within } => self.state.has_near(host, jobs, within),
                Constraint::Apart { jobs, within } => !self.state.has_near(host, jobs, within),
                Constraint::Tag { .. } | Constraint::Expression(_) | Constraint::DistinctHosts => {
                    true
                }
            };
            if !is_met {
                return Err(No::conflict(&host.id, constraint.lack(host)));
            }
            let is_shared = || {
                self.state
                    .jobs_on(&host.id)
                    .any(|other| other.group == job.group && !other.status.phase.is_final())
            };
            if *constraint == Constraint::DistinctHosts && is_shared() {
                return Err(No::conflict(
                    &host.id,
                    format!("has a job of group {} already", job.group),
                ));
            }
        }
        if self.state.has_repelling()
            && let Some(other) = self.state.repelled_by(host, &job.group)
        {
            return Err(No::conflict(
                &host.id,
                format!("has a job of group {other} near, which keeps it apart"),
            ));
        }
        if job.spec.fixed_ports().next().is_some() {
            let taken = self
                .state
                .jobs_on(&host.id)
                .filter(|other| !other.status.phase.is_final())
                .find_map(|other| job.spec.port_clash(&other.spec).map(|port| (other, port)));
            if let Some((other, port)) = taken {
                return Err(No::conflict(
                    &host.id,
                    format!("port {port} is taken by job {}", other.id),
                ));
            }
        }
        Ok(())
    }

    fn stop(&mut self, id: &JobId) -> Result<(), No> {
        let Some(job) = self.state.job(id).cloned() else {
            return Ok(());
        };
        self.open(&job.group)?;
        self.unchanged(&job.host)?;
        if !job.is_stopping {
            let stopping = Job {
                is_stopping: true,
                ..(*job).clone()
            };
            self.budgets.remove(&job.group);
            self.state.put_job(Arc::new(stopping), self.revision, 0);
        }
        Ok(())
    }

    fn remove(&mut self, id: &JobId) -> Result<(), No> {
        let Some(job) = self.state.job(id).cloned() else {
            return Ok(());
        };
        self.open(&job.group)?;
        self.unchanged(&job.host)?;
        let is_lost = self
            .state
            .host(&job.host)
            .is_none_or(|host| host.lost_since_ms.is_some());
        if !job.status.phase.is_final() && !is_lost {
            return Err(No::conflict(
                &job.host,
                format!("job {id} is not at its end there: stop it first"),
            ));
        }
        self.budgets.remove(&job.group);
        self.state.remove_job(id, self.revision);
        Ok(())
    }

    fn forget_host(&mut self, id: &HostId) -> Result<(), No> {
        let Some(host) = self.state.host(id) else {
            return Ok(());
        };
        if host.lost_since_ms.is_none() {
            return Err(No::conflict(id, "is alive"));
        }
        if !host.jobs.is_empty() {
            return Err(No::conflict(
                id,
                format!("has {} jobs: remove them first", host.jobs.len()),
            ));
        }
        self.state.remove_host(id, self.revision, 0);
        Ok(())
    }

    /// The group's guard, if there is one, has held.
    fn open(&self, group: &GroupId) -> Result<(), No> {
        if self.closed.contains(group) {
            return Err(No::group(
                group,
                "it or its jobs changed since the snapshot",
            ));
        }
        Ok(())
    }

    /// The host has not changed since the snapshot, where that matters.
    fn unchanged(&self, host: &HostId) -> Result<(), No> {
        let changed = || {
            let host = self.before.host(host);
            host.is_some_and(|host| host.version > self.transaction.basis)
        };
        if self.transaction.conflict == Conflict::Sequence && changed() {
            return Err(No::conflict(
                host,
                format!("changed since revision {}", self.transaction.basis),
            ));
        }
        Ok(())
    }
}
