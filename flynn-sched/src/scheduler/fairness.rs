//! Whose turn it is: dominant resource fairness over namespaces.
//!
//! The share of a namespace is the largest of its shares in the cell's processor time, memory and disk: of what all its
//! jobs that are not at their end ask for, services included, to what all hosts may promise. The next job to place is
//! always one of the namespace with the smallest share, divided by its weight (Ghodsi et al., *Dominant Resource
//! Fairness: Fair Allocation of Multiple Resource Types*, NSDI 2011). So a namespace that floods the cell with groups
//! gets what the others leave, and no more than its weight where they want as much: however many groups are in line, the
//! first job of another namespace waits for room of its size, not for the flood. Within a namespace, groups go by id.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use crate::{ClusterState, JobSpec, Namespace, Resources, Usage};

/// The shares of namespaces in a cell, with what a round adds to them.
#[derive(Debug)]
pub(super) struct Shares<'s> {
    state: &'s ClusterState,
    weights: &'s BTreeMap<Namespace, u32>,
    capacity: Resources,
    usage: BTreeMap<Namespace, Usage>,
}

impl<'s> Shares<'s> {
    /// The shares in `state`; a namespace without a weight has the weight 1.
    pub(super) fn of(state: &'s ClusterState, weights: &'s BTreeMap<Namespace, u32>) -> Self {
        let mut capacity = Resources::default();
        for host in state.hosts().filter(|host| host.is_schedulable()) {
            capacity = capacity.saturating_add(&host.host.allocatable());
        }
        Self {
            state,
            weights,
            capacity,
            usage: BTreeMap::new(),
        }
    }

    /// Lets the items place a job each, again and again, always one of the namespace with the smallest share. `place`
    /// says whether the item placed one; when it did not, it is not asked again.
    pub(super) fn take_turns<T>(
        &mut self,
        items: Vec<(&JobSpec, T)>,
        mut place: impl FnMut(&mut T) -> bool,
    ) {
        let mut lines: BTreeMap<Namespace, VecDeque<(&JobSpec, T)>> = BTreeMap::new();
        for (spec, item) in items {
            let line = lines.entry(spec.namespace.clone()).or_default();
            line.push_back((spec, item));
        }
        let mut turns: BinaryHeap<Reverse<(Share, Namespace)>> = lines
            .keys()
            .map(|namespace| Reverse((self.share(namespace), namespace.clone())))
            .collect();
        while let Some(Reverse((_, namespace))) = turns.pop() {
            let line = lines.get_mut(&namespace).expect("each turn has its line");
            let Some((spec, item)) = line.front_mut() else {
                continue;
            };
            if place(item) {
                self.usage_of(&namespace).add(spec);
            } else {
                line.pop_front();
            }
            turns.push(Reverse((self.share(&namespace), namespace)));
        }
    }

    fn share(&mut self, namespace: &Namespace) -> Share {
        let capacity = self.capacity;
        let weight = self.weights.get(namespace).copied().unwrap_or(1);
        let usage = self.usage_of(namespace);
        let used = &usage.resources;
        let dominant = part(used.cpu_millis, capacity.cpu_millis)
            .max(part(used.memory_bytes, capacity.memory_bytes))
            .max(part(used.disk_bytes, capacity.disk_bytes));
        Share {
            dominant: dominant / f64::from(weight.max(1)),
            jobs: usage.jobs,
        }
    }

    fn usage_of(&mut self, namespace: &Namespace) -> &mut Usage {
        let state = self.state;
        self.usage
            .entry(namespace.clone())
            .or_insert_with(|| state.usage(namespace))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no 64 bits")]
fn part(used: u64, of: u64) -> f64 {
    if of == 0 {
        0.0
    } else {
        used as f64 / of as f64
    }
}

/// A namespace's dominant share; of equals, the one with fewer jobs comes first, so that jobs which ask for nothing take
/// turns as well.
#[derive(Debug, Clone, Copy)]
struct Share {
    dominant: f64,
    jobs: u64,
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        let jobs = || self.jobs.cmp(&other.jobs);
        self.dominant.total_cmp(&other.dominant).then_with(jobs)
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Share {}
