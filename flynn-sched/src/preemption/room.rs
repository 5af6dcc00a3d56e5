//! One host: what is taken there, and who could go.

use std::{cmp::Reverse, collections::BTreeSet};

use crate::{
    ClusterState, Group, GroupId, Host, HostState, Job, JobId, JobSpec, Named, Partition, Phase,
    Resources,
    preemption::{Budgets, Cost, Obstacle, search},
    reservation::end_ms,
};

/// For whom room is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taker<'g> {
    pub(super) group: &'g Group,
    /// Only jobs of a lower priority than this go.
    pub(super) below: u16,
    pub(super) is_system: bool,
    pub(super) now_ms: u64,
}

/// A job that could go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Victim<'s> {
    pub(super) job: &'s Job,
    /// `None` if its group is gone: then nobody counts on it.
    pub(super) group: Option<&'s Group>,
    pub(super) priority: u8,
}

impl<'s> Victim<'s> {
    pub(super) fn of(state: &'s ClusterState, job: &'s Job) -> Self {
        let group = state.group(&job.group).map(AsRef::as_ref);
        Self {
            job,
            group,
            priority: group.map_or(0, |group| group.priority),
        }
    }

    fn is_system(&self) -> bool {
        self.job.spec.partition == Partition::System
    }

    pub(super) fn is_up(&self) -> bool {
        self.job.status.phase == Phase::Up
    }
}

impl Taker<'_> {
    pub(super) fn may_take(&self, victim: &Victim<'_>) -> bool {
        u16::from(victim.priority) < self.below && (self.is_system || !victim.is_system())
    }
}

/// A host in a round of preemption.
#[derive(Debug)]
pub(super) struct Room<'s> {
    host: &'s HostState,
    /// Looked up when the host is first asked.
    jobs: Option<Jobs<'s>>,
    claimed: Resources,
    claimed_named: Named,
    taken: BTreeSet<&'s JobId>,
    /// Changes with everything that may change what a plan here costs.
    pub(super) version: u32,
}

#[derive(Debug)]
struct Jobs<'s> {
    /// Those that are meant to run on, the least important first.
    running: Vec<Victim<'s>>,
    /// What stays promised when everything has stopped that was told to.
    promised: Resources,
    promised_named: Named,
    /// What could go, from the least important priority upwards: without the system's jobs, and with them.
    classes: [Vec<Class>; 2],
    /// The budgets of groups keep some jobs here.
    is_protected: bool,
}

/// The jobs up to one priority.
#[derive(Debug, Clone, Copy)]
struct Class {
    priority: u8,
    /// What they have together.
    total: Resources,
    /// The most that any of them has, of each.
    largest: Resources,
}

/// The least that making room could cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bound {
    pub(super) most_important: Option<u8>,
    pub(super) victims: usize,
}

impl<'s> Room<'s> {
    pub(super) fn of(host: &'s HostState) -> Self {
        Self {
            host,
            jobs: None,
            claimed: Resources::default(),
            claimed_named: Named::default(),
            taken: BTreeSet::new(),
            version: 0,
        }
    }

    pub(super) fn host(&self) -> &'s Host {
        &self.host.host
    }

    pub(super) fn is_schedulable(&self) -> bool {
        self.host.is_schedulable()
    }

    pub(super) fn is_taken(&self, job: &JobId) -> bool {
        self.taken.contains(job)
    }

    pub(super) fn claim(&mut self, spec: &JobSpec) {
        self.version += 1;
        self.claimed = self.claimed.saturating_add(&spec.request);
        self.claimed_named.add(&spec.named);
    }

    /// The job goes.
    pub(super) fn release(&mut self, job: &'s Job) {
        self.version += 1;
        self.taken.insert(&job.id);
        if let Some(jobs) = &mut self.jobs {
            jobs.running.retain(|victim| victim.job.id != job.id);
            jobs.promised = jobs.promised.saturating_sub(&job.spec.request);
            jobs.promised_named.sub(&job.spec.named);
            jobs.sum_up();
        }
    }

    /// No job of the group that is up can go any more.
    pub(super) fn protect(&mut self, group: &GroupId) {
        self.version += 1;
        if let Some(jobs) = &mut self.jobs {
            jobs.running
                .retain(|victim| victim.job.group != *group || !victim.is_up());
            jobs.is_protected = true;
            jobs.sum_up();
        }
    }

    fn jobs(&mut self, state: &'s ClusterState) -> &Jobs<'s> {
        self.jobs.get_or_insert_with(|| {
            let mut jobs = Jobs {
                running: Vec::new(),
                promised: self.host.promised,
                promised_named: self.host.promised_named.clone(),
                classes: [Vec::new(), Vec::new()],
                is_protected: false,
            };
            for job in state.jobs_on(&self.host.host.id) {
                if job.status.phase.is_final() {
                    continue;
                }
                if job.is_stopping || self.taken.contains(&job.id) {
                    jobs.promised = jobs.promised.saturating_sub(&job.spec.request);
                    jobs.promised_named.sub(&job.spec.named);
                } else {
                    jobs.running.push(Victim::of(state, job));
                }
            }
            jobs.running
                .sort_by_key(|victim| (victim.priority, Reverse(victim.job.placed_at_ms)));
            jobs.sum_up();
            jobs
        })
    }

    /// The least that making room here could cost, at a glance.
    pub(super) fn at_least(
        &mut self,
        state: &'s ClusterState,
        taker: &Taker<'_>,
    ) -> Result<Bound, Obstacle> {
        let spec = &taker.group.spec;
        if !self.is_schedulable() || !self.host.host.allocatable().fits(&spec.request) {
            return Err(Obstacle::Unsuitable);
        }
        if !spec.named.is_empty() && !self.host.host.named.fits(&Named::default(), &spec.named) {
            return Err(Obstacle::Unsuitable);
        }
        let is_system = usize::from(taker.is_system);
        self.jobs(state);
        let shortage = self.shortage(state, taker);
        let jobs = self.jobs(state);
        if shortage == Resources::default() {
            return Ok(Bound {
                most_important: None,
                victims: 0,
            });
        }
        let class = jobs.classes[is_system]
            .iter()
            .take_while(|class| u16::from(class.priority) < taker.below)
            .find(|class| class.total.fits(&shortage));
        match class {
            Some(class) => Ok(Bound {
                most_important: Some(class.priority),
                victims: at_least(&shortage, &class.largest),
            }),
            None if jobs.is_protected => Err(Obstacle::Budgets),
            None => Err(Obstacle::Important),
        }
    }

    /// What is lacking of the divisible resources when everything has stopped that was told to.
    fn shortage(&self, state: &ClusterState, taker: &Taker<'_>) -> Resources {
        let promised = self
            .jobs
            .as_ref()
            .map_or(self.host.promised, |jobs| jobs.promised);
        let reserved = self.reserved(state, taker).0;
        taker
            .group
            .spec
            .request
            .saturating_add(&self.claimed)
            .saturating_add(&reserved)
            .saturating_add(&promised)
            .saturating_sub(&self.host.host.allocatable())
    }

    /// What reservations hold for others while the job would run. What their holders' jobs use already is counted twice:
    /// rather nobody goes than somebody in vain.
    fn reserved(&self, state: &ClusterState, taker: &Taker<'_>) -> (Resources, Named) {
        let mut held = (Resources::default(), Named::default());
        let id = &self.host.host.id;
        if !state.has_reservations_on(id) {
            return held;
        }
        let until_ms = end_ms(taker.now_ms, &taker.group.spec);
        for reservation in state.reservations_on(id) {
            if reservation.overlaps(taker.now_ms, until_ms)
                && !reservation.holder.matches(&taker.group.id)
                && let Some(claim) = reservation.claims.get(id)
            {
                held.0 = held.0.saturating_add(&claim.resources);
                held.1.add(&claim.named);
            }
        }
        held
    }

    /// The cheapest jobs to take here, beside those that must go anyway.
    pub(super) fn fewest(
        &mut self,
        state: &'s ClusterState,
        taker: &Taker<'_>,
        must: Vec<Victim<'s>>,
        budgets: &mut Budgets<'s>,
    ) -> Result<Vec<Victim<'s>>, Obstacle> {
        self.jobs(state);
        let mut task = search::Task::new(self.shortage(state, taker), self.host.host.allocatable());
        let spec = &taker.group.spec;
        if !spec.named.is_empty() {
            let (_, mut taken) = self.reserved(state, taker);
            taken.add(&self.claimed_named);
            taken.add(&self.jobs(state).promised_named);
            for (name, amount) in spec.named.iter() {
                let needed = amount.saturating_add(taken.amount(name));
                task.need(
                    name,
                    needed.saturating_sub(self.host.host.named.amount(name)),
                );
            }
        }
        for victim in &must {
            let is_here = victim.job.host == self.host.host.id;
            if !task.must(victim, is_here, budgets.left(victim)) {
                return Err(Obstacle::Budgets);
            }
        }
        let mut victims = must;
        if !task.is_done() {
            let known: BTreeSet<&JobId> = victims.iter().map(|victim| &victim.job.id).collect();
            let mut is_protected = self.jobs(state).is_protected;
            let mut free = Vec::new();
            for victim in &self.jobs(state).running {
                if !taker.may_take(victim) || known.contains(&victim.job.id) {
                    continue;
                }
                match budgets.left(victim) {
                    Some(0) => is_protected = true,
                    left => free.push((*victim, left)),
                }
            }
            let floor = victims.iter().map(|victim| victim.priority).max();
            match task.fewest(&free, floor) {
                Some(chosen) => victims.extend(chosen.into_iter().map(|n| free[n].0)),
                None if is_protected || task.has_met_budgets() => return Err(Obstacle::Budgets),
                None => return Err(Obstacle::Important),
            }
        }
        Ok(victims)
    }

    pub(super) fn cost(&self, state: &ClusterState, taker: &Taker<'_>, victims: &[&Job]) -> Cost {
        let priority = |job: &&Job| state.group(&job.group).map_or(0, |group| group.priority);
        let here = victims.iter().filter(|job| job.host == self.host.host.id);
        let freed = here.fold(Resources::default(), |sum, job| {
            sum.saturating_add(&job.spec.request)
        });
        Cost {
            most_important: victims.iter().map(priority).max(),
            victims: victims.len(),
            priorities: victims.iter().map(|job| u64::from(priority(job))).sum(),
            overshoot: search::overshoot(
                &freed,
                &self.shortage(state, taker),
                &self.host.host.allocatable(),
            ),
        }
    }
}

impl Jobs<'_> {
    fn sum_up(&mut self) {
        for (with_system, classes) in self.classes.iter_mut().enumerate() {
            classes.clear();
            let mut class = Class {
                priority: 0,
                total: Resources::default(),
                largest: Resources::default(),
            };
            for victim in &self.running {
                if with_system == 0 && victim.is_system() {
                    continue;
                }
                let has = &victim.job.spec.request;
                class = Class {
                    priority: victim.priority,
                    total: class.total.saturating_add(has),
                    largest: Resources {
                        cpu_millis: class.largest.cpu_millis.max(has.cpu_millis),
                        memory_bytes: class.largest.memory_bytes.max(has.memory_bytes),
                        disk_bytes: class.largest.disk_bytes.max(has.disk_bytes),
                    },
                };
                match classes.last_mut() {
                    Some(last) if last.priority == class.priority => *last = class,
                    _ => classes.push(class),
                }
            }
        }
    }
}

/// How many jobs it takes at least.
fn at_least(shortage: &Resources, largest: &Resources) -> usize {
    let of = |shortage: u64, largest: u64| shortage.div_ceil(largest.max(1));
    let most = of(shortage.cpu_millis, largest.cpu_millis)
        .max(of(shortage.memory_bytes, largest.memory_bytes))
        .max(of(shortage.disk_bytes, largest.disk_bytes));
    usize::try_from(most).unwrap_or(usize::MAX)
}
