//! Schedulers in a few lines, which decide by the real rules and the real planner.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use flynn_discovery::backend::{
    Op,
    kv::{Command, KvState},
};

use super::{
    Trial,
    preemption::{make_room, settled},
    put,
    reservations::reserving,
    wire::{Message, seen},
};
use crate::{
    Group, GroupId, GroupKind, HostId, Job, JobId, JobSpec, JobStatus, Phase, Transaction,
    remote::{carrying::Carrying, flight::Flight, keys::CellKey, mirror::Mirror, plan::Limits},
    transaction::Change,
};

#[derive(Clone)]
pub(super) struct Scheduler {
    pub(super) mirror: Arc<Mirror>,
    /// Tells mirrors apart.
    pub(super) seen: u64,
    /// What it would commit next.
    pub(super) next: Option<Arc<Decision>>,
    /// Commits of which it never heard. They make its jobs' names new.
    pub(super) abandoned: u8,
    pub(super) stage: Stage,
}

#[derive(Clone)]
pub(super) enum Stage {
    /// May propose.
    Idle,
    /// Is done, or met others: goes on, with what is left if that is something, when it has seen more.
    Behind(Option<Arc<Carrying>>),
    /// These commits of a transaction are on the wire.
    Waiting {
        decision: Decision,
        messages: Vec<Message>,
    },
}

/// A transaction, and what carries out a part of it.
#[derive(Clone)]
pub(super) struct Decision {
    pub(super) carrying: Arc<Carrying>,
    pub(super) flight: Flight,
    /// Tells what it was made from.
    pub(super) basis: u64,
}

impl Scheduler {
    pub(super) fn seeing(
        n: usize,
        mirror: &Arc<Mirror>,
        seen: u64,
        abandoned: u8,
        trial: &Trial,
    ) -> Self {
        Self {
            next: next(mirror, seen, n, abandoned, trial).map(Arc::new),
            mirror: Arc::clone(mirror),
            seen,
            abandoned,
            stage: Stage::Idle,
        }
    }
}

/// What a scheduler would commit next.
fn next(mirror: &Mirror, seen: u64, n: usize, abandoned: u8, trial: &Trial) -> Option<Decision> {
    let transaction = match reserving(&mirror.state, n, trial) {
        Some(transaction) => transaction,
        None => proposal(mirror, n, abandoned, trial),
    };
    if transaction.is_empty() {
        return None;
    }
    decision(mirror, seen, &Carrying::new(transaction), trial)
}

/// What carries out what is left, if that is anything.
pub(super) fn decision(
    mirror: &Mirror,
    seen: u64,
    left: &Carrying,
    trial: &Trial,
) -> Option<Decision> {
    let mut carrying = left.clone();
    let (flight, _) = carrying.decide(mirror, trial.limits).ok()?;
    let mut hasher = DefaultHasher::new();
    (seen, format!("{left:?}")).hash(&mut hasher);
    (!flight.is_empty()).then(|| Decision {
        carrying: Arc::new(carrying),
        flight,
        basis: hasher.finish(),
    })
}

/// How often a transaction is decided.
pub(super) const ATTEMPTS: usize = 2;

/// A scheduler in a few lines: starts what is missing, stops what is too much, removes what ended. Groups called
/// `gang…` are placed whole or not at all, those called `free…` without a guard.
fn proposal(mirror: &Mirror, who: usize, abandoned: u8, trial: &Trial) -> Transaction {
    let state = &mirror.state;
    let mut transaction = Transaction::on(state);
    let mut groups: Vec<Arc<Group>> = state.groups().cloned().collect();
    if trial.is_founding {
        groups = trial.groups.iter().cloned().map(Arc::new).collect();
    }
    let is_lost = |id: &HostId| state.host(id).is_none_or(|h| h.lost_since_ms.is_some());
    for (at, group) in groups.iter().enumerate() {
        if trial.is_divided && at % 2 != who {
            continue;
        }
        let GroupKind::Service { count } = group.kind else {
            continue;
        };
        let is_gang = group.id.as_str().starts_with("gang");
        let live: Vec<&Arc<Job>> = state
            .jobs_of(&group.id)
            .filter(|job| !job.status.phase.is_final() && !job.is_stopping)
            .filter(|job| is_gang || !is_lost(&job.host))
            .collect();
        let guard = Change::ExpectGroup {
            group: group.id.clone(),
            version: state.group_version(&group.id),
        };
        let mut next = transaction.clone();
        if !group.id.as_str().starts_with("free") {
            next = next.with(guard);
        }
        if state.group(&group.id).is_none() {
            next = next.put_group(Arc::clone(group));
        }
        let asked = next.changes.len();
        for job in state.jobs_of(&group.id) {
            if job.status.phase.is_final() {
                next = next.remove(job.id.clone());
            }
        }
        let count = count as usize;
        for job in live.iter().skip(count) {
            next = next.stop(job.id.clone());
        }
        let missing = count.saturating_sub(live.len());
        let is_due = if is_gang {
            missing == count
        } else {
            missing > 0
        };
        for m in 0..if is_due { missing } else { 0 } {
            let name = format!("s{who}-{}-{abandoned}-{}-{m}", state.revision(), group.id);
            if let Some(job) = placed(mirror, &next, group, who, &name) {
                next = next.start(job);
                if let Some(note) = settled(state, group) {
                    next = next.with(note);
                }
            } else if let Some(making_room) = make_room(mirror, &next, group, who) {
                next = making_room;
            } else if is_gang {
                next.changes.truncate(asked);
                break;
            }
        }
        if next.changes.len() > asked {
            if is_gang {
                let own = next.changes.split_off(asked - 1);
                if transaction.changes.is_empty() {
                    transaction.changes = own;
                    return transaction.all_or_nothing();
                }
            } else {
                transaction = next;
            }
        }
    }
    transaction
}

/// A new job of the group where there is room, the one scheduler from the one end and the other from the other.
fn placed(
    mirror: &Mirror,
    so_far: &Transaction,
    group: &Group,
    who: usize,
    name: &str,
) -> Option<Job> {
    let after = mirror.state.apply(so_far).ok()?.state;
    let mut hosts: Vec<HostId> = after.hosts().map(|host| host.host.id.clone()).collect();
    if who == 1 {
        hosts.reverse();
    }
    hosts.into_iter().find_map(|host| {
        let job = job(name, group.id.clone(), host, &group.spec)?;
        let start = Transaction::on(&after).start(job.clone());
        after.apply(&start.all_or_nothing()).ok()?;
        Some(job)
    })
}

/// Starts the jobs that are up from the beginning.
pub(super) fn settle(store: &mut KvState, trial: &Trial) {
    let mirror = seen(store);
    let mut start = Transaction::on(&mirror.state);
    let mut statuses = Vec::new();
    for (host, group) in trial.placed {
        let (host, group) = (HostId::parse(*host), GroupId::parse(*group));
        let (host, group) = (host.expect("it is an id"), group.expect("it is an id"));
        let spec = &mirror
            .state
            .group(&group)
            .expect("it is a group of the trial")
            .spec;
        let job = job(&format!("first-{host}"), group.clone(), host, spec);
        let job = job.expect("it is an id");
        let up = JobStatus {
            phase: Phase::Up,
            ..JobStatus::default()
        };
        statuses.push(put(&CellKey::Status(job.host.clone(), job.id.clone()), &up));
        start = start.start(job);
    }
    let mut carrying = Carrying::new(start);
    let (mut flight, _) = carrying
        .decide(&mirror, Limits::of_attempt(0))
        .expect("it is incremental");
    assert!(
        carrying.clone().into_refused("").is_empty(),
        "there is room for the first jobs"
    );
    let mut commit = |ops: Vec<Op>| {
        let compares = Vec::new();
        let done = store.apply(Command::Commit { compares, ops });
        done.result.expect("nothing is compared");
    };
    while let Some(departure) = flight.depart().expect("ids are keys") {
        commit(departure.ops);
    }
    if !statuses.is_empty() {
        commit(statuses);
    }
}

fn job(name: &str, group: GroupId, host: HostId, spec: &Arc<JobSpec>) -> Option<Job> {
    Some(Job {
        id: JobId::parse(name).ok()?,
        group,
        host,
        spec: Arc::clone(spec),
        is_stopping: false,
        evicted: None,
        placed_at_ms: 0,
        attempt: 0,
        status: JobStatus::default(),
    })
}
