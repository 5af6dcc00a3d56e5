//! The thread that drives one member: events from channels into the core, the core's turns onto the disk.
//!
//! One turn of the loop takes in everything that waits, proposes it together and writes it with one sync: while the
//! disk works, the next batch gathers by itself. A leader's messages leave before its own sync.

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
    log::{Batch, HardState, Identity, LogError, LogStore, Position, Recovered},
    machine::{self, Changes, Machine},
    member::{MemberId, Membership, Peer},
    status::{RaftRole, RaftStatus},
    transport::{SnapshotFrame, Transport},
    view::{LogView, from_stored, to_stored},
    wire::Frame,
};
use crate::{
    Error, Result,
    backend::{kv::Outcome, watch::WatchHub},
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
    session: u64,
    store: Box<dyn LogStore>,
    transport: Arc<dyn Transport>,
    shared: Arc<Shared>,
    events: Receiver<Event>,
    /// For events that this driver causes itself.
    sender: Sender<Event>,
    waiting_frames: Arc<AtomicUsize>,
    calls: HashMap<Ticket, Reply>,
    next_ticket: u64,
    /// What is to be written with the next batch.
    unwritten: Unwritten,
    peers: Vec<Peer>,
    stop: Option<Stop>,
}

/// Why the loop is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// As soon as another leads, or at this time.
    HandedOver(Instant),
    Now,
}

/// Changes of the state that are applied in memory and not written: they go along with the next entries.
#[derive(Debug, Default)]
struct Unwritten {
    batch: Batch,
    bytes: usize,
}

/// How a run of the loop ended.
enum Ended {
    Stopped,
    /// Room may come back.
    Full(LogError),
}

impl Driver {
    #[expect(
        clippy::too_many_arguments,
        reason = "it is the seam between backend and thread"
    )]
    pub(crate) fn new(
        config: RaftConfig,
        session: u64,
        store: Box<dyn LogStore>,
        transport: Arc<dyn Transport>,
        shared: Arc<Shared>,
        events: Receiver<Event>,
        sender: Sender<Event>,
        waiting_frames: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            config,
            session,
            store,
            transport,
            shared,
            events,
            sender,
            waiting_frames,
            calls: HashMap::new(),
            next_ticket: 0,
            unwritten: Unwritten::default(),
            peers: Vec::new(),
            stop: None,
        }
    }

    /// Opens the store and runs until it is told to stop. `opened` hears how opening went.
    ///
    /// # Errors
    ///
    /// Why the member cannot go on.
    pub(crate) fn run(mut self, opened: oneshot::Sender<Result<()>>) -> Result<()> {
        let core = match self.open() {
            Ok(core) => core,
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
        let mut core = core;
        let result = loop {
            match self.turn_over(&mut core) {
                Ok(Ended::Stopped) => break Ok(()),
                Ok(Ended::Full(error)) => match self.wait_for_room(&mut core, error) {
                    Ok(Some(again)) => core = again,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                },
                Err(error) => break Err(error),
            }
        };
        core.give_up_all();
        self.perform(&mut core);
        self.transport.stop();
        self.shared.hub.close();
        result
    }

    /// Reads the store, and makes it this member's if it is new.
    fn open(&mut self) -> Result<Core> {
        let recovered = self.store.recover().map_err(|e| self.explain(e))?;
        let me = self.config.me();
        let (machine, view, applied) = match &recovered.identity {
            Some(identity) => {
                self.check_identity(identity)?;
                self.restore(recovered)?
            }
            None => self.found()?,
        };
        let now = Instant::now();
        let settings = Settings {
            me,
            session: self.session,
            tick: self.config.tick,
            heartbeat_ticks: self.config.heartbeat_ticks(),
            election_ticks: self.config.election_ticks(),
            exact_election_ticks: None,
            request_ticks: self.config.request_ticks(),
        };
        let core = Core::new(settings, view, applied, now)?;
        *self.shared.machine.write() = machine;
        self.shared.hub.reset();
        self.unwritten = Unwritten::default();
        self.set_peers();
        self.publish(&core);
        Ok(core)
    }

    fn check_identity(&self, identity: &Identity) -> Result<()> {
        let me = self.config.me();
        let refuse = |why: String| {
            Err(Error::Storage {
                backend: super::NAME,
                why,
                source: None,
            })
        };
        if identity.cell != self.config.cell {
            return refuse(format!(
                "the store is of cell {:?}, this member is of cell {:?}: give it the right directory",
                identity.cell, self.config.cell
            ));
        }
        if identity.member != me {
            return refuse(format!(
                "the store is of member {}, this is member {me}: give it the right directory, or its former name",
                identity.member
            ));
        }
        Ok(())
    }

    fn restore(&self, recovered: Recovered) -> Result<(Machine, LogView, u64)> {
        let damaged = |what: String| {
            self.explain(LogError::Damaged {
                place: "the store".to_owned(),
                what,
            })
        };
        let machine = Machine::import(recovered.state, recovered.applied)
            .map_err(|e| damaged(e.to_string()))?;
        let entries: Option<Vec<_>> = recovered.entries.into_iter().map(from_stored).collect();
        let entries =
            entries.ok_or_else(|| damaged("a log entry is of an unknown kind".to_owned()))?;
        let mut hard_state = recovered.hard_state;
        hard_state.commit = hard_state.commit.max(recovered.applied.index);
        let conf_state = machine.membership.conf_state();
        let view = LogView::new(recovered.compacted, entries, hard_state, conf_state);
        Ok((machine, view, recovered.applied.index))
    }

    /// A new store: of a voter of a new cluster, or of a member that the leader is yet to fill.
    fn found(&mut self) -> Result<(Machine, LogView, u64)> {
        let me = self.config.me();
        let founds = self.config.voters.iter().any(|peer| peer.id == me);
        let mut batch = Batch {
            identity: Some(Identity {
                cell: self.config.cell.clone(),
                member: me,
                store: rand::random(),
            }),
            ..Batch::default()
        };
        let (machine, position, hard_state) = if founds {
            // Every founder begins with the same entry applied, so that whoever comes later needs a snapshot: a log
            // from its first entry would not say who the founders are.
            let machine = Machine::initial(Membership::initial(&self.config.voters), FOUNDATION);
            let hard_state = HardState {
                term: FOUNDATION.term,
                vote: 0,
                commit: FOUNDATION.index,
            };
            (machine, FOUNDATION, hard_state)
        } else {
            (
                Machine::default(),
                Position::default(),
                HardState::default(),
            )
        };
        batch.reset_to = Some(position);
        batch.hard_state = Some(hard_state);
        batch.state = machine.export();
        batch.applied = Some(position);
        self.store.write(batch, true).map_err(|e| self.explain(e))?;
        let conf_state = machine.membership.conf_state();
        let view = LogView::new(position, [], hard_state, conf_state);
        Ok((machine, view, position.index))
    }

    /// The loop.
    fn turn_over(&mut self, core: &mut Core) -> Result<Ended> {
        let tick = self.config.tick;
        let mut next_tick = Instant::now() + tick;
        let mut impatience = self.impatience(core);
        loop {
            let now = Instant::now();
            match self
                .events
                .recv_timeout(next_tick.saturating_duration_since(now))
            {
                Ok(event) => {
                    let now = Instant::now();
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
                    if core.leader().is_some() || core.term() > FOUNDATION.term {
                        impatience = None;
                    } else if *ticks == 0 {
                        core.campaign();
                        impatience = self.impatience(core);
                    }
                }
            }
            if let Err(error) = self.advance(core, is_tick) {
                return match error {
                    Failure::Store(error @ LogError::Full { .. }) => Ok(Ended::Full(error)),
                    Failure::Store(error) => Err(self.explain(error)),
                    Failure::State(error) => Err(error),
                };
            }
            match self.stop {
                Some(Stop::Now) => break,
                Some(Stop::HandedOver(until)) if !core.leads() || now >= until => break,
                Some(Stop::HandedOver(_)) | None => {}
            }
        }
        // A clean stop leaves nothing to apply again.
        match self.write(core, false) {
            Ok(()) => Ok(Ended::Stopped),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// In a cluster that never had a leader nobody could be disturbed: the first voter calls the election at once,
    /// the others soon after it, instead of waiting for the full timeout.
    fn impatience(&self, core: &Core) -> Option<usize> {
        let machine = self.shared.machine.read();
        let me = self.config.me().get();
        let rank = machine.membership.voters.iter().position(|id| *id == me)?;
        let is_new = core.view().last() == FOUNDATION && core.term() == FOUNDATION.term;
        is_new.then_some(1 + 4 * rank)
    }

    fn take(&mut self, core: &mut Core, event: Event, now: Instant) {
        match event {
            Event::Frame(from, frame) => {
                self.waiting_frames.fetch_sub(1, Ordering::Relaxed);
                core.receive(from, frame, now);
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

    fn advance(&mut self, core: &mut Core, is_tick: bool) -> Result<(), Failure> {
        core.flush(&self.shared.machine.read());
        while let Some(turn) = core.begin() {
            self.perform(core);
            if let Some(snapshot) = &turn.snapshot {
                self.install(core, snapshot).map_err(Failure::State)?;
            }
            self.apply(core, turn.committed.clone())
                .map_err(Failure::State)?;
            if let Some(hard_state) = turn.hard_state {
                self.unwritten.batch.hard_state = Some(hard_state);
            }
            if turn.must_sync {
                self.unwritten.batch.entries = turn.entries.iter().map(to_stored).collect();
                self.write(core, true).map_err(Failure::Store)?;
            }
            let committed = core.finish(turn);
            self.apply(core, committed).map_err(Failure::State)?;
            self.settle(core);
        }
        // A round of reads may have been confirmed without anything else to do.
        self.settle(core);
        if self.unwritten.bytes > MAX_UNWRITTEN_BYTES
            || (is_tick && !self.unwritten.batch.is_empty())
        {
            self.write(core, false).map_err(Failure::Store)?;
        }
        if is_tick {
            self.publish(core);
        }
        Ok(())
    }

    fn settle(&mut self, core: &mut Core) {
        core.settle(&self.shared.machine.read());
        self.perform(core);
        let status = self.shared.status.borrow();
        let is_news = status.leader != core.leader()
            || status.term != core.term()
            || (status.role == RaftRole::Leader) != core.leads();
        drop(status);
        if is_news {
            self.publish(core);
        }
    }

    fn apply(&mut self, core: &mut Core, entries: Vec<raft::eraftpb::Entry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut changes = Changes::default();
        let (applied, has_new_members) = {
            let mut machine = self.shared.machine.write();
            let before = machine.membership.clone();
            core.apply(&mut machine, entries, &mut changes)?;
            for (revision, commit) in &changes.commits {
                self.shared.hub.publish(*revision, commit);
            }
            (machine.applied, machine.membership != before)
        };
        let size = |change: &super::log::StateChange| match change {
            super::log::StateChange::Put(key, value) => key.len() + value.len(),
            super::log::StateChange::Delete(key) => key.len(),
        };
        self.unwritten.bytes += changes.state.iter().map(size).sum::<usize>();
        self.unwritten.batch.state.extend(changes.state);
        self.unwritten.batch.applied = Some(applied);
        if has_new_members {
            self.set_peers();
            self.publish(core);
        }
        Ok(())
    }

    fn install(&mut self, core: &mut Core, snapshot: &Snapshot) -> Result<()> {
        let metadata = snapshot.get_metadata();
        let position = Position {
            index: metadata.index,
            term: metadata.term,
        };
        let records = machine::unpack(snapshot.data.clone())?;
        let machine = Machine::import(records, position)?;
        tracing::info!(
            index = position.index,
            keys = machine.kv.len(),
            "snapshot installed"
        );
        self.unwritten.batch = Batch {
            reset_to: Some(position),
            state: machine.export(),
            applied: Some(position),
            ..Batch::default()
        };
        core.installed(&machine);
        *self.shared.machine.write() = machine;
        self.shared.hub.reset();
        self.set_peers();
        Ok(())
    }

    /// Writes what is unwritten as one batch, and compacts the log on that occasion.
    fn write(&mut self, core: &mut Core, sync: bool) -> Result<(), LogError> {
        let mut batch = std::mem::take(&mut self.unwritten).batch;
        if batch.is_empty() {
            return Ok(());
        }
        if batch.applied.is_some() {
            // What is applied was committed; a store in which it was not could not be opened.
            let applied = self.shared.machine.read().applied.index;
            let mut hard_state = batch.hard_state.unwrap_or_else(|| core.hard_state());
            hard_state.commit = hard_state.commit.max(applied);
            batch.hard_state = Some(hard_state);
        }
        if !sync {
            batch.compact_to = core.compact(
                &self.shared.machine.read(),
                self.config.max_log_entries,
                self.config.max_log_bytes,
            );
        }
        self.store.write(batch, sync)
    }

    fn perform(&mut self, core: &mut Core) {
        for effect in core.effects() {
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
            let mut snapshot = Snapshot::default();
            snapshot.data = machine::pack(&machine.export());
            let metadata = snapshot.mut_metadata();
            metadata.index = machine.applied.index;
            metadata.term = machine.applied.term;
            *metadata.mut_conf_state() = machine.membership.conf_state();
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
        for peer in &self.config.voters {
            if addrs.is_empty() || addrs.contains_key(&peer.id) {
                addrs.insert(peer.id, peer.addr.clone());
            }
        }
        addrs.remove(&me);
        let peers: Vec<Peer> = addrs
            .into_iter()
            .map(|(id, addr)| Peer { id, addr })
            .collect();
        if peers != self.peers {
            self.transport.set_peers(&peers);
            self.peers = peers;
        }
    }

    fn publish(&self, core: &Core) {
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

    /// There is no room: nothing is acknowledged, the others go on without this member, and it starts anew from what
    /// its store holds as soon as that can be written again.
    fn wait_for_room(&mut self, core: &mut Core, error: LogError) -> Result<Option<Core>> {
        tracing::error!(member = %self.config.me(), error = %Chain(&error), "the disk is full: nothing is acknowledged until there is room");
        core.give_up_all();
        self.perform(core);
        let problem = format!(
            "{}: make room, this member goes on by itself",
            Chain(&error)
        );
        self.shared.status.send_modify(|status| {
            status.problem = Some(problem.clone());
            status.leader = None;
            status.role = RaftRole::Follower;
        });
        loop {
            let until = Instant::now() + ROOM_INTERVAL;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                match self.events.recv_timeout(left.max(Duration::from_millis(1))) {
                    Ok(Event::Frame(..)) => {
                        self.waiting_frames.fetch_sub(1, Ordering::Relaxed);
                    }
                    Ok(Event::Call(_, reply)) => {
                        reply.send(Err(super::core::unavailable(problem.as_str())));
                    }
                    Ok(Event::Shutdown | Event::Stop) | Err(RecvTimeoutError::Disconnected) => {
                        return Ok(None);
                    }
                    Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                }
            }
            let probe = Batch {
                hard_state: None,
                ..Batch::default()
            };
            let again = self
                .store
                .recover()
                .and_then(|_| self.store.write(probe, true));
            match again {
                Ok(()) => {
                    tracing::info!(member = %self.config.me(), "there is room again");
                    return self.open().map(Some);
                }
                Err(LogError::Full { .. }) => {}
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    fn explain(&self, error: LogError) -> Error {
        explain(self.config.me(), error)
    }
}

enum Failure {
    Store(LogError),
    State(Error),
}

/// What an operator has to do about a store.
fn explain(member: MemberId, error: LogError) -> Error {
    let why = match &error {
        LogError::Damaged { .. } => format!(
            "member {member}: {error}. It must not vote with what is left: stop it, remove it from the cluster and its \
             directory from the disk, and let it join as new; the other members keep the data"
        ),
        LogError::Full { .. } => format!(
            "member {member}: {}. Make room and start it again",
            Chain(&error)
        ),
        LogError::InUse { .. } => format!("member {member}: {error}. Stop that one first"),
        LogError::Failed { .. } => format!("member {member}: {}. Check the disk", Chain(&error)),
    };
    Error::Storage {
        backend: super::NAME,
        why,
        source: Some(error.into()),
    }
}

/// An error with its causes, in one line.
struct Chain<'a>(&'a LogError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Where the log of a new cluster begins.
pub(crate) const FOUNDATION: Position = Position { index: 1, term: 1 };

/// How many events are taken in before they are acted upon.
const MAX_EVENTS_PER_TURN: usize = 4096;

/// Changes of the state wait for company up to this size.
const MAX_UNWRITTEN_BYTES: usize = 1 << 20;

/// How often a full disk is tried again.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);
