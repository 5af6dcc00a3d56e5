//! What a driver has done so far, in numbers.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    ClusterState, Error, GroupId, Transaction,
    transaction::{Change, Refused},
};

/// What a driver has done so far; stays readable while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    rounds: AtomicU64,
    commits: AtomicU64,
    refused: AtomicU64,
    conflicts: AtomicU64,
    errors: AtomicU64,
    /// By the scheduler's name.
    schedulers: Mutex<BTreeMap<&'static str, Ledger>>,
}

/// The numbers of a driver at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CounterSnapshot {
    /// Calls of a scheduler.
    pub rounds: u64,
    /// Transactions that were committed, at least in part.
    pub commits: u64,
    /// Changes that were refused.
    pub refused: u64,
    /// Transactions that met a conflict, in whole or in part, and were scheduled again.
    pub conflicts: u64,
    /// Failures of the cell's store.
    pub errors: u64,
    /// The same for each scheduler, by its name, and more.
    pub schedulers: BTreeMap<String, SchedulerCounters>,
}

/// What one scheduler of a driver has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerCounters {
    /// How often it was called.
    pub calls: u64,
    /// How many of these calls proposed something: the attempts to change the cell.
    pub attempts: u64,
    /// Jobs that it placed.
    pub placements: u64,
    /// Changes of its that were refused.
    pub refused_changes: u64,
    /// Attempts that met a conflict, by what it was about.
    pub conflicts: Conflicts,
    /// How long it and the commits of what it proposed took, by the driver's clock, in milliseconds: the busyness of the
    /// Omega paper is this, divided by the time that passed.
    pub busy_ms: u64,
    /// How long groups waited.
    pub waits: Waits,
}

impl SchedulerCounters {
    /// The share of attempts that met a conflict, from 0 to 1: the conflict fraction.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share needs no 64 bits")]
    pub fn conflict_fraction(&self) -> f64 {
        self.conflicts.total as f64 / self.attempts.max(1) as f64
    }
}

/// Attempts that met a conflict. One attempt counts once for each kind that it met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Conflicts {
    /// Attempts that met any.
    pub total: u64,
    /// A host had no room any more, was gone, or had changed where that mattered.
    pub host: u64,
    /// The group or its jobs had changed: another copy of the scheduler, or whoever wrote the group, was faster.
    pub group: u64,
    /// The namespace's quota was used up.
    pub quota: u64,
}

/// How long groups waited from the moment this driver first saw that jobs of theirs were missing and could not be placed,
/// until it had placed the last of them. A group that is placed at once does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Waits {
    /// How many groups had to wait.
    pub count: u64,
    /// The sum of their waits, in milliseconds.
    pub total_ms: u64,
    /// The longest, in milliseconds.
    pub max_ms: u64,
    /// How many groups wait now.
    pub waiting: u64,
}

impl Waits {
    /// The mean of the waits that are over, in milliseconds; 0 if there are none.
    #[must_use]
    pub fn mean_ms(&self) -> u64 {
        self.total_ms.checked_div(self.count).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Ledger {
    counters: SchedulerCounters,
    /// Since when groups of this scheduler have been waiting. Groups that are gone or wait no more are dropped.
    waiting: BTreeMap<GroupId, u64>,
}

impl Counters {
    /// Calls of a scheduler.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Transactions that were committed, at least in part.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Changes that were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Transactions that met a conflict, in whole or in part, and were scheduled again.
    #[must_use]
    pub fn conflicts(&self) -> u64 {
        self.conflicts.load(Ordering::Relaxed)
    }

    /// Failures of the cell's store.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// All numbers at this moment.
    ///
    /// # Panics
    ///
    /// Never: nothing panics while it holds the lock.
    #[must_use]
    pub fn snapshot(&self) -> CounterSnapshot {
        let schedulers = self.schedulers.lock();
        let counters = |(name, ledger): (&&str, &Ledger)| {
            let mut counters = ledger.counters;
            counters.waits.waiting = size(ledger.waiting.len());
            ((*name).to_owned(), counters)
        };
        CounterSnapshot {
            rounds: self.rounds(),
            commits: self.commits(),
            refused: self.refused(),
            conflicts: self.conflicts(),
            errors: self.errors(),
            schedulers: schedulers.iter().map(counters).collect(),
        }
    }

    /// A scheduler was called, and proposed something or not.
    pub(super) fn called(&self, scheduler: &'static str, proposed: bool, busy_ms: u64) {
        add(&self.rounds, 1);
        let mut schedulers = self.schedulers.lock();
        let counters = &mut schedulers.entry(scheduler).or_default().counters;
        counters.calls += 1;
        counters.attempts += u64::from(proposed);
        counters.busy_ms = counters.busy_ms.saturating_add(busy_ms);
    }

    /// What a scheduler proposed was committed, but for what was refused.
    pub(super) fn committed(
        &self,
        scheduler: &'static str,
        asked: &Asked,
        refused: &[Refused],
        busy_ms: u64,
    ) {
        add(&self.commits, u64::from(refused.len() < asked.changes));
        add(&self.refused, size(refused.len()));
        let is_start = |refused: &&Refused| matches!(refused.change, Change::Start(_));
        let not_started = refused.iter().filter(is_start).count();
        let conflicts = refused.iter().filter(|refused| refused.is_conflict);
        let kinds = conflicts.map(|refused| match (&refused.host, &refused.change) {
            (Some(_), _) => Kind::Host,
            (None, Change::Start(_)) if refused.why.starts_with("the quota") => Kind::Quota,
            (None, _) => Kind::Group,
        });
        let kinds = Kinds::of(kinds);
        add(&self.conflicts, u64::from(kinds.any()));
        let mut schedulers = self.schedulers.lock();
        let counters = &mut schedulers.entry(scheduler).or_default().counters;
        counters.placements += size(asked.starts.saturating_sub(not_started));
        counters.refused_changes += size(refused.len());
        counters.busy_ms = counters.busy_ms.saturating_add(busy_ms);
        kinds.count(&mut counters.conflicts);
    }

    /// What a scheduler proposed was refused as a whole.
    pub(super) fn rejected(
        &self,
        scheduler: &'static str,
        asked: &Asked,
        error: &Error,
        busy_ms: u64,
    ) {
        add(&self.refused, size(asked.changes));
        let kind = match error {
            Error::Conflict { .. } | Error::UnknownHost { .. } => Some(Kind::Host),
            Error::GroupChanged { .. } => Some(Kind::Group),
            Error::QuotaExceeded { .. } => Some(Kind::Quota),
            _ => None,
        };
        let kinds = Kinds::of(kind.into_iter());
        add(&self.conflicts, u64::from(kinds.any()));
        let mut schedulers = self.schedulers.lock();
        let counters = &mut schedulers.entry(scheduler).or_default().counters;
        counters.refused_changes += size(asked.changes);
        counters.busy_ms = counters.busy_ms.saturating_add(busy_ms);
        kinds.count(&mut counters.conflicts);
    }

    /// The cell's store failed.
    pub(super) fn failed(&self) {
        add(&self.errors, 1);
    }

    /// Looks at what became of the groups that a scheduler wrote notes of.
    pub(super) fn follow_waits(
        &self,
        scheduler: &'static str,
        asked: &Asked,
        state: &ClusterState,
        now_ms: u64,
    ) {
        let missing = |group: &GroupId| state.group_status(group).map_or(0, |note| note.missing);
        let mut schedulers = self.schedulers.lock();
        let Ledger { counters, waiting } = schedulers.entry(scheduler).or_default();
        for group in &asked.noted {
            if state.group(group).is_none() {
                continue;
            }
            if missing(group) > 0 {
                waiting.entry(group.clone()).or_insert(now_ms);
            } else if let Some(since_ms) = waiting.remove(group) {
                let wait_ms = now_ms.saturating_sub(since_ms);
                counters.waits.count += 1;
                counters.waits.total_ms = counters.waits.total_ms.saturating_add(wait_ms);
                counters.waits.max_ms = counters.waits.max_ms.max(wait_ms);
            }
        }
        // Those that somebody else placed or removed.
        waiting.retain(|group, _| missing(group) > 0);
    }
}

/// What must be known of a transaction after it was handed over.
#[derive(Debug)]
pub(super) struct Asked {
    changes: usize,
    starts: usize,
    noted: Vec<GroupId>,
}

impl Asked {
    pub(super) fn of(transaction: &Transaction) -> Self {
        let changes = &transaction.changes;
        let noted = changes.iter().filter_map(|change| match change {
            Change::Note { group, .. } => Some(group.clone()),
            _ => None,
        });
        Self {
            changes: changes.len(),
            starts: changes
                .iter()
                .filter(|change| matches!(change, Change::Start(_)))
                .count(),
            noted: noted.collect(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Host,
    Group,
    Quota,
}

/// The kinds of conflict that one attempt met.
#[derive(Debug, Clone, Copy, Default)]
struct Kinds {
    host: bool,
    group: bool,
    quota: bool,
}

impl Kinds {
    fn of(kinds: impl Iterator<Item = Kind>) -> Self {
        kinds.fold(Self::default(), |mut met, kind| {
            match kind {
                Kind::Host => met.host = true,
                Kind::Group => met.group = true,
                Kind::Quota => met.quota = true,
            }
            met
        })
    }

    fn any(self) -> bool {
        self.host || self.group || self.quota
    }

    fn count(self, conflicts: &mut Conflicts) {
        conflicts.total += u64::from(self.any());
        conflicts.host += u64::from(self.host);
        conflicts.group += u64::from(self.group);
        conflicts.quota += u64::from(self.quota);
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn size(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
