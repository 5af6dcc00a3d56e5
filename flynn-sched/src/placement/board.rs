//! The hosts of a snapshot, and what has been claimed on them since.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
};

use imbl::ordmap::DiffItem;

use crate::{
    ClusterState, Domain, GroupId, Host, HostId, HostState, JobSpec, Named, Namespace, Port,
    Resources, Usage,
    placement::{
        Candidate, Tally,
        claims::Claims,
        index::Indexes,
        places::{Atlas, Layout, Places, number},
    },
};

/// The hosts of a snapshot in the order of their ids, and what has been claimed on them since.
///
/// A scheduler makes one and keeps it: [`refresh`](Self::refresh) brings it to a newer snapshot at the price of what has
/// changed, and what it knows of the shapes of jobs that it has placed stays useful.
#[derive(Debug)]
pub struct Board {
    pub(super) state: ClusterState,
    /// Changes with every refresh: tallies of before are counted anew.
    pub(super) epoch: u64,
    slots: Vec<Slot>,
    /// The hosts' ids: beside each other, because whoever places a job asks for one.
    ids: Vec<HostId>,
    by_id: HashMap<HostId, usize>,
    atlas: Atlas,
    pub(super) claims: Claims,
    /// The slots that changed, for the indexes to catch up with.
    pub(super) changes: Changes,
    pub(super) indexes: Indexes,
    /// How many hosts hold an item (an image, a volume).
    holders: BTreeMap<String, usize>,
    /// Of namespaces of which something was claimed or released since the snapshot.
    usage: BTreeMap<Namespace, Usage>,
}

/// What most searches look at comes first, and fills one line of a processor's cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Slot {
    pub(super) room: Resources,
    pub(super) promised: Resources,
    pub(super) host: Arc<Host>,
    pub(super) jobs: u32,
    pub(super) is_lost: bool,
    is_claimed: bool,
    pub(super) promised_named: Named,
    /// The ports of those of its jobs that insist on ports.
    pub(super) with_ports: Vec<Arc<JobSpec>>,
}

/// Which slots changed: the last changes in order, and of each slot when it changed last.
#[derive(Debug, Default)]
pub(super) struct Changes {
    now: u64,
    /// The slots of the last changes.
    last: VecDeque<u32>,
    /// By slot.
    changed: Vec<u64>,
    /// When any did what the next says.
    last_described: u64,
    /// By slot, when it changed not only what is promised but also what the host says of itself.
    described: Vec<u64>,
}

impl Changes {
    /// How many changes are remembered in order.
    const LAST: usize = 1024;

    fn of(slots: usize) -> Self {
        Self {
            changed: vec![0; slots],
            described: vec![0; slots],
            ..Self::default()
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// The slots that have changed since, each once.
    pub(super) fn since(&self, then: u64) -> Vec<u32> {
        let new = usize::try_from(self.now.saturating_sub(then)).unwrap_or(usize::MAX);
        if new <= self.last.len() && new <= self.changed.len() / 8 {
            let mut slots: Vec<u32> = self.last.iter().rev().take(new).copied().collect();
            if new > 1 {
                slots.sort_unstable();
                slots.dedup();
            }
            return slots;
        }
        (0..)
            .zip(&self.changed)
            .filter(|(_, changed)| **changed > then)
            .map(|(slot, _)| slot)
            .collect()
    }

    /// Has any host said something new of itself since?
    pub(super) fn any_described_since(&self, then: u64) -> bool {
        self.last_described > then
    }

    /// Has the host said something new of itself since?
    pub(super) fn is_described_since(&self, slot: usize, then: u64) -> bool {
        self.described[slot] > then
    }

    fn push(&mut self, slot: usize, is_described_anew: bool) {
        self.now += 1;
        self.changed[slot] = self.now;
        if is_described_anew {
            self.described[slot] = self.now;
            self.last_described = self.now;
        }
        if self.last.len() >= Self::LAST {
            self.last.pop_front();
        }
        self.last.push_back(number(slot));
    }
}

impl Board {
    /// The hosts of `state`, with nothing claimed.
    #[must_use]
    pub fn of(state: &ClusterState) -> Self {
        static EPOCHS: AtomicU64 = AtomicU64::new(0);
        let slots: Vec<Slot> = state.hosts().map(|host| Slot::of(state, host)).collect();
        let by_id = slots
            .iter()
            .enumerate()
            .map(|(n, slot)| (slot.host.id.clone(), n))
            .collect();
        let ids = slots.iter().map(|slot| slot.host.id.clone()).collect();
        let mut holders = BTreeMap::new();
        for slot in &slots {
            hold(&mut holders, &slot.host);
        }
        Self {
            state: state.clone(),
            epoch: EPOCHS.fetch_add(1 << 32, Ordering::Relaxed),
            changes: Changes::of(slots.len()),
            slots,
            ids,
            by_id,
            atlas: Atlas::default(),
            claims: Claims::on(state),
            indexes: Indexes::default(),
            holders,
            usage: BTreeMap::new(),
        }
    }

    /// Brings it to a newer (or older) snapshot. Claims are forgotten: what became of them is in the snapshot. Tallies
    /// made before are counted anew when they are used.
    ///
    /// It costs as much as has changed, unless hosts came or went or moved to other zones, racks or tags.
    pub fn refresh(&mut self, state: &ClusterState) {
        let before = std::mem::replace(&mut self.state, state.clone());
        self.epoch += 1;
        self.usage.clear();
        let mut changed = Vec::new();
        for item in before.host_map().diff(state.host_map()) {
            match item {
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } if stands_where_it_stood(&old.host, &new.host) => changed.push(new),
                _ => {
                    *self = Self::of(state);
                    return;
                }
            }
        }
        for host in changed {
            let at = self.by_id[&host.host.id];
            self.reload(at, host);
        }
        for at in self.claims.restart(state) {
            if self.slots[at].is_claimed
                && let Some(host) = state.host(&self.slots[at].host.id)
            {
                self.reload(at, host);
            }
        }
    }

    fn reload(&mut self, at: usize, host: &HostState) {
        let slot = &mut self.slots[at];
        let is_described_anew = slot.is_lost != host.lost_since_ms.is_some()
            || (!Arc::ptr_eq(&slot.host, &host.host) && slot.host != host.host);
        if slot.host.holds != host.host.holds {
            for item in &slot.host.holds {
                if let Some(count) = self.holders.get_mut(item) {
                    *count -= 1;
                }
            }
            self.holders.retain(|_, count| *count > 0);
            hold(&mut self.holders, &host.host);
        }
        *slot = Slot::of(&self.state, host);
        self.change(at, is_described_anew);
    }

    /// The slot is not as the snapshot says any more.
    fn touch(&mut self, at: usize) {
        if !std::mem::replace(&mut self.slots[at].is_claimed, true) {
            self.claims.touched.push(at);
        }
    }

    fn change(&mut self, at: usize, is_described_anew: bool) {
        self.changes.push(at, is_described_anew);
    }

    /// Where the jobs of `group` are, in `state` and by what has been claimed on the board since.
    #[must_use]
    pub fn tally(&self, state: &ClusterState, group: &GroupId) -> Tally {
        Tally::of(self, state, group)
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
        (0..self.slots.len()).map(move |slot| Candidate::on(self, slot, tally, None))
    }

    /// Leaves no room on a host that this board knows, for the rest of the round: somebody else is to have it.
    pub fn fill(&mut self, host: &HostId) {
        let Some(at) = self.slot(host) else {
            return;
        };
        let slot = &mut self.slots[at];
        slot.promised = slot.room;
        self.touch(at);
        self.change(at, false);
    }

    /// Takes what one job of another group needs on a host, even if it is not all there: it is kept for that group.
    pub(crate) fn hold(
        &mut self,
        state: &ClusterState,
        group: &GroupId,
        host: &HostId,
        spec: &JobSpec,
    ) {
        if let Some(at) = self.slot(host) {
            let mut tally = self.tally(state, group);
            self.claim(at, spec, &mut tally);
        }
    }

    /// What may be promised on all hosts together.
    pub(super) fn room(&self) -> Resources {
        let rooms = self.slots.iter().map(|slot| slot.room);
        rooms.fold(Resources::default(), |sum, room| sum.saturating_add(&room))
    }

    pub(super) fn at(&self, slot: usize) -> &Slot {
        &self.slots[slot]
    }

    pub(super) fn slot(&self, host: &HostId) -> Option<usize> {
        self.by_id.get(host).copied()
    }

    pub(super) fn id(&self, slot: usize) -> &HostId {
        &self.ids[slot]
    }

    pub(super) fn host(&self, slot: usize) -> &Host {
        &self.slots[slot].host
    }

    pub(super) fn places(&self, domain: &Domain) -> Arc<Places> {
        self.atlas
            .places(domain, self.slots.iter().map(|slot| &*slot.host))
    }

    pub(super) fn layout(&self, domains: &[Domain], places: &[Arc<Places>]) -> Arc<Layout> {
        self.atlas.layout(domains, places, self.slots.len())
    }

    /// Does any host hold this image or volume?
    pub(super) fn is_held(&self, item: &str) -> bool {
        self.holders.contains_key(item)
    }

    /// Why one more job like this would be more than its namespace's quota.
    pub(super) fn quota_exceeded(&self, spec: &JobSpec) -> Option<String> {
        let quota = self.state.quota(&spec.namespace)?;
        match self.usage.get(&spec.namespace) {
            Some(usage) => quota.exceeded(usage, spec),
            None => quota.exceeded(&self.state.usage(&spec.namespace), spec),
        }
    }

    /// Takes what one job of the tallied group needs.
    pub(super) fn claim(&mut self, at: usize, spec: &JobSpec, tally: &mut Tally) {
        self.touch(at);
        let slot = &mut self.slots[at];
        slot.promised = slot.promised.saturating_add(&spec.request);
        if !spec.named.is_empty() {
            slot.promised_named.add(&spec.named);
        }
        slot.jobs = slot.jobs.saturating_add(1);
        if has_fixed_ports(spec) {
            slot.with_ports.push(ports_of(spec));
        }
        if let Some(usage) = self.usage_of(spec) {
            usage.add(spec);
        }
        self.change(at, false);
        self.claims.add(at, &self.ids[at], spec, tally);
        tally.claim(self, at, spec, 1);
    }

    /// Gives back what one job of the tallied group on `host` has, as if it had ended: a claim that is withdrawn, or a
    /// job of the snapshot that is to be stopped. Nothing happens for a host that is not on the board.
    pub fn release(&mut self, host: &HostId, spec: &JobSpec, tally: &mut Tally) {
        let Some(at) = self.slot(host) else {
            return;
        };
        tally.keep_up(self);
        self.touch(at);
        let slot = &mut self.slots[at];
        slot.promised = slot.promised.saturating_sub(&spec.request);
        if !spec.named.is_empty() {
            slot.promised_named.sub(&spec.named);
        }
        slot.jobs = slot.jobs.saturating_sub(1);
        let with_ports = &mut slot.with_ports;
        if let Some(n) = with_ports
            .iter()
            .position(|other| other.ports == spec.ports)
        {
            with_ports.swap_remove(n);
        }
        if let Some(usage) = self.usage_of(spec) {
            usage.sub(spec);
        }
        self.change(at, false);
        self.claims.sub(at, &self.ids[at], spec, tally);
        tally.claim(self, at, spec, -1);
    }

    /// What the namespace uses, claims included; `None` if nobody asks because it has no quota.
    fn usage_of(&mut self, spec: &JobSpec) -> Option<&mut Usage> {
        self.state.quota(&spec.namespace)?;
        let state = &self.state;
        let usage = self
            .usage
            .entry(spec.namespace.clone())
            .or_insert_with(|| state.usage(&spec.namespace));
        Some(usage)
    }
}

impl Slot {
    fn of(state: &ClusterState, host: &HostState) -> Self {
        let with_ports = if host.with_ports == 0 {
            Vec::new()
        } else {
            state
                .jobs_on(&host.host.id)
                .filter(|job| !job.status.phase.is_final() && has_fixed_ports(&job.spec))
                .map(|job| Arc::clone(&job.spec))
                .collect()
        };
        Self {
            is_lost: host.lost_since_ms.is_some(),
            room: host.host.allocatable(),
            promised: host.promised,
            promised_named: host.promised_named.clone(),
            jobs: number(host.jobs.len()),
            with_ports,
            host: Arc::clone(&host.host),
            is_claimed: false,
        }
    }

    pub(super) fn free(&self) -> Resources {
        self.room.saturating_sub(&self.promised)
    }
}

fn has_fixed_ports(spec: &JobSpec) -> bool {
    spec.fixed_ports().next().is_some()
}

/// Of a job, only its ports.
fn ports_of(spec: &JobSpec) -> Arc<JobSpec> {
    let ports: Vec<Port> = spec.ports.clone();
    Arc::new(JobSpec {
        ports,
        ..JobSpec::default()
    })
}

fn hold(holders: &mut BTreeMap<String, usize>, host: &Host) {
    for item in &host.holds {
        match holders.get_mut(item) {
            Some(count) => *count += 1,
            None => {
                holders.insert(item.clone(), 1);
            }
        }
    }
}

fn stands_where_it_stood(before: &Host, after: &Host) -> bool {
    before.zone == after.zone && before.rack == after.rack && before.tags == after.tags
}
