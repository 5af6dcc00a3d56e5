//! The commit protocol, tried out in every order: two schedulers, two hosts, one store.
//!
//! What decides is the real thing: [`ClusterState::apply`](crate::ClusterState::apply), the planner, the mirror, and the
//! store's own state machine. The model adds what can happen between them: snapshots grow old, commits wait on the
//! wire and are answered, or the answer is lost, or they are never carried out; a scheduler crashes; the store's leader
//! changes, after which a commit under way may still be carried out although nobody waits for it; a host is lost and
//! returns; a job ends.

mod properties;

use std::{
    collections::BTreeSet,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use flynn_discovery::backend::{
    Compare, Condition, Op, WatchEvent,
    kv::{Command, KvState},
};
use stateright::{Model, Property};

use properties::{Bare, bare};

use super::{
    keys::CellKey,
    mirror::Mirror,
    plan::{Chunk, Limits, Written, plan},
};
use crate::{
    Group, GroupId, GroupKind, Host, HostId, Job, JobId, JobSpec, JobStatus, Phase, Resources,
    Transaction,
    transaction::{Change, Mode},
};

/// What is tried, and how often each trouble may happen.
#[derive(Clone)]
pub(super) struct Trial {
    groups: Vec<Group>,
    /// Does each scheduler look after groups of its own, the first after the first, or both after all?
    is_divided: bool,
    /// How many jobs a host has room for.
    room: u64,
    /// How many compares and ops a commit may have: few, so that transactions are carried out in parts.
    limits: Limits,
    troubles: Troubles,
    /// Compares that this says no to are left out, to see whether that is noticed.
    keep: fn(&Compare) -> bool,
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
    has_lost_host: bool,
    // What follows from `store`, kept because it is asked for often.
    /// What one who looks now sees.
    truth: Arc<Mirror>,
    /// The jobs, read without any of the code that is tried.
    bare: Arc<Vec<Bare>>,
    print: u64,
}

#[derive(Clone)]
struct Scheduler {
    mirror: Arc<Mirror>,
    /// Tells mirrors apart.
    seen: u64,
    /// What it would commit next.
    next: Option<Arc<Vec<Chunk>>>,
    /// Commits of which it never heard. They make its jobs' names new.
    abandoned: u8,
    stage: Stage,
}

#[derive(Clone)]
enum Stage {
    /// May propose.
    Idle,
    /// Was refused: proposes again when it has seen more.
    Behind,
    /// This chunk of a transaction is on the wire.
    Waiting {
        chunks: Arc<Vec<Chunk>>,
        at: usize,
        written: Written,
        message: Message,
    },
}

/// A commit on the wire.
#[derive(Clone)]
struct Message {
    /// Tells messages apart.
    print: u64,
    compares: Vec<Compare>,
    ops: Vec<Op>,
    starts: Vec<JobId>,
    removes: Vec<JobId>,
}

/// What can happen next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// A scheduler sees what the store has.
    Look(usize),
    /// A scheduler proposes, from what it has seen.
    Propose(usize),
    /// The commit is carried out or refused, and the scheduler is told.
    Answer(usize),
    /// The commit is carried out or refused, and the scheduler is told that nobody knows.
    LoseAnswer(usize),
    /// The scheduler starts anew; its commit stays under way.
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
}

impl Model for Trial {
    type State = Cell;
    type Action = Action;

    fn init_states(&self) -> Vec<Cell> {
        let mut store = KvState::new();
        let groups = self.groups.iter();
        let mut ops: Vec<Op> = groups
            .map(|group| put(&CellKey::Group(group.id.clone()), group))
            .collect();
        for host in [host("a", self.room), host("b", self.room)] {
            ops.push(put(&CellKey::Host(host.id.clone()), &host));
            ops.push(put(&CellKey::Known(host.id.clone()), &host));
        }
        let compares = Vec::new();
        let done = store.apply(Command::Commit { compares, ops });
        done.result.expect("an empty store refuses nothing");
        let (truth, bare, print) = (seen(&store), bare(&store), print_of(&store));
        let scheduler = |n| Scheduler::seeing(n, &truth, print, 0, self);
        vec![Cell {
            schedulers: [scheduler(0), scheduler(1)],
            truth: Arc::clone(&truth),
            bare: bare.into(),
            print,
            store,
            adrift: Vec::new(),
            troubles: self.troubles,
            claimed: BTreeSet::new(),
            removed: BTreeSet::new(),
            has_lost_host: false,
        }]
    }

    fn actions(&self, cell: &Cell, actions: &mut Vec<Action>) {
        for (n, scheduler) in cell.schedulers.iter().enumerate() {
            match &scheduler.stage {
                Stage::Waiting { .. } => {
                    actions.push(Action::Answer(n));
                    if cell.troubles.lost_answers > 0 {
                        actions.push(Action::LoseAnswer(n));
                    }
                    if cell.troubles.crashes > 0 {
                        actions.push(Action::Crash(n));
                    }
                }
                Stage::Idle | Stage::Behind => {
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
                cell.schedulers[n] = Scheduler::seeing(n, &cell.truth, cell.print, abandoned, self);
            }
            Action::Propose(n) => {
                let chunks = cell.schedulers[n].next.clone()?;
                cell.send(n, chunks, 0, Written::default(), self);
            }
            Action::Answer(n) => cell.answer(n, self),
            Action::LoseAnswer(n) => {
                cell.troubles.lost_answers -= 1;
                let message = cell.abandon(n, self)?;
                cell.carry_out(&message);
            }
            Action::Crash(n) => {
                cell.troubles.crashes -= 1;
                let message = cell.abandon(n, self)?;
                cell.adrift.push(message);
                let (fresh, abandoned) = (seen(&cell.store), cell.schedulers[n].abandoned);
                cell.schedulers[n] = Scheduler::seeing(n, &fresh, cell.print, abandoned, self);
            }
            Action::Elect => {
                cell.troubles.elections -= 1;
                for n in 0..cell.schedulers.len() {
                    if let Some(mut message) = cell.abandon(n, self) {
                        if self.tears {
                            tear(&mut message);
                        }
                        cell.adrift.push(message);
                    }
                }
            }
            Action::Surface(n) => {
                let message = cell.adrift.remove(n);
                cell.carry_out(&message);
            }
            Action::Sink(n) => drop(cell.adrift.remove(n)),
            Action::Lose(id) => {
                cell.troubles.losses -= 1;
                cell.has_lost_host = true;
                let key = CellKey::Host(id).key().expect("it is a key");
                cell.write(Vec::new(), vec![Op::delete(key)]);
            }
            Action::Return(id) => {
                let host = host(id.as_str(), self.room);
                cell.write(Vec::new(), vec![put(&CellKey::Host(id), &host)]);
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
                cell.write(vec![compare], vec![op]);
            }
        }
        Some(cell)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl Cell {
    /// Puts a chunk on the wire.
    fn send(&mut self, n: usize, chunks: Arc<Vec<Chunk>>, at: usize, written: Written, t: &Trial) {
        let chunk = &chunks[at];
        let (mut compares, ops) = chunk.prepared(&written).expect("ids are keys");
        compares.retain(t.keep);
        let changes = chunk.changes.iter();
        let message = Message {
            print: {
                let mut hasher = DefaultHasher::new();
                format!("{compares:?} {ops:?}").hash(&mut hasher);
                hasher.finish()
            },
            compares,
            ops,
            starts: changes.clone().filter_map(started).collect(),
            removes: changes.filter_map(removed).collect(),
        };
        self.schedulers[n].stage = Stage::Waiting {
            chunks,
            at,
            written,
            message,
        };
    }

    /// Carries out what a scheduler waits for, and tells it.
    fn answer(&mut self, n: usize, trial: &Trial) {
        let stage = std::mem::replace(&mut self.schedulers[n].stage, Stage::Behind);
        let Stage::Waiting {
            chunks,
            at,
            mut written,
            message,
        } = stage
        else {
            return;
        };
        let Some(revision) = self.carry_out(&message) else {
            return;
        };
        self.claimed.extend(message.starts);
        chunks[at].record(revision, &mut written);
        if at + 1 < chunks.len() {
            self.send(n, chunks, at + 1, written, trial);
        }
    }

    /// The scheduler no longer waits. It may propose again, even from what it saw before.
    fn abandon(&mut self, n: usize, trial: &Trial) -> Option<Message> {
        let scheduler = &self.schedulers[n];
        let Stage::Waiting { message, .. } = &scheduler.stage else {
            return None;
        };
        let message = message.clone();
        let (mirror, seen) = (Arc::clone(&scheduler.mirror), scheduler.seen);
        let abandoned = scheduler.abandoned + 1;
        self.schedulers[n] = Scheduler::seeing(n, &mirror, seen, abandoned, trial);
        Some(message)
    }

    fn carry_out(&mut self, message: &Message) -> Option<flynn_discovery::backend::Revision> {
        let revision = self.write(message.compares.clone(), message.ops.clone())?;
        self.removed.extend(message.removes.iter().cloned());
        Some(revision)
    }

    fn write(
        &mut self,
        compares: Vec<Compare>,
        ops: Vec<Op>,
    ) -> Option<flynn_discovery::backend::Revision> {
        let done = self.store.apply(Command::Commit { compares, ops });
        done.result.ok()?;
        if let Some((revision, changes)) = done.changes {
            let news = WatchEvent::Changes { changes, revision };
            self.truth = Arc::new(self.truth.after(news, 1));
            self.bare = bare(&self.store).into();
            self.print = print_of(&self.store);
        }
        Some(self.store.revision())
    }
}

impl Scheduler {
    fn seeing(n: usize, mirror: &Arc<Mirror>, seen: u64, abandoned: u8, trial: &Trial) -> Self {
        Self {
            next: next(mirror, n, abandoned, trial).map(Arc::new),
            mirror: Arc::clone(mirror),
            seen,
            abandoned,
            stage: Stage::Idle,
        }
    }
}

/// What a scheduler would commit next.
fn next(mirror: &Mirror, n: usize, abandoned: u8, trial: &Trial) -> Option<Vec<Chunk>> {
    let transaction = proposal(mirror, n, abandoned, trial.is_divided);
    if transaction.is_empty() {
        return None;
    }
    let applied = mirror.state.apply(&transaction).ok()?;
    let chunks = plan(mirror, &transaction, &applied, trial.limits).expect("ids are keys");
    let is_whole = transaction.mode == Mode::Incremental || chunks.len() == 1;
    (!chunks.is_empty() && is_whole).then_some(chunks)
}

/// What one who looks now sees.
fn seen(store: &KvState) -> Arc<Mirror> {
    let entries = store.entries().cloned().collect();
    let revision = store.revision();
    Arc::new(Mirror::default().after(WatchEvent::Reset { entries, revision }, 1))
}

/// A scheduler in a few lines: starts what is missing, stops what is too much, removes what ended. Groups called
/// `gang…` are placed whole or not at all.
fn proposal(mirror: &Mirror, who: usize, abandoned: u8, is_divided: bool) -> Transaction {
    let state = &mirror.state;
    let mut transaction = Transaction::on(state);
    let is_lost = |id: &HostId| state.host(id).is_none_or(|h| h.lost_since_ms.is_some());
    for (at, group) in state.groups().enumerate() {
        if is_divided && at % 2 != who {
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
        let mut next = transaction.clone().with(guard);
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
        let job = Job {
            id: JobId::parse(name).ok()?,
            group: group.id.clone(),
            host,
            spec: Arc::clone(&group.spec),
            is_stopping: false,
            evicted: None,
            placed_at_ms: 0,
            attempt: 0,
            status: JobStatus::default(),
        };
        let start = Transaction::on(&after).start(job.clone());
        after.apply(&start.all_or_nothing()).ok()?;
        Some(job)
    })
}

/// Takes one job out of a commit.
fn tear(message: &mut Message) {
    let is_job =
        |op: &Op| matches!(op, Op::Put { key, .. } if key.as_str().starts_with("cell/jobs/"));
    if let Some(at) = message.ops.iter().rposition(is_job) {
        message.ops.remove(at);
    }
}

fn started(change: &Change) -> Option<JobId> {
    match change {
        Change::Start(job) => Some(job.id.clone()),
        _ => None,
    }
}

fn removed(change: &Change) -> Option<JobId> {
    match change {
        Change::Remove(id) => Some(id.clone()),
        _ => None,
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

// States are compared by what is in them.

impl Cell {
    fn facts(&self, hasher: &mut impl Hasher) {
        self.print.hash(hasher);
        for scheduler in &self.schedulers {
            (scheduler.seen, scheduler.abandoned).hash(hasher);
            match &scheduler.stage {
                Stage::Idle => 0.hash(hasher),
                Stage::Behind => 1.hash(hasher),
                Stage::Waiting {
                    at,
                    message,
                    chunks,
                    ..
                } => {
                    (2, at, chunks.len()).hash(hasher);
                    message.hash(hasher);
                }
            }
        }
        self.adrift.hash(hasher);
        self.troubles.hash(hasher);
        (&self.claimed, &self.removed, self.has_lost_host).hash(hasher);
    }
}

fn print_of(store: &KvState) -> u64 {
    let mut hasher = DefaultHasher::new();
    store.revision().hash(&mut hasher);
    for entry in store.entries() {
        (&entry.key, &entry.value, entry.version, entry.created).hash(&mut hasher);
    }
    hasher.finish()
}

impl Hash for Message {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.print.hash(hasher);
    }
}

impl Hash for Cell {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.facts(hasher);
    }
}

impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        let print = |cell: &Self| {
            let mut hasher = DefaultHasher::new();
            cell.facts(&mut hasher);
            hasher.finish()
        };
        print(self) == print(other)
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.store.entries().map(|e| (&e.key, e.version)).collect();
        let at = |s: &Scheduler| s.mirror.state.revision();
        f.debug_struct("Cell")
            .field("store", &keys)
            .field("seen", &self.schedulers.each_ref().map(at))
            .field("claimed", &self.claimed)
            .field("adrift", &self.adrift.len())
            .finish_non_exhaustive()
    }
}
