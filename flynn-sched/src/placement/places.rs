//! Which hosts stand in the same place: zones, racks, values of tags, and combinations of them.

use std::{collections::HashMap, ops::Range, sync::Arc};

use parking_lot::Mutex;

use crate::{Domain, Host};

/// Which of the places of one domain each slot stands in. Hosts that have not said stand in one place together.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) of: Vec<u32>,
    pub(super) len: usize,
}

/// The slots sorted by their combination of places in several domains, each combination being a *class*.
#[derive(Debug)]
pub(super) struct Layout {
    /// The slot at each position; ascending within a class.
    pub(super) slots: Vec<u32>,
    /// The position of each slot.
    pub(super) positions: Vec<u32>,
    /// Who plays whom in a tournament among the slots of each class.
    pub(super) bracket: Bracket,
}

/// Who plays whom, for a tournament among the slots of each class of a layout. Its nodes are the slots by position, then
/// the matches; a match comes behind those whose winners play in it.
#[derive(Debug)]
pub(super) struct Bracket {
    /// The nodes that play in each match, which lie side by side.
    pub(super) matches: Vec<Range<u32>>,
    /// The match in which each node plays next, by node; [`Self::NONE`] after the last.
    next: Vec<u32>,
    /// The node of each class where its winner is.
    pub(super) finals: Vec<u32>,
}

impl Bracket {
    /// How many play in one match: as many as lie in two lines of a processor's cache.
    pub(super) const WIDTH: usize = 8;
    const NONE: u32 = u32::MAX;

    /// Of classes that begin at these positions; the last is the end.
    fn of(starts: &[u32]) -> Self {
        let slots = starts.last().copied().unwrap_or_default();
        let mut bracket = Self {
            matches: Vec::new(),
            next: vec![Self::NONE; slots as usize],
            finals: Vec::new(),
        };
        // The players of the round, for classes that are not decided yet; then those of the next.
        let mut round: Vec<(usize, Range<u32>)> = starts
            .windows(2)
            .map(|ends| ends[0]..ends[1])
            .filter(|players| !players.is_empty())
            .enumerate()
            .collect();
        bracket.finals = round.iter().map(|(_, players)| players.start).collect();
        while !round.is_empty() {
            round.retain(|(_, players)| players.len() > 1);
            for (class, players) in &mut round {
                let first = slots + number(bracket.matches.len());
                for start in players.clone().step_by(Self::WIDTH) {
                    let end = players.end.min(start + number(Self::WIDTH));
                    let nth = number(bracket.matches.len());
                    bracket.next[start as usize..end as usize].fill(nth);
                    bracket.matches.push(start..end);
                    bracket.next.push(Self::NONE);
                }
                *players = first..slots + number(bracket.matches.len());
                bracket.finals[*class] = first;
            }
        }
        bracket
    }

    pub(super) fn nodes(&self) -> usize {
        self.next.len()
    }

    /// The match in which a node plays next.
    pub(super) fn plays_in(&self, node: usize) -> Option<usize> {
        let next = self.next[node];
        (next != Self::NONE).then_some(next as usize)
    }
}

/// What has been computed for one set of hosts.
#[derive(Debug, Default)]
pub(super) struct Atlas(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    places: HashMap<Domain, Arc<Places>>,
    layouts: HashMap<Vec<Domain>, Arc<Layout>>,
}

impl Atlas {
    /// How many domains, and how many combinations of them, are remembered.
    const BOUND: usize = 64;

    pub(super) fn places<'h>(
        &self,
        domain: &Domain,
        hosts: impl Iterator<Item = &'h Host>,
    ) -> Arc<Places> {
        let mut known = self.0.lock();
        if let Some(places) = known.places.get(domain) {
            return Arc::clone(places);
        }
        if known.places.len() >= Self::BOUND {
            known.places.clear();
        }
        let places = Arc::new(Places::of(domain, hosts));
        known.places.insert(domain.clone(), Arc::clone(&places));
        places
    }

    /// The layout by `domains`, whose places are `places`, of `hosts` many hosts.
    pub(super) fn layout(
        &self,
        domains: &[Domain],
        places: &[Arc<Places>],
        hosts: usize,
    ) -> Arc<Layout> {
        let mut known = self.0.lock();
        if let Some(layout) = known.layouts.get(domains) {
            return Arc::clone(layout);
        }
        if known.layouts.len() >= Self::BOUND {
            known.layouts.clear();
        }
        let layout = Arc::new(Layout::of(places, hosts));
        known.layouts.insert(domains.to_vec(), Arc::clone(&layout));
        layout
    }
}

impl Places {
    fn of<'h>(domain: &Domain, hosts: impl Iterator<Item = &'h Host>) -> Self {
        let mut numbers: HashMap<Option<&str>, u32> = HashMap::new();
        let of = hosts
            .map(|host| {
                let next = number(numbers.len());
                *numbers.entry(domain.of(host)).or_insert(next)
            })
            .collect();
        Self {
            of,
            len: numbers.len(),
        }
    }
}

impl Layout {
    fn of(places: &[Arc<Places>], hosts: usize) -> Self {
        let mut numbers: HashMap<Vec<u32>, u32> = HashMap::new();
        let classes: Vec<u32> = (0..hosts)
            .map(|slot| {
                let place = places.iter().map(|places| places.of[slot]).collect();
                let next = number(numbers.len());
                *numbers.entry(place).or_insert(next)
            })
            .collect();
        let mut slots: Vec<u32> = (0..number(hosts)).collect();
        slots.sort_by_key(|slot| classes[*slot as usize]);
        let mut positions = vec![0; hosts];
        let mut starts = vec![0];
        for (position, slot) in slots.iter().enumerate() {
            positions[*slot as usize] = number(position);
            let is_next =
                position > 0 && classes[*slot as usize] != classes[slots[position - 1] as usize];
            if is_next {
                starts.push(number(position));
            }
        }
        starts.push(number(hosts));
        Self {
            bracket: Bracket::of(&starts),
            slots,
            positions,
        }
    }
}

/// Slots, positions and classes are numbered with 32 bits.
pub(super) fn number(n: usize) -> u32 {
    u32::try_from(n).expect("a cell has fewer than 2^32 hosts and jobs on a host")
}
