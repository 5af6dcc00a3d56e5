//! What placement looks at: the hosts with what this round has claimed already, and where a group's jobs are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{ClusterState, GroupId, Host, HostId, JobSpec, Phase, Resources};

/// The hosts of a snapshot in the order of their ids, and what one round of scheduling has claimed on them so far.
#[derive(Debug)]
pub struct Board {
    slots: Vec<Slot>,
    by_id: HashMap<HostId, usize>,
    zones: usize,
}

#[derive(Debug)]
struct Slot {
    host: Arc<Host>,
    is_lost: bool,
    free: Resources,
    jobs: usize,
    zone: usize,
    /// Of the jobs here, those that insist on ports.
    with_ports: Vec<Arc<JobSpec>>,
}

/// Where the jobs of one group are, by slot and zone of a [`Board`].
#[derive(Debug)]
pub struct Tally {
    present: Vec<u32>,
    active: Vec<u32>,
    failed: Vec<u32>,
    in_zone: Vec<u32>,
}

/// A host as filters and scores see it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'b> {
    /// The host.
    pub host: &'b Host,
    /// Is it gone for now?
    pub is_lost: bool,
    /// What is left to promise, after the claims of this round.
    pub free: Resources,
    /// How many jobs it has, of all groups.
    pub jobs: usize,
    /// How many jobs of the group are on it and not at their end, stopping ones included.
    pub group_jobs: u32,
    /// How many of them are meant to stay.
    pub group_active: u32,
    /// How many jobs of the group are meant to stay in its zone.
    pub group_in_zone: u32,
    /// How many jobs of the group failed on it, as far as the cell remembers.
    pub group_failed: u32,
    with_ports: &'b [Arc<JobSpec>],
}

impl Candidate<'_> {
    /// A fixed port of `spec` that a job on the host has.
    #[must_use]
    pub fn port_clash(&self, spec: &JobSpec) -> Option<u16> {
        self.with_ports
            .iter()
            .find_map(|other| spec.port_clash(other))
    }
}

impl Board {
    /// The hosts of `state`, with nothing claimed.
    #[must_use]
    pub fn of(state: &ClusterState) -> Self {
        let mut zones: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        let mut slots = Vec::new();
        let mut by_id = HashMap::new();
        for host in state.hosts() {
            let next = zones.len();
            let zone = *zones.entry(host.host.zone.as_deref()).or_insert(next);
            by_id.insert(host.host.id.clone(), slots.len());
            slots.push(Slot {
                host: Arc::clone(&host.host),
                is_lost: host.lost_since_ms.is_some(),
                free: host.free(),
                jobs: host.jobs.len(),
                zone,
                with_ports: Vec::new(),
            });
        }
        for job in state.jobs() {
            let insists = || job.spec.fixed_ports().next().is_some();
            if !job.status.phase.is_final() && insists() {
                let slot = by_id.get(&job.host).map(|slot| &mut slots[*slot]);
                slot.into_iter()
                    .for_each(|slot| slot.with_ports.push(Arc::clone(&job.spec)));
            }
        }
        Self {
            zones: zones.len(),
            slots,
            by_id,
        }
    }

    /// Where the jobs of `group` are.
    #[must_use]
    pub fn tally(&self, state: &ClusterState, group: &GroupId) -> Tally {
        let mut tally = Tally {
            present: vec![0; self.slots.len()],
            active: vec![0; self.slots.len()],
            failed: vec![0; self.slots.len()],
            in_zone: vec![0; self.zones],
        };
        for job in state.jobs_of(group) {
            let Some(&at) = self.by_id.get(&job.host) else {
                continue;
            };
            let slot = &self.slots[at];
            let phase = job.status.phase;
            if phase.is_final() {
                let has_failed = matches!(phase, Phase::Crashed | Phase::Failed);
                tally.failed[at] += u32::from(has_failed && !job.is_stopping);
                continue;
            }
            tally.present[at] += 1;
            if !job.is_stopping && !slot.is_lost && !slot.host.is_draining {
                tally.active[at] += 1;
                tally.in_zone[slot.zone] += 1;
            }
        }
        tally
    }

    /// How many hosts there are, lost ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Are there no hosts?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The hosts as candidates for a job of the tallied group.
    pub fn candidates<'b>(
        &'b self,
        tally: &'b Tally,
    ) -> impl Iterator<Item = Candidate<'b>> + use<'b> {
        (0..self.slots.len()).map(move |slot| self.candidate(slot, tally))
    }

    /// Leaves no room on a host that this board knows, for the rest of the round: somebody else is to have it.
    pub fn fill(&mut self, host: &HostId) {
        if let Some(&at) = self.by_id.get(host) {
            self.slots[at].free = Resources::default();
        }
    }

    pub(super) fn candidate(&self, at: usize, tally: &Tally) -> Candidate<'_> {
        let slot = &self.slots[at];
        Candidate {
            host: &slot.host,
            is_lost: slot.is_lost,
            free: slot.free,
            jobs: slot.jobs,
            group_jobs: tally.present[at],
            group_active: tally.active[at],
            group_in_zone: tally.in_zone[slot.zone],
            group_failed: tally.failed[at],
            with_ports: &slot.with_ports,
        }
    }

    pub(super) fn slot(&self, host: &HostId) -> Option<usize> {
        self.by_id.get(host).copied()
    }

    pub(super) fn host(&self, slot: usize) -> &Host {
        &self.slots[slot].host
    }

    pub(super) fn jobs(&self, slot: usize) -> usize {
        self.slots[slot].jobs
    }

    pub(super) fn claim(&mut self, at: usize, spec: &JobSpec, tally: &mut Tally) {
        let slot = &mut self.slots[at];
        slot.free = slot.free.saturating_sub(&spec.request);
        slot.jobs += 1;
        if spec.fixed_ports().next().is_some() {
            slot.with_ports.push(Arc::new(spec.clone()));
        }
        tally.present[at] += 1;
        tally.active[at] += 1;
        tally.in_zone[slot.zone] += 1;
    }
}
