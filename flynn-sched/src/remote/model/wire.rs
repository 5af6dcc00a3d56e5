//! Commits on the wire: sent, carried out, answered, or adrift.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use flynn_discovery::{
    Error as Refusal,
    backend::{
        Compare, Key, Op, Revision, WatchEvent,
        kv::{Command, KvState},
    },
};

use super::{
    Cell, Trial,
    properties::{bare, facts, is_unfair},
    sameness::print_of,
    schedulers::{ATTEMPTS, Decision, Scheduler, Stage},
};
use crate::{
    Eviction, GroupId, JobId,
    remote::{carrying::Carrying, flight::Departure, mirror::Mirror},
    transaction::Change,
};

/// A commit on the wire.
#[derive(Clone)]
pub(super) struct Message {
    /// Tells messages apart.
    pub(super) print: u64,
    /// Its lane in the flight.
    lane: usize,
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
    /// Puts on the wire what need not wait for others.
    pub(super) fn send(
        &mut self,
        n: usize,
        mut decision: Decision,
        mut messages: Vec<Message>,
        t: &Trial,
    ) {
        while let Some(next) = decision.flight.depart().expect("ids are keys") {
            let Departure {
                lane,
                mut compares,
                ops,
            } = next;
            compares.retain(t.keep);
            let asked = &decision.carrying.transaction().changes;
            let places = decision.flight.changes(lane).iter();
            let changes = places.map(|place| &asked[*place]);
            let mut message = Message {
                print: {
                    let mut hasher = DefaultHasher::new();
                    format!("{compares:?} {ops:?}").hash(&mut hasher);
                    hasher.finish()
                },
                lane,
                compares,
                ops,
                starts: changes.clone().filter_map(started).collect(),
                removes: changes.clone().filter_map(removed).collect(),
                evicts: changes.clone().filter_map(evicted).collect(),
                reserves: changes.filter_map(reserved).collect(),
            };
            (t.spoil)(&mut message);
            messages.push(message);
        }
        self.schedulers[n].stage = if messages.is_empty() {
            let mut carrying = Carrying::clone(&decision.carrying);
            let is_more = carrying.learn(&decision.flight.landed);
            let is_more = is_more && carrying.attempts() < ATTEMPTS;
            Stage::Behind(is_more.then(|| Arc::new(carrying)))
        } else {
            Stage::Waiting { decision, messages }
        };
    }

    /// Carries out one of the commits that a scheduler waits for, and tells it.
    pub(super) fn answer(&mut self, n: usize, m: usize, trial: &Trial) {
        let stage = std::mem::replace(&mut self.schedulers[n].stage, Stage::Idle);
        let Stage::Waiting {
            mut decision,
            mut messages,
        } = stage
        else {
            return;
        };
        let message = messages.remove(m);
        match self.carry_out(&message) {
            Ok(revision) => {
                self.claimed.extend(message.starts);
                self.reserved.extend(message.reserves);
                decision.flight.carried_out(message.lane, revision);
            }
            Err(key) => decision.flight.refused(message.lane, &key),
        }
        self.send(n, decision, messages, trial);
    }

    /// The scheduler no longer waits. It may propose again, even from what it saw before.
    pub(super) fn abandon(&mut self, n: usize, trial: &Trial) -> Vec<Message> {
        let scheduler = &self.schedulers[n];
        let Stage::Waiting { messages, .. } = &scheduler.stage else {
            return Vec::new();
        };
        let messages = messages.clone();
        let (mirror, seen) = (Arc::clone(&scheduler.mirror), scheduler.seen);
        let abandoned = scheduler.abandoned + 1;
        self.schedulers[n] = Scheduler::seeing(n, &mirror, seen, abandoned, trial);
        messages
    }

    pub(super) fn carry_out(&mut self, message: &Message) -> Result<Revision, Key> {
        let revision = self.write(message.compares.clone(), message.ops.clone())?;
        self.removed.extend(message.removes.iter().cloned());
        let mut evicts = message.evicts.iter();
        self.is_unfair |= evicts.any(|(job, by)| is_unfair(self, job, by));
        Ok(revision)
    }

    /// Somebody else than a scheduler says something.
    pub(super) fn report(&mut self, compares: Vec<Compare>, op: Op) {
        // Of a job that was removed meanwhile there is nothing to say.
        let _ = self.write(compares, vec![op]);
    }

    /// Writes to the store, if the compares hold; else names the first that does not.
    fn write(&mut self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Revision, Key> {
        let done = self.store.apply(Command::Commit { compares, ops });
        match done.result {
            Ok(_) => {}
            Err(Refusal::Conflict { key }) => return Err(key),
            Err(error) => panic!("the store takes what is sent: {error}"),
        }
        if let Some((revision, changes)) = done.changes {
            let news = WatchEvent::Changes { changes, revision };
            self.truth = Arc::new(self.truth.after(news, 1));
            self.bare = bare(&self.store).into();
            self.facts = facts(&self.store).into();
            self.print = print_of(&self.store);
        }
        Ok(self.store.revision())
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
