//! The hosts in the order of what making room there costs, for job after job of one group and of others like it.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use crate::{
    Constraint, GroupId, JobSpec,
    preemption::{Cost, Found, NoPlan, Obstacle, Preemption, Preemptor, room::Taker},
};

/// Hosts with what a plan there costs at least, and hosts that have been worked out.
///
/// What is known stays good until something changes on the host, so that the next job costs only as much as the plan
/// before has changed. Groups for which making room costs the same share one, however important they are.
#[derive(Debug)]
pub(super) struct Shortlist {
    spec: Arc<JobSpec>,
    /// Of which group it is, where that makes a difference.
    group: Option<GroupId>,
    /// Jobs that are as important as this, or more so, were not thought of.
    below: u16,
    /// The same when it was made.
    made_below: u16,
    promising: BinaryHeap<Reverse<Entry>>,
    exact: BinaryHeap<Reverse<Entry>>,
    /// By host: why it is out of the question.
    out: Vec<Option<Obstacle>>,
    /// How many of the round's changes are in it.
    seen: usize,
}

/// Good as long as the host has this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    cost: Cost,
    at: usize,
    version: u32,
}

impl Shortlist {
    pub(super) fn of(round: &mut Preemption<'_>, taker: &Taker<'_>) -> Self {
        let hosts = round.rooms.len();
        let mut list = Self {
            spec: Arc::clone(&taker.group.spec),
            group: is_itself(round, taker).then(|| taker.group.id.clone()),
            below: taker.below,
            made_below: taker.below,
            promising: BinaryHeap::new(),
            exact: BinaryHeap::new(),
            out: vec![None; hosts],
            seen: round.changed.len(),
        };
        let mut promising = Vec::with_capacity(hosts);
        for at in 0..hosts {
            promising.extend(list.estimate(round, at, taker));
        }
        list.promising = BinaryHeap::from(promising);
        list
    }

    /// Can the cheapest plan for this taker be found here?
    pub(super) fn is_for(&self, round: &Preemption<'_>, taker: &Taker<'_>) -> bool {
        let is_group = match &self.group {
            Some(group) => *group == taker.group.id,
            None => !is_itself(round, taker),
        };
        is_group && taker.below <= self.below && is_alike(&self.spec, &taker.group.spec)
    }

    /// Does it know of every host why there is no plan, if there is none?
    pub(super) fn knows_why(&self, taker: &Taker<'_>) -> bool {
        self.made_below == taker.below
    }

    pub(super) fn why(&self) -> NoPlan {
        let mut no = NoPlan {
            hosts: self.out.len(),
            ..NoPlan::default()
        };
        for why in self.out.iter().flatten() {
            why.count(&mut no);
        }
        no
    }

    /// The cheapest plan.
    pub(super) fn best<'s>(
        &mut self,
        round: &mut Preemption<'s>,
        taker: &Taker<'_>,
    ) -> Option<Found<'s>> {
        self.below = taker.below;
        let mut examined = 0;
        loop {
            self.catch_up(round, taker);
            while let Some(Reverse(entry)) = self.promising.peek().copied() {
                if entry.version != round.rooms[entry.at].version {
                    self.promising.pop();
                } else if self.should_examine(&entry.cost, examined) {
                    self.promising.pop();
                    examined += 1;
                    self.work_out(round, entry.at, taker);
                    self.catch_up(round, taker);
                } else {
                    break;
                }
            }
            let Reverse(entry) = self.exact.peek().copied()?;
            if entry.version == round.rooms[entry.at].version {
                if !self.is_meant(&entry.cost) {
                    return None;
                }
                // Budgets may have changed without the host, and jobs elsewhere that it depends on.
                match round.on(entry.at, taker) {
                    Ok(found) if found.cost == entry.cost => return Some(found),
                    found => {
                        self.exact.pop();
                        self.note(round, entry.at, found);
                    }
                }
            } else {
                self.exact.pop();
            }
        }
    }

    /// Looks anew at the hosts where something has changed.
    fn catch_up(&mut self, round: &mut Preemption<'_>, taker: &Taker<'_>) {
        if self.seen == round.changed.len() {
            return;
        }
        let mut changed = round.changed[self.seen..].to_vec();
        self.seen = round.changed.len();
        changed.sort_unstable();
        changed.dedup();
        for at in changed {
            let entry = self.estimate(round, at, taker);
            self.promising.extend(entry);
        }
    }

    /// Could a host that promises this be better than the best that is known, and is it worth finding out?
    fn should_examine(&self, promising: &Cost, examined: usize) -> bool {
        if !self.is_meant(promising) {
            return false;
        }
        let Some(Reverse(best)) = self.exact.peek().filter(|best| self.is_meant(&best.0.cost))
        else {
            return true;
        };
        let rank = |cost: &Cost| (cost.most_important, cost.victims);
        rank(promising) < rank(&best.cost)
            || examined < Preemptor::EXAMINED && *promising < best.cost
    }

    /// Does nobody go who is too important?
    fn is_meant(&self, cost: &Cost) -> bool {
        let most = cost.most_important;
        most.is_none_or(|priority| u16::from(priority) < self.below)
    }

    fn work_out(&mut self, round: &mut Preemption<'_>, at: usize, taker: &Taker<'_>) {
        let found = round.on(at, taker);
        self.note(round, at, found);
    }

    fn note(&mut self, round: &Preemption<'_>, at: usize, found: Result<Found<'_>, Obstacle>) {
        match found {
            Ok(found) => self.exact.push(Reverse(Entry {
                cost: found.cost,
                at,
                version: round.rooms[at].version,
            })),
            Err(why) => self.out[at] = Some(why),
        }
    }

    fn estimate(
        &mut self,
        round: &mut Preemption<'_>,
        at: usize,
        taker: &Taker<'_>,
    ) -> Option<Reverse<Entry>> {
        let room = &mut round.rooms[at];
        match room.at_least(round.state, taker) {
            Ok(bound) => {
                self.out[at] = None;
                Some(Reverse(Entry {
                    cost: Cost {
                        most_important: bound.most_important,
                        victims: bound.victims,
                        priorities: 0,
                        overshoot: 0,
                    },
                    at,
                    version: room.version,
                }))
            }
            Err(why) => {
                // What was in the way first still is.
                self.out[at].get_or_insert(why);
                None
            }
        }
    }
}

/// Does it matter which group it is, beside what its jobs are?
fn is_itself(round: &Preemption<'_>, taker: &Taker<'_>) -> bool {
    let mut constraints = taker.group.spec.constraints.iter();
    !round.keeping_apart.is_empty()
        || round.state.reserved_hosts().len() > 0
        || !constraints.all(Constraint::is_of_hosts)
}

/// Do jobs like the one need the same room as jobs like the other?
fn is_alike(a: &Arc<JobSpec>, b: &Arc<JobSpec>) -> bool {
    Arc::ptr_eq(a, b)
        || a.request == b.request
            && a.named == b.named
            && a.constraints == b.constraints
            && a.tolerations == b.tolerations
            && a.ports == b.ports
            && a.partition == b.partition
            && a.expected == b.expected
}
