//! A simulated cell: seeded, with a time of its own, hosts that carry out jobs, and faults on demand.
//!
//! The same seed and the same calls give the same run to the last byte of [`SimCluster::log`]. Nothing waits: a day of a
//! cell passes as fast as its events can be computed.

mod agents;
pub mod architecture;
pub mod cell;
pub mod choice;
mod events;
pub mod experiment;
pub mod metrics;
#[cfg(feature = "plot")]
pub mod plot;
pub mod report;
mod streams;
pub mod workload;

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fmt::Write,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    Cluster, ClusterState, Error, Eviction, Group, GroupId, Host, HostId, Job, JobStatus, Phase,
    Result, Scheduler, Transaction,
    clock::{Clock, millis},
    cluster::Published,
    scheduler::{Context, SeededIds},
    transaction::{Change, Committed, Mode, Refused},
};

use agents::Agenda;

/// A simulated cell. Clones are handles on the same one.
#[derive(Debug, Clone)]
pub struct SimCluster {
    sim: Arc<Mutex<Sim>>,
    published: Published<Arc<ClusterState>>,
}

#[derive(Debug)]
struct Sim {
    state: Arc<ClusterState>,
    /// Earlier states and when they were replaced, the newest last, for schedulers that look at old news.
    past: VecDeque<(u64, Arc<ClusterState>)>,
    now_ms: u64,
    rng: ChaCha8Rng,
    ids: Vec<SeededIds>,
    seed: u64,
    refusals: f64,
    staleness: usize,
    behaviours: BTreeMap<GroupId, Behaviour>,
    agenda: Agenda,
    log: String,
    counters: SimCounters,
}

/// How the jobs of a group behave.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Behaviour {
    /// They run until they are stopped.
    Runs,
    /// They run for this long and end with 0.
    Completes(Duration),
    /// They run for this long and end with 1, and their host gives them up.
    Fails(Duration),
    /// They run for this long; this share of them (0 to 1) fails.
    Flaky(Duration, f64),
}

/// What happened in a simulation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimCounters {
    /// Transactions that were proposed.
    pub proposed: u64,
    /// Of these, how many met a conflict, in whole or in part.
    pub conflicts: u64,
    /// Jobs that were placed.
    pub started: u64,
    /// Jobs that were told to stop.
    pub stopped: u64,
    /// Jobs that were told to go for something more important.
    pub preempted: u64,
    /// Jobs that were told to go for another reason, such as a host that is emptied.
    pub evicted: u64,
    /// Moments at which schedulers still had proposals after [`SimCluster::MAX_ROUNDS`] rounds.
    pub livelocks: u64,
}

impl SimCluster {
    /// How many rounds schedulers are given at one moment of simulated time before it counts as a livelock.
    pub const MAX_ROUNDS: usize = 50;
    /// When a simulation begins, in milliseconds since the Unix epoch.
    pub const EPOCH_MS: u64 = 1_700_000_000_000;

    /// An empty cell.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state: Arc<ClusterState> = Arc::default();
        Self {
            published: Published::new(Arc::clone(&state)),
            sim: Arc::new(Mutex::new(Sim {
                state,
                past: VecDeque::new(),
                now_ms: Self::EPOCH_MS,
                rng: ChaCha8Rng::seed_from_u64(seed),
                ids: Vec::new(),
                seed,
                refusals: 0.0,
                staleness: 0,
                behaviours: BTreeMap::new(),
                agenda: Agenda::default(),
                log: String::new(),
                counters: SimCounters::default(),
            })),
        }
    }

    /// Refuses this share (0 to 1) of all placements, as if another scheduler had been faster.
    #[must_use]
    pub fn with_refusals(self, share: f64) -> Self {
        self.sim.lock().refusals = share.clamp(0.0, 1.0);
        self
    }

    /// Shows schedulers snapshots that are up to this many changes and up to half a second old.
    #[must_use]
    pub fn with_staleness(self, changes: usize) -> Self {
        self.sim.lock().staleness = changes;
        self
    }

    /// The present state.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.sim.lock().state)
    }

    /// What happened so far, one line each.
    #[must_use]
    pub fn log(&self) -> String {
        self.sim.lock().log.clone()
    }

    /// What happened so far, in numbers.
    #[must_use]
    pub fn counters(&self) -> SimCounters {
        self.sim.lock().counters
    }

    /// A host joins, returns, or says something new about itself. Jobs it had before it was lost start again, unless the
    /// cell does not want them any more.
    ///
    /// # Errors
    ///
    /// [`Error::HostTaken`], as for a real host.
    pub fn join(&self, host: Host) -> Result<()> {
        self.change(|sim| {
            let id = host.id.clone();
            let next = sim.state.host_joined(host, sim.now_ms)?;
            let was_lost = sim
                .state
                .host(&id)
                .is_some_and(|host| host.lost_since_ms.is_some());
            sim.replace(next);
            sim.note(format_args!("host {id} joined"));
            if was_lost {
                sim.restart_jobs(&id);
            }
            Ok(())
        })
    }

    /// A host is lost, with all that runs on it.
    pub fn lose(&self, host: &HostId) {
        self.change(|sim| {
            let next = sim.state.host_lost(host, sim.now_ms);
            sim.replace(next);
            sim.note(format_args!("host {host} was lost"));
        });
    }

    /// A lost host returns as it was.
    pub fn bring_back(&self, host: &HostId) {
        self.change(|sim| {
            let known = sim.state.host(host);
            let Some(lost) = known.filter(|host| host.lost_since_ms.is_some()) else {
                return;
            };
            let returned = Host::clone(&lost.host);
            if let Ok(next) = sim.state.host_joined(returned, sim.now_ms) {
                sim.replace(next);
                sim.note(format_args!("host {host} returned"));
                sim.restart_jobs(host);
            }
        });
    }

    /// Writes a group.
    pub fn put_group(&self, group: Group) {
        self.apply(&Transaction::default().put_group(group));
    }

    /// Removes a group.
    pub fn remove_group(&self, group: GroupId) {
        self.apply(&Transaction::default().remove_group(group));
    }

    /// How the jobs of a group behave; without this, jobs of batch groups complete within seconds and others run.
    pub fn behave(&self, group: GroupId, behaviour: Behaviour) {
        self.sim.lock().behaviours.insert(group, behaviour);
    }

    /// Lets time pass without any scheduler.
    pub fn advance(&self, by: Duration) {
        let end = self.now_ms().saturating_add(millis(by));
        self.change(|sim| sim.pass_until(end));
    }

    /// Runs schedulers for some simulated time. At each moment at which something happens they are all shown the cell,
    /// propose, and commit in random order, until they come to rest.
    pub fn run(&self, schedulers: &mut [&mut dyn Scheduler], time: Duration) {
        let end = self.now_ms().saturating_add(millis(time));
        loop {
            let wish = self.settle(schedulers);
            let now = self.now_ms();
            if now >= end {
                return;
            }
            let next = self.sim.lock().agenda.next_ms();
            let until = [next, wish].into_iter().flatten().min().unwrap_or(end);
            let until = until.clamp(now + 1, end);
            self.advance(Duration::from_millis(until - now));
        }
    }

    /// Runs schedulers at this moment until they come to rest; returns when they wish to be called again.
    fn settle(&self, schedulers: &mut [&mut dyn Scheduler]) -> Option<u64> {
        for round in 0..Self::MAX_ROUNDS {
            let mut saw_old_news = false;
            let mut wishes = Vec::new();
            let mut proposals = Vec::new();
            for (n, scheduler) in schedulers.iter_mut().enumerate() {
                let (mut ids, state, now_ms) = self.sim.lock().show(n, round);
                let mut context = Context::new(now_ms, &mut ids);
                let transaction = scheduler.schedule(&state, &mut context);
                wishes.extend(context.wakes_at());
                self.sim.lock().ids[n] = ids;
                saw_old_news |= state.revision() < self.state().revision();
                if !transaction.is_empty() {
                    proposals.push(transaction);
                }
            }
            if proposals.is_empty() && !saw_old_news {
                return wishes.into_iter().min();
            }
            let mut sim = self.sim.lock();
            for at in (1..proposals.len()).rev() {
                let other = sim.rng.random_range(0..=at);
                proposals.swap(at, other);
            }
            drop(sim);
            for transaction in proposals {
                // A refusal is the schedulers' business in the next round.
                let _ = self.commit_now(&transaction);
            }
        }
        self.sim.lock().counters.livelocks += 1;
        None
    }

    /// Commits at this moment.
    fn commit_now(&self, transaction: &Transaction) -> Result<Committed> {
        self.change(|sim| sim.commit(transaction))
    }

    fn apply(&self, transaction: &Transaction) {
        self.change(|sim| {
            // An incremental transaction does not fail; what it refuses is its writer's business.
            let Ok(applied) = sim.state.apply(transaction) else {
                return;
            };
            sim.replace(applied.state);
            for change in &applied.accepted {
                sim.note(format_args!("asked: {}", summary(change)));
            }
        });
    }

    fn change<R>(&self, change: impl FnOnce(&mut Sim) -> R) -> R {
        let (result, state) = {
            let mut sim = self.sim.lock();
            (change(&mut sim), Arc::clone(&sim.state))
        };
        let published = self.published.update(|known| {
            let is_newer = state.revision() > known.revision();
            Ok::<_, Infallible>((is_newer.then_some(state), ()))
        });
        match published {
            Ok(()) => result,
            Err(never) => match never {},
        }
    }
}

impl Clock for SimCluster {
    fn now_ms(&self) -> u64 {
        self.sim.lock().now_ms
    }
}

#[async_trait]
impl Cluster for SimCluster {
    async fn snapshot(&self) -> Result<Arc<ClusterState>> {
        Ok(self.state())
    }

    async fn commit(&self, transaction: Transaction) -> Result<Committed> {
        self.commit_now(&transaction)
    }

    fn watch(&self) -> BoxStream<'static, Result<Arc<ClusterState>>> {
        self.published.follow().map(Ok).boxed()
    }
}

impl Sim {
    /// What the n-th scheduler sees.
    fn show(&mut self, n: usize, round: usize) -> (SeededIds, Arc<ClusterState>, u64) {
        while self.ids.len() <= n {
            let salt = u64::try_from(self.ids.len()).unwrap_or_default() + 1;
            self.ids
                .push(SeededIds::new(self.seed.wrapping_add(salt << 32)));
        }
        let news_ms = self.now_ms.saturating_sub(millis(OLD_NEWS));
        let recent = self.past.iter().rev();
        let recent = recent.take_while(|(until_ms, _)| *until_ms >= news_ms);
        // News arrives in the end.
        let old = if round < OLD_NEWS_ROUNDS {
            recent.count().min(self.staleness)
        } else {
            0
        };
        let age = self.rng.random_range(0..=old);
        let state = match age.checked_sub(1) {
            None => &self.state,
            Some(back) => &self.past[self.past.len() - 1 - back].1,
        };
        (self.ids[n].clone(), Arc::clone(state), self.now_ms)
    }

    fn replace(&mut self, next: ClusterState) {
        if next.revision() > self.state.revision() {
            let before = std::mem::replace(&mut self.state, Arc::new(next));
            self.past.push_back((self.now_ms, before));
            while self.past.len() > self.staleness {
                self.past.pop_front();
            }
        }
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<Committed> {
        self.counters.proposed += 1;
        let (transaction, mut refused) = self.interfere(transaction)?;
        let result = self.state.apply(&transaction);
        let has_conflicts = match &result {
            Ok(applied) => {
                !refused.is_empty() || applied.refused.iter().any(|refused| refused.is_conflict)
            }
            Err(error) => error.is_transient(),
        };
        self.counters.conflicts += u64::from(has_conflicts);
        let applied = result?;
        let before = Arc::clone(&self.state);
        refused.extend(applied.refused);
        self.replace(applied.state);
        for change in &applied.accepted {
            self.note(format_args!("{}", summary(change)));
            match change {
                Change::Start(job) => {
                    self.counters.started += 1;
                    self.plan_start(job);
                }
                Change::Stop(id) => {
                    self.counters.stopped += 1;
                    if let Some(job) = self.state.job(id).cloned() {
                        self.plan_end(&job, 10..200, Phase::Done, None);
                    }
                }
                Change::Evict { job, why } => {
                    let running = before.job(job).filter(|job| !job.is_stopping);
                    if let Some(job) = running.cloned().filter(|_| why.is_at_once()) {
                        match why {
                            Eviction::Preempted { .. } => self.counters.preempted += 1,
                            _ => self.counters.evicted += 1,
                        }
                        self.plan_end(&job, 10..200, Phase::Done, None);
                    }
                }
                _ => {}
            }
        }
        Ok(Committed {
            state: Arc::clone(&self.state),
            refused,
        })
    }

    /// Takes out placements at random, as if another scheduler had been faster.
    fn interfere(&mut self, transaction: &Transaction) -> Result<(Transaction, Vec<Refused>)> {
        let mut left = transaction.clone();
        let mut refused = Vec::new();
        if self.refusals <= 0.0 {
            return Ok((left, refused));
        }
        left.changes.clear();
        for change in &transaction.changes {
            match change {
                Change::Start(job) if self.rng.random_bool(self.refusals) => {
                    if transaction.mode == Mode::AllOrNothing {
                        self.counters.conflicts += 1;
                        return Err(Error::Conflict {
                            host: job.host.clone(),
                            why: INTERFERED.to_owned(),
                        });
                    }
                    refused.push(Refused {
                        change: change.clone(),
                        host: Some(job.host.clone()),
                        why: INTERFERED.to_owned(),
                        is_conflict: true,
                    });
                }
                change => left.changes.push(change.clone()),
            }
        }
        Ok((left, refused))
    }

    fn report(&mut self, job: &Job, status: JobStatus) {
        self.note(format_args!(
            "job {} on {} is {:?}",
            job.id, job.host, status.phase
        ));
        let next = self
            .state
            .reported(&job.host, vec![(job.id.clone(), status)]);
        self.replace(next);
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let seconds = (self.now_ms - SimCluster::EPOCH_MS) / 1000;
        let rest = (self.now_ms - SimCluster::EPOCH_MS) % 1000;
        writeln!(self.log, "{seconds}.{rest:03} {what}").expect("a string takes all");
    }
}

fn summary(change: &Change) -> String {
    match change {
        Change::Start(job) => format!("start {} of {} on {}", job.id, job.group, job.host),
        Change::Stop(id) => format!("stop {id}"),
        Change::Evict {
            job,
            why: Eviction::Preempted { by, .. },
        } => format!("preempt {job} for {by}"),
        Change::Evict {
            job,
            why: Eviction::Moving { why },
        } => format!("move {job}: {why}"),
        Change::Evict { job, why } => format!("evict {job}: {why}"),
        Change::Remove(id) => format!("remove {id}"),
        Change::PutGroup(group) => format!("group {} is {:?}", group.id, group.kind),
        Change::RemoveGroup(id) => format!("remove group {id}"),
        Change::ExpectGroup { group, version } => format!("expect {group} at {version}"),
        Change::Note { group, status } => match &status.blocked {
            Some(why) => format!("{group} lacks {}: {why}", status.missing),
            None => format!("{group} lacks {}", status.missing),
        },
        Change::ForgetHost(id) => format!("forget host {id}"),
        Change::PutReservation(reservation) => format!(
            "reservation {} of {} on {} hosts from {} to {} ms",
            reservation.id,
            reservation.holder,
            reservation.claims.len(),
            reservation.from_ms,
            reservation.until_ms
        ),
        Change::RemoveReservation { id, .. } => format!("remove reservation {id}"),
        Change::PutQuota(quota) => format!("quota of {}", quota.namespace),
        Change::RemoveQuota(namespace) => format!("remove the quota of {namespace}"),
    }
}

/// How long after a change schedulers may still see what was before.
const OLD_NEWS: Duration = Duration::from_millis(500);
/// For how many rounds at one moment schedulers may see old news.
const OLD_NEWS_ROUNDS: usize = 4;
const INTERFERED: &str = "the simulation refused it";
