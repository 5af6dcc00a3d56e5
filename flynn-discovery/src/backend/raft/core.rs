//! The member as a pure machine: events in, effects out. It owns no socket, no disk, no thread and no clock.
//!
//! ```text
//!   tick, frame, call ──▶ Core ──▶ effects: send, answer, build a snapshot
//!                          │ ▲
//!            begin: a Turn ▼ │ finish: the turn is on disk
//!                   store, Machine
//! ```
//!
//! Whoever drives it repeats: hand in events; [`flush`](Core::flush); then, while [`begin`](Core::begin) gives a turn,
//! apply what it says is committed, write what it says must be written, and [`finish`](Core::finish) it.

mod answers;
mod apply;
mod changes;
mod leading;
mod reads;
mod receiving;
mod renewals;
mod requests;
mod standing;
#[cfg(test)]
mod tests;
mod turns;

use std::{collections::BTreeMap, mem, time::Duration};

use bytes::Bytes;
use raft::{RawNode, ReadOnlyOption, eraftpb::Message};
use tokio::time::Instant;

pub(crate) use self::standing::Standing;
use self::{
    reads::{Reads, Waiter},
    renewals::{Leases, Renewals},
    requests::Requests,
    standing::May,
};
use super::{
    log::{HardState, Identity, Position},
    machine::Machine,
    member::{MemberChange, MemberId},
    view::LogView,
    wire::{Frame, Request},
};
use crate::{
    Error, Result,
    backend::{
        LeaseId,
        kv::{Command, Outcome},
    },
};

/// A caller that waits for an answer; the driver knows who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(pub(crate) u64);

/// What a caller asks.
#[derive(Debug)]
pub(crate) enum Call {
    /// An encoded [`Command`] for the log.
    Command(Bytes),
    /// A change of the membership.
    Change(MemberChange),
    /// Answered when this member's state is as new as the question.
    Read,
    /// Renew a lease.
    KeepAlive(LeaseId),
}

/// What the driver is to do.
#[derive(Debug)]
pub(crate) enum Effect {
    Send(MemberId, Frame),
    /// A snapshot is large and goes its own way; [`Core::snapshot_sent`] is to follow.
    SendSnapshot(MemberId, Box<Message>),
    /// `None` answers a read or a renewal.
    Answer(Ticket, Result<Option<Outcome>>),
    /// A peer lags behind the log: [`Core::snapshot_built`] is to follow.
    BuildSnapshot,
}

/// How a [`Core`] behaves.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) me: MemberId,
    /// This run of the process.
    pub(crate) session: u64,
    pub(crate) tick: Duration,
    pub(crate) heartbeat_ticks: usize,
    pub(crate) election_ticks: usize,
    /// Fixes the election timeout within its range, for simulations.
    pub(crate) exact_election_ticks: Option<usize>,
    /// How long a caller waits.
    pub(crate) request_ticks: u64,
}

/// One member's part in the consensus.
pub(crate) struct Core {
    settings: Settings,
    node: RawNode<LogView>,
    standing: Standing,
    requests: Requests,
    reads: Reads,
    renewals: Renewals,
    leases: Leases,
    /// Requests of other members that came to this one as the leader.
    forwarded: Vec<Request>,
    forwarded_bytes: usize,
    effects: Vec<Effect>,
    ticks: u64,
    /// The time that was told last.
    now: Instant,
    leader: Option<MemberId>,
    term: u64,
    leads: bool,
    /// The tick at which the snapshot at hand was made.
    snapshot_built_at: u64,
    is_building: bool,
    /// A read is under way that shows whether this member has caught up.
    is_proving: bool,
    is_removed: bool,
    /// The stores other members had when they were last heard of them.
    stores: BTreeMap<MemberId, u64>,
    /// The tick at which each other member was last heard.
    heard: BTreeMap<MemberId, u64>,
    /// The voters, as far as they are known, and where they are: to say who is missing.
    voters: Vec<(MemberId, String)>,
}

impl Core {
    /// A member over what its store held. `applied` is what `view`'s state has applied.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for settings that contradict each other.
    pub(crate) fn new(
        settings: Settings,
        view: LogView,
        standing: Standing,
        applied: u64,
        now: Instant,
    ) -> Result<Self> {
        let invalid = |why: String| Error::Invalid {
            what: "raft settings".to_owned(),
            why,
        };
        let (min, max) = match settings.exact_election_ticks {
            Some(ticks) => (ticks, ticks + 1),
            None => (settings.election_ticks, 2 * settings.election_ticks),
        };
        let config = raft::Config {
            id: settings.me.get(),
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            min_election_tick: min,
            max_election_tick: max,
            applied,
            max_size_per_msg: MAX_APPEND_BYTES,
            max_inflight_msgs: MAX_INFLIGHT,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
            max_committed_size_per_ready: MAX_COMMITTED_BYTES,
            ..raft::Config::default()
        };
        config.validate().map_err(|e| invalid(e.to_string()))?;
        let logger = slog::Logger::root(tracing_slog::TracingSlogDrain, slog::o!());
        let node = RawNode::new(&config, view, &logger).map_err(|e| invalid(e.to_string()))?;
        let term = node.raft.term;
        Ok(Self {
            requests: Requests::new(settings.me, settings.session),
            reads: Reads::new(settings.me, settings.session),
            renewals: Renewals::default(),
            leases: Leases::default(),
            forwarded: Vec::new(),
            forwarded_bytes: 0,
            effects: Vec::new(),
            ticks: 0,
            now,
            leader: None,
            term,
            leads: false,
            snapshot_built_at: 0,
            is_building: false,
            is_proving: false,
            is_removed: false,
            stores: BTreeMap::new(),
            heard: BTreeMap::new(),
            voters: Vec::new(),
            settings,
            standing,
            node,
        })
    }

    /// Tells the time, before events are handed in: after a pause of this member's the last tick's is long past.
    pub(crate) fn set_now(&mut self, now: Instant) {
        let held_up = now.saturating_duration_since(mem::replace(&mut self.now, now));
        let election_ticks = u32::try_from(self.settings.election_ticks).unwrap_or(u32::MAX);
        // Nobody could renew a lease with a member that did not run.
        if held_up > self.settings.tick.saturating_mul(election_ticks) {
            self.leases.postpone(held_up);
        }
    }

    /// Some time has passed: about one tick.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.set_now(now);
        self.ticks += 1;
        for (to, frame) in self.standing.tick() {
            self.send(to, frame);
        }
        // A member that may not vote calls no election.
        if self.standing.may() == May::Vote {
            self.node.tick();
        }
        self.expire();
        // A leader's own entries cannot get lost while it leads, so it repeats only what was refused.
        let resend_ticks = 2 * self.settings.election_ticks as u64;
        let before = self.ticks.checked_sub(resend_ticks);
        self.requests.resend(before.filter(|_| !self.leads));
        if let Some(before) = before {
            self.renewals.resend(before);
        }
        let read_ticks = self.settings.heartbeat_ticks as u64 + 1;
        if let Some(before) = self.ticks.checked_sub(read_ticks) {
            self.reads.retry(before);
        }
        if self.leads {
            self.end_leases();
        }
        let is_stale = self.ticks > self.snapshot_built_at + SNAPSHOT_TICKS;
        if self.node.store().has_snapshot() && is_stale {
            self.node.mut_store().set_snapshot(None);
        }
    }

    /// A caller asks.
    pub(crate) fn call(&mut self, ticket: Ticket, call: Call) {
        let deadline = self.ticks + self.settings.request_ticks;
        match call {
            Call::Command(body) => {
                self.requests.submit(Some(ticket), false, body, deadline);
            }
            Call::Change(change) => {
                let body = change.encode();
                self.requests.submit(Some(ticket), true, body, deadline);
            }
            Call::Read => self.reads.push(Waiter::Read(ticket, deadline)),
            Call::KeepAlive(lease) => self.renewals.push(lease, ticket, deadline),
        }
    }

    /// What is to be done, in this order.
    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        mem::take(&mut self.effects)
    }

    /// Compacts the log in memory if it is large; the store is to do the same up to the returned position.
    pub(crate) fn compact(
        &mut self,
        machine: &Machine,
        entries: usize,
        bytes: usize,
    ) -> Option<Position> {
        let applied = machine.applied.index;
        let to = self.node.store().excess(applied, entries, bytes)?;
        self.node.mut_store().compact(to);
        Some(self.node.store().compacted())
    }

    /// What has to be stored of this member's standing before anything else is sent.
    pub(crate) fn take_identity(&mut self) -> Option<Identity> {
        self.standing.take_change()
    }

    pub(crate) fn leads(&self) -> bool {
        self.leads
    }

    pub(crate) fn leader(&self) -> Option<MemberId> {
        self.leader
    }

    pub(crate) fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub(crate) fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.node.store().hard_state()
    }

    pub(crate) fn view(&self) -> &LogView {
        self.node.store()
    }

    /// Does this member hold all it ever acknowledged?
    #[cfg(test)]
    pub(crate) fn may_vote(&self) -> bool {
        self.standing.may() == May::Vote
    }

    /// Other members say that this one was removed.
    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("me", &self.settings.me)
            .field("term", &self.term)
            .field("leader", &self.leader)
            .finish_non_exhaustive()
    }
}

/// A command as it stands in the log.
///
/// # Errors
///
/// [`Error::Invalid`] when it cannot be encoded.
pub(crate) fn encode_command(command: &Command) -> Result<Bytes> {
    postcard::to_stdvec(command)
        .map(Bytes::from)
        .map_err(|error| Error::Invalid {
            what: "command".to_owned(),
            why: error.to_string(),
        })
}

pub(crate) fn unavailable(why: impl Into<String>) -> Error {
    Error::Unavailable {
        backend: super::NAME,
        why: why.into(),
    }
}

/// The most bytes of entries in one message to a follower; one entry is sent even if it is larger.
const MAX_APPEND_BYTES: u64 = 1 << 20;

/// The most messages with entries on their way to one follower.
const MAX_INFLIGHT: usize = 64;

/// Proposals beyond this many bytes without a majority wait.
const MAX_UNCOMMITTED_BYTES: u64 = 64 << 20;

/// The most bytes applied in one go, so that ticks and messages are not kept waiting.
const MAX_COMMITTED_BYTES: u64 = 4 << 20;

/// The most bytes of requests in one entry of the log, and in one frame to the leader.
const MAX_BATCH_BYTES: usize = 256 << 10;
const MAX_FORWARD_BYTES: usize = 1 << 20;

/// The most bytes of other members' requests that wait at the leader; more are refused, and come again.
const MAX_FORWARDED_BYTES: usize = 32 << 20;

/// A snapshot is kept in memory this long after it was made, for peers that need it again.
const SNAPSHOT_TICKS: u64 = 600;
