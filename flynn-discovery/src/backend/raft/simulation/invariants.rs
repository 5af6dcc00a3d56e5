//! What must hold after every step of every member.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::backend::raft::{core::Core, log::StateChange, machine::Machine, member::MemberId};

/// What was seen so far, of all members.
#[derive(Debug, Default)]
pub(super) struct Seen {
    leaders: BTreeMap<u64, MemberId>,
    /// Index and term, and what was there: the entry and the position before it.
    entries: HashMap<(u64, u64), (u64, u64)>,
    /// The term of what was committed at an index.
    committed: BTreeMap<u64, u64>,
    /// What a state was at an index.
    states: HashMap<u64, u64>,
}

impl Seen {
    pub(super) fn check(&mut self, member: MemberId, core: &Core, machine: &Machine) {
        self.at_most_one_leader_in_a_term(member, core);
        self.equal_positions_hold_equal_logs(member, core);
        self.what_is_committed_stays(member, core);
        self.a_leader_has_what_is_committed(member, core);
        self.equal_positions_hold_equal_states(member, machine);
    }

    fn at_most_one_leader_in_a_term(&mut self, member: MemberId, core: &Core) {
        if core.leads() {
            let first = *self.leaders.entry(core.term()).or_insert(member);
            assert_eq!(first, member, "two leaders in term {}", core.term());
        }
    }

    /// Log matching: the same index and term mean the same entry, and the same log before it.
    fn equal_positions_hold_equal_logs(&mut self, member: MemberId, core: &Core) {
        let mut before = core.view().compacted().term;
        for entry in core.view().iter() {
            let what = (digest(&(&entry.data, &entry.context)), before);
            let at = (entry.index, entry.term);
            let known = *self.entries.entry(at).or_insert(what);
            assert_eq!(known, what, "{member} has another entry at {at:?}");
            before = entry.term;
        }
    }

    fn what_is_committed_stays(&mut self, member: MemberId, core: &Core) {
        for entry in core.view().iter() {
            if entry.index > core.committed() {
                break;
            }
            let term = *self.committed.entry(entry.index).or_insert(entry.term);
            assert_eq!(
                term, entry.term,
                "{member} committed another entry at {}",
                entry.index
            );
        }
    }

    /// Leader completeness: of terms before its own, a leader has everything that was committed.
    fn a_leader_has_what_is_committed(&self, member: MemberId, core: &Core) {
        if !core.leads() {
            return;
        }
        let behind = core.view().compacted().index + 1;
        for (index, term) in self.committed.range(behind..) {
            if *term < core.term() {
                let here = core.view().position_of(*index).map(|p| p.term);
                assert_eq!(here, Some(*term), "leader {member} lacks entry {index}");
            }
        }
    }

    fn equal_positions_hold_equal_states(&mut self, member: MemberId, machine: &Machine) {
        let index = machine.applied.index;
        if index == 0 {
            return; // a member that nobody has told anything
        }
        let state = digest_of(machine);
        let known = *self.states.entry(index).or_insert(state);
        assert_eq!(known, state, "{member} has another state at {index}");
    }
}

pub(super) fn digest_of(machine: &Machine) -> u64 {
    let mut hasher = DefaultHasher::new();
    for record in machine.export() {
        if let StateChange::Put(key, value) = record {
            (key, value).hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
