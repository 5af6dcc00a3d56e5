//! The thread that drives one member: events from channels into the core, the core's turns onto the disk.
//!
//! One turn of the loop takes in everything that waits, proposes it together and writes it with one sync: while the
//! disk works, the next batch gathers by itself. A leader's messages leave before its own sync.

mod trouble;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use parking_lot::RwLock;
use raft::eraftpb::{Message, Snapshot};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot, watch},
    time::Instant,
};

use super::{
    config::RaftConfig,
    core::{Call, Core, Effect, Settings, Ticket},
    log::{Batch, LogError, LogStore},
    machine::Machine,
    member::{MemberId, Peer},
    replica::{FIRST, Failure, Foundation, Host, Replica, snapshot_of},
    status::{RaftRole, RaftStatus},
    transport::{SnapshotFrame, Transport},
    wire::Frame,
};
use crate::{
    Result,
    backend::{Change, Revision, kv::Outcome, watch::WatchHub},
};

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum Event {
    Frame(MemberId, Frame),
    Unreachable(MemberId),
    SnapshotSent(MemberId, bool),
    SnapshotBuilt(Box<Snapshot>),
    Call(Call, Reply),
    /// Hand over the leadership, then stop.
    Shutdown,
    /// Stop at once.
    Stop,
}

/// Where a call's answer goes.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: oneshot::Sender<Result<Option<Outcome>>>,
    /// Held until the call is over, whether or not its caller still waits.
    pub(crate) permit: OwnedSemaphorePermit,
}

impl Reply {
    fn send(self, result: Result<Option<Outcome>>) {
        drop(self.permit);
        // Nobody waits for a call that was dropped.
        let _ = self.answer.send(result);
    }
}

/// What the driver shares with the backend.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) machine: RwLock<Machine>,
    pub(crate) hub: WatchHub,
    pub(crate) status: watch::Sender<RaftStatus>,
}

/// One member, from its store to its callers.
pub(crate) struct Driver {
    config: RaftConfig,
    store: Box<dyn LogStore>,
    transport: Arc<dyn Transport>,
    shared: Arc<Shared>,
    events: Receiver<Event>,
    /// For events that this driver causes itself.
    sender: Sender<Event>,
    waiting_frames: Arc<AtomicUsize>,
    calls: HashMap<Ticket, Reply>,
    next_ticket: u64,
    peers: Vec<Peer>,
    removed: Vec<MemberId>,
    has_new_members: bool,
    stop: Option<Stop>,
}

/// Why the loop is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// As soon as another leads, or at this time.
    HandedOver(Instant),
    Now,
}

/// How a run of the loop ended.
enum Ended {
    Stopped,
    /// Room may come back.
    Full(LogError),
}

impl Driver {
    pub(crate) fn new(
        config: RaftConfig,
        store: Box<dyn LogStore>,
        transport: Arc<dyn Transport>,
        shared: Arc<Shared>,
        events: Receiver<Event>,
        sender: Sender<Event>,
        waiting_frames: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            config,
            store,
            transport,
            shared,
            events,
            sender,
            waiting_frames,
            calls: HashMap::new(),
            next_ticket: 0,
            peers: Vec::new(),
            removed: Vec::new(),
            has_new_members: false,
            stop: None,
        }
    }

    /// Opens the store and runs until it is told to stop. `opened` hears how opening went.
    ///
    /// # Errors
    ///
    /// Why the member cannot go on.
    pub(crate) fn run(mut self, opened: oneshot::Sender<Result<()>>) -> Result<()> {
        let mut replica = match self.open() {
            Ok(replica) => replica,
            Err(error) => {
                // Whoever hears of it may open the store again at once.
                drop(self);
                let _ = opened.send(Err(error));
                return Ok(());
            }
        };
        if opened.send(Ok(())).is_err() {
            return Ok(()); // nobody waits for this member any more
        }
        let result = loop {
            match self.turn_over(&mut replica) {
                Ok(Ended::Stopped) => break Ok(()),
                Ok(Ended::Full(error)) => match self.wait_for_room(&mut replica.core, &error) {
                    Ok(Some(again)) => replica = again,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                },
                Err(error) => break Err(error),
            }
        };
        replica.core.give_up_all();
        self.perform(replica.core.effects());
        self.transport.stop();
        self.shared.hub.close();
        result
    }

    /// Reads the store, and makes it this member's if it is new.
    fn open(&mut self) -> Result<Replica> {
        let recovered = self.store.recover().map_err(|e| self.explain(e))?;
        if let Some(identity) = &recovered.identity {
            self.check_identity(identity)?;
        }
        let settings = Settings {
            me: self.config.me(),
            // A new one each time: what an earlier core of this process asked is not what this one asks.
            session: rand::random(),
            tick: self.config.tick,
            heartbeat_ticks: self.config.heartbeat_ticks(),
            election_ticks: self.config.election_ticks(),
            exact_election_ticks: None,
            request_ticks: self.config.request_ticks(),
        };
        let foundation = Foundation {
            cell: self.config.cell.clone(),
            founders: self.config.voters.clone(),
            store: rand::random(),
            max_entries: self.config.max_log_entries,
            max_bytes: self.config.max_log_bytes,
        };
        let shared = Arc::clone(&self.shared);
        let now = Instant::now();
        let opened = Replica::open(settings, &foundation, recovered, &shared.machine, self, now);
        let replica = opened.map_err(|failure| self.fail(failure))?;
        self.shared.hub.reset();
        self.set_peers();
        self.publish(&replica.core);
        Ok(replica)
    }

    /// The loop.
    fn turn_over(&mut self, replica: &mut Replica) -> Result<Ended> {
        let shared = Arc::clone(&self.shared);
        let tick = self.config.tick;
        let mut next_tick = Instant::now() + tick;
        let mut impatience = self.impatience(&replica.core);
        loop {
            let core = &mut replica.core;
            let left = next_tick.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    let now = Instant::now();
                    core.set_now(now);
                    self.take(core, event, now);
                    for _ in 1..MAX_EVENTS_PER_TURN {
                        let Ok(event) = self.events.try_recv() else {
                            break;
                        };
                        self.take(core, event, now);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Ended::Stopped),
            }
            let now = Instant::now();
            let is_tick = now >= next_tick;
            if is_tick {
                // Missed ticks are not made up for: a thread that was held up must not call an election for that.
                next_tick = now + tick;
                core.tick(now);
                if let Some(ticks) = &mut impatience {
                    *ticks = ticks.saturating_sub(1);
                    if core.leader().is_some() || core.term() > FIRST.term {
                        impatience = None;
                    } else if *ticks == 0 {
                        core.campaign();
                        impatience = self.impatience(core);
                    }
                }
            }
            match replica.advance(&shared.machine, self, is_tick) {
                Ok(()) => {}
                Err(Failure::Store(error @ LogError::Full { .. })) => {
                    return Ok(Ended::Full(error));
                }
                Err(failure) => return Err(self.fail(failure)),
            }
            let core = &replica.core;
            if is_tick || self.has_news(core) {
                self.publish(core);
            }
            match self.stop {
                Some(Stop::Now) => break,
                Some(Stop::HandedOver(until)) if !core.leads() || now >= until => break,
                Some(Stop::HandedOver(_)) | None => {}
            }
        }
        // A clean stop leaves nothing to apply again.
        match replica.write(&shared.machine, self, false) {
            Ok(()) => Ok(Ended::Stopped),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Is there something that those who follow the status wait for?
    fn has_news(&self, core: &Core) -> bool {
        let status = self.shared.status.borrow();
        self.has_new_members
            || status.leader != core.leader()
            || status.term != core.term()
            || (status.role == RaftRole::Leader) != core.leads()
    }

    /// In a cluster that never had a leader nobody could be disturbed: the first voter calls the election at once,
    /// the others soon after it, instead of waiting for the full timeout.
    fn impatience(&self, core: &Core) -> Option<usize> {
        let machine = self.shared.machine.read();
        let me = self.config.me().get();
        let rank = machine.membership.voters.iter().position(|id| *id == me)?;
        let is_new = core.view().last() == FIRST && core.term() == FIRST.term;
        is_new.then_some(1 + 4 * rank)
    }

    fn take(&mut self, core: &mut Core, event: Event, now: Instant) {
        match event {
            Event::Frame(from, frame) => {
                self.waiting_frames.fetch_sub(1, Ordering::Relaxed);
                core.receive(from, frame);
            }
            Event::Unreachable(peer) => core.unreachable(peer),
            Event::SnapshotSent(peer, is_delivered) => core.snapshot_sent(peer, is_delivered),
            Event::SnapshotBuilt(snapshot) => core.snapshot_built(*snapshot),
            Event::Call(call, reply) => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                self.calls.insert(ticket, reply);
                core.call(ticket, call);
            }
            Event::Shutdown => {
                let has_heir = core.hand_over(&self.shared.machine.read());
                self.stop = Some(if has_heir {
                    Stop::HandedOver(now + self.config.election_timeout)
                } else {
                    Stop::Now
                });
            }
            Event::Stop => self.stop = Some(Stop::Now),
        }
    }

    fn send_snapshot(&self, to: MemberId, mut message: Message) {
        let data = std::mem::take(&mut message.mut_snapshot().data);
        let frame = Frame::Raft(Box::new(message)).encode();
        tracing::info!(peer = %to, bytes = data.len(), "sending a snapshot");
        self.transport
            .send_snapshot(to, SnapshotFrame { frame, data });
    }

    /// Packs a copy of the state on a thread of its own; the copy itself costs nothing.
    fn build_snapshot(&self) {
        let machine = self.shared.machine.read().clone();
        let sender = self.sender.clone();
        let build = move || {
            let snapshot = snapshot_of(&machine);
            let _ = sender.send(Event::SnapshotBuilt(Box::new(snapshot)));
        };
        if let Err(error) = std::thread::Builder::new()
            .name("raft-snapshot".to_owned())
            .spawn(build)
        {
            tracing::warn!(%error, "no thread for a snapshot; it is tried again");
        }
    }

    fn set_peers(&mut self) {
        let me = self.config.me();
        let mut addrs = self.shared.machine.read().membership.addrs.clone();
        // What this member was told at its start is newer than what the log says.
        let is_new = addrs.is_empty();
        for peer in &self.config.voters {
            if is_new || addrs.contains_key(&peer.id) {
                addrs.insert(peer.id, peer.addr.clone());
            }
        }
        addrs.remove(&me);
        let peers: Vec<Peer> = addrs
            .into_iter()
            .map(|(id, addr)| Peer { id, addr })
            .collect();
        let removed = self.shared.machine.read().membership.removed.clone();
        if (&peers, &removed) != (&self.peers, &self.removed) {
            self.transport.set_peers(&peers, &removed);
            (self.peers, self.removed) = (peers, removed);
        }
    }

    fn publish(&mut self, core: &Core) {
        self.has_new_members = false;
        let machine = self.shared.machine.read();
        let me = self.config.me();
        let role = if core.leads() {
            RaftRole::Leader
        } else if machine.membership.is_voter(me) {
            RaftRole::Follower
        } else {
            RaftRole::Learner
        };
        let status = RaftStatus {
            member: me,
            role,
            leader: core.leader(),
            term: core.term(),
            committed: core.committed(),
            applied: machine.applied.index,
            members: machine.membership.members(),
            is_removed: core.is_removed() || machine.membership.removed.contains(&me),
            problem: None,
        };
        drop(machine);
        self.shared.status.send_if_modified(|present| {
            let is_news = *present != status;
            *present = status;
            is_news
        });
    }
}

impl Host for Driver {
    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(to, frame) => self.transport.send(to, frame.encode()),
                Effect::SendSnapshot(to, message) => self.send_snapshot(to, *message),
                Effect::Answer(ticket, result) => {
                    if let Some(reply) = self.calls.remove(&ticket) {
                        reply.send(result);
                    }
                }
                Effect::BuildSnapshot => self.build_snapshot(),
            }
        }
    }

    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), LogError> {
        let started = Instant::now();
        let result = self.store.write(batch, sync);
        let took = started.elapsed();
        if took > SLOW_WRITE {
            tracing::warn!(member = %self.config.me(), ?took, "the disk is slow");
        }
        result
    }

    fn committed(&mut self, revision: Revision, changes: &[Change]) {
        self.shared.hub.publish(revision, changes);
    }

    fn replaced(&mut self) {
        self.shared.hub.reset();
    }

    fn regrouped(&mut self) {
        self.has_new_members = true;
        self.set_peers();
    }
}

/// How many events are taken in before they are acted upon.
const MAX_EVENTS_PER_TURN: usize = 4096;

/// A write that takes longer is worth a word: a few of them, and the others elect a new leader.
const SLOW_WRITE: Duration = Duration::from_millis(300);
