//! The invented world: time, network, disks, members and the clients that ask them.

mod clients;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use parking_lot::RwLock;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use self::clients::{Client, Waiting, key, value_of};
use super::{
    invariants::{Seen, digest_of},
    linearizability::{Call as Done, Operation, is_linearizable},
};
use crate::{
    Result,
    backend::{
        Change, Revision,
        raft::{
            core::{Effect, Settings},
            log::{Batch, LogError, LogStore, MemoryLog},
            machine::Machine,
            member::{MemberId, Peer},
            replica::{Failure, Foundation, Host, Replica, snapshot_of},
            wire::Frame,
        },
    },
};

const FOUNDERS: usize = 3;
const MEMBERS: usize = 5;
const CLIENTS: usize = 4;
const REGISTERS: usize = 2;
/// Time is counted in milliseconds; a tick is this long, give or take a tenth on each member.
const TICK: u64 = 50;
const RUN: u64 = 30_000;
const HEALING: u64 = 60_000;
/// By then a change of the membership is made or given up.
const CHANGE_TIME: u64 = 8_000;

pub(super) struct World {
    random: StdRng,
    now: u64,
    epoch: Instant,
    members: Vec<Member>,
    /// By the time of arrival, then in the order of sending.
    network: BTreeMap<(u64, u64), Parcel>,
    parcels: u64,
    /// The side of a cut on which each member is; frames do not cross.
    sides: [bool; MEMBERS],
    clients: Vec<Client>,
    history: Vec<Vec<Done>>,
    next_value: u64,
    next_ticket: u64,
    seen: Seen,
    /// The member that lost its disk and is not back in its rights: one at a time.
    wiped: Option<usize>,
    /// When a change of the membership was asked last.
    changed_at: u64,
    is_calm: bool,
    story: DefaultHasher,
    acknowledged: u64,
    unknown: u64,
}

struct Member {
    peer: Peer,
    disk: Disk,
    running: Option<Running>,
    next_tick: u64,
    drift: u64,
    restart_at: u64,
}

struct Running {
    replica: Replica,
    machine: RwLock<Machine>,
}

struct Parcel {
    from: usize,
    to: usize,
    frame: Frame,
}

/// A disk that keeps, of what was not synced, some prefix when its member stops.
struct Disk {
    durable: MemoryLog,
    volatile: Vec<Batch>,
    /// The member is to stop at a write, before or after it.
    stops: Option<bool>,
}

/// What a member does in one step.
struct Hands<'a> {
    disk: &'a mut Disk,
    effects: Vec<Effect>,
}

impl Host for Hands<'_> {
    fn perform(&mut self, effects: Vec<Effect>) {
        self.effects.extend(effects);
    }

    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), LogError> {
        let stop = || LogError::Failed {
            place: "the invented disk".to_owned(),
            source: "the member stops here".into(),
        };
        if self.disk.stops == Some(false) {
            return Err(stop());
        }
        self.disk.volatile.push(batch);
        if sync {
            self.disk.sync(usize::MAX);
        }
        if self.disk.stops == Some(true) {
            return Err(stop());
        }
        Ok(())
    }

    fn committed(&mut self, _: Revision, _: &[Change]) {}

    fn replaced(&mut self) {}

    fn regrouped(&mut self) {}
}

impl Disk {
    fn new() -> Self {
        Self {
            durable: MemoryLog::new(),
            volatile: Vec::new(),
            stops: None,
        }
    }

    fn sync(&mut self, batches: usize) {
        let count = batches.min(self.volatile.len());
        for batch in self.volatile.drain(..count) {
            self.durable.write(batch, true).unwrap();
        }
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let members = (0..MEMBERS)
            .map(|i| Member {
                peer: Peer::new(MemberId::from_name(&i.to_string()), i.to_string()),
                disk: Disk::new(),
                running: None,
                next_tick: random.random_range(0..TICK),
                drift: random.random_range(0..TICK / 5),
                restart_at: 0,
            })
            .collect();
        Self {
            random,
            now: 0,
            epoch: Instant::now(),
            members,
            network: BTreeMap::new(),
            parcels: 0,
            sides: [false; MEMBERS],
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            history: vec![Vec::new(); REGISTERS],
            next_value: 0,
            next_ticket: 0,
            seen: Seen::default(),
            wiped: None,
            changed_at: 0,
            is_calm: false,
            story: DefaultHasher::new(),
            acknowledged: 0,
            unknown: 0,
        }
    }

    /// Lets things happen.
    pub(super) fn run(&mut self) {
        while self.now < RUN {
            self.step();
            if self.chance(1, 4000) {
                self.cut_or_join();
            }
            if self.chance(1, 2500) {
                self.stop_someone();
            }
            if self.chance(1, 12_000) {
                self.wipe_someone();
            }
            if self.chance(1, 6000) {
                self.change_membership();
            }
        }
    }

    /// Ends all faults and waits until everybody has caught up.
    pub(super) fn heal(&mut self) {
        self.is_calm = true;
        self.sides = [false; MEMBERS];
        for member in &mut self.members {
            member.disk.stops = None;
            member.restart_at = member.restart_at.min(self.now);
        }
        let until = self.now + HEALING;
        while !(self.is_settled() && self.clients.iter().all(|c| c.waits.is_none())) {
            assert!(
                self.now < until,
                "the members do not come together again: {}",
                self.describe()
            );
            self.step();
        }
        // What is there in the end counts as read.
        for register in 0..REGISTERS {
            let machine = self.leader_machine();
            let value = value_of(machine.kv.get(&key(register)).map(|e| &e.value[..]));
            drop(machine);
            self.history[register].push(Done {
                operation: Operation::Read(value),
                called: self.now,
                answered: Some(self.now + 1),
            });
        }
    }

    pub(super) fn check_history(&self) {
        for (register, history) in self.history.iter().enumerate() {
            assert!(
                is_linearizable(history),
                "register {register} is not linearizable: {history:#?}"
            );
        }
    }

    pub(super) fn score(&self) -> (u64, u64) {
        (self.acknowledged, self.unknown)
    }

    pub(super) fn digest(&self) -> u64 {
        self.story.finish()
    }

    fn chance(&mut self, of: u32, from: u32) -> bool {
        self.random.random_ratio(of, from)
    }

    /// One millisecond.
    fn step(&mut self) {
        self.now += 1;
        while let Some(entry) = self.network.first_entry()
            && entry.key().0 <= self.now
        {
            let Parcel { from, to, frame } = entry.remove();
            self.deliver(from, to, frame);
        }
        for i in 0..MEMBERS {
            if self.members[i].running.is_none() && self.members[i].restart_at <= self.now {
                self.start(i);
            }
            if self.members[i].next_tick <= self.now {
                self.members[i].next_tick = self.now + TICK - TICK / 10 + self.members[i].drift;
                let now = self.instant();
                self.turn(i, true, |replica| replica.core.tick(now));
            }
        }
        for client in 0..CLIENTS {
            if self.clients[client].waits.is_none() && !self.is_calm && self.chance(1, 100) {
                self.ask(client);
            }
        }
    }

    fn instant(&self) -> Instant {
        self.epoch + Duration::from_millis(self.now)
    }

    fn start(&mut self, i: usize) {
        let now = self.instant();
        let session = self.random.random();
        let ticks = self.random.random_range(10..20);
        let foundation = Foundation {
            cell: "simulated".to_owned(),
            founders: self.members[..FOUNDERS]
                .iter()
                .map(|m| m.peer.clone())
                .collect(),
            store: self.random.random(),
            max_entries: 40,
            max_bytes: 1 << 20,
        };
        let member = &mut self.members[i];
        member.disk.stops = None;
        let settings = Settings {
            me: member.peer.id,
            session,
            tick: Duration::from_millis(TICK),
            heartbeat_ticks: 2,
            election_ticks: 10,
            exact_election_ticks: Some(ticks),
            request_ticks: 100,
        };
        let recovered = member
            .disk
            .durable
            .recover()
            .expect("a disk keeps its contract");
        let machine = RwLock::new(Machine::default());
        let mut hands = Hands {
            disk: &mut member.disk,
            effects: Vec::new(),
        };
        match Replica::open(settings, &foundation, recovered, &machine, &mut hands, now) {
            Ok(replica) => member.running = Some(Running { replica, machine }),
            Err(failure) => panic!("{} does not start: {failure:?}", member.peer.id),
        }
    }

    fn deliver(&mut self, from: usize, to: usize, frame: Frame) {
        if self.sides[from] != self.sides[to] {
            return;
        }
        let (now, from) = (self.instant(), self.members[from].peer.id);
        self.turn(to, false, |replica| {
            replica.core.set_now(now);
            replica.core.receive(from, frame);
        });
    }

    /// Hands something to a member and lets it act.
    fn turn(&mut self, i: usize, is_tick: bool, event: impl FnOnce(&mut Replica)) {
        let member = &mut self.members[i];
        let Some(Running {
            mut replica,
            machine,
        }) = member.running.take()
        else {
            return;
        };
        event(&mut replica);
        let mut hands = Hands {
            disk: &mut member.disk,
            effects: Vec::new(),
        };
        let result = replica.advance(&machine, &mut hands, is_tick);
        // What left before the stop has left; nobody is answered by a member that stopped.
        let mut effects = hands.effects;
        match result {
            Ok(()) => {
                self.seen
                    .check(member.peer.id, &replica.core, &machine.read());
                let state = machine.read();
                let core = &replica.core;
                (i, state.applied.index, core.term(), core.leads()).hash(&mut self.story);
                if self.wiped == Some(i) && replica.core.may_vote() {
                    self.wiped = None;
                }
                drop(state);
                self.members[i].running = Some(Running { replica, machine });
            }
            Err(Failure::Store(_)) if member.disk.stops.is_some() => {
                effects.retain(|e| !matches!(e, Effect::Answer(..) | Effect::BuildSnapshot));
                drop((replica, machine));
                self.crash(i);
            }
            Err(failure) => panic!("{} failed: {failure:?}", member.peer.id),
        }
        for effect in effects {
            self.perform(i, effect);
        }
    }

    fn perform(&mut self, i: usize, effect: Effect) {
        match effect {
            Effect::Send(to, frame) => self.send(i, to, frame),
            Effect::SendSnapshot(to, message) => {
                let is_sent = self.is_calm || !self.chance(1, 4);
                if is_sent {
                    self.send(i, to, Frame::Raft(message));
                }
                self.turn(i, false, |replica| replica.core.snapshot_sent(to, is_sent));
            }
            Effect::Answer(ticket, result) => self.answer(ticket, result),
            Effect::BuildSnapshot => {
                if let Some(running) = &self.members[i].running {
                    let snapshot = snapshot_of(&running.machine.read());
                    self.turn(i, false, |replica| replica.core.snapshot_built(snapshot));
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: MemberId, frame: Frame) {
        let Some(to) = self.members.iter().position(|m| m.peer.id == to) else {
            return;
        };
        if !self.is_calm && self.chance(1, 30) {
            if self.chance(1, 2) {
                let peer = self.members[to].peer.id;
                // It is told at once or never.
                self.turn(from, false, |replica| replica.core.unreachable(peer));
            }
            return;
        }
        let copies = if !self.is_calm && self.chance(1, 40) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut delay = self.random.random_range(1..6);
            if !self.is_calm && self.chance(1, 50) {
                delay += self.random.random_range(0..1000);
            }
            self.parcels += 1;
            let parcel = Parcel {
                from,
                to,
                frame: frame.clone(),
            };
            self.network
                .insert((self.now + delay, self.parcels), parcel);
        }
    }

    /// A member stops and loses some of what was not synced; its callers never hear.
    fn crash(&mut self, i: usize) {
        let keeps = self
            .random
            .random_range(0..=self.members[i].disk.volatile.len());
        let member = &mut self.members[i];
        member.running = None;
        member.disk.stops = None;
        member.disk.sync(keeps);
        member.disk.volatile.clear();
        member.restart_at = self.now + self.random.random_range(10..4000);
        for client in 0..CLIENTS {
            let asked = |w: &mut Waiting| w.member == i;
            let Some(waiting) = self.clients[client].waits.take_if(asked) else {
                continue;
            };
            if !matches!(waiting.operation, Operation::Read(_)) {
                self.unknown += 1;
                self.history[waiting.register].push(Done {
                    operation: waiting.operation,
                    called: waiting.called,
                    answered: None,
                });
            }
        }
    }

    fn stop_someone(&mut self) {
        let i = self.random.random_range(0..MEMBERS);
        match self.random.random_range(0..3) {
            0 => self.crash(i),
            1 => self.members[i].disk.stops = Some(false),
            _ => self.members[i].disk.stops = Some(true),
        }
    }

    /// A member stops and its disk is replaced by an empty one.
    fn wipe_someone(&mut self) {
        let i = self.random.random_range(0..FOUNDERS);
        let may_vote = |m: &Member| {
            m.running
                .as_ref()
                .is_some_and(|running| running.replica.core.may_vote())
        };
        // At first, everybody is empty; the loss of a second disk before the first is made up for loses data; and
        // without a majority that remembers there is nobody to make up for it.
        let has_three = |m: &Member| {
            m.running
                .as_ref()
                .is_none_or(|r| !(1..3).contains(&r.machine.read().membership.voters.len()))
        };
        if self.wiped.is_some()
            || self.now < self.changed_at + CHANGE_TIME
            || !self.members[..FOUNDERS].iter().all(may_vote)
            || !self.members.iter().all(has_three)
        {
            return;
        }
        self.crash(i);
        self.members[i].disk = Disk::new();
        self.wiped = Some(i);
    }

    fn cut_or_join(&mut self) {
        if self.sides.contains(&true) {
            self.sides = [false; MEMBERS];
        } else {
            for side in &mut self.sides {
                *side = self.random.random();
            }
        }
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for member in &self.members {
            text += &match &member.running {
                None => format!("\n{} is stopped", member.peer.id),
                Some(Running { replica, machine }) => format!(
                    "\n{:?} last {:?} applied {:?} may vote {} {:?}",
                    replica.core,
                    replica.core.view().last(),
                    machine.read().applied,
                    replica.core.may_vote(),
                    machine.read().membership,
                ),
            };
        }
        text
    }

    /// Has everybody who takes part applied what the leader has?
    fn is_settled(&self) -> bool {
        let running = || self.members.iter().filter_map(|m| m.running.as_ref());
        let Some(leader) = running().find(|r| {
            let last = r.replica.core.view().last();
            r.replica.core.leads() && r.machine.read().applied == last
        }) else {
            return false;
        };
        let state = leader.machine.read();
        let digest = digest_of(&state);
        self.members
            .iter()
            .filter(|m| state.membership.contains(m.peer.id))
            .all(|m| {
                m.running.as_ref().is_some_and(|r| {
                    let machine = r.machine.read();
                    machine.applied == state.applied && digest_of(&machine) == digest
                })
            })
    }

    fn leader_machine(&self) -> parking_lot::RwLockReadGuard<'_, Machine> {
        let running = self.members.iter().filter_map(|m| m.running.as_ref());
        running
            .filter(|r| r.replica.core.leads())
            .max_by_key(|r| r.replica.core.term())
            .expect("there is a leader")
            .machine
            .read()
    }
}
