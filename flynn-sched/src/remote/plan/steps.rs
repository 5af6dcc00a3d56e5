//! What each kind of change compares and writes.

use std::{cell::RefCell, collections::BTreeSet, sync::Arc};

use flynn_discovery::backend::Condition;

use crate::{
    ClusterState, Eviction, GroupId, GroupStatus, HostId, Job, JobId, Overstay, Reservation,
    Result,
    remote::{
        keys::CellKey,
        mirror::Mirror,
        plan::Chunk,
        specs::{Descriptions, StoredJob},
    },
    transaction::Change,
};

/// One change as a chunk of its own.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) chunk: Chunk,
    /// The group it is about.
    pub(super) group: Option<GroupId>,
    pub(super) kind: Kind,
}

/// What a step may go beside, apart from what its keys say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Beside any other start.
    Start,
    /// Beside all others: it writes a group that is not there yet, and what is behind it compares that it is.
    Founding,
    /// In its turn among those of its group.
    OfGroup,
    /// In its turn among all: others may rest on it in ways that no key shows.
    Wide,
}

/// Turns changes into steps.
pub(super) struct Planner<'a> {
    pub(super) mirror: &'a Mirror,
    pub(super) after: &'a ClusterState,
    pub(super) guarded: BTreeSet<&'a GroupId>,
    /// Groups that an earlier step writes first of all.
    pub(super) founded: BTreeSet<GroupId>,
    pub(super) descriptions: RefCell<Descriptions>,
}

impl Planner<'_> {
    /// One change as a step. To be asked in the order of the transaction.
    pub(super) fn step(&mut self, change: &Change, place: usize) -> Result<Step> {
        let mut chunk = Chunk {
            changes: vec![place],
            ..Chunk::default()
        };
        let group = self.fill(&mut chunk, change)?;
        let kind = self.kind(change);
        if kind == Kind::Founding
            && let Some(group) = &group
        {
            self.founded.insert(group.clone());
        }
        Ok(Step { chunk, group, kind })
    }

    fn kind(&self, change: &Change) -> Kind {
        match change {
            Change::Start(job) => {
                // One of this name is removed, or one that it is to be near is started, by an earlier step.
                let is_known = self.mirror.state.job(&job.id).is_some();
                if is_known || !self.is_near_known(job) {
                    Kind::Wide
                } else {
                    Kind::Start
                }
            }
            Change::PutGroup(group) => {
                let is_new = self
                    .mirror
                    .version(&CellKey::Group(group.id.clone()))
                    .is_none();
                let stays = self.after.group(&group.id).is_some();
                if is_new && stays && !self.guarded.contains(&group.id) {
                    Kind::Founding
                } else {
                    Kind::OfGroup
                }
            }
            // What it gives back, of a quota or of a place that was kept apart, others may take.
            Change::Remove(id)
                if self
                    .mirror
                    .state
                    .job(id)
                    .is_some_and(|job| !job.status.phase.is_final()) =>
            {
                Kind::Wide
            }
            Change::Stop(_)
            | Change::Remove(_)
            | Change::RemoveGroup(_)
            | Change::Note { .. }
            | Change::ExpectGroup { .. } => Kind::OfGroup,
            Change::Evict { .. }
            | Change::ForgetHost(_)
            | Change::PutReservation(_)
            | Change::RemoveReservation { .. }
            | Change::PutQuota(_)
            | Change::RemoveQuota(_) => Kind::Wide,
        }
    }

    /// Fills in what the change compares and writes; gives the group it is about.
    fn fill(&self, step: &mut Chunk, change: &Change) -> Result<Option<GroupId>> {
        let group = match change {
            Change::Start(job) => {
                self.start(step, job)?;
                Some(job.group.clone())
            }
            Change::Stop(id) => self.rewrite(step, id)?,
            Change::Evict { job, why } => {
                let group = self.rewrite(step, job)?;
                if let (Some(group), Eviction::Preempted { by, .. }) = (&group, why) {
                    // The budget rests on the group and its placements, the right to preempt on both groups.
                    step.expect(self.mirror, CellKey::Group(group.clone()));
                    step.expect(self.mirror, CellKey::GroupSeq(group.clone()));
                    step.expect(self.mirror, CellKey::Group(by.clone()));
                    self.guard(step, by);
                } else if let (Some(group), Eviction::Emptying { .. }) = (&group, why) {
                    self.emptying(step, group, job);
                } else if let (Some(group), Eviction::Overstayed(overstay)) = (&group, why) {
                    let Overstay {
                        by, reservation, ..
                    } = &**overstay;
                    self.overstayed(step, group, job);
                    step.expect(self.mirror, CellKey::Reservation(reservation.clone()));
                    step.expect(self.mirror, CellKey::Group(by.clone()));
                    self.guard(step, by);
                }
                group
            }
            Change::Remove(id) => match self.mirror.state.job(id) {
                Some(job) => {
                    if !job.status.phase.is_final() {
                        step.compares
                            .insert(CellKey::Host(job.host.clone()), Condition::Absent);
                    }
                    self.touch(step, &job.host, &job.group);
                    step.delete(CellKey::Job(job.host.clone(), job.id.clone()));
                    step.delete(CellKey::Status(job.host.clone(), job.id.clone()));
                    Self::free_id(step, id);
                    Some(job.group.clone())
                }
                None => None,
            },
            Change::PutGroup(group) => {
                step.put(CellKey::Group(group.id.clone()), group)?;
                self.guard(step, &group.id);
                Some(group.id.clone())
            }
            Change::RemoveGroup(group) => {
                step.delete(CellKey::Group(group.clone()));
                step.delete(CellKey::Note(group.clone()));
                self.touch_group(step, group);
                Some(group.clone())
            }
            Change::Note { group, status } => {
                step.compares
                    .insert(CellKey::Group(group.clone()), Condition::Present);
                self.guard(step, group);
                if self.after.group_version(group) > self.mirror.state.group_version(group) {
                    // Its nominations have changed, or its placements.
                    step.touch(CellKey::GroupSeq(group.clone()));
                }
                if **status == GroupStatus::default() {
                    step.delete(CellKey::Note(group.clone()));
                } else {
                    step.put(CellKey::Note(group.clone()), status)?;
                }
                Some(group.clone())
            }
            Change::ForgetHost(id) => {
                step.compares
                    .insert(CellKey::Host(id.clone()), Condition::Absent);
                step.expect(self.mirror, CellKey::HostSeq(id.clone()));
                step.delete(CellKey::Known(id.clone()));
                step.delete(CellKey::HostSeq(id.clone()));
                None
            }
            Change::PutReservation(reservation) => {
                self.put_reservation(step, reservation)?;
                None
            }
            Change::RemoveReservation { id, .. } => {
                if let Some(known) = self.mirror.state.reservation(id)
                    && self.after.reservation(id).is_none()
                {
                    let key = CellKey::Reservation(id.clone());
                    step.expect(self.mirror, key.clone());
                    step.delete(key);
                    self.touch_hosts(step, known);
                }
                None
            }
            Change::PutQuota(quota) => {
                step.put(CellKey::Quota(quota.namespace.clone()), quota)?;
                None
            }
            Change::RemoveQuota(namespace) => {
                step.delete(CellKey::Quota(namespace.clone()));
                step.delete(CellKey::QuotaSeq(namespace.clone()));
                None
            }
            Change::ExpectGroup { .. } => None,
        };
        Ok(group)
    }

    fn start(&self, step: &mut Chunk, job: &Arc<Job>) -> Result<()> {
        step.expect(self.mirror, CellKey::Host(job.host.clone()));
        step.expect(self.mirror, CellKey::HostSeq(job.host.clone()));
        self.touch(step, &job.host, &job.group);
        self.neighbours(step, job);
        self.take_id(step, &job.id);
        if self.founded.contains(&job.group) {
            // Without it the job would be an orphan, and be stopped.
            step.compares
                .insert(CellKey::Group(job.group.clone()), Condition::Present);
        }
        let namespace = &job.spec.namespace;
        step.expect(self.mirror, CellKey::Quota(namespace.clone()));
        if self.after.quota(namespace).is_some() {
            // Placements of a namespace with a quota take turns, or two of them could share its last room.
            step.expect(self.mirror, CellKey::QuotaSeq(namespace.clone()));
            step.touch(CellKey::QuotaSeq(namespace.clone()));
        }
        // With the one description that the state shares.
        match self.after.job(&job.id) {
            Some(job) => self.put_job(step, job)?,
            None => step.delete(CellKey::Job(job.host.clone(), job.id.clone())),
        }
        Ok(())
    }

    /// The budget rests on the group and its placements, the right to evict on what a host says of itself: the job's own,
    /// or that of another of its gang.
    fn emptying(&self, step: &mut Chunk, group: &GroupId, job: &JobId) {
        step.expect(self.mirror, CellKey::Group(group.clone()));
        step.expect(self.mirror, CellKey::GroupSeq(group.clone()));
        let state = &self.mirror.state;
        let mut all = state.job(job).into_iter().chain(state.jobs_of(group));
        if let Some(pressed) = all.find(|job| state.is_pressed(job)) {
            step.expect(self.mirror, CellKey::Host(pressed.host.clone()));
        }
    }

    /// The budget rests on the group and its placements, and that it has no room of its own on what is reserved there.
    fn overstayed(&self, step: &mut Chunk, group: &GroupId, job: &JobId) {
        step.expect(self.mirror, CellKey::Group(group.clone()));
        step.expect(self.mirror, CellKey::GroupSeq(group.clone()));
        if let Some(job) = self.mirror.state.job(job) {
            step.expect(self.mirror, CellKey::HostSeq(job.host.clone()));
        }
    }

    /// Reservations and starts on one host take turns, or two of them could take its last room.
    fn put_reservation(&self, step: &mut Chunk, reservation: &Reservation) -> Result<()> {
        let key = CellKey::Reservation(reservation.id.clone());
        step.expect(self.mirror, key.clone());
        for host in reservation.claims.keys() {
            step.expect(self.mirror, CellKey::Host(host.clone()));
            step.expect(self.mirror, CellKey::HostSeq(host.clone()));
        }
        if let Some(known) = self.mirror.state.reservation(&reservation.id) {
            self.touch_hosts(step, known);
        }
        self.touch_hosts(step, reservation);
        // As the transaction leaves it.
        match self.after.reservation(&reservation.id) {
            Some(last) => step.put(key, last),
            None => {
                step.delete(key);
                Ok(())
            }
        }
    }

    fn touch_hosts(&self, step: &mut Chunk, reservation: &Reservation) {
        for host in reservation.claims.keys() {
            if self.after.host(host).is_some() {
                step.touch(CellKey::HostSeq(host.clone()));
            }
        }
    }

    /// Writes what an existing job should be by now; gives its group, or `None` if there is nothing to write: it is gone,
    /// stopping already, or was started by this very transaction and is written as it ended.
    fn rewrite(&self, step: &mut Chunk, id: &JobId) -> Result<Option<GroupId>> {
        let Some(job) = self.mirror.state.job(id).filter(|job| !job.is_stopping) else {
            return Ok(None);
        };
        let key = CellKey::Job(job.host.clone(), job.id.clone());
        step.expect(self.mirror, key.clone());
        self.touch(step, &job.host, &job.group);
        match self.after.job(id) {
            Some(job) => self.put_job(step, job)?,
            None => step.delete(key),
        }
        Ok(Some(job.group.clone()))
    }

    /// Writes what a job should be, and its description with it.
    fn put_job(&self, step: &mut Chunk, job: &Job) -> Result<()> {
        let (hash, json) = self.descriptions.borrow_mut().of(&job.spec)?;
        step.put_bytes(CellKey::Spec(hash), json);
        let key = CellKey::Job(job.host.clone(), job.id.clone());
        step.put(key, &StoredJob::of(job, hash))
    }

    /// The placements of this host and group change.
    fn touch(&self, step: &mut Chunk, host: &HostId, group: &GroupId) {
        if self.after.host(host).is_some() {
            step.touch(CellKey::HostSeq(host.clone()));
        }
        self.touch_group(step, group);
    }

    fn touch_group(&self, step: &mut Chunk, group: &GroupId) {
        self.guard(step, group);
        if self.after.group_version(group) > 0 {
            step.touch(CellKey::GroupSeq(group.clone()));
        } else {
            step.delete(CellKey::GroupSeq(group.clone()));
        }
    }

    fn guard(&self, step: &mut Chunk, group: &GroupId) {
        if self.guarded.contains(group) {
            step.expect(self.mirror, CellKey::Group(group.clone()));
            step.expect(self.mirror, CellKey::GroupSeq(group.clone()));
        }
    }
}
