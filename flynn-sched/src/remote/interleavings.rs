//! Several schedulers whose commits reach one store in random orders: whatever is carried out when, the cell keeps its rules,
//! and every change is carried out once or refused by name.

use std::{collections::BTreeMap, sync::Arc};

use flynn_discovery::{
    Error as StoreError,
    backend::{
        Op, Revision, WatchEvent,
        kv::{Command, KvState},
    },
};
use proptest::prelude::*;

use super::{
    carrying::Carrying,
    flight::{Departure, Flight},
    keys::CellKey,
    mirror::Mirror,
    plan::{Limits, Size},
};
use crate::{
    Group, GroupId, GroupKind, GroupStatus, Host, HostId, Job, JobId, JobSpec, JobStatus,
    Namespace, Phase, Quota, Resources, Transaction,
    transaction::{Change, Refused},
};

const ROOM: u64 = 3;
/// Of jobs in the namespace that has a quota.
const QUOTA: u64 = 4;
const ATTEMPTS: usize = 4;

/// One change of a transaction, before it is known what there is to change.
#[derive(Debug, Clone)]
enum Wish {
    Start { host: u8, group: u8 },
    Stop(u8),
    Remove(u8),
    Put(u8),
    Note(u8),
    Guard(u8),
}

/// What happens next.
#[derive(Debug, Clone)]
enum Turn {
    /// The scheduler goes on: proposes, or decides anew.
    Go(u8),
    /// One of its commits reaches the store, and it is told.
    Arrive(u8, u8),
    /// It sees what the store has.
    Look(u8),
    /// A job that is to stop has stopped.
    End(u8),
}

struct Scheduler {
    name: usize,
    mirror: Arc<Mirror>,
    limits: Limits,
    wishes: Vec<Vec<Wish>>,
    /// The transaction under way.
    carrying: Option<Carrying>,
    flight: Option<Flight>,
    on_the_wire: Vec<Departure>,
    /// What it met last is not in its mirror yet.
    is_behind: bool,
    /// At which revisions the changes under way were carried out, by their places.
    done: BTreeMap<usize, Vec<u64>>,
    serial: usize,
}

struct World {
    store: KvState,
    truth: Arc<Mirror>,
    schedulers: Vec<Scheduler>,
}

fn host(n: u8) -> HostId {
    HostId::parse(format!("h{n}")).unwrap()
}

fn group(n: u8) -> Group {
    let spec = JobSpec {
        request: Resources {
            memory_bytes: 1,
            ..Resources::default()
        },
        // Group 3 is in a namespace with a quota.
        namespace: Namespace::parse(if n == 3 { "small" } else { "large" }).unwrap(),
        ..JobSpec::default()
    };
    let id = GroupId::parse(format!("g{n}")).unwrap();
    Group::new(id, GroupKind::Service { count: 5 }, spec)
}

fn put(key: &CellKey, value: &impl serde::Serialize) -> Op {
    Op::put(key.key().unwrap(), serde_json::to_vec(value).unwrap())
}

impl World {
    fn new(hosts: u8, schedulers: Vec<(Vec<Vec<Wish>>, usize)>) -> Self {
        let mut world = Self {
            store: KvState::new(),
            truth: Arc::default(),
            schedulers: Vec::new(),
        };
        let quota = Quota {
            namespace: Namespace::parse("small").unwrap(),
            cpu_millis: None,
            memory_bytes: None,
            disk_bytes: None,
            named: BTreeMap::new(),
            jobs: Some(QUOTA),
        };
        let mut ops = vec![put(&CellKey::Quota(quota.namespace.clone()), &quota)];
        for n in 0..hosts {
            let room = Resources {
                memory_bytes: ROOM,
                ..Resources::default()
            };
            ops.push(put(&CellKey::Host(host(n)), &Host::new(host(n), room)));
        }
        world.write(Vec::new(), ops).unwrap();
        world.schedulers = schedulers
            .into_iter()
            .enumerate()
            .map(|(name, (wishes, ops))| {
                let size = Size {
                    ops,
                    bytes: 1 << 20,
                };
                Scheduler {
                    name,
                    mirror: Arc::clone(&world.truth),
                    limits: Limits {
                        in_turn: size,
                        beside: size,
                    },
                    wishes,
                    carrying: None,
                    flight: None,
                    on_the_wire: Vec::new(),
                    is_behind: false,
                    done: BTreeMap::new(),
                    serial: 0,
                }
            })
            .collect();
        world
    }

    fn write(
        &mut self,
        compares: Vec<flynn_discovery::backend::Compare>,
        ops: Vec<Op>,
    ) -> Result<Revision, StoreError> {
        let done = self.store.apply(Command::Commit { compares, ops });
        done.result?;
        if let Some((revision, changes)) = done.changes {
            let news = WatchEvent::Changes { changes, revision };
            self.truth = Arc::new(self.truth.after(news, 1));
        }
        self.keeps_its_rules();
        Ok(self.store.revision())
    }

    /// Read from the bare keys.
    fn keeps_its_rules(&self) {
        let mut on_host: BTreeMap<&str, u64> = BTreeMap::new();
        let mut small = 0;
        let mut names = BTreeMap::new();
        let entries: BTreeMap<&str, &[u8]> = self
            .store
            .entries()
            .map(|entry| (entry.key.as_str(), &entry.value[..]))
            .collect();
        for (key, value) in &entries {
            let Some((host, id)) = key
                .strip_prefix("cell/jobs/")
                .and_then(|rest| rest.split_once('/'))
            else {
                continue;
            };
            assert!(names.insert(id, host).is_none(), "{id} is there twice");
            let job: serde_json::Value = serde_json::from_slice(value).unwrap();
            let group = job["group"].as_str().unwrap();
            assert!(
                entries.contains_key(&*format!("cell/groups/{group}")),
                "{id} is there before its group"
            );
            let status = entries.get(&*format!("cell/status/{host}/{id}"));
            if !status.is_some_and(|status| String::from_utf8_lossy(status).contains("done")) {
                *on_host.entry(host).or_default() += 1;
                small += u64::from(group == "g3");
            }
        }
        assert!(on_host.values().all(|jobs| *jobs <= ROOM), "{on_host:?}");
        assert!(small <= QUOTA, "{small} jobs of {QUOTA}");
    }

    fn turn(&mut self, turn: &Turn) {
        let count = self.schedulers.len();
        match turn {
            Turn::Go(who) => self.go(usize::from(*who) % count),
            Turn::Arrive(who, which) => self.arrive(usize::from(*who) % count, *which),
            Turn::Look(who) => self.schedulers[usize::from(*who) % count].look(&self.truth),
            Turn::End(which) => {
                let stopping: Vec<_> = self
                    .truth
                    .state
                    .jobs()
                    .filter(|job| job.is_stopping && !job.status.phase.is_final())
                    .cloned()
                    .collect();
                if let Some(job) = stopping.get(usize::from(*which) % stopping.len().max(1)) {
                    let status = JobStatus {
                        phase: Phase::Done,
                        ..JobStatus::default()
                    };
                    let key = CellKey::Status(job.host.clone(), job.id.clone());
                    self.write(Vec::new(), vec![put(&key, &status)]).unwrap();
                }
            }
        }
    }

    fn go(&mut self, who: usize) {
        let scheduler = &mut self.schedulers[who];
        if scheduler.flight.is_some() || scheduler.is_behind {
            return;
        }
        if scheduler.carrying.is_none() {
            let Some(wishes) = scheduler.wishes.pop() else {
                return;
            };
            let transaction = scheduler.transaction(&wishes);
            scheduler.done.clear();
            scheduler.carrying = Some(Carrying::new(transaction));
        }
        let Some(carrying) = &mut scheduler.carrying else {
            return;
        };
        let (flight, _) = carrying
            .decide(&scheduler.mirror, scheduler.limits)
            .expect("it is incremental");
        scheduler.flight = Some(flight);
        scheduler.depart();
    }

    fn arrive(&mut self, who: usize, which: u8) {
        let wire = &mut self.schedulers[who].on_the_wire;
        if wire.is_empty() {
            return;
        }
        let commit = wire.remove(usize::from(which) % wire.len());
        let lane = commit.lane;
        let outcome = self.write(commit.compares, commit.ops);
        let scheduler = &mut self.schedulers[who];
        let flight = scheduler.flight.as_mut().expect("a commit has a flight");
        match outcome {
            Ok(revision) => {
                for place in flight.changes(lane) {
                    scheduler.done.entry(*place).or_default().push(revision.0);
                }
                flight.carried_out(lane, revision);
            }
            Err(StoreError::Conflict { key }) => flight.refused(lane, &key),
            Err(error) => panic!("{error}"),
        }
        scheduler.depart();
    }
}

impl Scheduler {
    fn look(&mut self, truth: &Arc<Mirror>) {
        // What waits for nothing decides on what it saw.
        self.mirror = Arc::clone(truth);
        self.is_behind = false;
    }

    fn transaction(&mut self, wishes: &[Wish]) -> Transaction {
        let state = Arc::clone(&self.mirror.state);
        let jobs: Vec<&Arc<Job>> = state.jobs().collect();
        let known = |n: &u8| Some(jobs.get(usize::from(*n) % jobs.len().max(1))?.id.clone());
        let mut transaction = Transaction::on(&state);
        // Groups are there before their jobs.
        let mut put: Vec<GroupId> = state.groups().map(|group| group.id.clone()).collect();
        for wish in wishes {
            let change = match wish {
                Wish::Start {
                    host: on,
                    group: of,
                } => {
                    self.serial += 1;
                    let group = group(*of);
                    if !put.contains(&group.id) {
                        put.push(group.id.clone());
                        transaction = transaction.put_group(group.clone());
                    }
                    let id = format!("s{}-{}", self.name, self.serial);
                    Some(Change::Start(Arc::new(Job {
                        id: JobId::parse(id).unwrap(),
                        group: group.id.clone(),
                        host: host(*on),
                        spec: group.spec,
                        is_stopping: false,
                        evicted: None,
                        placed_at_ms: 0,
                        attempt: 0,
                        status: JobStatus::default(),
                    })))
                }
                Wish::Stop(n) => known(n).map(Change::Stop),
                Wish::Remove(n) => known(n).map(Change::Remove),
                Wish::Put(n) => {
                    // No two alike, so that it can be told which was carried out.
                    self.serial += 1;
                    let group = Group {
                        owner: format!("s{}-{}", self.name, self.serial),
                        ..group(*n)
                    };
                    put.push(group.id.clone());
                    Some(Change::PutGroup(Arc::new(group)))
                }
                Wish::Note(n) => Some(Change::Note {
                    group: group(*n).id,
                    status: Arc::new(GroupStatus {
                        blocked: Some(format!("s{} at {}", self.name, self.serial)),
                        ..GroupStatus::default()
                    }),
                }),
                Wish::Guard(n) => Some(Change::ExpectGroup {
                    version: state.group_version(&group(*n).id),
                    group: group(*n).id,
                }),
            };
            transaction.changes.extend(change);
        }
        transaction
    }

    /// Sends what can be sent; learns when nothing is left to wait for.
    fn depart(&mut self) {
        let flight = self.flight.as_mut().expect("it was decided");
        while let Some(next) = flight.depart().unwrap() {
            self.on_the_wire.push(next);
        }
        if !self.on_the_wire.is_empty() {
            return;
        }
        let landed = self.flight.take().expect("it was there").landed;
        let carrying = self.carrying.as_mut().expect("it was decided");
        // The next decision rests on what was written.
        self.is_behind = !landed.is_known_to(&self.mirror);
        if !carrying.learn(&landed) || carrying.attempts() == ATTEMPTS {
            let carrying = self.carrying.take().expect("it was there");
            self.judge(
                &carrying.transaction().clone(),
                &carrying.into_refused("outrun"),
            );
        }
    }

    /// What became of each change.
    fn judge(&self, transaction: &Transaction, refused: &[Refused]) {
        let mut no = refused.iter().peekable();
        let mut is_refused = Vec::new();
        for change in &transaction.changes {
            is_refused.push(no.next_if(|refused| refused.change == *change).is_some());
        }
        assert!(
            no.next().is_none(),
            "refused in the order of the transaction"
        );
        for (place, change) in transaction.changes.iter().enumerate() {
            let done = self.done.get(&place).map_or(&[][..], Vec::as_slice);
            assert!(done.len() <= 1, "{change:?} was carried out at {done:?}");
            if is_refused[place] {
                assert!(done.is_empty(), "{change:?} was carried out and refused");
            } else if !matches!(
                change,
                // A guard does nothing, and what is gone need not be stopped or removed.
                Change::ExpectGroup { .. } | Change::Stop(_) | Change::Remove(_)
            ) {
                assert_eq!(done.len(), 1, "{change:?} was lost");
            }
            // A note tells of what went before.
            if let (Change::Note { group, .. }, [at]) = (change, done) {
                for before in 0..place {
                    let is_of_group = match &transaction.changes[before] {
                        Change::Start(job) => job.group == *group,
                        Change::PutGroup(other) => other.id == *group,
                        _ => false,
                    };
                    if is_of_group {
                        let done = &self.done[&before];
                        assert!(done[0] <= *at, "the note was written too early");
                    }
                }
            }
        }
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        8 => (0..4u8, 0..4u8).prop_map(|(host, group)| Wish::Start { host, group }),
        2 => any::<u8>().prop_map(Wish::Stop),
        2 => any::<u8>().prop_map(Wish::Remove),
        1 => (0..4u8).prop_map(Wish::Put),
        1 => (0..4u8).prop_map(Wish::Note),
        1 => (0..4u8).prop_map(Wish::Guard),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => any::<u8>().prop_map(Turn::Go),
        8 => any::<(u8, u8)>().prop_map(|(who, which)| Turn::Arrive(who, which)),
        2 => any::<u8>().prop_map(Turn::Look),
        1 => any::<u8>().prop_map(Turn::End),
    ]
}

fn scheduler() -> impl Strategy<Value = (Vec<Vec<Wish>>, usize)> {
    let transactions = prop::collection::vec(prop::collection::vec(wish(), 1..12), 1..6);
    (transactions, prop_oneof![Just(1_usize), 10..60_usize])
}

proptest! {
    #[test]
    fn commits_in_any_order_keep_the_rules_and_carry_out_each_change_once(
        schedulers in prop::collection::vec(scheduler(), 2..5),
        turns in prop::collection::vec(turn(), 0..200),
    ) {
        let mut world = World::new(4, schedulers);
        for turn in &turns {
            world.turn(turn);
        }
        // Then each comes to its end.
        for who in 0..world.schedulers.len() {
            while world.schedulers[who].carrying.is_some() || !world.schedulers[who].wishes.is_empty() {
                world.schedulers[who].look(&Arc::clone(&world.truth));
                world.go(who);
                while !world.schedulers[who].on_the_wire.is_empty() {
                    world.arrive(who, 1);
                }
            }
        }
    }
}
