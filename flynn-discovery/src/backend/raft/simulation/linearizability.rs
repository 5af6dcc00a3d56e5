//! Is a history of operations on one register explained by some order in which each took place at one moment between
//! its call and its answer? (Wing and Gong's search, with Lowe's memory of what was tried.)

use std::collections::HashSet;

/// What was done; values are numbers, each written at most once, and 0 is the absent register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Write(u64),
    /// Writes the second if the register holds the first; did it?
    Swap(u64, u64, bool),
    Read(u64),
}

/// An operation with the moments of its call and its answer. One without an answer may take effect at any time after
/// its call, or never.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) called: u64,
    pub(super) answered: Option<u64>,
}

impl Operation {
    /// The register afterwards; `None` when this cannot have happened.
    fn apply(self, register: u64) -> Option<u64> {
        match self {
            Self::Write(value) => Some(value),
            Self::Swap(expected, value, true) => (register == expected).then_some(value),
            Self::Swap(expected, _, false) => (register != expected).then_some(register),
            Self::Read(value) => (register == value).then_some(register),
        }
    }
}

/// Is the history of one register linearizable?
pub(super) fn is_linearizable(history: &[Call]) -> bool {
    let mut calls = history.to_vec();
    calls.sort_by_key(|call| call.called);
    let must: usize = calls.iter().filter(|c| c.answered.is_some()).count();
    let mut search = Search {
        calls: &calls,
        tried: HashSet::new(),
    };
    search.go(&mut vec![0; calls.len().div_ceil(64)], 0, must)
}

struct Search<'a> {
    calls: &'a [Call],
    /// Sets of operations that were placed, with the register they led to, from which there is no way on.
    tried: HashSet<(Vec<u64>, u64)>,
}

impl Search<'_> {
    fn go(&mut self, placed: &mut Vec<u64>, register: u64, must: usize) -> bool {
        if must == 0 {
            return true;
        }
        if !self.tried.insert((placed.clone(), register)) {
            return false;
        }
        let is_placed = |placed: &[u64], i: usize| placed[i / 64] & (1 << (i % 64)) != 0;
        // Nothing that was called after the earliest answer can come first.
        let earliest = self
            .calls
            .iter()
            .enumerate()
            .filter(|(i, _)| !is_placed(placed, *i))
            .filter_map(|(_, call)| call.answered)
            .min()
            .unwrap_or(u64::MAX);
        for i in 0..self.calls.len() {
            let call = self.calls[i];
            if call.called > earliest {
                break;
            }
            if is_placed(placed, i) {
                continue;
            }
            let Some(next) = call.operation.apply(register) else {
                continue;
            };
            placed[i / 64] |= 1 << (i % 64);
            let must = must - usize::from(call.answered.is_some());
            if self.go(placed, next, must) {
                return true;
            }
            placed[i / 64] &= !(1 << (i % 64));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{Operation::*, *};

    fn call(operation: Operation, called: u64, answered: u64) -> Call {
        Call {
            operation,
            called,
            answered: (answered > 0).then_some(answered),
        }
    }

    #[test]
    fn a_read_of_an_old_value_after_a_newer_one_is_noticed() {
        let mut history = vec![
            call(Write(1), 1, 2),
            call(Write(2), 3, 8),
            call(Read(2), 4, 5),
            call(Read(1), 6, 7),
        ];
        assert!(!is_linearizable(&history));
        history[3] = call(Read(1), 4, 7); // overlaps the other read
        assert!(is_linearizable(&history));
    }

    #[test]
    fn a_lost_write_is_noticed_and_one_in_doubt_may_be_either() {
        assert!(!is_linearizable(&[
            call(Write(1), 1, 2),
            call(Read(0), 3, 4)
        ]));
        for read in [0, 1] {
            assert!(is_linearizable(&[
                call(Write(1), 1, 0),
                call(Read(read), 3, 4)
            ]));
        }
        // But once it was seen it stays.
        let history = [
            call(Write(1), 1, 0),
            call(Read(1), 3, 4),
            call(Read(0), 5, 6),
        ];
        assert!(!is_linearizable(&history));
    }

    #[test]
    fn of_two_swaps_from_one_value_one_fails() {
        let both = [call(Swap(0, 1, true), 1, 4), call(Swap(0, 2, true), 2, 3)];
        assert!(!is_linearizable(&both));
        let one = [call(Swap(0, 1, true), 1, 4), call(Swap(0, 2, false), 2, 3)];
        assert!(is_linearizable(&one));
    }
}
