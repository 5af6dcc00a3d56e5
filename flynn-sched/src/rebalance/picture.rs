//! The cell in the numbers that moves are about.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    ClusterState, Constraint, Domain, Group, GroupId, GroupKind, Host, HostId, HostState, Job,
    Jobs, Phase, Resources,
    rebalance::{
        Imbalance,
        spread::{Wish, wishes},
    },
};

/// Where the jobs that stay are, and what the hosts carry.
pub(super) struct Picture<'s> {
    pub(super) state: &'s ClusterState,
    spots: Vec<Spot<'s>>,
    services: Vec<Service<'s>>,
    /// Who wants whom near or far, and within what.
    pub(super) ties: HashSet<(&'s GroupId, &'s Jobs, &'s Domain)>,
}

/// A host that is there and stays.
struct Spot<'s> {
    host: &'s HostState,
    /// What its jobs use that stay.
    used: Resources,
    whole: Resources,
}

/// A service and where its jobs are.
pub(super) struct Service<'s> {
    pub(super) group: &'s Arc<Group>,
    /// Those that stay, by host.
    jobs: BTreeMap<usize, Vec<&'s Arc<Job>>>,
    count: u32,
    wishes: Vec<Wish>,
    /// Where jobs of it failed, as far as the cell remembers.
    failed_on: HashSet<&'s HostId>,
}

/// A job that could be moved.
#[derive(Clone, Copy)]
pub(super) struct Source<'s> {
    pub(super) job: &'s Arc<Job>,
    pub(super) group: usize,
    pub(super) from: usize,
}

impl<'s> Picture<'s> {
    pub(super) fn of(state: &'s ClusterState) -> Self {
        let mut spots = Vec::new();
        let mut at_host: HashMap<&HostId, usize> = HashMap::new();
        for host in state.hosts() {
            if host.lost_since_ms.is_none() && !host.host.is_draining {
                at_host.insert(&host.host.id, spots.len());
                spots.push(Spot {
                    host,
                    used: Resources::default(),
                    whole: host.host.allocatable(),
                });
            }
        }
        let mut services = Vec::new();
        let mut by_id = HashMap::new();
        let mut atlas = HashMap::new();
        let hosts: Vec<&Host> = spots.iter().map(|spot| spot.host.host.as_ref()).collect();
        for group in state.groups() {
            if matches!(group.kind, GroupKind::Service { .. }) {
                by_id.insert(&group.id, services.len());
                services.push(Service {
                    group,
                    jobs: BTreeMap::new(),
                    count: 0,
                    wishes: wishes(group, &hosts, &mut atlas),
                    failed_on: HashSet::new(),
                });
            }
        }
        for job in state.jobs() {
            let has_failed = matches!(job.status.phase, Phase::Crashed | Phase::Failed);
            if has_failed && !job.is_stopping {
                let service = by_id.get(&job.group).map(|n| &mut services[*n]);
                let service: Option<&mut Service<'_>> = service;
                service.map(|service| service.failed_on.insert(&job.host));
            }
            let Some(&at) = at_host.get(&job.host).filter(|_| stays(job)) else {
                continue;
            };
            spots[at].used = spots[at].used.saturating_add(&job.spec.request);
            if let Some(service) = by_id.get(&job.group).map(|n| &mut services[*n]) {
                service.put(job, at);
            }
        }
        Self {
            state,
            spots,
            services,
            ties: ties(state),
        }
    }

    pub(super) fn imbalance(&self) -> Imbalance {
        let spread = |service: &Service<'_>| -> f64 {
            let all = f64::from(service.count.max(1));
            let of = |wish: &Wish| wish.weight * wish.counts.squares() / all;
            service.wishes.iter().map(of).sum()
        };
        Imbalance {
            spread: self.services.iter().map(spread).sum(),
            load: self
                .spots
                .iter()
                .map(|spot| squared(&spot.used, spot))
                .sum(),
        }
    }

    /// How many hosts there are to go to.
    pub(super) fn len(&self) -> usize {
        self.spots.len()
    }

    pub(super) fn host(&self, at: usize) -> &'s HostState {
        self.spots[at].host
    }

    pub(super) fn service(&self, source: &Source<'_>) -> &Service<'s> {
        &self.services[source.group]
    }

    pub(super) fn priority(&self, source: &Source<'_>) -> u8 {
        self.service(source).group.priority
    }

    /// One job of each service on each host, those that promise most first: services by how unevenly they are spread,
    /// then hosts by their load.
    pub(super) fn sources(&self) -> Vec<Source<'s>> {
        let mut sources: Vec<(f64, f64, Source<'s>)> = Vec::new();
        for (group, service) in self.services.iter().enumerate() {
            for (from, jobs) in &service.jobs {
                // The newest has the least to lose.
                let newest = jobs
                    .iter()
                    .max_by(|a, b| (a.placed_at_ms, &a.id).cmp(&(b.placed_at_ms, &b.id)));
                if let Some(job) = newest {
                    let spot = &self.spots[*from];
                    let source = Source {
                        job,
                        group,
                        from: *from,
                    };
                    let excess = service.excess(*from);
                    sources.push((excess, squared(&spot.used, spot), source));
                }
            }
        }
        sources.sort_by(|(a_excess, a_load, a), (b_excess, b_load, b)| {
            b_excess
                .total_cmp(a_excess)
                .then_with(|| b_load.total_cmp(a_load))
                .then_with(|| a.job.id.cmp(&b.job.id))
        });
        sources.into_iter().map(|(_, _, source)| source).collect()
    }

    /// By how much the imbalance falls if the job stands on `to` instead; `None` if it does not fall, or if its group were
    /// spread less evenly.
    pub(super) fn gain(&self, source: &Source<'_>, to: usize) -> Option<f64> {
        if to == source.from {
            return None;
        }
        let service = self.service(source);
        let (from_spot, to_spot) = (&self.spots[source.from], &self.spots[to]);
        let spread = service.gain(source.from, to);
        if spread < 0.0 {
            return None;
        }
        let request = &source.job.spec.request;
        let before = squared(&from_spot.used, from_spot) + squared(&to_spot.used, to_spot);
        let after = squared(&from_spot.used.saturating_sub(request), from_spot)
            + squared(&to_spot.used.saturating_add(request), to_spot);
        let gain = spread + before - after;
        (gain > 0.0).then_some(gain)
    }

    /// No move of the job gains more.
    pub(super) fn most_gain(&self, source: &Source<'_>) -> f64 {
        let spot = &self.spots[source.from];
        let without = spot.used.saturating_sub(&source.job.spec.request);
        let load = squared(&spot.used, spot) - squared(&without, spot);
        self.service(source).excess(source.from) + load
    }

    /// Would a strict limit of spread be broken, or broken more than it is?
    pub(super) fn breaks_skew(&self, source: &Source<'_>, to: usize) -> bool {
        let service = self.service(source);
        service.wishes.iter().any(|wish| {
            let Some(max_skew) = wish.max_skew else {
                return false;
            };
            let (here, there) = (wish.place(source.from), wish.place(to));
            if here == there {
                return false;
            }
            // As it will be after the move, of the places where jobs can be.
            let able = self.spots.iter().enumerate();
            let able = able.filter(|(_, spot)| service.group.belongs_on(&spot.host.host));
            let fewest = able.map(|(at, _)| {
                let place = wish.place(at);
                wish.counts.of(place) - u32::from(place == here)
            });
            let fewest = fewest.min().unwrap_or_default();
            let (here, there) = (wish.counts.of(here), wish.counts.of(there) + 1);
            there > here && there > fewest.saturating_add(max_skew)
        })
    }

    /// Why the move is worth it.
    pub(super) fn why(&self, source: &Source<'_>, to: usize) -> String {
        let (from, to_host) = (self.host(source.from), self.host(to));
        let service = self.service(source);
        let best = service
            .wishes
            .iter()
            .map(|wish| (wish.gain(source.from, to, service.count), wish))
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .filter(|(gain, _)| *gain > 0.0);
        if let Some((_, wish)) = best {
            let over = &wish.places.over;
            return format!(
                "{} {} has {} jobs of the group and {} has {}",
                over.name(),
                over.of(&from.host).unwrap_or("unknown"),
                wish.counts.of(wish.place(source.from)),
                over.of(&to_host.host).unwrap_or("unknown"),
                wish.counts.of(wish.place(to))
            );
        }
        let percent = |at: usize| {
            let spot = &self.spots[at];
            spot.used.dominant_share(&spot.whole) * 100.0
        };
        format!(
            "host {} is {:.0} % full and {} {:.0} %",
            from.host.id,
            percent(source.from),
            to_host.host.id,
            percent(to)
        )
    }

    /// The job stands on `to` from now on.
    pub(super) fn carry_out(&mut self, source: &Source<'s>, to: usize) {
        let request = &source.job.spec.request;
        let spot = &mut self.spots[source.from];
        spot.used = spot.used.saturating_sub(request);
        let spot = &mut self.spots[to];
        spot.used = spot.used.saturating_add(request);
        for wish in &mut self.services[source.group].wishes {
            let (here, there) = (wish.place(source.from), wish.place(to));
            wish.counts.add(here, -1);
            wish.counts.add(there, 1);
        }
    }
}

impl<'s> Service<'s> {
    fn put(&mut self, job: &'s Arc<Job>, at: usize) {
        self.jobs.entry(at).or_default().push(job);
        self.count += 1;
        for wish in &mut self.wishes {
            let place = wish.place(at);
            wish.counts.add(place, 1);
        }
    }

    /// The jobs that stay.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &'s Arc<Job>> {
        self.jobs.values().flatten().copied()
    }

    pub(super) fn has_failed_on(&self, host: &HostId) -> bool {
        self.failed_on.contains(host)
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    fn gain(&self, from: usize, to: usize) -> f64 {
        let gains = self.wishes.iter().map(|w| w.gain(from, to, self.count));
        gains.sum()
    }

    /// The most that a job on this host could gain in spread, wherever it went.
    fn excess(&self, from: usize) -> f64 {
        let most = self.wishes.iter().map(|wish| {
            let here = wish.counts.of(wish.place(from));
            let fewest = wish.counts.fewest(wish.places.count);
            wish.weight * 2.0 * (f64::from(here) - f64::from(fewest) - 1.0).max(0.0)
        });
        most.sum::<f64>() / f64::from(self.count.max(1))
    }
}

/// Whom groups want near or far.
fn ties(state: &ClusterState) -> HashSet<(&GroupId, &Jobs, &Domain)> {
    let mut ties = HashSet::new();
    for group in state.groups() {
        let wishes = group.spec.affinities.iter();
        ties.extend(wishes.map(|wish| (&group.id, &wish.to, &wish.within)));
        let needs = group.spec.constraints.iter();
        ties.extend(needs.filter_map(|constraint| match constraint {
            Constraint::Near { jobs, within } => Some((&group.id, jobs, within)),
            _ => None,
        }));
    }
    ties
}

/// Does the job stay where it is, as far as is known?
fn stays(job: &Job) -> bool {
    !job.status.phase.is_final() && !job.is_stopping && !job.is_moving()
}

fn squared(used: &Resources, spot: &Spot<'_>) -> f64 {
    used.dominant_share(&spot.whole).powi(2)
}
