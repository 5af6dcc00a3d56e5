//! What is promised on one host, moment by moment. The one place that computes it: commits, placement and the planner ask.
//!
//! The load at a moment is what the jobs use that are expected to be there, and what is held beside them: for every
//! holder the sum of its claims, without what its jobs use. It only grows where a reservation begins: where a job of a
//! holder ends, what is held grows by no more than the jobs use less. So a window is looked at where it begins and where
//! reservations begin or end in it.

use std::collections::BTreeMap;

use crate::{
    Claim, ClusterState, GroupId, HostState, Job, JobSpec, Jobs, Named, Reservation, ReservationId,
    Resources,
};

use super::{end_ms, share_jobs};

/// Amounts of everything, wide enough that no sum of what a cell can hold overflows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Amounts<'s> {
    /// Processor time, memory, disk.
    pub(crate) divisible: [u128; 3],
    pub(crate) named: BTreeMap<&'s str, u128>,
}

impl<'s> Amounts<'s> {
    pub(crate) fn of(resources: &Resources, named: &'s Named) -> Self {
        let mut amounts = Self::default();
        amounts.add(resources, named);
        amounts
    }

    fn add(&mut self, resources: &Resources, named: &'s Named) {
        let more = [
            resources.cpu_millis,
            resources.memory_bytes,
            resources.disk_bytes,
        ];
        for (sum, more) in self.divisible.iter_mut().zip(more) {
            *sum += u128::from(more);
        }
        for (name, more) in named.iter() {
            *self.named.entry(name).or_default() += u128::from(more);
        }
    }

    /// Each amount with its counterpart; what one side does not name is zero there.
    fn with(mut self, other: &Self, each: impl Fn(u128, u128) -> u128) -> Self {
        for (mine, theirs) in self.divisible.iter_mut().zip(other.divisible) {
            *mine = each(*mine, theirs);
        }
        for (name, mine) in &mut self.named {
            *mine = each(*mine, other.named.get(name).copied().unwrap_or_default());
        }
        for (name, theirs) in &other.named {
            self.named.entry(name).or_insert_with(|| each(0, *theirs));
        }
        self
    }

    fn plus(self, other: &Self) -> Self {
        self.with(other, u128::saturating_add)
    }

    fn minus(self, other: &Self) -> Self {
        self.with(other, u128::saturating_sub)
    }

    /// That many times as much.
    pub(super) fn scaled(mut self, times: u32) -> Self {
        let times = u128::from(times);
        for amount in self.divisible.iter_mut().chain(self.named.values_mut()) {
            *amount = amount.saturating_mul(times);
        }
        self
    }

    /// How often `need` fits, at most `most` times.
    pub(super) fn times(&self, need: &Self, most: u32) -> u32 {
        let fits = |have: u128, need: u128| match have.checked_div(need) {
            Some(times) => u32::try_from(times).unwrap_or(u32::MAX),
            None => u32::MAX,
        };
        let divisible = self.divisible.iter().zip(need.divisible);
        let divisible = divisible.map(|(have, need)| fits(*have, need));
        let named = need.named.iter().map(|(name, need)| {
            let have = self.named.get(name).copied().unwrap_or_default();
            fits(have, *need)
        });
        divisible.chain(named).fold(most, u32::min)
    }

    /// What there is, as far as a host can have it.
    pub(crate) fn clamped(&self) -> (Resources, Named) {
        let clamp = |amount: u128| u64::try_from(amount).unwrap_or(u64::MAX);
        let [cpu, memory, disk] = self.divisible.map(clamp);
        let resources = Resources {
            cpu_millis: cpu,
            memory_bytes: memory,
            disk_bytes: disk,
        };
        let named = self.named.iter().map(|(name, n)| (*name, clamp(*n)));
        (resources, named.collect())
    }
}

/// One host over time.
#[derive(Debug)]
pub(crate) struct Timeline<'s> {
    whole: Amounts<'s>,
    jobs: Vec<Stay<'s>>,
    claims: Vec<(&'s Reservation, &'s Claim)>,
}

/// A job and when it is expected to be gone.
#[derive(Debug)]
struct Stay<'s> {
    job: &'s Job,
    group: &'s GroupId,
    spec: &'s JobSpec,
    until_ms: u64,
}

/// The load at one moment.
struct Moment<'s> {
    jobs: Amounts<'s>,
    holdings: Vec<Holding<'s>>,
}

/// What a holder has at one moment.
struct Holding<'s> {
    holder: &'s Jobs,
    claims: Amounts<'s>,
    used: Amounts<'s>,
}

impl<'s> Holding<'s> {
    fn held(&self) -> Amounts<'s> {
        self.claims.clone().minus(&self.used)
    }
}

impl<'s> Timeline<'s> {
    /// The host as seen at `now_ms`: jobs that should have been gone by then are taken to stay.
    pub(crate) fn of(state: &'s ClusterState, host: &'s HostState, now_ms: u64) -> Self {
        let id = &host.host.id;
        let live = state.jobs_on(id).filter(|job| !job.status.phase.is_final());
        let jobs = live.map(|job| {
            let end = end_ms(job.placed_at_ms, &job.spec);
            Stay {
                job,
                group: &job.group,
                spec: &job.spec,
                until_ms: if end > now_ms { end } else { u64::MAX },
            }
        });
        let claims = state.reservations_on(id).filter_map(|reservation| {
            let claim = reservation.claims.get(id)?;
            (reservation.until_ms > now_ms).then_some((reservation.as_ref(), claim))
        });
        Self {
            whole: Amounts::of(&host.host.allocatable(), &host.host.named),
            jobs: jobs.collect(),
            claims: claims.collect(),
        }
    }

    /// As if this reservation were not there.
    pub(crate) fn without(mut self, id: &ReservationId) -> Self {
        self.claims.retain(|(reservation, _)| reservation.id != *id);
        self
    }

    /// As if these jobs were not there.
    pub(super) fn without_jobs(mut self, is_gone: &dyn Fn(&Job) -> bool) -> Self {
        self.jobs.retain(|stay| !is_gone(stay.job));
        self
    }

    /// What is held for jobs of `group` at this time, and not used yet.
    pub(super) fn held_for(&self, group: &GroupId, at_ms: u64) -> Amounts<'s> {
        let moment = self.at(at_ms);
        let own = moment
            .holdings
            .iter()
            .filter(|holding| holding.holder.matches(group));
        own.fold(Amounts::default(), |sum, holding| sum.plus(&holding.held()))
    }

    /// What no job uses at this time, whoever it is held for.
    pub(super) fn free_at(&self, at_ms: u64) -> Amounts<'s> {
        self.whole.clone().minus(&self.at(at_ms).jobs)
    }

    /// The reservations that hold room on the host now or later.
    pub(crate) fn reservations(&self) -> impl ExactSizeIterator<Item = &'s Reservation> {
        self.claims.iter().map(|(reservation, _)| *reservation)
    }

    /// When jobs are expected to end.
    pub(super) fn ends(&self) -> impl Iterator<Item = u64> {
        let ends = self.jobs.iter().map(|job| job.until_ms);
        ends.filter(|end| *end < u64::MAX)
    }

    /// A reservation in the window whose holder shares jobs with this one without being the same.
    pub(crate) fn rival(&self, holder: &Jobs, from_ms: u64, until_ms: u64) -> Option<&Reservation> {
        self.reservations().find(|other| {
            other.overlaps(from_ms, until_ms)
                && other.holder != *holder
                && share_jobs(&other.holder, holder)
        })
    }

    /// What one more job of `group` may use in all of the window.
    pub(crate) fn room_for(&self, group: &GroupId, from_ms: u64, until_ms: u64) -> Amounts<'s> {
        self.least(from_ms, until_ms, |_, moment| {
            let mut others = moment.jobs;
            let mut own = Amounts::default();
            for holding in &moment.holdings {
                if holding.holder.matches(group) {
                    own = own.plus(&holding.held());
                } else {
                    others = others.plus(&holding.held());
                }
            }
            // What is held for it, it may use even where the rest is over-promised.
            self.whole.clone().minus(&others).with(&own, u128::max)
        })
    }

    /// What one more claim of `holder` may hold in all of the window.
    pub(crate) fn room_for_claim(&self, holder: &Jobs, from_ms: u64, until_ms: u64) -> Amounts<'s> {
        self.least(from_ms, until_ms, |at_ms, moment| {
            let mut load = moment.jobs;
            let mut slack = self.used_by(holder, at_ms);
            for holding in &moment.holdings {
                load = load.plus(&holding.held());
                if holding.holder == holder {
                    slack = holding.used.clone().minus(&holding.claims);
                }
            }
            // What its jobs use beyond its claims is there already.
            self.whole.clone().minus(&load).plus(&slack)
        })
    }

    /// The least of something over the window.
    fn least(
        &self,
        from_ms: u64,
        until_ms: u64,
        amounts: impl Fn(u64, Moment<'s>) -> Amounts<'s>,
    ) -> Amounts<'s> {
        let borders = self
            .reservations()
            .flat_map(|reservation| [reservation.from_ms, reservation.until_ms])
            .filter(|at| from_ms < *at && *at < until_ms);
        std::iter::once(from_ms)
            .chain(borders)
            .map(|at_ms| amounts(at_ms, self.at(at_ms)))
            .reduce(|a, b| a.with(&b, u128::min))
            .expect("the window has a beginning")
    }

    fn at(&self, at_ms: u64) -> Moment<'s> {
        let mut holdings: Vec<Holding<'s>> = Vec::new();
        for (reservation, claim) in &self.claims {
            if !reservation.is_active(at_ms) {
                continue;
            }
            let known = holdings
                .iter()
                .position(|holding| *holding.holder == reservation.holder);
            let at = known.unwrap_or(holdings.len());
            if known.is_none() {
                holdings.push(Holding {
                    holder: &reservation.holder,
                    claims: Amounts::default(),
                    used: Amounts::default(),
                });
            }
            holdings[at].claims.add(&claim.resources, &claim.named);
        }
        let mut jobs = Amounts::default();
        for job in self.jobs.iter().filter(|job| job.until_ms > at_ms) {
            jobs.add(&job.spec.request, &job.spec.named);
            // At most one holder at a time has a claim to a job.
            let holding = holdings
                .iter_mut()
                .find(|holding| holding.holder.matches(job.group));
            if let Some(holding) = holding {
                holding.used.add(&job.spec.request, &job.spec.named);
            }
        }
        Moment { jobs, holdings }
    }

    /// What the jobs of these groups use at this time.
    fn used_by(&self, holder: &Jobs, at_ms: u64) -> Amounts<'s> {
        let mut used = Amounts::default();
        for job in &self.jobs {
            if job.until_ms > at_ms && holder.matches(job.group) {
                used.add(&job.spec.request, &job.spec.named);
            }
        }
        used
    }
}
