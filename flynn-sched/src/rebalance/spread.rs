//! How evenly the jobs of a group are spread, place by place.

use std::{collections::HashMap, sync::Arc};

use crate::{Domain, Group, Host};

/// Over hosts, half as much over zones, and what the spec asks for.
pub(super) fn wishes(
    group: &Group,
    hosts: &[&Host],
    atlas: &mut HashMap<Domain, Arc<Places>>,
) -> Vec<Wish> {
    let habits = [(Domain::Host, 1.0, None), (Domain::Zone, 0.5, None)];
    let asked = group.spec.spread.iter().map(|spread| {
        let weight = f64::from(spread.weight.min(100)) / 50.0;
        (spread.over.clone(), weight, spread.max_skew)
    });
    let wishes = habits.into_iter().chain(asked);
    wishes
        .map(|(over, weight, max_skew)| {
            let places = atlas
                .entry(over)
                .or_insert_with_key(|over| Arc::new(Places::of(over.clone(), hosts)));
            let counts = match places.over {
                Domain::Host => Counts::Hosts(HashMap::new()),
                _ => Counts::Places(vec![0; places.count]),
            };
            Wish {
                places: Arc::clone(places),
                weight,
                max_skew,
                counts,
            }
        })
        .collect()
}

/// To be spread over places.
pub(super) struct Wish {
    pub(super) places: Arc<Places>,
    pub(super) weight: f64,
    pub(super) max_skew: Option<u32>,
    pub(super) counts: Counts,
}

/// The places of a domain, numbered, and where each host stands.
pub(super) struct Places {
    pub(super) over: Domain,
    pub(super) count: usize,
    of_spot: Vec<usize>,
}

/// How many jobs are in each place.
pub(super) enum Counts {
    /// Of single hosts, those that have some: there may be ten thousand.
    Hosts(HashMap<usize, u32>),
    Places(Vec<u32>),
}

impl Wish {
    pub(super) fn place(&self, spot: usize) -> usize {
        self.places.of_spot[spot]
    }

    /// By how much the sum of squares falls, of `all` jobs.
    pub(super) fn gain(&self, from: usize, to: usize, all: u32) -> f64 {
        let (here, there) = (self.place(from), self.place(to));
        if here == there {
            return 0.0;
        }
        let (here, there) = (self.counts.of(here), self.counts.of(there));
        self.weight * 2.0 * (f64::from(here) - f64::from(there) - 1.0) / f64::from(all.max(1))
    }
}

impl Counts {
    pub(super) fn of(&self, place: usize) -> u32 {
        match self {
            Self::Hosts(counts) => counts.get(&place).copied().unwrap_or_default(),
            Self::Places(counts) => counts[place],
        }
    }

    pub(super) fn add(&mut self, place: usize, more: i32) {
        let count = match self {
            Self::Hosts(counts) => counts.entry(place).or_default(),
            Self::Places(counts) => &mut counts[place],
        };
        *count = count.saturating_add_signed(more);
    }

    pub(super) fn fewest(&self, places: usize) -> u32 {
        let fewest = match self {
            Self::Hosts(counts) if counts.len() < places => None,
            Self::Hosts(counts) => counts.values().min(),
            Self::Places(counts) => counts.iter().min(),
        };
        fewest.copied().unwrap_or_default()
    }

    pub(super) fn squares(&self) -> f64 {
        let squared = |n: &u32| f64::from(*n).powi(2);
        match self {
            Self::Hosts(counts) => counts.values().map(squared).sum(),
            Self::Places(counts) => counts.iter().map(squared).sum(),
        }
    }
}

impl Places {
    pub(super) fn of(over: Domain, hosts: &[&Host]) -> Self {
        let mut numbers: HashMap<Option<&str>, usize> = HashMap::new();
        let of_spot = hosts.iter().map(|host| {
            let next = numbers.len();
            *numbers.entry(over.of(host)).or_insert(next)
        });
        Self {
            of_spot: of_spot.collect(),
            count: numbers.len(),
            over,
        }
    }
}
