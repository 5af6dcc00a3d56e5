//! The best of each class of slots, kept while slots change: a tournament tree for each class, all in one array.

use std::{cmp::Ordering, sync::Arc};

use crate::placement::places::Layout;

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

/// A tournament among the slots of each class of a layout, played in the layout's [`Bracket`]s.
///
/// A shape that comes up rarely must catch up with many changes, each of them somewhere in a tree that has left the
/// processor's caches since. So the matches are between [`Bracket::WIDTH`] players whose keys lie side by side, and many
/// changes are played together: a match is played once for all of its players that have changed.
#[derive(Debug)]
pub(super) struct Tournament {
    layout: Arc<Layout>,
    /// By node of the bracket: who won there.
    nodes: Vec<Player>,
    /// Matches that are to be played again, a bit each. Only used while changes are put in.
    due: Vec<u64>,
}

/// Who takes part, or has won a match: greater is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Player {
    points: i64,
    /// The complement of the number of jobs, and that of the position in the layout.
    rank: u64,
}

impl Player {
    fn new(key: Key, position: u32) -> Self {
        Self {
            points: key.points,
            rank: !(u64::from(key.jobs) << 32 | u64::from(position)),
        }
    }

    fn key(self) -> Key {
        Key {
            points: self.points,
            jobs: self.halves()[1],
        }
    }

    fn position(self) -> usize {
        self.halves()[0] as usize
    }

    /// The position and the number of jobs.
    fn halves(self) -> [u32; 2] {
        let [a, b, c, d, e, f, g, h] = (!self.rank).to_le_bytes();
        [
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
        ]
    }
}

impl Tournament {
    /// A tournament among slots with these keys, by slot.
    pub(super) fn new(layout: Arc<Layout>, mut key: impl FnMut(usize) -> Key) -> Self {
        let mut nodes = Vec::with_capacity(layout.bracket.nodes());
        let players = (0..)
            .zip(&layout.slots)
            .map(|(position, slot)| Player::new(key(*slot as usize), position));
        nodes.extend(players);
        for players in &layout.bracket.matches {
            let winner = best(&nodes[players.start as usize..players.end as usize]);
            nodes.push(winner);
        }
        Self {
            due: vec![0; layout.bracket.matches.len().div_ceil(64)],
            nodes,
            layout,
        }
    }

    pub(super) fn classes(&self) -> usize {
        self.layout.bracket.finals.len()
    }

    /// The best slot of a class and its key, which may be [`Key::OUT`].
    pub(super) fn best(&self, class: usize) -> (usize, Key) {
        let winner = self.nodes[self.layout.bracket.finals[class] as usize];
        (self.layout.slots[winner.position()] as usize, winner.key())
    }

    /// Changes the key of a slot. The matches that follow from it are played by [`play`](Self::play).
    pub(super) fn set(&mut self, slot: usize, key: Key) {
        let position = self.layout.positions[slot];
        let player = Player::new(key, position);
        let node = position as usize;
        if self.nodes[node] != player {
            self.nodes[node] = player;
            self.call(node);
        }
    }

    /// Plays what is due.
    pub(super) fn play(&mut self) {
        let leaves = self.layout.slots.len();
        // A match comes before those that its winner goes on to.
        for word in 0..self.due.len() {
            while self.due[word] != 0 {
                let bit = self.due[word].trailing_zeros() as usize;
                self.due[word] &= self.due[word] - 1;
                let nth = 64 * word + bit;
                let players = &self.layout.bracket.matches[nth];
                let winner = best(&self.nodes[players.start as usize..players.end as usize]);
                let node = leaves + nth;
                if self.nodes[node] != winner {
                    self.nodes[node] = winner;
                    self.call(node);
                }
            }
        }
    }

    /// The match in which the node plays is due.
    fn call(&mut self, node: usize) {
        if let Some(nth) = self.layout.bracket.plays_in(node) {
            self.due[nth / 64] |= 1 << (nth % 64);
        }
    }
}

fn best(players: &[Player]) -> Player {
    let players = players.iter().copied();
    players.max().expect("nobody plays alone")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Domain, Host, HostId, Resources, placement::places::Atlas};

    /// Hosts in so many zones, and their layout by zone.
    fn layout(hosts: usize, zones: usize) -> Arc<Layout> {
        let host = |n: usize| Host {
            zone: Some((n * 7 % zones).to_string()),
            ..Host::new(
                HostId::parse(format!("h{n}")).unwrap(),
                Resources::default(),
            )
        };
        let hosts: Vec<Host> = (0..hosts).map(host).collect();
        let atlas = Atlas::default();
        let domains = [Domain::Zone];
        let places = [atlas.places(&domains[0], hosts.iter())];
        atlas.layout(&domains, &places, hosts.len())
    }

    fn key(drawn: (u8, u8)) -> Key {
        match drawn {
            (0, _) => Key::OUT,
            (points, jobs) => Key {
                points: i64::from(points) - 5,
                jobs: u32::from(jobs),
            },
        }
    }

    proptest! {
        /// The best of each class is the one that a look at all of them finds, however many change at once.
        #[test]
        fn the_winners_are_those_of_a_look_at_all(
            (hosts, zones) in (1_usize..700, 1_usize..40),
            steps in prop::collection::vec(
                prop::collection::vec((any::<prop::sample::Index>(), (0_u8..10, 0_u8..4)), 0..60),
                1..8,
            ),
        ) {
            let layout = layout(hosts, zones);
            let mut keys = vec![key((3, 1)); hosts];
            let mut tournament = Tournament::new(layout, |slot| keys[slot]);
            for step in steps {
                for (slot, drawn) in step {
                    let slot = slot.index(hosts);
                    keys[slot] = key(drawn);
                    tournament.set(slot, keys[slot]);
                }
                tournament.play();
                let mut winners: Vec<(usize, Key)> =
                    (0..tournament.classes()).map(|class| tournament.best(class)).collect();
                winners.sort_by_key(|(slot, _)| *slot);
                let best_of = |zone: usize| {
                    let slots = (0..hosts).filter(|slot| slot * 7 % zones == zone);
                    slots.map(|slot| (slot, keys[slot])).reduce(|best, next| {
                        if next.1.order(best.1).is_lt() { next } else { best }
                    })
                };
                let mut expected: Vec<(usize, Key)> = (0..zones).filter_map(best_of).collect();
                expected.sort_by_key(|(slot, _)| *slot);
                prop_assert_eq!(winners, expected);
            }
        }
    }
}
