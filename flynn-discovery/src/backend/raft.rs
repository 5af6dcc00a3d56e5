//! A replicated [`Backend`] inside your own processes: Raft, with its log and state on their disks.
//!
//! ```text
//!   callers ──▶ RaftBackend ──▶ driver thread ──▶ LogStore (RocksDB, memory)
//!      ▲             │            core, machine
//!      │ watch,      │              │   ▲
//!      │ answers ◀───┴──────────────┘   │ frames
//!                                 Transport (TCP, channels) ◀──▶ the other members
//! ```
//!
//! Every member takes every call: writes go to the leader's log and are answered where they were asked, once they are
//! applied there; reads are confirmed by the leader and served from the member's own state, as are watches.
//!
//! What the parts are: [`MemberId`] and [`Peer`] name members, [`RaftConfig`] says who founds the cluster, a
//! [`LogStore`] keeps one member's log, a [`Transport`] carries frames.

mod config;
mod core;
mod driver;
pub mod log;
mod machine;
mod member;
mod replica;
mod sessions;
#[cfg(test)]
mod simulation;
mod status;
pub mod transport;
mod view;
mod wire;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicUsize, mpsc},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, oneshot, watch};

#[cfg(feature = "raft-rocksdb")]
pub use self::log::RocksLog;
pub use self::{
    config::RaftConfig,
    log::{LogStore, MemoryLog},
    member::{MAX_VOTERS, Member, MemberId, MemberRole, Peer},
    status::{RaftRole, RaftStatus},
    transport::{ChannelNetwork, ChannelTransport, TcpTransport, Transport},
};
use self::{
    core::{Call, encode_command},
    driver::{Driver, Event, Reply, Shared},
    machine::Machine,
    member::MemberChange,
    transport::{Inbox, Local, Refusals},
};
use super::{
    Backend, Capabilities, Compare, Entry, Key, LeaseId, ListOptions, MAX_VALUE_LEN, Op, Page,
    Prefix, Revision, WatchEvent,
    kv::{Command, Outcome},
    watch::WatchHub,
};
use crate::{Error, Result};

/// One member of a Raft cluster, as a [`Backend`].
///
/// Dropping it stops the member at once, as a crash would; [`shutdown`](Self::shutdown) hands the leadership over
/// first, so that the others do not have to notice.
pub struct RaftBackend {
    member: MemberId,
    shared: Arc<Shared>,
    caller: Caller,
    refusals: Refusals,
    is_durable: bool,
}

/// The way to the driver.
#[derive(Clone)]
struct Caller {
    events: mpsc::Sender<Event>,
    /// Bounds the calls under way, in units of [`CALL_COST`].
    calls: Arc<Semaphore>,
    ended: watch::Receiver<Option<Result<(), Arc<Error>>>>,
}

impl RaftBackend {
    /// Opens the store and joins the cluster. It does not wait for a leader: see
    /// [`wait_for_leader`](Self::wait_for_leader).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the configuration contradicts itself; [`Error::Storage`] when the store is damaged,
    /// full, in use, or another member's.
    pub async fn start(
        config: RaftConfig,
        store: impl LogStore,
        transport: impl Transport,
    ) -> Result<Self> {
        config.check()?;
        let member = config.me();
        let is_durable = store.is_durable();
        let (events, receiver) = mpsc::channel();
        let shared = Arc::new(Shared {
            machine: RwLock::new(Machine::default()),
            hub: WatchHub::new(NAME),
            status: watch::Sender::new(RaftStatus {
                member,
                role: RaftRole::Follower,
                leader: None,
                term: 0,
                committed: 0,
                applied: 0,
                members: Vec::new(),
                is_removed: false,
                problem: None,
            }),
        });
        let waiting = Arc::new(AtomicUsize::new(0));
        let refusals = Refusals::default();
        let transport: Arc<dyn Transport> = Arc::new(transport);
        let local = Local {
            id: member,
            cell: config.cell.clone(),
            incarnation: rand::random(),
        };
        let inbox = Inbox::new(events.clone(), Arc::clone(&waiting), Arc::clone(&refusals));
        transport.start(local, inbox);
        let driver = Driver::new(
            config,
            Box::new(store),
            Arc::clone(&transport),
            Arc::clone(&shared),
            receiver,
            events.clone(),
            waiting,
        );
        let (opened, is_open) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let hub = shared.hub.clone();
        let body = move || {
            let run = std::panic::AssertUnwindSafe(|| driver.run(opened));
            let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
                Err(Error::Storage {
                    backend: NAME,
                    why: format!(
                        "member {member} stopped because of a bug: see its log, and start it again"
                    ),
                    source: None,
                })
            });
            if let Err(error) = &result {
                tracing::error!(%member, %error, "the member stopped");
            }
            transport.stop();
            hub.close();
            end.send_replace(Some(result.map_err(Arc::new)));
        };
        std::thread::Builder::new()
            .name(format!("raft-{member}"))
            .spawn(body)
            .map_err(|error| core::unavailable(format!("no thread for it: {error}")))?;
        let this = Self {
            member,
            shared,
            caller: Caller {
                events,
                calls: Arc::new(Semaphore::new(MAX_CALLS)),
                ended,
            },
            refusals,
            is_durable,
        };
        match is_open.await {
            Ok(opened) => opened.map(|()| this),
            Err(_) => Err(this.caller.why_ended()),
        }
    }

    /// This member.
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// What this member knows at present.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        let mut status = self.shared.status.borrow().clone();
        // What was just applied is part of it, though not yet told to those who follow.
        let machine = self.shared.machine.read();
        status.applied = machine.applied.index;
        status.members = machine.membership.members();
        status
    }

    /// Follows [`status`](Self::status).
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<RaftStatus> {
        self.shared.status.subscribe()
    }

    /// Waits until a leader is known, at most so long.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] with their reason when other members refuse this one; [`Error::Unavailable`] when there was
    /// no leader in time; why the member stopped, if it did.
    pub async fn wait_for_leader(&self, at_most: Duration) -> Result<MemberId> {
        let mut status = self.watch_status();
        let mut ended = self.caller.ended.clone();
        let found = async {
            let known = status.wait_for(|status| status.leader.is_some()).await;
            known.ok().and_then(|status| status.leader)
        };
        tokio::select! {
            found = tokio::time::timeout(at_most, found) => match found {
                Ok(Some(leader)) => return Ok(leader),
                Ok(None) => return Err(self.caller.why_ended()),
                Err(_) => {}
            },
            _ = ended.wait_for(Option::is_some) => return Err(self.caller.why_ended()),
        }
        if let Some(why) = self.refusals.lock().values().next() {
            return Err(Error::Denied { why: why.clone() });
        }
        let problem = self.status().problem;
        Err(core::unavailable(problem.unwrap_or_else(|| {
            format!("no leader within {at_most:?}: a majority of the voters must be up and reach each other")
        })))
    }

    /// Adds a member without a vote. It gets a snapshot, then follows; [`promote`](Self::promote) makes it a voter.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it cannot be added; else as [`Backend::commit`].
    pub async fn add_learner(&self, peer: Peer) -> Result<()> {
        self.change(MemberChange::AddLearner(peer)).await
    }

    /// Gives a learner a vote, as soon as it has nearly caught up.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is no member or there are [`MAX_VOTERS`]; else as [`Backend::commit`].
    pub async fn promote(&self, member: MemberId) -> Result<()> {
        self.change(MemberChange::Promote(member)).await
    }

    /// Takes a voter's vote; it goes on as a learner.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is no member or the last voter; else as [`Backend::commit`].
    pub async fn demote(&self, member: MemberId) -> Result<()> {
        self.change(MemberChange::Demote(member)).await
    }

    /// Removes a member for good: its store must not be used again. Removing one that is gone succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is the last voter; else as [`Backend::commit`].
    pub async fn remove(&self, member: MemberId) -> Result<()> {
        self.change(MemberChange::Remove(member)).await
    }

    /// Hands the leadership to another voter, if this member leads, and stops.
    ///
    /// # Errors
    ///
    /// Why the member had stopped before, if it was not told to.
    pub async fn shutdown(&self) -> Result<(), Arc<Error>> {
        // A member that has stopped already hears nothing any more.
        let _ = self.caller.events.send(Event::Shutdown);
        self.closed().await
    }

    /// Resolves when the member has stopped. The future does not keep the backend alive.
    ///
    /// # Errors
    ///
    /// Why it stopped, if it was not told to.
    pub fn closed(&self) -> impl Future<Output = Result<(), Arc<Error>>> + Send + 'static {
        let mut ended = self.caller.ended.clone();
        async move {
            match ended.wait_for(Option::is_some).await {
                Ok(result) => result.clone().unwrap_or(Ok(())),
                Err(_) => Ok(()),
            }
        }
    }

    async fn change(&self, change: MemberChange) -> Result<()> {
        self.caller.call(Call::Change(change), 0).await.map(drop)
    }

    async fn command(&self, command: Command) -> Result<Outcome> {
        command.check()?;
        let body: Bytes = encode_command(&command)?;
        let len = body.len();
        match self.caller.call(Call::Command(body), len).await? {
            Some(outcome) => Ok(outcome),
            None => unreachable!("a command is answered with an outcome"),
        }
    }

    async fn revise(&self, command: Command) -> Result<Revision> {
        match self.command(command).await? {
            Outcome::Committed(revision) => Ok(revision),
            Outcome::Granted(_) => unreachable!("only a grant is answered with a lease"),
        }
    }
}

#[async_trait]
impl Backend for RaftBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_durable: self.is_durable,
            linearizable_reads: true,
            min_ttl: MIN_TTL,
            max_value_len: MAX_VALUE_LEN,
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.caller.call(Call::Read, 0).await?;
        Ok(self.shared.machine.read().kv.get(key).cloned())
    }

    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<Page> {
        self.caller.call(Call::Read, 0).await?;
        let state = self.shared.machine.read().kv.clone();
        Ok(state.list(prefix, &options))
    }

    async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Revision> {
        self.revise(Command::Commit { compares, ops }).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        match self.command(Command::grant(ttl.max(MIN_TTL))).await? {
            Outcome::Granted(lease) => Ok(lease),
            Outcome::Committed(_) => unreachable!("a grant is answered with a lease"),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.caller.call(Call::KeepAlive(lease), 0).await.map(drop)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.revise(Command::Revoke { lease }).await.map(drop)
    }

    fn watch(&self, prefix: &Prefix) -> BoxStream<'static, Result<WatchEvent>> {
        let (shared, caller) = (Arc::clone(&self.shared), self.caller.clone());
        let prefix = prefix.clone();
        let watch = async move {
            // So that the first reset holds what was acknowledged before, wherever that was. A member that cannot
            // confirm it tells what it knows: old news of services is better than none.
            if let Err(error) = caller.call(Call::Read, 0).await {
                tracing::warn!(%prefix, %error, "a watch begins with what may be old");
            }
            let state = Arc::clone(&shared);
            let snapshot = move || state.machine.read().kv.clone();
            shared.hub.watch(&prefix, snapshot)
        };
        futures::stream::once(watch).flatten().boxed()
    }
}

impl Caller {
    async fn call(&self, call: Call, len: usize) -> Result<Option<Outcome>> {
        let cost = 1 + u32::try_from(len / CALL_COST).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.calls)
            .acquire_many_owned(cost)
            .await
            .map_err(|_| closed())?;
        let (answer, answered) = oneshot::channel();
        let event = Event::Call(call, Reply { answer, permit });
        if self.events.send(event).is_err() {
            return Err(self.why_ended());
        }
        match answered.await {
            Ok(result) => result,
            Err(_) => Err(self.why_ended()),
        }
    }

    fn why_ended(&self) -> Error {
        match &*self.ended.borrow() {
            Some(Err(error)) => Error::Storage {
                backend: NAME,
                why: match &**error {
                    Error::Storage { why, .. } => why.clone(),
                    error => error.to_string(),
                },
                source: None,
            },
            Some(Ok(())) | None => closed(),
        }
    }
}

impl Drop for RaftBackend {
    fn drop(&mut self) {
        let _ = self.caller.events.send(Event::Stop);
    }
}

impl fmt::Debug for RaftBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftBackend")
            .field("status", &*self.shared.status.borrow())
            .finish_non_exhaustive()
    }
}

fn closed() -> Error {
    Error::Closed { backend: NAME }
}

pub(crate) const NAME: &str = "raft";

/// How many calls may be under way at a member; a large one counts as several. More of them wait.
const MAX_CALLS: usize = 8192;

/// A call counts as one more for each of these bytes.
const CALL_COST: usize = 8 << 10;

/// Long enough for a renewal to reach the leader on a busy machine.
const MIN_TTL: Duration = Duration::from_secs(1);
