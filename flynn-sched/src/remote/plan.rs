//! From accepted changes to compares and ops of the store. Pure.

mod chosen;
mod neighbours;
mod sweep;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
};

use bytes::Bytes;
use flynn_discovery::backend::{Compare, Condition, Key, MAX_OPS, Op, Revision};
use serde::Serialize;

use crate::{
    ClusterState, Error, Eviction, GroupId, GroupStatus, HostId, Job, JobId, Reservation, Result,
    Transaction,
    remote::{
        keys::CellKey,
        mirror::Mirror,
        specs::{Descriptions, StoredJob},
    },
    transaction::{Applied, Change, Mode},
};

/// One commit of the store: part of a transaction, or all of it.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// What must hold, as the mirror has it.
    compares: BTreeMap<CellKey, Condition>,
    ops: BTreeMap<CellKey, Option<Bytes>>,
    bytes: usize,
    /// The changes it carries out.
    pub(super) changes: Vec<Change>,
}

/// How large a chunk may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Compares and ops together.
    pub(super) ops: usize,
    /// Bytes of values.
    pub(super) bytes: usize,
}

impl Limits {
    /// What the store takes, and what does not hold up its other writers for long.
    pub(super) const STORE: Self = Self {
        ops: MAX_OPS,
        bytes: 1 << 20,
    };
}

/// What earlier chunks of the same transaction wrote.
#[derive(Debug, Clone, Default)]
pub(super) struct Written(BTreeMap<CellKey, Condition>);

impl Chunk {
    fn len(&self) -> usize {
        self.compares.len() + self.ops.len()
    }

    fn fits(&self, other: &Self, limits: Limits) -> bool {
        self.len() + other.len() <= limits.ops && self.bytes + other.bytes <= limits.bytes
    }

    fn absorb(&mut self, other: Self) {
        for (key, condition) in other.compares {
            // All compares are looked at before anything is written: what the mirror says holds for keys that this chunk
            // writes, too. Only that something is there may be the chunk's own doing.
            let is_put_here = matches!(self.ops.get(&key), Some(Some(_)));
            if condition == Condition::Present && is_put_here {
                continue;
            }
            match self.compares.entry(key) {
                Entry::Occupied(mut known) if *known.get() == Condition::Present => {
                    known.insert(condition);
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(unknown) => {
                    unknown.insert(condition);
                }
            }
        }
        for (key, value) in other.ops {
            self.bytes += value.as_ref().map_or(0, Bytes::len);
            if let Some(Some(before)) = self.ops.insert(key, value) {
                self.bytes -= before.len();
            }
        }
        self.changes.extend(other.changes);
    }

    fn put(&mut self, key: CellKey, value: &impl Serialize) -> Result<()> {
        let value = serde_json::to_vec(value).map_err(|error| Error::Invalid {
            what: key.to_string(),
            why: error.to_string(),
        })?;
        self.put_bytes(key, value.into());
        Ok(())
    }

    fn put_bytes(&mut self, key: CellKey, value: Bytes) {
        self.bytes += value.len();
        self.ops.insert(key, Some(value));
    }

    fn touch(&mut self, key: CellKey) {
        self.ops.insert(key, Some(Bytes::new()));
    }

    fn delete(&mut self, key: CellKey) {
        self.ops.insert(key, None);
    }

    fn expect(&mut self, mirror: &Mirror, key: CellKey) {
        let condition = mirror
            .version(&key)
            .map_or(Condition::Absent, Condition::Version);
        self.compares.insert(key, condition);
    }

    /// As the store wants it.
    pub(super) fn prepared(&self, written: &Written) -> Result<(Vec<Compare>, Vec<Op>)> {
        let compare = |(key, condition): (&CellKey, &Condition)| {
            let condition = match (condition, written.0.get(key)) {
                // As this transaction left it.
                (Condition::Version(_) | Condition::Absent, Some(written)) => *written,
                (condition, _) => *condition,
            };
            Ok(Compare {
                condition,
                key: key.key()?,
            })
        };
        let compares: Result<_> = self.compares.iter().map(compare).collect();
        let op = |(key, value): (&CellKey, &Option<Bytes>)| {
            let key: Key = key.key()?;
            Ok(match value {
                Some(value) => Op::put(key, value.clone()),
                None => Op::delete(key),
            })
        };
        let ops: Result<_> = self.ops.iter().map(op).collect();
        Ok((compares?, ops?))
    }

    /// Remembers what the chunk wrote, after it was carried out.
    pub(super) fn record(&self, revision: Revision, written: &mut Written) {
        for (key, value) in &self.ops {
            let condition = match value {
                Some(_) => Condition::Version(revision),
                None => Condition::Absent,
            };
            written.0.insert(key.clone(), condition);
        }
    }
}

/// The chunks that carry out what was accepted. Changes of one group stay together where they fit into one chunk.
pub(super) fn plan(
    mirror: &Mirror,
    transaction: &Transaction,
    applied: &Applied,
    limits: Limits,
) -> Result<Vec<Chunk>> {
    let guarded: BTreeSet<&GroupId> = transaction
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::ExpectGroup { group, .. } => Some(group),
            _ => None,
        })
        .collect();
    let planner = Planner {
        mirror,
        after: &applied.state,
        guarded,
        descriptions: RefCell::default(),
    };
    let mut steps = applied
        .accepted
        .iter()
        .map(|change| planner.step(change))
        .collect::<Result<Vec<_>>>()?;
    compare_what_is_written(mirror, &mut steps);
    let sweep = planner.sweep(&applied.accepted, steps.iter().map(|(_, step)| step));
    let mut chunks = vec![Chunk::default()];
    let mut bundle: Vec<Chunk> = Vec::new();
    let mut bundle_group: Option<GroupId> = None;
    for (group, step) in steps {
        if group != bundle_group {
            pack(&mut chunks, std::mem::take(&mut bundle), limits);
            bundle_group = group;
        }
        bundle.push(step);
    }
    pack(&mut chunks, bundle, limits);
    if let Some(sweep) = sweep {
        // Left for a later time where it would make one commit two.
        let is_whole = transaction.mode == Mode::AllOrNothing;
        if !is_whole || chunks.last().is_some_and(|last| last.fits(&sweep, limits)) {
            pack(&mut chunks, vec![sweep], limits);
        }
    }
    chunks.retain(|chunk| chunk.len() > 0);
    Ok(chunks)
}

/// What one step compares and another writes, the other compares as well. A later part of the transaction takes the key
/// as this transaction left it: if the writing part had not compared it, what others wrote in between would go unnoticed.
fn compare_what_is_written(mirror: &Mirror, steps: &mut [(Option<GroupId>, Chunk)]) {
    let compared: BTreeSet<CellKey> = steps
        .iter()
        .flat_map(|(_, step)| &step.compares)
        .filter(|(_, condition)| **condition != Condition::Present)
        .map(|(key, _)| key.clone())
        .collect();
    for (_, step) in steps {
        let written: Vec<CellKey> = step
            .ops
            .keys()
            .filter(|key| compared.contains(key))
            .filter(|key| {
                step.compares
                    .get(key)
                    .is_none_or(|known| *known == Condition::Present)
            })
            .cloned()
            .collect();
        for key in written {
            step.expect(mirror, key);
        }
    }
}

fn pack(chunks: &mut Vec<Chunk>, bundle: Vec<Chunk>, limits: Limits) {
    let mut whole = Chunk::default();
    let mut parts = Vec::new();
    for step in bundle {
        if !whole.fits(&step, limits) {
            parts.push(std::mem::take(&mut whole));
        }
        whole.absorb(step);
    }
    parts.push(whole);
    for part in parts {
        match chunks.last_mut() {
            Some(last) if last.fits(&part, limits) => last.absorb(part),
            _ => chunks.push(part),
        }
    }
}

struct Planner<'a> {
    mirror: &'a Mirror,
    after: &'a ClusterState,
    guarded: BTreeSet<&'a GroupId>,
    descriptions: RefCell<Descriptions>,
}

impl Planner<'_> {
    /// One change as a chunk of its own, and the group it is about.
    fn step(&self, change: &Change) -> Result<(Option<GroupId>, Chunk)> {
        let mut step = Chunk {
            changes: vec![change.clone()],
            ..Chunk::default()
        };
        let group = match change {
            Change::Start(job) => {
                step.expect(self.mirror, CellKey::Host(job.host.clone()));
                step.expect(self.mirror, CellKey::HostSeq(job.host.clone()));
                self.touch(&mut step, &job.host, &job.group);
                self.neighbours(&mut step, job);
                self.take_id(&mut step, &job.id);
                let namespace = &job.spec.namespace;
                step.expect(self.mirror, CellKey::Quota(namespace.clone()));
                if self.after.quota(namespace).is_some() {
                    // Placements of a namespace with a quota take turns, or two of them could share its last room.
                    step.expect(self.mirror, CellKey::QuotaSeq(namespace.clone()));
                    step.touch(CellKey::QuotaSeq(namespace.clone()));
                }
                // With the one description that the state shares.
                match self.after.job(&job.id) {
                    Some(job) => self.put_job(&mut step, job)?,
                    None => step.delete(CellKey::Job(job.host.clone(), job.id.clone())),
                }
                Some(job.group.clone())
            }
            Change::Stop(id) => self.rewrite(&mut step, id)?,
            Change::Evict { job, why } => {
                let group = self.rewrite(&mut step, job)?;
                if let (Some(group), Eviction::Preempted { by, .. }) = (&group, why) {
                    // The budget rests on the group and its placements, the right to preempt on both groups.
                    step.expect(self.mirror, CellKey::Group(group.clone()));
                    step.expect(self.mirror, CellKey::GroupSeq(group.clone()));
                    step.expect(self.mirror, CellKey::Group(by.clone()));
                    self.guard(&mut step, by);
                } else if let (Some(group), Eviction::Emptying { .. }) = (&group, why) {
                    self.emptying(&mut step, group, job);
                } else if let (
                    Some(group),
                    Eviction::Overstayed {
                        by, reservation, ..
                    },
                ) = (&group, why)
                {
                    self.overstayed(&mut step, group, job);
                    step.expect(self.mirror, CellKey::Reservation(reservation.clone()));
                    step.expect(self.mirror, CellKey::Group(by.clone()));
                    self.guard(&mut step, by);
                }
                group
            }
            Change::Remove(id) => match self.mirror.state.job(id) {
                Some(job) => {
                    if !job.status.phase.is_final() {
                        step.compares
                            .insert(CellKey::Host(job.host.clone()), Condition::Absent);
                    }
                    self.touch(&mut step, &job.host, &job.group);
                    step.delete(CellKey::Job(job.host.clone(), job.id.clone()));
                    step.delete(CellKey::Status(job.host.clone(), job.id.clone()));
                    Self::free_id(&mut step, id);
                    Some(job.group.clone())
                }
                None => None,
            },
            Change::PutGroup(group) => {
                step.put(CellKey::Group(group.id.clone()), group)?;
                self.guard(&mut step, &group.id);
                Some(group.id.clone())
            }
            Change::RemoveGroup(group) => {
                step.delete(CellKey::Group(group.clone()));
                step.delete(CellKey::Note(group.clone()));
                self.touch_group(&mut step, group);
                Some(group.clone())
            }
            Change::Note { group, status } => {
                step.compares
                    .insert(CellKey::Group(group.clone()), Condition::Present);
                self.guard(&mut step, group);
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
                self.put_reservation(&mut step, reservation)?;
                None
            }
            Change::RemoveReservation { id, .. } => {
                if let Some(known) = self.mirror.state.reservation(id)
                    && self.after.reservation(id).is_none()
                {
                    let key = CellKey::Reservation(id.clone());
                    step.expect(self.mirror, key.clone());
                    step.delete(key);
                    self.touch_hosts(&mut step, known);
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
        Ok((group, step))
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
