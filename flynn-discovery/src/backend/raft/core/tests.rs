//! Members whose clock stands still, handed what happens to them one thing at a time: a frozen process, a paused machine.
//!
//! The simulation beside has what is random; here are the stories that must end one way.

use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use super::{Call, Effect, Settings, Ticket, encode_command};
use crate::{
    Result,
    backend::{
        Change, LeaseId, Revision,
        deadlines::Deadlines,
        kv::{Command, Outcome},
        raft::{
            log::{Batch, LogError, LogStore, MemoryLog},
            machine::Machine,
            member::{MemberId, Peer},
            replica::{Foundation, Host, Replica},
            wire::{self, Frame},
        },
    },
};

const TICK: Duration = Duration::from_millis(50);
const TTL: Duration = Duration::from_secs(2);

/// A member, what it wrote, and what it wants done.
struct Member {
    replica: Replica,
    machine: RwLock<Machine>,
    hands: Hands,
}

#[derive(Default)]
struct Hands {
    log: MemoryLog,
    effects: Vec<Effect>,
    /// How many members were told of their removal whenever the members had changed.
    told: Vec<usize>,
}

impl Host for Hands {
    fn perform(&mut self, effects: Vec<Effect>) {
        self.effects.extend(effects);
    }

    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), LogError> {
        self.log.write(batch, sync)
    }

    fn committed(&mut self, _: Revision, _: &[Change]) {}

    fn replaced(&mut self) {}

    fn regrouped(&mut self) {
        let is_word = |effect: &&Effect| matches!(effect, Effect::Send(_, Frame::Removed));
        self.told.push(self.effects.iter().filter(is_word).count());
    }
}

/// Some members on one clock.
struct Cluster {
    now: Instant,
    ids: Vec<MemberId>,
    members: Vec<Member>,
    /// From, to, what.
    network: Vec<(usize, usize, Frame)>,
    /// Who can neither be heard nor hears.
    is_cut_off: Vec<bool>,
    answers: Vec<(Ticket, Result<Option<Outcome>>)>,
    tickets: u64,
}

impl Cluster {
    /// With a leader; the one that is returned.
    fn start(count: usize) -> (Self, usize) {
        let peers: Vec<Peer> = (0..count)
            .map(|i| Peer::new(MemberId::from_name(&i.to_string()), i.to_string()))
            .collect();
        let now = Instant::now();
        let members = peers.iter().enumerate().map(|(i, peer)| {
            let settings = Settings {
                me: peer.id,
                session: i as u64 + 1,
                tick: TICK,
                heartbeat_ticks: 2,
                election_ticks: 10,
                // The first is always the first to call an election.
                exact_election_ticks: Some(10 + 3 * i),
                request_ticks: 200,
            };
            let foundation = Foundation {
                cell: "test".to_owned(),
                founders: peers.clone(),
                store: i as u64 + 1,
                max_entries: 1000,
                max_bytes: 1 << 20,
            };
            let machine = RwLock::new(Machine::default());
            let mut hands = Hands::default();
            let recovered = hands.log.recover().unwrap();
            let opened = Replica::open(settings, &foundation, recovered, &machine, &mut hands, now);
            Member {
                replica: opened.unwrap(),
                machine,
                hands,
            }
        });
        let mut cluster = Self {
            now,
            ids: peers.iter().map(|peer| peer.id).collect(),
            members: members.collect(),
            network: Vec::new(),
            is_cut_off: vec![false; count],
            answers: Vec::new(),
            tickets: 0,
        };
        for _ in 0..100 {
            cluster.tick();
            if let Some(leader) = cluster.leader() {
                return (cluster, leader);
            }
        }
        panic!("nobody was elected");
    }

    fn leader(&self) -> Option<usize> {
        let reaches_others = |i: &usize| !self.is_cut_off[*i];
        (0..self.members.len())
            .filter(reaches_others)
            .find(|i| self.members[*i].replica.core.leads())
    }

    /// Hands something to a member and lets it act; what it sends is on its way then.
    fn hand(&mut self, i: usize, is_tick: bool, event: impl FnOnce(&mut Replica)) {
        let member = &mut self.members[i];
        event(&mut member.replica);
        let advanced = member
            .replica
            .advance(&member.machine, &mut member.hands, is_tick);
        assert!(advanced.is_ok(), "{advanced:?}");
        for effect in std::mem::take(&mut member.hands.effects) {
            match effect {
                Effect::Send(to, frame) => {
                    let to = self.ids.iter().position(|id| *id == to).unwrap();
                    self.network.push((i, to, frame));
                }
                Effect::Answer(ticket, result) => self.answers.push((ticket, result)),
                Effect::SendSnapshot(..) | Effect::BuildSnapshot => {}
            }
        }
    }

    /// Delivers until nothing is on its way.
    fn deliver(&mut self) {
        while !self.network.is_empty() {
            self.deliver_once();
        }
    }

    /// Delivers what is on its way now, and not what follows from it.
    fn deliver_once(&mut self) {
        for (from, to, frame) in std::mem::take(&mut self.network) {
            if self.is_cut_off[from] || self.is_cut_off[to] {
                continue;
            }
            let (now, from) = (self.now, self.ids[from]);
            self.hand(to, false, |replica| {
                replica.core.set_now(now);
                replica.core.receive(from, frame);
            });
        }
    }

    /// A tick on every member, and what follows from it.
    fn tick(&mut self) {
        self.tick_after(TICK);
    }

    /// The same when the members stood still before.
    fn tick_after(&mut self, pause: Duration) {
        self.now += pause;
        for i in 0..self.members.len() {
            let now = self.now;
            self.hand(i, true, |replica| replica.core.tick(now));
        }
        self.deliver();
    }

    fn run(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / TICK.as_millis() {
            self.tick();
        }
    }

    /// A caller at a member asks; what is on its way is not delivered.
    fn call(&mut self, i: usize, call: Call) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let now = self.now;
        self.hand(i, false, |replica| {
            replica.core.set_now(now);
            replica.core.call(ticket, call);
        });
        ticket
    }

    /// The answer to a question, once it is there.
    fn answer(&mut self, ticket: Ticket) -> Option<Result<Option<Outcome>>> {
        let position = self.answers.iter().position(|(t, _)| *t == ticket)?;
        Some(self.answers.swap_remove(position).1)
    }

    fn grant(&mut self, i: usize) -> LeaseId {
        let command = encode_command(&Command::grant(TTL)).unwrap();
        let ticket = self.call(i, Call::Command(command));
        self.deliver();
        match self.answer(ticket) {
            Some(Ok(Some(Outcome::Granted(lease)))) => lease,
            other => panic!("{other:?}"),
        }
    }

    fn renew(&mut self, i: usize, lease: LeaseId) -> Ticket {
        self.call(i, Call::KeepAlive(lease))
    }

    fn is_alive(&self, i: usize, lease: LeaseId) -> bool {
        let machine = self.members[i].machine.read();
        machine.kv.leases().any(|known| known.id == lease)
    }
}

/// Longer than any time to live.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn the_word_of_a_removal_is_sent_before_the_way_to_the_removed_member_is_closed() {
    let (mut cluster, leader) = Cluster::start(3);
    let removed = (leader + 1) % 3;
    // It does not hear of its removal from the log.
    cluster.is_cut_off[removed] = true;
    let change = super::MemberChange::Remove(cluster.ids[removed]);
    for member in &mut cluster.members {
        member.hands.told.clear();
    }
    let ticket = cluster.call(leader, Call::Change(change));
    let mut words = Vec::new();
    while !cluster.network.is_empty() {
        words.extend(cluster.network.iter().filter_map(|(from, to, frame)| {
            (*to == removed && *frame == Frame::Removed).then_some(*from)
        }));
        cluster.deliver_once();
    }
    assert!(matches!(cluster.answer(ticket), Some(Ok(_))));
    assert!(words.contains(&leader), "{words:?}");
    assert_eq!(cluster.members[leader].hands.told, [1]);
}

#[test]
fn a_member_that_is_led_again_was_not_removed() {
    let (mut cluster, leader) = Cluster::start(3);
    let follower = (leader + 1) % 3;
    let from = cluster.ids[(leader + 2) % 3];
    cluster.hand(follower, false, |replica| {
        replica.core.receive(from, Frame::Removed);
    });
    assert!(cluster.members[follower].replica.core.is_removed());
    cluster.run(10 * TICK);
    assert!(!cluster.members[follower].replica.core.is_removed());
}

#[test]
fn a_leader_that_stood_still_ends_leases_neither_at_once_nor_never() {
    for count in [1, 3] {
        let (mut cluster, leader) = Cluster::start(count);
        let (kept, left) = (cluster.grant(leader), cluster.grant(leader));
        cluster.tick_after(LONG);
        assert!(cluster.is_alive(leader, kept) && cluster.is_alive(leader, left));
        // From here on it is as if the time between had not been.
        let ticket = cluster.renew(leader, kept);
        cluster.run(TTL - 2 * TICK);
        assert!(matches!(cluster.answer(ticket), Some(Ok(None))));
        cluster.renew(leader, kept);
        cluster.run(4 * TICK);
        assert!(cluster.is_alive(leader, kept), "it was renewed");
        assert!(!cluster.is_alive(leader, left), "nobody renewed it");
        cluster.run(TTL + 2 * TICK);
        assert!(!cluster.is_alive(leader, kept), "nobody renewed it again");
    }
}

/// The whole machine was paused while the leader asked the others whether it still leads.
#[test]
fn a_renewal_that_was_under_way_in_a_pause_does_not_end_its_lease() {
    let (mut cluster, leader) = Cluster::start(3);
    let lease = cluster.grant(leader);
    let ticket = cluster.renew(leader, lease);
    assert!(!cluster.network.is_empty(), "the others are asked");
    cluster.tick_after(LONG);
    cluster.run(2 * TICK);
    assert!(matches!(cluster.answer(ticket), Some(Ok(None))));
    assert!(cluster.is_alive(leader, lease));
    cluster.run(TTL + 2 * TICK);
    assert!(!cluster.is_alive(leader, lease));
}

#[test]
fn a_leader_that_is_held_up_again_and_again_ends_what_nobody_renews_and_only_that() {
    let (mut cluster, leader) = Cluster::start(1);
    let (kept, left) = (cluster.grant(leader), cluster.grant(leader));
    let held_up = Duration::from_millis(600);
    let begin = cluster.now;
    let mut ended = None;
    for _ in 0..100 {
        let ticket = cluster.renew(leader, kept);
        cluster.tick_after(held_up);
        assert!(matches!(cluster.answer(ticket), Some(Ok(None))));
        assert!(cluster.is_alive(leader, kept));
        if ended.is_none() && !cluster.is_alive(leader, left) {
            ended = Some(cluster.now - begin);
        }
    }
    let at_most = TTL + held_up * (u32::from(Deadlines::MAX_POSTPONED) + 2);
    assert!(ended.is_some_and(|after| after <= at_most), "{ended:?}");
}

/// A leader that hears nobody does not know yet that it leads no longer when a lease's time is over, of which the next
/// leader knows that it was renewed.
#[test]
fn a_deposed_leaders_request_to_end_leases_is_dropped() {
    let (mut cluster, deposed) = Cluster::start(3);
    let lease = cluster.grant(deposed);
    let holder = (deposed + 1) % 3;
    cluster.run(TTL - 4 * TICK);
    cluster.is_cut_off[deposed] = true;
    let mut asked = None;
    for _ in 0..60 {
        cluster.tick();
        let core = &cluster.members[deposed].replica.core;
        asked = asked.or_else(|| core.leases.request());
        if cluster.leader().is_some() && !core.leads() {
            break;
        }
    }
    let seq = asked.expect("it asked to end the lease");
    let core = &cluster.members[deposed].replica.core;
    assert!(!core.leads() && !core.requests.is_pending(seq));
    // The holder has found the next leader.
    let ticket = cluster.renew(holder, lease);
    cluster.deliver();
    assert!(matches!(cluster.answer(ticket), Some(Ok(None))));
    cluster.is_cut_off[deposed] = false;
    for _ in 0..TTL.as_millis() / TICK.as_millis() / 2 {
        cluster.now += TICK;
        for i in 0..3 {
            let now = cluster.now;
            cluster.hand(i, true, |replica| replica.core.tick(now));
        }
        let forwards = cluster
            .network
            .iter()
            .filter(|(from, _, frame)| *from == deposed && matches!(frame, Frame::Forward(_)));
        assert_eq!(forwards.count(), 0, "it passes its request on");
        cluster.deliver();
    }
    let next = cluster.leader().unwrap();
    assert_ne!(next, deposed);
    assert!(cluster.is_alive(next, lease));
    assert!(cluster.is_alive(deposed, lease), "it follows");
    cluster.run(TTL);
    assert!(!cluster.is_alive(next, lease), "nobody renews it any more");
}

/// Whoever asks for a renewal asks the next leader when this one is gone; the old one must not answer from memory.
#[test]
fn a_leader_that_was_deposed_while_it_stood_still_renews_nothing() {
    let (mut cluster, frozen) = Cluster::start(3);
    let lease = cluster.grant(frozen);
    let holder = (frozen + 1) % 3;
    let keep_alive = Frame::KeepAlive(wire::KeepAlive {
        session: holder as u64 + 1,
        leases: vec![lease.0],
    });
    // It stands still, the others elect one of them.
    cluster.is_cut_off[frozen] = true;
    for _ in 0..60 {
        cluster.now += TICK;
        for i in (0..3).filter(|i| *i != frozen) {
            let now = cluster.now;
            cluster.hand(i, true, |replica| replica.core.tick(now));
        }
        cluster.deliver();
    }
    assert!(cluster.leader().is_some_and(|leader| leader != frozen));
    assert!(
        cluster.members[frozen].replica.core.leads(),
        "as it believes"
    );
    cluster.is_cut_off[frozen] = false;
    // What it finds when it wakes: a renewal that came before the others gave it up.
    let (now, from) = (cluster.now, cluster.ids[holder]);
    cluster.hand(frozen, false, |replica| {
        replica.core.set_now(now);
        replica.core.receive(from, keep_alive);
    });
    let kept = |frame: &Frame| matches!(frame, Frame::Kept(_));
    assert!(!cluster.network.iter().any(|(.., frame)| kept(frame)));
    for _ in 0..20 {
        cluster.tick();
    }
    assert!(!cluster.members[frozen].replica.core.leads());
}
