//! The commit protocol, tried out in every order: two schedulers, two hosts, one store.
//!
//! What decides is the real thing: [`ClusterState::apply`](crate::ClusterState::apply), the planner, what keeps its commits
//! in order and decides anew what met others, the mirror, and the store's own state machine. The model adds what can happen
//! between them: snapshots grow old, commits of one transaction wait on the wire side by side and are carried out in any
//! order, and are answered, or the answer is lost, or they are never carried out; a scheduler crashes; the store's leader
//! changes, after which a commit under way may still be carried out although nobody waits for it; a host is lost and
//! returns; a job ends; a group is rewritten. Beside placing jobs, schedulers preempt some for more important ones, and
//! reserve, prolong and clear away room for later.

mod mistakes;
mod preemption;
mod properties;
mod reservations;
mod sameness;
mod schedulers;
mod trials;
mod wire;

use std::{collections::BTreeSet, sync::Arc};

use flynn_discovery::backend::{
    Compare, Condition, Op,
    kv::{Command, KvState},
};
use stateright::{Model, Property};

use properties::{Bare, Facts, bare, facts};
use reservations::{Reserving, UNTIL_MS, reservation};
use sameness::print_of;
use schedulers::{Decision, Scheduler, Stage, decision};
use wire::{Message, seen, tear};

use super::{keys::CellKey, mirror::Mirror, plan::Limits};
use crate::{Group, GroupId, GroupKind, Host, HostId, JobId, JobSpec, JobStatus, Phase, Resources};

/// What is tried, and how often each trouble may happen.
#[derive(Clone)]
pub(super) struct Trial {
    groups: Vec<Group>,
    /// On which host a job of which group is up from the start.
    placed: &'static [(&'static str, &'static str)],
    /// What groups may be rewritten to, each once, in this order.
    rewrites: Vec<Group>,
    /// What is done about reservations.
    reserving: Reserving,
    /// Does each scheduler look after groups of its own, the first after the first, or both after all?
    is_divided: bool,
    /// How many jobs a host has room for.
    room: u64,
    /// How many compares and ops a commit may have: few, so that transactions are carried out in parts.
    limits: Limits,
    troubles: Troubles,
    /// Compares that this says no to are left out, to see whether that is noticed.
    keep: fn(&Compare) -> bool,
    /// What else is wrong with commits, to see whether that is noticed.
    spoil: fn(&mut Message),
    /// Are the groups not there yet, and written by whoever starts their jobs?
    is_founding: bool,
    /// A change of the store's leader tears commits in two, which no real one does.
    tears: bool,
    /// What must be true when nothing more can happen.
    at_rest: fn(&Cell) -> bool,
    /// What must always be true beside what always must.
    always: fn(&Cell) -> bool,
}

/// How often each trouble may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Troubles {
    lost_answers: u8,
    crashes: u8,
    elections: u8,
    losses: u8,
    ends: u8,
    rewrites: u8,
}

/// The whole world.
#[derive(Clone)]
pub(super) struct Cell {
    store: KvState,
    schedulers: [Scheduler; 2],
    /// Commits under way that nobody waits for.
    adrift: Vec<Message>,
    troubles: Troubles,
    /// Jobs whose start was acknowledged.
    claimed: BTreeSet<JobId>,
    /// Jobs that a commit removed on purpose.
    removed: BTreeSet<JobId>,
    /// Until when reservations last whose writing was acknowledged.
    reserved: BTreeSet<u64>,
    has_lost_host: bool,
    /// Was somebody preempted for what was not more important, or below a floor?
    is_unfair: bool,
    // What follows from `store`, kept because it is asked for often.
    /// What one who looks now sees.
    truth: Arc<Mirror>,
    /// The jobs, read without any of the code that is tried.
    bare: Arc<Vec<Bare>>,
    /// The reservations and groups, read likewise.
    facts: Arc<Facts>,
    print: u64,
}

/// What can happen next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// A scheduler sees what the store has.
    Look(usize),
    /// A scheduler proposes, from what it has seen.
    Propose(usize),
    /// One of its commits is carried out or refused, and the scheduler is told.
    Answer(usize, usize),
    /// One of its commits is carried out or refused, and the scheduler is told that nobody knows; others stay under way.
    LoseAnswer(usize, usize),
    /// The scheduler starts anew; its commits stay under way.
    Crash(usize),
    /// The store's leader changes: commits under way stay under way, and nobody waits for them.
    Elect,
    /// A commit that nobody waits for is carried out or refused.
    Surface(usize),
    /// A commit that nobody waits for never is.
    Sink(usize),
    /// A host is lost.
    Lose(HostId),
    /// A host returns.
    Return(HostId),
    /// A job ends by itself, or because it was told to.
    End(HostId, JobId),
    /// A group is rewritten.
    Rewrite(usize),
}

impl Model for Trial {
    type State = Cell;
    type Action = Action;

    fn init_states(&self) -> Vec<Cell> {
        let mut store = KvState::new();
        let groups = self.groups.iter();
        let mut ops: Vec<Op> = groups
            .filter(|_| !self.is_founding)
            .map(|group| put(&CellKey::Group(group.id.clone()), group))
            .collect();
        for host in [host("a", self.room), host("b", self.room)] {
            ops.push(put(&CellKey::Host(host.id.clone()), &host));
            ops.push(put(&CellKey::Known(host.id.clone()), &host));
        }
        if self.reserving == Reserving::ClearAndProlong {
            let reservation = reservation(UNTIL_MS);
            ops.push(put(
                &CellKey::Reservation(reservation.id.clone()),
                &reservation,
            ));
        }
        let compares = Vec::new();
        let done = store.apply(Command::Commit { compares, ops });
        done.result.expect("an empty store refuses nothing");
        schedulers::settle(&mut store, self);
        let (truth, bare, print) = (seen(&store), bare(&store), print_of(&store));
        let scheduler = |n| Scheduler::seeing(n, &truth, print, 0, self);
        vec![Cell {
            schedulers: [scheduler(0), scheduler(1)],
            truth: Arc::clone(&truth),
            bare: bare.into(),
            facts: facts(&store).into(),
            print,
            store,
            adrift: Vec::new(),
            troubles: self.troubles,
            claimed: BTreeSet::new(),
            removed: BTreeSet::new(),
            reserved: BTreeSet::new(),
            is_unfair: false,
            has_lost_host: false,
        }]
    }

    fn actions(&self, cell: &Cell, actions: &mut Vec<Action>) {
        for (n, scheduler) in cell.schedulers.iter().enumerate() {
            match &scheduler.stage {
                Stage::Waiting { messages, .. } => {
                    for m in 0..messages.len() {
                        actions.push(Action::Answer(n, m));
                        if cell.troubles.lost_answers > 0 {
                            actions.push(Action::LoseAnswer(n, m));
                        }
                    }
                    if cell.troubles.crashes > 0 {
                        actions.push(Action::Crash(n));
                    }
                }
                Stage::Idle | Stage::Behind(_) => {
                    if scheduler.mirror.state.revision() < cell.store.revision().0 {
                        actions.push(Action::Look(n));
                    }
                    if matches!(scheduler.stage, Stage::Idle) && scheduler.next.is_some() {
                        actions.push(Action::Propose(n));
                    }
                }
            }
        }
        let is_waiting = |s: &Scheduler| matches!(s.stage, Stage::Waiting { .. });
        if cell.troubles.elections > 0 && cell.schedulers.iter().any(is_waiting) {
            actions.push(Action::Elect);
        }
        if cell.troubles.rewrites > 0 {
            actions.extend((0..self.rewrites.len()).map(Action::Rewrite));
        }
        for n in 0..cell.adrift.len() {
            actions.extend([Action::Surface(n), Action::Sink(n)]);
        }
        let truth = &cell.truth;
        for host in truth.state.hosts() {
            if host.lost_since_ms.is_some() {
                actions.push(Action::Return(host.host.id.clone()));
            } else if cell.troubles.losses > 0 {
                actions.push(Action::Lose(host.host.id.clone()));
            }
        }
        for job in truth.state.jobs() {
            let host = truth.state.host(&job.host);
            let is_there = host.is_some_and(|host| host.lost_since_ms.is_none());
            let may_end = job.is_stopping || cell.troubles.ends > 0;
            if is_there && may_end && !job.status.phase.is_final() {
                actions.push(Action::End(job.host.clone(), job.id.clone()));
            }
        }
    }

    fn next_state(&self, before: &Cell, action: Action) -> Option<Cell> {
        let mut cell = before.clone();
        match action {
            Action::Look(n) => {
                let abandoned = cell.schedulers[n].abandoned;
                let next = Scheduler::seeing(n, &cell.truth, cell.print, abandoned, self);
                let before = std::mem::replace(&mut cell.schedulers[n], next);
                if let Stage::Behind(Some(left)) = before.stage
                    && let Some(decision) = decision(&cell.truth, cell.print, &left, self)
                {
                    cell.send(n, decision, Vec::new(), self);
                }
            }
            Action::Propose(n) => {
                let decision = cell.schedulers[n].next.clone()?;
                cell.send(n, Decision::clone(&decision), Vec::new(), self);
            }
            Action::Answer(n, m) => cell.answer(n, m, self),
            Action::LoseAnswer(n, m) => {
                cell.troubles.lost_answers -= 1;
                let mut messages = cell.abandon(n, self);
                let lost = messages.remove(m);
                let _ = cell.carry_out(&lost);
                cell.adrift.append(&mut messages);
            }
            Action::Crash(n) => {
                cell.troubles.crashes -= 1;
                let mut messages = cell.abandon(n, self);
                cell.adrift.append(&mut messages);
                let (fresh, abandoned) = (seen(&cell.store), cell.schedulers[n].abandoned);
                cell.schedulers[n] = Scheduler::seeing(n, &fresh, cell.print, abandoned, self);
            }
            Action::Elect => {
                cell.troubles.elections -= 1;
                for n in 0..cell.schedulers.len() {
                    for mut message in cell.abandon(n, self) {
                        if self.tears {
                            tear(&mut message);
                        }
                        cell.adrift.push(message);
                    }
                }
            }
            Action::Surface(n) => {
                let message = cell.adrift.remove(n);
                let _ = cell.carry_out(&message);
            }
            Action::Rewrite(n) => {
                cell.troubles.rewrites -= 1;
                let group = &self.rewrites[n];
                let op = put(&CellKey::Group(group.id.clone()), group);
                cell.report(Vec::new(), op);
            }
            Action::Sink(n) => drop(cell.adrift.remove(n)),
            Action::Lose(id) => {
                cell.troubles.losses -= 1;
                cell.has_lost_host = true;
                let key = CellKey::Host(id).key().expect("it is a key");
                cell.report(Vec::new(), Op::delete(key));
            }
            Action::Return(id) => {
                let host = host(id.as_str(), self.room);
                cell.report(Vec::new(), put(&CellKey::Host(id), &host));
            }
            Action::End(host, id) => {
                let is_told = cell.truth.state.job(&id)?.is_stopping;
                if !is_told {
                    cell.troubles.ends -= 1;
                }
                let status = JobStatus {
                    phase: Phase::Done,
                    ..JobStatus::default()
                };
                let compare = Compare {
                    key: CellKey::Job(host.clone(), id.clone()).key().ok()?,
                    condition: Condition::Present,
                };
                let op = put(&CellKey::Status(host, id), &status);
                cell.report(vec![compare], op);
            }
        }
        Some(cell)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

fn units(n: u64) -> Resources {
    Resources {
        memory_bytes: n,
        ..Resources::default()
    }
}

fn host(id: &str, room: u64) -> Host {
    Host {
        zone: Some("z".to_owned()),
        ..Host::new(HostId::parse(id).expect("it is an id"), units(room))
    }
}

fn group(id: &str, count: u32, spec: JobSpec) -> Group {
    let id = GroupId::parse(id).expect("it is an id");
    let spec = JobSpec {
        request: units(1),
        ..spec
    };
    Group::new(id, GroupKind::Service { count }, spec)
}

fn put(key: &CellKey, value: &impl serde::Serialize) -> Op {
    let value = serde_json::to_vec(value).expect("it is data");
    Op::put(key.key().expect("it is a key"), value)
}
