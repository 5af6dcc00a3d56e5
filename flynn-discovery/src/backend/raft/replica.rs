//! A core with its state machine and what it has yet to write: one member without thread, network and clock.
//!
//! The driver runs it with a real disk and real peers, the simulation with invented ones.

use parking_lot::RwLock;
use raft::eraftpb::{Entry, Snapshot};
use tokio::time::Instant;

use super::{
    core::{Core, Effect, Settings, Standing},
    log::{Batch, HardState, Identity, LogError, Position, Recovered, StateChange},
    machine::{self, Changes, Machine},
    member::{MemberId, Membership, Peer},
    view::{LogView, from_stored, to_stored},
};
use crate::{
    Error, Result,
    backend::{Change, Revision},
};

/// What a replica is given to work with.
pub(crate) trait Host {
    /// Carries out effects, in their order.
    fn perform(&mut self, effects: Vec<Effect>);

    /// Writes a batch; with `sync` it is durable when this returns.
    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), LogError>;

    /// The state changed by one commit. Called while the state is locked.
    fn committed(&mut self, revision: Revision, changes: &[Change]);

    /// The state was replaced by a snapshot.
    fn replaced(&mut self);

    /// Who takes part has changed.
    fn regrouped(&mut self);
}

/// Who a replica is.
#[derive(Debug, Clone)]
pub(crate) struct Foundation {
    pub(crate) cell: String,
    pub(crate) founders: Vec<Peer>,
    /// The number of the store, should it be new.
    pub(crate) store: u64,
    /// Bounds of the log.
    pub(crate) max_entries: usize,
    pub(crate) max_bytes: usize,
}

/// One member, driven by a [`Host`].
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) core: Core,
    bounds: (usize, usize),
    /// Changes of the state that are applied and not written: they go along with the next entries.
    unwritten: Batch,
    unwritten_bytes: usize,
}

/// Why a replica cannot go on.
#[derive(Debug)]
pub(crate) enum Failure {
    Store(LogError),
    State(Error),
}

impl Replica {
    /// A member over what its store holds; a store without an identity becomes its own. The state goes into `machine`.
    pub(crate) fn open(
        settings: Settings,
        foundation: &Foundation,
        recovered: Recovered,
        machine: &RwLock<Machine>,
        host: &mut impl Host,
        now: Instant,
    ) -> Result<Self, Failure> {
        let me = settings.me;
        let (state, view, identity) = match recovered.identity.clone() {
            Some(identity) => {
                let (state, view) = restore(recovered)?;
                (state, view, identity)
            }
            None => found(me, foundation, host)?,
        };
        let is_founder = foundation.founders.iter().any(|peer| peer.id == me);
        let founders = foundation.founders.iter().map(|peer| peer.id);
        let others = founders.filter(|id| *id != me).collect();
        // Twice the longest time after which a leader without this member's answers steps down.
        let silence = 4 * settings.election_ticks as u64;
        let standing = Standing::new(identity, others, is_founder, silence);
        let applied = state.applied.index;
        let core = Core::new(settings, view, standing, applied, now).map_err(Failure::State)?;
        *machine.write() = state;
        Ok(Self {
            core,
            bounds: (foundation.max_entries, foundation.max_bytes),
            unwritten: Batch::default(),
            unwritten_bytes: 0,
        })
    }

    /// Acts upon what was handed in since the last time. `is_tick` says that it is time to write what has gathered.
    pub(crate) fn advance(
        &mut self,
        machine: &RwLock<Machine>,
        host: &mut impl Host,
        is_tick: bool,
    ) -> Result<(), Failure> {
        if let Some(identity) = self.core.take_identity() {
            // Before anything is sent that rests on it.
            self.unwritten.identity = Some(identity);
            self.write(machine, host, true).map_err(Failure::Store)?;
        }
        self.core.flush(&machine.read());
        while let Some(turn) = self.core.begin() {
            host.perform(self.core.effects());
            if let Some(snapshot) = &turn.snapshot {
                self.install(machine, host, snapshot)?;
            }
            self.apply(machine, host, turn.committed.clone())?;
            if let Some(hard_state) = turn.hard_state {
                self.unwritten.hard_state = Some(hard_state);
            }
            if turn.must_sync {
                self.unwritten.entries = turn.entries.iter().map(to_stored).collect();
                self.write(machine, host, true).map_err(Failure::Store)?;
            }
            let committed = self.core.finish(turn);
            self.apply(machine, host, committed)?;
            self.core.settle(&machine.read());
            host.perform(self.core.effects());
        }
        // A round of reads may have been confirmed without anything else to do.
        self.core.settle(&machine.read());
        host.perform(self.core.effects());
        if self.unwritten_bytes > MAX_UNWRITTEN_BYTES || is_tick {
            self.write(machine, host, false).map_err(Failure::Store)?;
        }
        Ok(())
    }

    /// Writes what is unwritten as one batch, and compacts the log on that occasion.
    pub(crate) fn write(
        &mut self,
        machine: &RwLock<Machine>,
        host: &mut impl Host,
        sync: bool,
    ) -> Result<(), LogError> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        self.unwritten_bytes = 0;
        let mut batch = std::mem::take(&mut self.unwritten);
        if batch.applied.is_some() {
            // What is applied was committed; a store in which it was not could not be opened.
            let applied = machine.read().applied.index;
            let mut hard_state = batch.hard_state.unwrap_or_else(|| self.core.hard_state());
            hard_state.commit = hard_state.commit.max(applied);
            batch.hard_state = Some(hard_state);
        }
        if !sync {
            let (entries, bytes) = self.bounds;
            batch.compact_to = self.core.compact(&machine.read(), entries, bytes);
        }
        host.write(batch, sync)
    }

    fn apply(
        &mut self,
        machine: &RwLock<Machine>,
        host: &mut impl Host,
        entries: Vec<Entry>,
    ) -> Result<(), Failure> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut changes = Changes::default();
        let has_new_members = {
            let mut machine = machine.write();
            let has_new_members = self
                .core
                .apply(&mut machine, entries, &mut changes)
                .map_err(Failure::State)?;
            for (revision, commit) in &changes.commits {
                host.committed(*revision, commit);
            }
            self.unwritten.applied = Some(machine.applied);
            has_new_members
        };
        self.unwritten_bytes += changes.state.iter().map(StateChange::len).sum::<usize>();
        self.unwritten.state.extend(changes.state);
        if has_new_members {
            // What those are told who are members no more leaves while there is still a way to them.
            host.perform(self.core.effects());
            host.regrouped();
        }
        Ok(())
    }

    fn install(
        &mut self,
        machine: &RwLock<Machine>,
        host: &mut impl Host,
        snapshot: &Snapshot,
    ) -> Result<(), Failure> {
        let metadata = snapshot.get_metadata();
        let position = Position {
            index: metadata.index,
            term: metadata.term,
        };
        let records = machine::unpack(snapshot.data.clone()).map_err(Failure::State)?;
        let state = Machine::import(records, position).map_err(Failure::State)?;
        tracing::info!(
            index = position.index,
            keys = state.kv.len(),
            "snapshot installed"
        );
        self.unwritten_bytes = 0;
        self.unwritten = Batch {
            reset_to: Some(position),
            state: state.export(),
            applied: Some(position),
            ..Batch::default()
        };
        self.core.installed(&state);
        *machine.write() = state;
        host.replaced();
        host.regrouped();
        Ok(())
    }
}

/// The snapshot of a state.
pub(crate) fn snapshot_of(machine: &Machine) -> Snapshot {
    let mut snapshot = Snapshot {
        data: machine::pack(&machine.export()),
        ..Snapshot::default()
    };
    let metadata = snapshot.mut_metadata();
    metadata.index = machine.applied.index;
    metadata.term = machine.applied.term;
    *metadata.mut_conf_state() = machine.membership.conf_state();
    snapshot
}

fn restore(recovered: Recovered) -> Result<(Machine, LogView), Failure> {
    let damaged = |what: String| {
        Failure::Store(LogError::Damaged {
            place: "the store".to_owned(),
            what,
        })
    };
    let machine =
        Machine::import(recovered.state, recovered.applied).map_err(|e| damaged(e.to_string()))?;
    let entries: Option<Vec<_>> = recovered.entries.into_iter().map(from_stored).collect();
    let entries = entries.ok_or_else(|| damaged("a log entry is of an unknown kind".to_owned()))?;
    let mut hard_state = recovered.hard_state;
    hard_state.commit = hard_state.commit.max(recovered.applied.index);
    let conf_state = machine.membership.conf_state();
    let view = LogView::new(recovered.compacted, entries, hard_state, conf_state);
    Ok((machine, view))
}

/// A new store: of a founder, or of a member that the leader is yet to fill.
fn found(
    me: MemberId,
    foundation: &Foundation,
    host: &mut impl Host,
) -> Result<(Machine, LogView, Identity), Failure> {
    let identity = Identity {
        cell: foundation.cell.clone(),
        member: me,
        store: foundation.store,
        is_proven: false,
        known: std::collections::BTreeMap::new(),
        fellows: std::collections::BTreeMap::new(),
    };
    let founders = &foundation.founders;
    let (machine, position, hard_state) = if founders.iter().any(|peer| peer.id == me) {
        // Every founder begins with the same entry applied, so that whoever comes later needs a snapshot: a log from
        // its first entry would not say who the founders are.
        let machine = Machine::initial(Membership::initial(founders), FIRST);
        let hard_state = HardState {
            term: FIRST.term,
            vote: 0,
            commit: FIRST.index,
        };
        (machine, FIRST, hard_state)
    } else {
        (
            Machine::default(),
            Position::default(),
            HardState::default(),
        )
    };
    let batch = Batch {
        reset_to: Some(position),
        hard_state: Some(hard_state),
        state: machine.export(),
        applied: Some(position),
        identity: Some(identity.clone()),
        ..Batch::default()
    };
    host.write(batch, true).map_err(Failure::Store)?;
    let conf_state = machine.membership.conf_state();
    let view = LogView::new(position, [], hard_state, conf_state);
    Ok((machine, view, identity))
}

/// Where the log of a new cluster begins.
pub(crate) const FIRST: Position = Position { index: 1, term: 1 };

/// Changes of the state wait for company up to this size.
const MAX_UNWRITTEN_BYTES: usize = 1 << 20;
