//! The best of each class of slots, kept while slots change: a tournament tree for each class, all in one array.

use std::{cmp::Ordering, sync::Arc};

use crate::placement::places::{Layout, number};

/// How good a slot is: more points are better, then fewer jobs, then the lower slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) points: i64,
    pub(super) jobs: u32,
}

impl Key {
    /// Of a slot that cannot take the job.
    pub(super) const OUT: Self = Self {
        points: i64::MIN,
        jobs: u32::MAX,
    };

    pub(super) fn is_out(self) -> bool {
        self.points == i64::MIN
    }

    /// `Less` is better.
    pub(super) fn order(self, other: Self) -> Ordering {
        other
            .points
            .cmp(&self.points)
            .then(self.jobs.cmp(&other.jobs))
    }
}

/// A tournament among the slots of each class of a layout.
///
/// The tree of a class with `n` slots beginning at position `s` is at `2 s` in `winners`: node `i` has the children `2 i`
/// and `2 i + 1`, the leaves are the nodes `n..2 n`, and each node holds the position that wins below it.
#[derive(Debug)]
pub(super) struct Tournament {
    layout: Arc<Layout>,
    keys: Vec<Key>,
    winners: Vec<u32>,
}

impl Tournament {
    /// A tournament among slots with these keys, by slot.
    pub(super) fn new(layout: Arc<Layout>, mut key: impl FnMut(usize) -> Key) -> Self {
        let keys: Vec<Key> = layout
            .slots
            .iter()
            .map(|slot| key(*slot as usize))
            .collect();
        let mut tournament = Self {
            winners: vec![0; 2 * keys.len()],
            keys,
            layout,
        };
        tournament.play_all();
        tournament
    }

    /// Changes the keys of many slots.
    pub(super) fn set_many(&mut self, keys: &[(usize, Key)]) {
        for (slot, key) in keys {
            self.keys[self.layout.positions[*slot] as usize] = *key;
        }
        self.play_all();
    }

    fn play_all(&mut self) {
        for class in 0..self.classes() {
            let (start, len) = self.range(class);
            for n in 0..len {
                self.winners[2 * start + len + n] = number(start + n);
            }
            for node in (1..len).rev() {
                self.play(2 * start, node);
            }
        }
    }

    pub(super) fn classes(&self) -> usize {
        self.layout.starts.len() - 1
    }

    /// The best slot of a class and its key, which may be [`Key::OUT`].
    pub(super) fn best(&self, class: usize) -> Option<(usize, Key)> {
        let (start, len) = self.range(class);
        if len == 0 {
            return None;
        }
        let position = self.winners[2 * start + 1] as usize;
        Some((self.layout.slots[position] as usize, self.keys[position]))
    }

    /// Changes the key of a slot.
    pub(super) fn set(&mut self, slot: usize, key: Key) {
        let position = self.layout.positions[slot] as usize;
        if self.keys[position] == key {
            return;
        }
        self.keys[position] = key;
        let (start, len) = self.range(self.layout.classes[slot] as usize);
        let mut node = len + position - start;
        while node > 1 {
            node /= 2;
            let before = self.winners[2 * start + node] as usize;
            // Above a match that this slot neither won nor wins, nothing changes.
            if self.play(2 * start, node) == before && before != position {
                return;
            }
        }
    }

    fn play(&mut self, base: usize, node: usize) -> usize {
        let (a, b) = (
            self.winners[base + 2 * node],
            self.winners[base + 2 * node + 1],
        );
        let order = self.keys[a as usize].order(self.keys[b as usize]);
        let winner = if order.then(a.cmp(&b)).is_le() { a } else { b };
        self.winners[base + node] = winner;
        winner as usize
    }

    /// Where a class begins, and how many slots it has.
    fn range(&self, class: usize) -> (usize, usize) {
        let start = self.layout.starts[class] as usize;
        (start, self.layout.starts[class + 1] as usize - start)
    }
}
