//! Who must go so that something more important can run.
//!
//! ```text
//! need that no host can take ──► hosts, most promising first ──► on each: what must go, then the fewest that make room
//!                                                                             │
//!                    best of them: Plan { host, victims } ◄── by Cost ────────┘
//! ```
//!
//! A preemption serves a strictly more important group, stays within the [`Budget`] of every group it takes
//! from, and never takes a job of the system for one that is not. Which of several is chosen is said by [`Cost`].

mod room;
mod search;
mod shortlist;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    Budget, ClusterState, Constraint, Eviction, Group, GroupId, HostId, Job, JobId, JobSpec,
    Partition, Phase, Taint, TaintEffect, transaction::Change,
};

use room::{Room, Taker, Victim};
use shortlist::Shortlist;

/// Finds what to preempt. Holds no state but its options; [`round`](Self::round) begins the work on a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemptor {
    least: u8,
    gap: u8,
    max_victims: usize,
}

impl Default for Preemptor {
    fn default() -> Self {
        Self {
            least: Group::PRIORITY + 1,
            gap: 1,
            max_victims: Self::MAX_VICTIMS,
        }
    }
}

impl Preemptor {
    /// Default of [`with_max_victims`](Self::with_max_victims).
    pub const MAX_VICTIMS: usize = 1_000;
    /// How many hosts are worked out anew for one job, after which only those are that promise less important or fewer
    /// victims than the best so far. In cells of up to so many hosts the cheapest plan is found, and in larger ones one
    /// with the least important and fewest victims.
    pub const EXAMINED: usize = 64;

    /// A preemptor with the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// For which groups schedulers use it: those of at least this priority. Default: those that are more important than
    /// [`Group::PRIORITY`].
    #[must_use]
    pub fn with_least_priority(mut self, least: u8) -> Self {
        self.least = least;
        self
    }

    /// Do schedulers use it for this group?
    #[must_use]
    pub fn serves(&self, group: &Group) -> bool {
        group.priority >= self.least
    }

    /// How much less important a victim must be, at least 1 (the default). With bands of priorities this keeps groups of
    /// one band from preempting each other.
    #[must_use]
    pub fn with_gap(mut self, gap: u8) -> Self {
        self.gap = gap.max(1);
        self
    }

    /// How many jobs one round of a scheduler may preempt; the next round goes on.
    #[must_use]
    pub fn with_max_victims(mut self, max: usize) -> Self {
        self.max_victims = max;
        self
    }

    /// The same, and never more than so many.
    pub(crate) fn at_most(mut self, max: usize) -> Self {
        self.max_victims = self.max_victims.min(max);
        self
    }

    /// Begins a round on a snapshot. The jobs to make room for would start at `now_ms` (milliseconds since the Unix
    /// epoch), which matters to reservations.
    #[must_use]
    pub fn round<'s>(&self, state: &'s ClusterState, now_ms: u64) -> Preemption<'s> {
        let keeps_apart = |group: &&Group| {
            let mut constraints = group.spec.constraints.iter();
            constraints.any(|constraint| matches!(constraint, Constraint::Apart { .. }))
        };
        Preemption {
            options: self.clone(),
            state,
            now_ms,
            rooms: state.hosts().map(Room::of).collect(),
            by_id: state
                .hosts()
                .enumerate()
                .map(|(n, host)| (&host.host.id, n))
                .collect(),
            keeping_apart: state
                .groups()
                .map(AsRef::as_ref)
                .filter(keeps_apart)
                .collect(),
            budgets: Budgets {
                state,
                known: BTreeMap::new(),
                exhausted: Vec::new(),
            },
            alone: BTreeSet::new(),
            shortlist: None,
            changed: Vec::new(),
            victims: 0,
        }
    }
}

/// One round on a snapshot: every plan it gives counts on those before it being carried out.
#[derive(Debug)]
pub struct Preemption<'s> {
    options: Preemptor,
    state: &'s ClusterState,
    now_ms: u64,
    rooms: Vec<Room<'s>>,
    by_id: BTreeMap<&'s HostId, usize>,
    /// The groups whose jobs keep others away.
    keeping_apart: Vec<&'s Group>,
    budgets: Budgets<'s>,
    /// Where jobs were planned that have no others of their group beside them.
    alone: BTreeSet<(usize, GroupId)>,
    /// The hosts by cost, for the group that was asked for last.
    shortlist: Option<Shortlist>,
    /// The hosts where something has changed in this round, each time.
    changed: Vec<usize>,
    victims: usize,
}

/// The budgets of groups after the plans of the round.
#[derive(Debug)]
struct Budgets<'s> {
    state: &'s ClusterState,
    known: BTreeMap<&'s GroupId, Budget>,
    /// Groups of which no more jobs that are up may go, and the rooms have not been told yet.
    exhausted: Vec<&'s GroupId>,
}

impl<'s> Budgets<'s> {
    fn of(&mut self, group: &'s Group) -> &mut Budget {
        self.known.entry(&group.id).or_insert_with(|| {
            let budget = Budget::of(self.state, group);
            if budget.left() == 0 {
                self.exhausted.push(&group.id);
            }
            budget
        })
    }

    /// How many jobs like this of its group may go, as far as the budget bounds it.
    fn left(&mut self, victim: &Victim<'s>) -> Option<u32> {
        let state = self.state;
        let budget = self.of(victim.group?);
        match victim.job.status.phase {
            _ if budget.floor == 0 => None,
            Phase::Up => Some(budget.left()),
            _ if budget.allows(state, victim.job) => None,
            _ => Some(0),
        }
    }

    fn take(&mut self, victim: &Victim<'s>) {
        let state = self.state;
        if let Some(group) = victim.group {
            let budget = self.of(group);
            let before = budget.left();
            budget.take(state, victim.job);
            if before > 0 && budget.left() == 0 {
                self.exhausted.push(&group.id);
            }
        }
    }
}

/// Where a job can run once its victims have stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The host.
    pub host: HostId,
    /// Who must go, by id. None if it is enough to wait for what is stopping there already.
    pub victims: Vec<JobId>,
    /// What that costs.
    pub cost: Cost,
}

impl Plan {
    /// The changes that tell the victims to go, for a group.
    pub fn evictions(&self, group: &Group) -> impl Iterator<Item = Change> + use<'_> {
        let why = Eviction::Preempted {
            by: group.id.clone(),
            priority: group.priority,
        };
        self.victims.iter().map(move |job| Change::Evict {
            job: job.clone(),
            why: why.clone(),
        })
    }
}

/// What a plan costs; the cheaper one is chosen. First the most important victim should be as unimportant as can be, then
/// the victims as few, then their priorities together as low, then what is freed beside what is needed as little.
///
/// The first and the second are in the order of Kubernetes; the other way round, one important job would go to spare two
/// that nobody misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// The priority of the most important victim; `None` without victims.
    pub most_important: Option<u8>,
    /// How many victims there are.
    pub victims: usize,
    /// The sum of their priorities.
    pub priorities: u64,
    /// How much more is free afterwards than is needed: the largest share of what the host has, in millionths.
    pub overshoot: u64,
}

/// Why preemption does not help. Its [`Display`](fmt::Display) is one sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoPlan {
    /// How many hosts there are.
    pub hosts: usize,
    /// Of these, how many could not have the job even if they were empty, or not beside the group's own jobs.
    pub unsuitable: usize,
    /// How many have too little that is less important (by the gap that is asked for) and not of the system.
    pub important: usize,
    /// On how many the budgets of groups forbid what would have to go.
    pub budgets: usize,
    /// So many jobs have been preempted in this round that the rest must wait for the next.
    pub is_bounded: bool,
}

impl<'s> Preemption<'s> {
    /// Counts room as taken that is free in the snapshot: for a job that this round places, or one that is nominated.
    pub fn claim(&mut self, host: &HostId, spec: &JobSpec) {
        if let Some(at) = self.by_id.get(host) {
            self.rooms[*at].claim(spec);
            self.changed.push(*at);
        }
    }

    /// Finds the cheapest way to make room for one more job of the group, and counts on it from now on.
    ///
    /// # Errors
    ///
    /// Why there is no way.
    pub fn find(&mut self, group: &Group) -> Result<Plan, NoPlan> {
        let taker = self.taker(group);
        let mut shortlist = match self.shortlist.take() {
            Some(shortlist) if shortlist.is_for(self, &taker) => shortlist,
            _ => Shortlist::of(self, &taker),
        };
        let mut best = shortlist.best(self, &taker);
        if best.is_none() && !shortlist.knows_why(&taker) {
            shortlist = Shortlist::of(self, &taker);
            best = shortlist.best(self, &taker);
        }
        let planned = match best {
            Some(found) => self.take(group, found),
            None => Err(shortlist.why()),
        };
        self.shortlist = Some(shortlist);
        planned
    }

    /// The same on one host.
    ///
    /// # Errors
    ///
    /// Why there is no way.
    pub fn find_on(&mut self, group: &Group, host: &HostId) -> Result<Plan, NoPlan> {
        let mut no = NoPlan::default();
        let Some(at) = self.by_id.get(host).copied() else {
            return Err(no);
        };
        no.hosts = 1;
        let taker = self.taker(group);
        match self.on(at, &taker) {
            Ok(found) => self.take(group, found),
            Err(why) => {
                why.count(&mut no);
                Err(no)
            }
        }
    }

    fn taker<'g>(&self, group: &'g Group) -> Taker<'g> {
        Taker {
            group,
            below: (u16::from(group.priority) + 1).saturating_sub(u16::from(self.options.gap)),
            is_system: group.spec.partition == Partition::System,
            now_ms: self.now_ms,
        }
    }

    /// The cheapest way on one host.
    fn on(&mut self, at: usize, taker: &Taker<'_>) -> Result<Found<'s>, Obstacle> {
        let host = self.rooms[at].host();
        let spec = &taker.group.spec;
        let forbids = TaintEffect::forbids_starts;
        self.rooms[at].at_least(self.state, taker)?;
        let is_suitable = Taint::untolerated(&host.taints, &spec.tolerations, forbids).is_none()
            && spec.constraints.iter().all(|constraint| match constraint {
                Constraint::Near { jobs, within } => {
                    self.state.is_near(host, &taker.group.id, jobs, within)
                }
                other => other.admits(host),
            })
            && (self.alone.is_empty() || !self.alone.contains(&(at, taker.group.id.clone())));
        if !is_suitable {
            return Err(Obstacle::Unsuitable);
        }
        let must = self.in_the_way(at, taker)?;
        let victims = self.rooms[at].fewest(self.state, taker, must, &mut self.budgets);
        // What can not be taken any more is no promise.
        for group in std::mem::take(&mut self.budgets.exhausted) {
            self.protect(group);
        }
        let victims = victims?;
        let jobs: Vec<&Job> = victims.iter().map(|victim| victim.job).collect();
        Ok(Found {
            at,
            cost: self.rooms[at].cost(self.state, taker, &jobs),
            victims,
        })
    }

    fn protect(&mut self, group: &GroupId) {
        let jobs = self.state.jobs_of(group);
        let mut on: Vec<usize> = jobs
            .filter_map(|job| self.by_id.get(&job.host).copied())
            .collect();
        on.sort_unstable();
        on.dedup();
        for at in on {
            self.rooms[at].protect(group);
            self.changed.push(at);
        }
    }

    /// The jobs that must go whatever room there is: they have a port that is needed, or are to be kept apart.
    fn in_the_way(&self, at: usize, taker: &Taker<'_>) -> Result<Vec<Victim<'s>>, Obstacle> {
        let host = self.rooms[at].host();
        let group = taker.group;
        let mut jobs: BTreeMap<&JobId, &'s Job> = BTreeMap::new();
        let mut add = |job: &'s Job| {
            if !job.is_stopping && !job.status.phase.is_final() {
                jobs.insert(&job.id, job);
            }
        };
        let has_ports = group.spec.fixed_ports().next().is_some();
        let is_alone = group.spec.constraints.contains(&Constraint::DistinctHosts);
        if has_ports || is_alone {
            for job in self.state.jobs_on(&host.id) {
                let is_sibling = is_alone && job.group == group.id;
                if is_sibling || has_ports && group.spec.port_clash(&job.spec).is_some() {
                    add(job);
                }
            }
        }
        for constraint in &group.spec.constraints {
            if let Constraint::Apart { jobs, within } = constraint {
                for job in self.state.live(jobs) {
                    let its = self.state.host(&job.host);
                    if its.is_some_and(|its| within.of(&its.host) == within.of(host)) {
                        add(job);
                    }
                }
            }
        }
        for other in &self.keeping_apart {
            for constraint in &other.spec.constraints {
                if let Constraint::Apart { jobs, within } = constraint
                    && jobs.matches(&group.id)
                {
                    for job in self.state.jobs_of(&other.id) {
                        let its = self.state.host(&job.host);
                        if its.is_some_and(|its| within.of(&its.host) == within.of(host)) {
                            add(job);
                        }
                    }
                }
            }
        }
        let mut victims = Vec::new();
        for job in jobs.into_values() {
            let at = self.by_id.get(&job.host);
            if at.is_some_and(|at| self.rooms[*at].is_taken(&job.id)) {
                continue;
            }
            let victim = Victim::of(self.state, job);
            if !taker.may_take(&victim) {
                let is_sibling = job.group == group.id;
                return Err(if is_sibling {
                    Obstacle::Unsuitable
                } else {
                    Obstacle::Important
                });
            }
            victims.push(victim);
        }
        Ok(victims)
    }

    /// Counts the plan as carried out.
    fn take(&mut self, group: &Group, found: Found<'s>) -> Result<Plan, NoPlan> {
        if self.victims + found.victims.len() > self.options.max_victims {
            return Err(NoPlan {
                hosts: self.rooms.len(),
                is_bounded: true,
                ..NoPlan::default()
            });
        }
        self.victims += found.victims.len();
        for victim in &found.victims {
            self.budgets.take(victim);
            if let Some(at) = self.by_id.get(&victim.job.host) {
                self.rooms[*at].release(victim.job);
                self.changed.push(*at);
            }
        }
        for group in std::mem::take(&mut self.budgets.exhausted) {
            self.protect(group);
        }
        if group.spec.constraints.contains(&Constraint::DistinctHosts) {
            self.alone.insert((found.at, group.id.clone()));
        }
        let room = &mut self.rooms[found.at];
        room.claim(&group.spec);
        self.changed.push(found.at);
        let ids = found.victims.iter().map(|victim| victim.job.id.clone());
        let mut victims: Vec<JobId> = ids.collect();
        victims.sort();
        Ok(Plan {
            host: room.host().id.clone(),
            victims,
            cost: found.cost,
        })
    }
}

/// The cheapest way on one host.
#[derive(Debug)]
struct Found<'s> {
    at: usize,
    cost: Cost,
    victims: Vec<Victim<'s>>,
}

/// Why not on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    Unsuitable,
    Important,
    Budgets,
}

impl Obstacle {
    fn count(self, no: &mut NoPlan) {
        match self {
            Self::Unsuitable => no.unsuitable += 1,
            Self::Important => no.important += 1,
            Self::Budgets => no.budgets += 1,
        }
    }
}

impl fmt::Display for NoPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_bounded {
            return f.write_str("enough is preempted for now, it goes on when that has stopped");
        }
        f.write_str("preemption does not help")?;
        let parts = [
            (self.unsuitable, "not suitable"),
            (self.important, "with too little that is less important"),
            (self.budgets, "where budgets forbid it"),
        ];
        let mut separator = " (hosts ";
        for (n, what) in parts.into_iter().filter(|(n, _)| *n > 0) {
            write!(f, "{separator}{what}: {n}")?;
            separator = ", ";
        }
        if separator == ", " {
            f.write_str(")")?;
        }
        Ok(())
    }
}
