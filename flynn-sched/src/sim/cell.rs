//! The cell of a simulated architecture: machines, and what tasks claim of them.
//!
//! The words here and in [`architecture`](super::architecture) are those of Schwarzkopf et al., "Omega: flexible, scalable
//! schedulers for large compute clusters" (EuroSys 2013): a *job* has *tasks*, which run on *machines*. A task is what the
//! rest of the crate calls a [`Job`](crate::Job), a job is a [`Group`](crate::Group).
//!
//! There are two cells with the same rules: [`FullCell`] is a [`ClusterState`](crate::ClusterState) and asks its
//! [`apply`](crate::ClusterState::apply); [`LightCell`] is flat and some hundred times as fast. A simulation gives the same
//! bytes on both.

mod full;
mod light;

use std::fmt;

use crate::transaction::{Conflict, Mode};

pub use full::FullCell;
pub use light::LightCell;

/// Processor time and memory: what a machine has, or a task needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Processor time, in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
}

impl Amount {
    /// Does `need` fit into `self`?
    #[must_use]
    pub fn fits(&self, need: &Self) -> bool {
        need.cpu_millis <= self.cpu_millis && need.memory_bytes <= self.memory_bytes
    }

    /// Nothing of one of the two, or of both.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.cpu_millis == 0 || self.memory_bytes == 0
    }

    /// The sum; it stays at the largest number instead of overflowing.
    #[must_use]
    pub fn saturating_add(&self, other: &Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    /// The difference, with zero where `other` is larger.
    #[must_use]
    pub fn saturating_sub(&self, other: &Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
        }
    }

    /// So many times as much; it stays at the largest number instead of overflowing.
    #[must_use]
    pub fn saturating_mul(&self, times: u64) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_mul(times),
            memory_bytes: self.memory_bytes.saturating_mul(times),
        }
    }
}

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// What it has.
    pub capacity: Amount,
    /// Its kind, for tasks that need a certain one.
    pub kind: u8,
}

/// What every task of a job needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Task {
    /// How much of a machine.
    pub amount: Amount,
    /// Which kind of machine, if not any.
    pub kind: Option<u8>,
    /// No two tasks of the job on one machine.
    pub is_distinct: bool,
}

/// A task of a job on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The machine.
    pub machine: u32,
    /// Which placement of the job this is; no two claims of a job have the same.
    pub serial: u32,
}

/// Which of Omega's four corners a transaction stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Corner {
    /// Incremental, or all or nothing (gang).
    pub mode: Mode,
    /// Fine-grained (resource fit), or coarse (sequence number).
    pub conflict: Conflict,
}

impl Corner {
    /// All four.
    pub const ALL: [Self; 4] = [
        Self::new(Mode::Incremental, Conflict::ResourceFit),
        Self::new(Mode::Incremental, Conflict::Sequence),
        Self::new(Mode::AllOrNothing, Conflict::ResourceFit),
        Self::new(Mode::AllOrNothing, Conflict::Sequence),
    ];

    /// A corner.
    #[must_use]
    pub const fn new(mode: Mode, conflict: Conflict) -> Self {
        Self { mode, conflict }
    }
}

impl fmt::Display for Corner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.mode, self.conflict) {
            (Mode::Incremental, Conflict::ResourceFit) => "incremental, fine",
            (Mode::Incremental, Conflict::Sequence) => "incremental, coarse",
            (Mode::AllOrNothing, Conflict::ResourceFit) => "gang, fine",
            (Mode::AllOrNothing, Conflict::Sequence) => "gang, coarse",
        })
    }
}

/// Claims of one job, made from a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Proposal<'a> {
    /// The job's number.
    pub job: u32,
    /// What each of its tasks needs.
    pub task: &'a Task,
    /// Which machines are claimed.
    pub claims: &'a [Claim],
    /// The revision of the snapshot.
    pub basis: u64,
    /// What counts as a conflict, and what happens then.
    pub corner: Corner,
}

/// What simulated schedulers share.
///
/// A snapshot needs no copy: schedulers choose at the moment they look, and commit when they have thought.
pub trait Cell: fmt::Debug {
    /// An idle cell of these machines.
    fn new(machines: &[Machine]) -> Self
    where
        Self: Sized;

    /// How many machines there are, numbered from 0.
    fn len(&self) -> u32;

    /// Are there no machines?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Grows with every change.
    fn revision(&self) -> u64;

    /// What is left of a machine.
    fn free(&self, machine: u32) -> Amount;

    /// The kind of a machine.
    fn kind(&self, machine: u32) -> u8;

    /// Is a task of this job, whose tasks must be on distinct machines, on this machine?
    fn is_taken(&self, machine: u32, job: u32) -> bool;

    /// Claims what fits, or all or nothing; the claims that were refused are added to `refused`, in order. When it is all
    /// or nothing, all of them are.
    fn commit(&mut self, proposal: &Proposal<'_>, refused: &mut Vec<Claim>);

    /// Tasks of a job have ended.
    fn release(&mut self, job: u32, task: &Task, claims: &[Claim]);
}
