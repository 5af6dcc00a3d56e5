//! Commits on the wire: sent, carried out, answered, or adrift.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use flynn_discovery::backend::{
    Compare, Op, Revision, WatchEvent,
    kv::{Command, KvState},
};

use super::{
    Cell, Trial,
    properties::{bare, facts, is_unfair},
    sameness::print_of,
    schedulers::{Scheduler, Stage},
};
use crate::{
    Eviction, GroupId, JobId,
    remote::{
        mirror::Mirror,
        plan::{Chunk, Written},
    },
    transaction::Change,
};

/// A commit on the wire.
#[derive(Clone)]
pub(super) struct Message {
    /// Tells messages apart.
    pub(super) print: u64,
    compares: Vec<Compare>,
    ops: Vec<Op>,
    starts: Vec<JobId>,
    removes: Vec<JobId>,
    /// Who goes for which group.
    evicts: Vec<(JobId, GroupId)>,
    /// Until when reservations last.
    reserves: Vec<u64>,
}

impl Message {
    /// Does it write a key below this one?
    pub(super) fn writes(&self, prefix: &str) -> bool {
        let is_below =
            |op: &Op| matches!(op, Op::Put { key, .. } if key.as_str().starts_with(prefix));
        self.ops.iter().any(is_below)
    }

    /// Leaves out what it would do.
    pub(super) fn forget(&mut self, which: impl Fn(&Op) -> bool) {
        self.ops.retain(|op| !which(op));
    }
}

impl Cell {
    /// Puts a chunk on the wire.
    pub(super) fn send(
        &mut self,
        n: usize,
        chunks: Arc<Vec<Chunk>>,
        at: usize,
        written: Written,
        t: &Trial,
    ) {
        let chunk = &chunks[at];
        let (mut compares, ops) = chunk.prepared(&written).expect("ids are keys");
        compares.retain(t.keep);
        let changes = chunk.changes.iter();
        let mut message = Message {
            print: {
                let mut hasher = DefaultHasher::new();
                format!("{compares:?} {ops:?}").hash(&mut hasher);
                hasher.finish()
            },
            compares,
            ops,
            starts: changes.clone().filter_map(started).collect(),
            removes: changes.clone().filter_map(removed).collect(),
            evicts: changes.clone().filter_map(evicted).collect(),
            reserves: changes.filter_map(reserved).collect(),
        };
        (t.spoil)(&mut message);
        self.schedulers[n].stage = Stage::Waiting {
            chunks,
            at,
            written,
            message,
        };
    }

    /// Carries out what a scheduler waits for, and tells it.
    pub(super) fn answer(&mut self, n: usize, trial: &Trial) {
        let stage = std::mem::replace(&mut self.schedulers[n].stage, Stage::Behind);
        let Stage::Waiting {
            chunks,
            at,
            mut written,
            message,
        } = stage
        else {
            return;
        };
        let Some(revision) = self.carry_out(&message) else {
            return;
        };
        self.claimed.extend(message.starts);
        self.reserved.extend(message.reserves);
        chunks[at].record(revision, &mut written);
        if at + 1 < chunks.len() {
            self.send(n, chunks, at + 1, written, trial);
        }
    }

    /// The scheduler no longer waits. It may propose again, even from what it saw before.
    pub(super) fn abandon(&mut self, n: usize, trial: &Trial) -> Option<Message> {
        let scheduler = &self.schedulers[n];
        let Stage::Waiting { message, .. } = &scheduler.stage else {
            return None;
        };
        let message = message.clone();
        let (mirror, seen) = (Arc::clone(&scheduler.mirror), scheduler.seen);
        let abandoned = scheduler.abandoned + 1;
        self.schedulers[n] = Scheduler::seeing(n, &mirror, seen, abandoned, trial);
        Some(message)
    }

    pub(super) fn carry_out(&mut self, message: &Message) -> Option<Revision> {
        let revision = self.write(message.compares.clone(), message.ops.clone())?;
        self.removed.extend(message.removes.iter().cloned());
        let mut evicts = message.evicts.iter();
        self.is_unfair |= evicts.any(|(job, by)| is_unfair(self, job, by));
        Some(revision)
    }

    pub(super) fn write(&mut self, compares: Vec<Compare>, ops: Vec<Op>) -> Option<Revision> {
        let done = self.store.apply(Command::Commit { compares, ops });
        done.result.ok()?;
        if let Some((revision, changes)) = done.changes {
            let news = WatchEvent::Changes { changes, revision };
            self.truth = Arc::new(self.truth.after(news, 1));
            self.bare = bare(&self.store).into();
            self.facts = facts(&self.store).into();
            self.print = print_of(&self.store);
        }
        Some(self.store.revision())
    }
}

/// What one who looks now sees.
pub(super) fn seen(store: &KvState) -> Arc<Mirror> {
    let entries = store.entries().cloned().collect();
    let revision = store.revision();
    Arc::new(Mirror::default().after(WatchEvent::Reset { entries, revision }, 1))
}

/// Takes one job out of a commit.
pub(super) fn tear(message: &mut Message) {
    let is_job =
        |op: &Op| matches!(op, Op::Put { key, .. } if key.as_str().starts_with("cell/jobs/"));
    if let Some(at) = message.ops.iter().rposition(is_job) {
        message.ops.remove(at);
    }
}

fn started(change: &Change) -> Option<JobId> {
    match change {
        Change::Start(job) => Some(job.id.clone()),
        _ => None,
    }
}

fn removed(change: &Change) -> Option<JobId> {
    match change {
        Change::Remove(id) => Some(id.clone()),
        _ => None,
    }
}

fn evicted(change: &Change) -> Option<(JobId, GroupId)> {
    match change {
        Change::Evict {
            job,
            why: Eviction::Preempted { by, .. },
        } => Some((job.clone(), by.clone())),
        _ => None,
    }
}

fn reserved(change: &Change) -> Option<u64> {
    match change {
        Change::PutReservation(reservation) => Some(reservation.until_ms),
        _ => None,
    }
}
