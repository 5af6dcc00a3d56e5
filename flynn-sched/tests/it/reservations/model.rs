//! A naive model beside the implementation: every millisecond is looked at.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flynn_sched::{
    Claim, ClusterState, Host, Job, JobSpec, Jobs, Named, Phase, Reservation, Resources,
    Transaction,
    reservation::{ReservationRequest, reserve},
    transaction::Change,
};
use proptest::prelude::*;

use crate::fixture::{group_id, host, host_id, job, job_id, phase};

use super::{cell, reservation_id};

/// Memory in bytes, and GPUs.
type Two = [u64; 2];

const WHOLE: Two = [10, 3];
const HOSTS: [&str; 2] = ["a", "b"];
const GROUPS: [&str; 4] = ["app.web", "app.db", "batch", "other"];
/// No event is later.
const END: u64 = 200;

fn holder(n: usize) -> Jobs {
    match n {
        0 => Jobs::Prefix("app.".to_owned()),
        1 => Jobs::Group(group_id("app.web")),
        2 => Jobs::Group(group_id("batch")),
        _ => Jobs::Prefix("ba".to_owned()),
    }
}

#[derive(Debug, Clone)]
enum Event {
    Start {
        group: usize,
        on: usize,
        need: Two,
        lasts: Option<u64>,
    },
    Put {
        id: usize,
        holder: usize,
        claims: [Two; 2],
        from: u64,
        lasts: u64,
    },
    Remove {
        id: usize,
    },
    /// The n-th job that lives ends before its time.
    End {
        n: usize,
    },
    Pass {
        ms: u64,
    },
    Plan {
        holder: usize,
        count: u32,
        need: Two,
        from: u64,
        lasts: u64,
    },
}

fn two() -> impl Strategy<Value = Two> {
    [0..7_u64, 0..3_u64]
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..4_usize, 0..2_usize, two(), prop::option::weighted(0.8, 1..20_u64))
            .prop_map(|(group, on, need, lasts)| Event::Start { group, on, need, lasts }),
        6 => (0..6_usize, 0..4_usize, [two(), two()], 0..20_u64, 0..15_u64)
            .prop_map(|(id, holder, claims, from, lasts)| Event::Put { id, holder, claims, from, lasts }),
        1 => (0..6_usize).prop_map(|id| Event::Remove { id }),
        1 => (0..8_usize).prop_map(|n| Event::End { n }),
        4 => (1..6_u64).prop_map(|ms| Event::Pass { ms }),
        2 => (0..4_usize, 1..5_u32, [1..5_u64, 0..3_u64], 0..10_u64, 1..15_u64)
            .prop_map(|(holder, count, need, from, lasts)| Event::Plan { holder, count, need, from, lasts }),
    ]
}

/// The cell, told twice.
struct Twins {
    state: ClusterState,
    now: u64,
    jobs: Vec<Stay>,
    reserved: BTreeMap<usize, Held>,
    started: usize,
}

#[derive(Clone)]
struct Stay {
    id: String,
    group: usize,
    on: usize,
    need: Two,
    end: u64,
}

#[derive(Clone)]
struct Held {
    holder: usize,
    claims: [Two; 2],
    from: u64,
    until: u64,
}

fn sum(parts: impl IntoIterator<Item = Two>) -> Two {
    parts
        .into_iter()
        .fold([0, 0], |a, b| [a[0] + b[0], a[1] + b[1]])
}

impl Twins {
    fn jobs_at(&self, on: usize, at: u64, of: impl Fn(usize) -> bool) -> Two {
        let there = |job: &&Stay| job.on == on && job.end > at && of(job.group);
        sum(self.jobs.iter().filter(there).map(|job| job.need))
    }

    /// What is held for a holder at a time.
    fn held_at(&self, on: usize, at: u64, who: usize) -> Two {
        let active = |held: &&Held| held.holder == who && held.from <= at && at < held.until;
        let claimed = sum(self
            .reserved
            .values()
            .filter(active)
            .map(|held| held.claims[on]));
        let is_its = |group: usize| holder(who).matches(&group_id(GROUPS[group]));
        let used = self.jobs_at(on, at, is_its);
        [0, 1].map(|r| claimed[r].saturating_sub(used[r]))
    }

    fn load(&self, on: usize, at: u64) -> Two {
        let held = (0..4).map(|who| self.held_at(on, at, who));
        sum(held.chain([self.jobs_at(on, at, |_| true)]))
    }

    fn may_start(&self, group: usize, on: usize, need: Two, end: u64) -> bool {
        let used = self.jobs_at(on, self.now, |_| true);
        if (0..2).any(|r| used[r] + need[r] > WHOLE[r]) {
            return false;
        }
        let mut after = Self {
            state: ClusterState::default(),
            jobs: self.jobs.clone(),
            reserved: self.reserved.clone(),
            ..*self
        };
        after.jobs.push(Stay {
            id: String::new(),
            group,
            on,
            need,
            end,
        });
        (self.now..end.min(END)).all(|at| {
            let (before, after) = (self.load(on, at), after.load(on, at));
            (0..2).all(|r| after[r] <= before[r] || after[r] <= WHOLE[r])
        })
    }

    fn may_hold(&self, id: usize, new: &Held) -> bool {
        if new.from >= new.until || new.claims == [[0; 2]; 2] {
            return false;
        }
        let copy = |reserved| Self {
            state: ClusterState::default(),
            jobs: self.jobs.clone(),
            reserved,
            ..*self
        };
        let mut without = copy(self.reserved.clone());
        without.reserved.remove(&id);
        let mut with = copy(without.reserved.clone());
        with.reserved.insert(id, new.clone());
        (0..2).filter(|on| new.claims[*on] != [0; 2]).all(|on| {
            let has_rival = without.reserved.values().any(|other| {
                let both = |group: &&str| {
                    let group = group_id(group);
                    holder(other.holder).matches(&group) && holder(new.holder).matches(&group)
                };
                other.claims[on] != [0; 2]
                    && other.holder != new.holder
                    && GROUPS.iter().any(both)
                    && other.from < new.until
                    && new.from < other.until
            });
            let fits = |at| {
                let (before, after) = (without.load(on, at), with.load(on, at));
                (0..2).all(|r| after[r] <= before[r] || after[r] <= WHOLE[r])
            };
            !has_rival && (new.from..new.until).all(fits)
        })
    }

    fn commit(&mut self, change: Change) -> bool {
        let applied = self
            .state
            .apply(&Transaction::on(&self.state).with(change))
            .unwrap();
        self.state = applied.state;
        applied.refused.is_empty()
    }

    fn start(&mut self, group: usize, on: usize, need: Two, lasts: Option<u64>) -> (bool, bool) {
        let end = lasts.map_or(u64::MAX, |lasts| self.now + lasts);
        let expects = self.may_start(group, on, need, end);
        self.started += 1;
        let id = format!("j{}", self.started);
        let spec = JobSpec {
            request: resources(need),
            named: gpus(need),
            expected: lasts.map(Duration::from_millis),
            ..JobSpec::default()
        };
        let job = Job {
            spec: Arc::new(spec),
            placed_at_ms: self.now,
            ..job(&id, GROUPS[group], HOSTS[on], 0)
        };
        let is_started = self.commit(Change::Start(Arc::new(job)));
        if is_started {
            self.jobs.push(Stay {
                id,
                group,
                on,
                need,
                end,
            });
        }
        (expects, is_started)
    }

    fn put(&mut self, id: usize, held: Held) -> (bool, bool) {
        let expects = self.may_hold(id, &held);
        let reservation = reservation(id, &held);
        let is_held = self.commit(Change::PutReservation(Arc::new(reservation)));
        if is_held {
            self.reserved.insert(id, held);
        }
        (expects, is_held)
    }

    fn end(&mut self, at: usize) {
        let job = self.jobs.remove(at);
        let done = vec![(job_id(&job.id), phase(Phase::Done))];
        self.state = self.state.reported(&host_id(HOSTS[job.on]), done);
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        while let Some(at) = self.jobs.iter().position(|job| job.end <= self.now) {
            self.end(at);
        }
    }

    /// The earliest time at which there is room for so many, by trying each.
    fn earliest(&self, who: usize, count: u32, need: Two, from: u64, lasts: u64) -> Option<u64> {
        let mut reserved = self.reserved.clone();
        reserved.remove(&PLANNED);
        let without = Self {
            state: ClusterState::default(),
            jobs: self.jobs.clone(),
            reserved,
            ..*self
        };
        (from.max(self.now)..=LATEST).find(|at| {
            let room = |on: usize| {
                (0..=count).rev().find(|copies| {
                    let mut claims = [[0; 2]; 2];
                    claims[on] = need.map(|amount| amount * u64::from(*copies));
                    let held = Held {
                        holder: who,
                        claims,
                        from: *at,
                        until: at + lasts,
                    };
                    *copies == 0 || without.may_hold(PLANNED, &held)
                })
            };
            room(0).unwrap() + room(1).unwrap() >= count
        })
    }
}

const PLANNED: usize = 9;
const LATEST: u64 = 150;

fn resources(need: Two) -> Resources {
    Resources {
        memory_bytes: need[0],
        ..Resources::default()
    }
}

fn gpus(need: Two) -> Named {
    Named::from_iter([("gpu", need[1])])
}

fn reservation(id: usize, held: &Held) -> Reservation {
    let claims = (0..2).filter(|on| held.claims[*on] != [0; 2]).map(|on| {
        let claim = held.claims[on];
        (
            host_id(HOSTS[on]),
            Claim {
                resources: resources(claim),
                named: gpus(claim),
            },
        )
    });
    Reservation {
        id: reservation_id(&format!("r{id}")),
        holder: holder(held.holder),
        claims: claims.collect(),
        from_ms: held.from,
        until_ms: held.until,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever is reserved, started and ended, in whatever order: commits answer as the model does; at no time to come
    /// is more promised than there is; every holder can have, at every time, what is held for it; and the planner finds
    /// the earliest time, and what it plans is accepted.
    #[test]
    fn reservations_are_kept(events in prop::collection::vec(any_event(), 1..50)) {
        let hosts = HOSTS.map(|id| Host {
            capacity: resources(WHOLE),
            named: gpus(WHOLE),
            ..host(id, 0)
        });
        let mut twins = Twins { state: cell(hosts), now: 10, jobs: Vec::new(), reserved: BTreeMap::new(), started: 0 };
        for event in events {
            match event.clone() {
                Event::Start { group, on, need, lasts } => {
                    let (expected, is) = twins.start(group, on, need, lasts);
                    prop_assert_eq!(is, expected, "at {}: {:?}", twins.now, event);
                }
                Event::Put { id, holder, claims, from, lasts } => {
                    // Some begin in the past.
                    let from = (twins.now + from).saturating_sub(4);
                    let held = Held { holder, claims, from, until: from + lasts };
                    let (expected, is) = twins.put(id, held);
                    prop_assert_eq!(is, expected, "at {}: {:?}", twins.now, event);
                }
                Event::Remove { id } => {
                    let id_of = reservation_id(&format!("r{id}"));
                    twins.commit(Change::RemoveReservation { id: id_of, ending_by_ms: u64::MAX });
                    twins.reserved.remove(&id);
                }
                Event::End { n } => {
                    if n < twins.jobs.len() {
                        twins.end(n);
                    }
                }
                Event::Pass { ms } => twins.pass(ms),
                Event::Plan { holder: who, count, need, from, lasts } => {
                    let from = twins.now + from;
                    let earliest = twins.earliest(who, count, need, from, lasts);
                    let spec = JobSpec { request: resources(need), named: gpus(need), ..JobSpec::default() };
                    let request = ReservationRequest {
                        id: reservation_id(&format!("r{PLANNED}")),
                        holder: holder(who),
                        count,
                        spec: &spec,
                        from_ms: from,
                        lasting: Duration::from_millis(lasts),
                        latest_ms: LATEST,
                    };
                    let plan = reserve(&twins.state, &request, twins.now);
                    prop_assert_eq!(plan.as_ref().ok().map(|plan| plan.from_ms), earliest, "at {}: {:?}", twins.now, event);
                    if let Ok(plan) = plan {
                        let claims = HOSTS.map(|on| plan.claims.get(&host_id(on)).map_or([0; 2], |claim| {
                            [claim.resources.memory_bytes, claim.named.amount("gpu")]
                        }));
                        prop_assert_eq!(sum(claims), need.map(|amount| amount * u64::from(count)));
                        let held = Held { holder: who, claims, from: plan.from_ms, until: plan.until_ms };
                        prop_assert_eq!(twins.put(PLANNED, held), (true, true));
                    }
                }
            }
            for on in 0..2 {
                for at in twins.now..END {
                    let load = twins.load(on, at);
                    prop_assert!((0..2).all(|r| load[r] <= WHOLE[r]), "{load:?} on {on} at {at} after {event:?}");
                }
                for who in 0..4 {
                    let held = twins.held_at(on, twins.now, who);
                    let active = |held: &&Held| held.holder == who && held.from <= twins.now && twins.now < held.until;
                    let Some(until) = twins.reserved.values().filter(active).map(|held| held.until).min() else {
                        continue;
                    };
                    let group = GROUPS.iter().position(|group| holder(who).matches(&group_id(group))).unwrap();
                    let (state, jobs) = (twins.state.clone(), twins.jobs.clone());
                    let finds_room = twins.start(group, on, held, Some(until - twins.now));
                    prop_assert_eq!(finds_room, (true, true), "{:?} for {} on {} after {:?}", held, who, on, event);
                    (twins.state, twins.jobs) = (state, jobs);
                }
            }
        }
    }
}
