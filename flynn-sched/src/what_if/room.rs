//! How much of a cell is promised, and how many hosts it lacks.

use std::{collections::BTreeMap, time::Duration};

use crate::{ClusterState, Host, HostId, HostState, Named, Resources, Result, Scheduler};

use super::{imagine::add_hosts, rest::Rested};

/// What the hosts that take jobs have, and what of it is promised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Room {
    /// How many hosts take jobs.
    pub hosts: usize,
    /// What may be promised on them.
    pub allocatable: Resources,
    /// What is promised on them.
    pub promised: Resources,
    /// The same of named resources.
    pub named: Named,
    /// What of them is promised.
    pub promised_named: Named,
}

impl Room {
    pub(super) fn of<'s>(hosts: impl Iterator<Item = &'s HostState>) -> Self {
        let mut room = Self::default();
        for host in hosts.filter(|host| host.is_schedulable()) {
            room.hosts += 1;
            let allocatable = host.host.allocatable();
            room.allocatable = room.allocatable.saturating_add(&allocatable);
            room.promised = room.promised.saturating_add(&host.promised);
            room.named.add(&host.host.named);
            room.promised_named.add(&host.promised_named);
        }
        room
    }

    /// The share of each resource that is promised, 0 to 1 (more, where what is promised was reduced later): cpu, memory
    /// and disk, then named ones. What the hosts do not have is left out.
    #[must_use]
    pub fn shares(&self) -> Vec<(String, f64)> {
        let (all, promised) = (&self.allocatable, &self.promised);
        let plain = [
            ("cpu", promised.cpu_millis, all.cpu_millis),
            ("memory", promised.memory_bytes, all.memory_bytes),
            ("disk", promised.disk_bytes, all.disk_bytes),
        ];
        let named = self.named.iter();
        let named = named.map(|(name, all)| (name, self.promised_named.amount(name), all));
        plain
            .into_iter()
            .chain(named)
            .filter(|(_, _, all)| *all > 0)
            .map(|(name, part, all)| (name.to_owned(), share(part, all)))
            .collect()
    }

    /// The resource of which the largest share is promised, and the share.
    #[must_use]
    pub fn tightest(&self) -> Option<(String, f64)> {
        let larger = |a: (String, f64), b: (String, f64)| if b.1 > a.1 { b } else { a };
        self.shares().into_iter().reduce(larger)
    }
}

/// The room of each zone, by name; hosts that name none are under `None`.
pub(super) fn by_zone(state: &ClusterState) -> BTreeMap<Option<String>, Room> {
    let mut zones: BTreeMap<Option<String>, Vec<&HostState>> = BTreeMap::new();
    for host in state.hosts() {
        zones.entry(host.host.zone.clone()).or_default().push(host);
    }
    let room = |hosts: Vec<&HostState>| Room::of(hosts.into_iter());
    zones
        .into_iter()
        .map(|(zone, hosts)| (zone, room(hosts)))
        .collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share needs no more than 52 bits"
)]
fn share(part: u64, all: u64) -> f64 {
    part as f64 / all as f64
}

/// How many jobs should be placed and are not.
pub(super) fn missing(state: &ClusterState) -> u64 {
    let missing = state
        .group_statuses()
        .map(|(_, status)| u64::from(status.missing));
    missing.fold(0, u64::saturating_add)
}

/// How many more hosts it would take to place everything.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostsNeeded {
    /// Hosts like this one.
    pub like: HostId,
    /// The least number that does; `None`: up to [`tried`](Self::tried) do not.
    pub count: Option<u32>,
    /// The most that were tried: each host that helps takes a job at least.
    pub tried: u32,
}

impl HostsNeeded {
    /// How many hosts are tried at most.
    pub const MAX: u32 = 10_000;

    /// Searches, by running schedulers on the rested state with more hosts: doubling until everything is placed, then
    /// halving the interval.
    pub(super) fn search(
        rested: &Rested,
        like: &Host,
        horizon: Duration,
        schedulers: &mut [&mut dyn Scheduler],
    ) -> Result<Self> {
        let mut does = |count: u32| -> Result<bool> {
            let more = add_hosts(&rested.state, like, count, rested.at_ms)?;
            let after = Rested::run(&more, rested.at_ms, horizon, schedulers);
            Ok(missing(&after.state) == 0)
        };
        let most = u32::try_from(missing(&rested.state)).unwrap_or(u32::MAX);
        let most = most.min(Self::MAX);
        let (mut too_few, mut enough) = (0, 1);
        while !does(enough)? {
            if enough == most {
                return Ok(Self {
                    like: like.id.clone(),
                    count: None,
                    tried: most,
                });
            }
            too_few = enough;
            enough = enough.saturating_mul(2).min(most);
        }
        while enough - too_few > 1 {
            let middle = too_few + (enough - too_few) / 2;
            if does(middle)? {
                enough = middle;
            } else {
                too_few = middle;
            }
        }
        Ok(Self {
            like: like.id.clone(),
            count: Some(enough),
            tried: most,
        })
    }
}

/// The host that most others are like, of those that take jobs (or of all, if none does): the first of them by id.
pub(super) fn usual_host(state: &ClusterState) -> Option<&Host> {
    let shape = |host: &Host| {
        let named: Vec<(String, u64)> = host.named.iter().map(|(n, a)| (n.to_owned(), a)).collect();
        let Resources {
            cpu_millis,
            memory_bytes,
            disk_bytes,
        } = host.allocatable();
        let place = (host.zone.clone(), host.rack.clone());
        (
            (cpu_millis, memory_bytes, disk_bytes),
            named,
            host.tags.clone(),
            place,
        )
    };
    let usual = |hosts: Vec<&'_ HostState>| {
        let mut shapes = BTreeMap::new();
        for host in &hosts {
            *shapes.entry(shape(&host.host)).or_insert(0_usize) += 1;
        }
        let most = shapes.values().max().copied();
        hosts
            .iter()
            .position(|host| shapes.get(&shape(&host.host)).copied() == most)
    };
    for wanted in [HostState::is_schedulable as fn(&HostState) -> bool, |_| {
        true
    }] {
        let hosts: Vec<&HostState> = state.hosts().filter(|host| wanted(host)).collect();
        if let Some(at) = usual(hosts.clone()) {
            return Some(&hosts[at].host);
        }
    }
    None
}
