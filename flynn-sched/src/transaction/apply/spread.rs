//! Jobs that are to be spread strictly ([`Spread::max_skew`](crate::Spread::max_skew)): a start that was decided on old
//! news must not make them less even than they may be.
//!
//! Who has seen all jobs of the group decides alone which places count: filters of its own may rule some out that the
//! cell knows nothing against. Where the group has changed since the snapshot, two have decided without each other, and
//! where another change of the group was refused, it is not as it was planned; there the cell judges by what it knows itself: a place counts if one of its hosts would take the job now. Who is refused looks
//! again, and has seen all jobs then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{ClusterState, Domain, GroupId, HostId, Job, JobSpec};

use super::{Applying, No};

/// What is known of the places of a cell and of groups in them, as long as one transaction only starts jobs.
#[derive(Default)]
pub(super) struct Skews {
    places: BTreeMap<Domain, Arc<Places>>,
    counts: BTreeMap<(GroupId, Domain), Counts>,
}

/// The hosts of each place of a domain.
#[derive(Default)]
struct Places {
    by_name: BTreeMap<Option<String>, usize>,
    hosts: Vec<Vec<HostId>>,
}

/// Where the jobs of a group are.
struct Counts {
    spec: Arc<JobSpec>,
    /// How many jobs that stay there are in each place.
    counts: Vec<u32>,
    /// The places that may take another job like `spec`, the emptiest first. A place leaves when none of its hosts does.
    open: BTreeSet<(u32, usize)>,
    /// How many of the hosts of each place take none: the first so many.
    full: Vec<usize>,
}

impl Skews {
    /// Something else than a start has happened.
    pub(super) fn forget(&mut self) {
        self.counts.clear();
    }

    /// A host is gone.
    pub(super) fn forget_hosts(&mut self) {
        self.places.clear();
        self.counts.clear();
    }
}

impl Applying<'_> {
    /// Is the group to be spread strictly, and is it another by now than who decided this took it for? It is if it has
    /// changed since the snapshot, or if something that was decided together with the job was refused.
    pub(super) fn must_be_even(&self, job: &Job) -> bool {
        let is_strict = job.spec.spread.iter().any(|wish| wish.max_skew.is_some());
        let has_changed = || self.before.group_version(&job.group) > self.transaction.basis;
        is_strict && (has_changed() || self.incomplete.contains(&job.group))
    }

    /// The job does not make its group less even than it may be. All jobs are written that this transaction has started.
    pub(super) fn evenly_spread(&mut self, job: &Arc<Job>) -> Result<(), No> {
        if !self.must_be_even(job) {
            return Ok(());
        }
        for wish in &job.spec.spread {
            let Some(most) = wish.max_skew else { continue };
            let most = most.max(1);
            let places = self.places(&wish.over);
            let key = (job.group.clone(), wish.over.clone());
            // Out of the map while the rest is asked.
            let known = self.skews.counts.remove(&key);
            let known = known.filter(|known| known.spec == job.spec);
            let mut known =
                known.unwrap_or_else(|| Counts::of(&self.state, job, &wish.over, &places));
            let there = places
                .of(&self.state, &wish.over, &job.host)
                .map_or(0, |at| known.counts[at]);
            let emptier = self.emptier(&mut known, &places, job, there.saturating_sub(most));
            self.skews.counts.insert(key, known);
            if let Some(fewest) = emptier.filter(|_| there >= most) {
                return Err(No::conflict(
                    &job.host,
                    format!(
                        "its {} has {there} jobs of group {} by now, the emptiest that can take one has {fewest}, and they \
                         may differ by {most}",
                        wish.over.name(),
                        job.group
                    ),
                ));
            }
        }
        Ok(())
    }

    /// How many jobs the emptiest place that can take one has, if that is at most so many.
    fn emptier(&self, known: &mut Counts, places: &Places, job: &Job, at_most: u32) -> Option<u32> {
        while let Some((count, at)) = known.open.first().copied().filter(|(n, _)| *n <= at_most) {
            let hosts = &places.hosts[at];
            while let Some(id) = hosts.get(known.full[at]) {
                let host = self.state.host(id);
                if host.is_some_and(|host| self.host_takes(job, host).is_ok()) {
                    return Some(count);
                }
                known.full[at] += 1;
            }
            known.open.remove(&(count, at));
        }
        None
    }

    /// Counts the job that is started now.
    pub(super) fn count_start(&mut self, job: &Job) {
        for wish in &job.spec.spread {
            let Some(places) = self.skews.places.get(&wish.over) else {
                continue;
            };
            let key = (job.group.clone(), wish.over.clone());
            if let Some(known) = self.skews.counts.get_mut(&key)
                && let Some(at) = places.of(&self.state, &wish.over, &job.host)
            {
                let count = known.counts[at];
                known.counts[at] = count.saturating_add(1);
                if known.open.remove(&(count, at)) {
                    known.open.insert((count.saturating_add(1), at));
                }
            }
        }
    }

    fn places(&mut self, over: &Domain) -> Arc<Places> {
        let state = &self.state;
        let known = self.skews.places.entry(over.clone());
        Arc::clone(known.or_insert_with(|| {
            let mut places = Places::default();
            for host in state.hosts() {
                let name = over.of(&host.host).map(str::to_owned);
                let next = places.hosts.len();
                let at = *places.by_name.entry(name).or_insert(next);
                if at == next {
                    places.hosts.push(Vec::new());
                }
                places.hosts[at].push(host.host.id.clone());
            }
            Arc::new(places)
        }))
    }
}

impl Places {
    fn of(&self, state: &ClusterState, over: &Domain, host: &HostId) -> Option<usize> {
        let name = over.of(&state.host(host)?.host).map(str::to_owned);
        self.by_name.get(&name).copied()
    }
}

impl Counts {
    fn of(state: &ClusterState, job: &Job, over: &Domain, places: &Places) -> Self {
        let mut counts = vec![0_u32; places.hosts.len()];
        for other in state.jobs_of(&job.group) {
            let stays = !other.status.phase.is_final()
                && !other.is_stopping
                && state
                    .host(&other.host)
                    .is_some_and(|host| host.lost_since_ms.is_none() && !host.host.is_draining);
            if stays && let Some(at) = places.of(state, over, &other.host) {
                counts[at] = counts[at].saturating_add(1);
            }
        }
        let open = counts.iter().copied().zip(0..).collect();
        Self {
            spec: Arc::clone(&job.spec),
            full: vec![0; counts.len()],
            counts,
            open,
        }
    }
}
