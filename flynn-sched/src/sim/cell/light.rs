//! A flat cell with the rules of the full one.

use std::collections::HashSet;

use super::{Amount, Cell, Claim, Machine, Proposal, Task};
use crate::transaction::{Conflict, Mode};

/// A cell in flat vectors.
#[derive(Debug, Clone)]
pub struct LightCell {
    slots: Vec<Slot>,
    revision: u64,
    /// Machines and jobs, of jobs whose tasks must be on distinct machines.
    distinct: HashSet<(u32, u32)>,
    /// What the transaction at hand changed, to take it back.
    undo: Vec<(u32, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    free: Amount,
    /// The revision of its last change.
    version: u64,
    kind: u8,
}

impl LightCell {
    fn slot(&self, machine: u32) -> &Slot {
        &self.slots[machine as usize]
    }

    fn is_refused(&self, proposal: &Proposal<'_>, claim: Claim) -> bool {
        let slot = self.slot(claim.machine);
        // What the transaction itself changed has the next revision already.
        let has_changed = slot.version > proposal.basis && slot.version <= self.revision;
        (proposal.corner.conflict == Conflict::Sequence && has_changed)
            || !slot.free.fits(&proposal.task.amount)
            || proposal.task.kind.is_some_and(|kind| kind != slot.kind)
            || (proposal.task.is_distinct && self.is_taken(claim.machine, proposal.job))
    }

    /// Takes back what the transaction at hand has claimed.
    fn roll_back(&mut self, proposal: &Proposal<'_>) {
        while let Some((machine, version)) = self.undo.pop() {
            let slot = &mut self.slots[machine as usize];
            slot.free = slot.free.saturating_add(&proposal.task.amount);
            slot.version = version;
            if proposal.task.is_distinct {
                self.distinct.remove(&(machine, proposal.job));
            }
        }
    }
}

impl Cell for LightCell {
    fn new(machines: &[Machine]) -> Self {
        let slot = |machine: &Machine| Slot {
            free: machine.capacity,
            version: 0,
            kind: machine.kind,
        };
        Self {
            slots: machines.iter().map(slot).collect(),
            revision: 0,
            distinct: HashSet::new(),
            undo: Vec::new(),
        }
    }

    fn len(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn free(&self, machine: u32) -> Amount {
        self.slot(machine).free
    }

    fn kind(&self, machine: u32) -> u8 {
        self.slot(machine).kind
    }

    fn is_taken(&self, machine: u32, job: u32) -> bool {
        self.distinct.contains(&(machine, job))
    }

    fn commit(&mut self, proposal: &Proposal<'_>, refused: &mut Vec<Claim>) {
        self.undo.clear();
        for claim in proposal.claims {
            if self.is_refused(proposal, *claim) {
                if proposal.corner.mode == Mode::AllOrNothing {
                    self.roll_back(proposal);
                    refused.extend_from_slice(proposal.claims);
                    return;
                }
                refused.push(*claim);
                continue;
            }
            let slot = &mut self.slots[claim.machine as usize];
            self.undo.push((claim.machine, slot.version));
            slot.free = slot.free.saturating_sub(&proposal.task.amount);
            slot.version = self.revision + 1;
            if proposal.task.is_distinct {
                self.distinct.insert((claim.machine, proposal.job));
            }
        }
        if !self.undo.is_empty() {
            self.revision += 1;
        }
    }

    fn release(&mut self, job: u32, task: &Task, claims: &[Claim]) {
        self.revision += 1;
        for claim in claims {
            let slot = &mut self.slots[claim.machine as usize];
            slot.free = slot.free.saturating_add(&task.amount);
            slot.version = self.revision;
            if task.is_distinct {
                self.distinct.remove(&(claim.machine, job));
            }
        }
    }
}
