//! The rules: which change fits which state. Pure; the one place that every cell asks.

mod end;
mod evict;
mod nominate;
mod refusal;
mod reserve;
mod spread;
mod start;
mod starting;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Budget, ClusterState, Eviction, GroupId, HostId, Result,
    transaction::{Change, Conflict, Mode, Refused, Transaction},
};

use refusal::{No, NoKind};
use spread::Skews;
use starting::Starting;

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
    /// In [`Mode::AllOrNothing`], the first change that does not fit, as a [`Conflict`](crate::Error::Conflict),
    /// [`GroupChanged`](crate::Error::GroupChanged), [`UnknownHost`](crate::Error::UnknownHost) or
    /// [`Invalid`](crate::Error::Invalid).
    pub fn apply(&self, transaction: &Transaction) -> Result<Applied> {
        let mut applying = Applying {
            before: self,
            state: self.clone(),
            revision: self.revision() + 1,
            transaction,
            closed: BTreeSet::new(),
            incomplete: BTreeSet::new(),
            budgets: BTreeMap::new(),
            skews: Skews::default(),
            starting: Starting::of(self, transaction),
        };
        let mut accepted = Vec::with_capacity(transaction.changes.len());
        let mut refused = Vec::new();
        for (n, change) in transaction.changes.iter().enumerate() {
            match applying.change(n, change) {
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
        applying.write_jobs();
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
    /// Where jobs are that are to be spread strictly.
    skews: Skews,
    starting: Starting,
}

impl Applying<'_> {
    /// Applies the nth change.
    fn change(&mut self, n: usize, change: &Change) -> Result<(), No> {
        if looks_for_jobs(change) || self.starting.is_doubtful(n) {
            self.write_jobs();
        }
        match change {
            Change::Start(_) | Change::ExpectGroup { .. } => {}
            Change::ForgetHost(_) => self.skews.forget_hosts(),
            _ => self.skews.forget(),
        }
        match change {
            Change::Start(job) => self.start(job, self.starting.is_doubtful(n)),
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
            Change::Evict {
                job,
                why: Eviction::Emptying { .. },
            } => self.state.job(job).map(|job| &job.group),
            Change::RemoveGroup(group)
            | Change::ExpectGroup { group, .. }
            | Change::Note { group, .. } => Some(group),
            // Another group's scheduler has proposed it.
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

/// Does it depend on jobs beyond what is promised to them? Of starts, only those that say so in their description.
fn looks_for_jobs(change: &Change) -> bool {
    match change {
        Change::Start(_)
        | Change::PutGroup(_)
        | Change::ExpectGroup { .. }
        | Change::Note { .. }
        | Change::PutQuota(_)
        | Change::RemoveQuota(_) => false,
        Change::Stop(_)
        | Change::Evict { .. }
        | Change::Remove(_)
        | Change::RemoveGroup(_)
        | Change::PutReservation(_)
        | Change::RemoveReservation { .. }
        | Change::ForgetHost(_) => true,
    }
}
