//! The hosts in the order of what making room there costs, for job after job of one group.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use crate::{
    Group, GroupId, JobSpec,
    preemption::{Cost, Found, NoPlan, Preemption, Preemptor, room::Taker},
};

/// Hosts with what a plan there costs at least, and hosts that have been worked out.
///
/// What is known stays good until something changes on the host, so that the next job of the group costs only as much as
/// the plan before has changed.
#[derive(Debug)]
pub(super) struct Shortlist {
    group: GroupId,
    priority: u8,
    spec: Arc<JobSpec>,
    promising: BinaryHeap<Reverse<Entry>>,
    exact: BinaryHeap<Reverse<Entry>>,
    /// The hosts that are out of the question, by why.
    pub(super) no: NoPlan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    cost: Cost,
    at: usize,
    version: u32,
}

impl Shortlist {
    pub(super) fn of(round: &mut Preemption<'_>, taker: &Taker<'_>) -> Self {
        let mut list = Self {
            group: taker.group.id.clone(),
            priority: taker.group.priority,
            spec: Arc::clone(&taker.group.spec),
            promising: BinaryHeap::new(),
            exact: BinaryHeap::new(),
            no: NoPlan {
                hosts: round.rooms.len(),
                ..NoPlan::default()
            },
        };
        let mut promising = Vec::with_capacity(round.rooms.len());
        for at in 0..round.rooms.len() {
            promising.extend(list.estimate(round, at, taker));
        }
        list.promising = BinaryHeap::from(promising);
        list
    }

    pub(super) fn is_for(&self, group: &Group) -> bool {
        self.group == group.id
            && self.priority == group.priority
            && Arc::ptr_eq(&self.spec, &group.spec)
    }

    /// The cheapest plan.
    pub(super) fn best<'s>(
        &mut self,
        round: &mut Preemption<'s>,
        taker: &Taker<'_>,
    ) -> Option<Found<'s>> {
        let mut examined = 0;
        loop {
            while self.should_examine(examined) {
                let Some(Reverse(entry)) = self.promising.pop() else {
                    break;
                };
                if entry.version != round.rooms[entry.at].version {
                    let entry = self.estimate(round, entry.at, taker);
                    self.promising.extend(entry);
                    continue;
                }
                examined += 1;
                self.work_out(round, entry.at, taker);
            }
            let Reverse(entry) = self.exact.pop()?;
            if entry.version != round.rooms[entry.at].version {
                let entry = self.estimate(round, entry.at, taker);
                self.promising.extend(entry);
                continue;
            }
            // Budgets may have changed without the host, and jobs elsewhere that it depends on.
            match round.on(entry.at, taker) {
                Ok(found) if found.cost == entry.cost => {
                    self.exact.push(Reverse(entry));
                    return Some(found);
                }
                Ok(found) => self.exact.push(Reverse(Entry {
                    cost: found.cost,
                    at: entry.at,
                    version: round.rooms[entry.at].version,
                })),
                Err(why) => why.count(&mut self.no),
            }
        }
    }

    /// Could the most promising host be better than the best that is known, and is it worth finding out?
    fn should_examine(&self, examined: usize) -> bool {
        let Some(Reverse(promising)) = self.promising.peek() else {
            return false;
        };
        let Some(Reverse(best)) = self.exact.peek() else {
            return true;
        };
        let rank = |cost: &Cost| (cost.most_important, cost.victims);
        rank(&promising.cost) < rank(&best.cost)
            || examined < Preemptor::EXAMINED && promising.cost < best.cost
    }

    fn work_out(&mut self, round: &mut Preemption<'_>, at: usize, taker: &Taker<'_>) {
        match round.on(at, taker) {
            Ok(found) => self.exact.push(Reverse(Entry {
                cost: found.cost,
                at,
                version: round.rooms[at].version,
            })),
            Err(why) => why.count(&mut self.no),
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
            Ok(bound) => Some(Reverse(Entry {
                cost: Cost {
                    most_important: bound.most_important,
                    victims: bound.victims,
                    priorities: 0,
                    overshoot: 0,
                },
                at,
                version: room.version,
            })),
            Err(why) => {
                why.count(&mut self.no);
                None
            }
        }
    }
}
