//! From accepted changes to compares and ops of the store. Pure.
//!
//! Each change becomes a step: what must hold, and what is written. Steps that rest on each other go into one lane, in the
//! order of the transaction; lanes rest on nothing in each other, and may be carried out side by side, in any order, any
//! of them without the others. How steps are told apart is in [`lanes`].

mod chosen;
mod lanes;
mod neighbours;
mod steps;
mod sweep;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
};

use bytes::Bytes;
use flynn_discovery::backend::{Compare, Condition, Key, MAX_OPS, Op, Revision};
use serde::Serialize;

use crate::{
    Error, GroupId, Result, Transaction,
    remote::{
        keys::CellKey,
        mirror::Mirror,
        plan::{lanes::in_lanes, steps::Planner},
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
    /// The changes it carries out, by their places in the transaction.
    pub(super) changes: Vec<usize>,
}

/// How large something may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Compares and ops together.
    pub(super) ops: usize,
    /// Bytes of values.
    pub(super) bytes: usize,
}

/// How large chunks may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of chunks that follow each other: each of them costs the others a wait.
    pub(super) in_turn: Size,
    /// Of chunks side by side: the smaller they are, the less is decided anew when one of them meets another scheduler's.
    pub(super) beside: Size,
}

impl Limits {
    /// What the store takes, and what does not hold up its other writers for long.
    pub(super) const STORE: Size = Size {
        ops: MAX_OPS,
        bytes: 1 << 20,
    };
    const BESIDE: Size = Size {
        ops: 256,
        bytes: 1 << 17,
    };
    /// Smaller ones would cost more than they save.
    const LEAST_OPS: usize = 32;

    /// Of the attempt with this number, from 0. What meets others again and again gets smaller.
    pub(super) fn of_attempt(attempt: usize) -> Self {
        let smaller = |size: Size, times: usize| Size {
            ops: (size.ops >> times.min(16)).max(Self::LEAST_OPS),
            bytes: size.bytes,
        };
        Self {
            in_turn: smaller(Self::STORE, 2 * attempt),
            beside: smaller(Self::BESIDE, attempt),
        }
    }

    /// For what must be one chunk.
    fn whole(self) -> Self {
        Self {
            in_turn: Self::STORE,
            beside: Self::STORE,
        }
    }
}

/// What carries out a decision.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The chunks of a lane follow each other, and none is carried out if one before it was not. The lanes are carried
    /// out beside each other.
    pub(super) lanes: Vec<Vec<Chunk>>,
    /// After everything else, if all of it was carried out.
    pub(super) sweep: Option<Chunk>,
}

/// What earlier chunks of the same lane wrote.
#[derive(Debug, Clone, Default)]
pub(super) struct Written(BTreeMap<CellKey, Condition>);

impl Chunk {
    fn len(&self) -> usize {
        self.compares.len() + self.ops.len()
    }

    fn is_within(&self, size: Size) -> bool {
        self.len() <= size.ops && self.bytes <= size.bytes
    }

    fn fits(&self, other: &Self, size: Size) -> bool {
        self.len() + other.len() <= size.ops && self.bytes + other.bytes <= size.bytes
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
            Ok(Compare {
                condition: written.instead_of(key, *condition),
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

    /// What it compares of this key, behind what was written.
    pub(super) fn compared(&self, key: &CellKey, written: &Written) -> Option<Condition> {
        let condition = self.compares.get(key)?;
        Some(written.instead_of(key, *condition))
    }

    /// The groups that it changes, or whose placements it changes.
    pub(super) fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.ops.keys().filter_map(|key| match key {
            CellKey::Group(group) | CellKey::GroupSeq(group) => Some(group),
            _ => None,
        })
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

impl Written {
    fn instead_of(&self, key: &CellKey, condition: Condition) -> Condition {
        match (condition, self.0.get(key)) {
            // As this transaction left it.
            (Condition::Version(_) | Condition::Absent, Some(written)) => *written,
            (condition, _) => condition,
        }
    }
}

/// What carries out what was accepted of a transaction. `places` says where in the transaction it is.
pub(super) fn plan(
    mirror: &Mirror,
    transaction: &Transaction,
    applied: &Applied,
    places: &[usize],
    limits: Limits,
) -> Result<Plan> {
    let guarded: BTreeSet<&GroupId> = transaction
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::ExpectGroup { group, .. } => Some(group),
            _ => None,
        })
        .collect();
    let mut planner = Planner {
        mirror,
        after: &applied.state,
        guarded,
        founded: BTreeSet::new(),
        descriptions: RefCell::default(),
    };
    let mut steps = Vec::with_capacity(places.len());
    for (change, place) in applied.accepted.iter().zip(places) {
        steps.push(planner.step(change, *place)?);
    }
    let is_whole = transaction.mode == Mode::AllOrNothing;
    let limits = if is_whole { limits.whole() } else { limits };
    let mut sweep = planner.sweep(&applied.accepted, steps.iter().map(|step| &step.chunk));
    let mut lanes = in_lanes(mirror, steps, limits);
    if let [lane] = &mut lanes[..]
        && let Some(last) = lane.last_mut()
    {
        sweep = match sweep {
            Some(sweep) if last.fits(&sweep, limits.in_turn) => {
                last.absorb(sweep);
                None
            }
            // Left for a later time where it would make one commit two.
            Some(_) if is_whole => None,
            sweep => sweep,
        };
    }
    Ok(Plan { lanes, sweep })
}
