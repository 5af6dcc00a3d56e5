//! A host as the cell sees it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{HostId, JobSpec, Named, Resources, Taint, TaintEffect};

/// A host as it describes itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its identity in the cell.
    pub id: HostId,
    /// The address its jobs are reached at, for example `10.0.0.7`.
    pub addr: String,
    /// The URL of its host API.
    pub api_url: String,
    /// What it has.
    pub capacity: Resources,
    /// What it has of named resources, such as GPUs.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub named: Named,
    /// Of its capacity, what jobs are not given: the system and the daemon need it.
    #[serde(default)]
    pub reserved: Resources,
    /// How much more than its capacity may be promised.
    #[serde(default)]
    pub overcommit: Overcommit,
    /// Free-form labels that constraints refer to.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// The failure domain it stands in, if it said so.
    #[serde(default)]
    pub zone: Option<String>,
    /// The rack it stands in, if it said so: a smaller failure domain.
    #[serde(default)]
    pub rack: Option<String>,
    /// Keep away jobs that do not tolerate them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// What lies on its disk already: `image:<sha256>` of artifacts, `volume:<owner>/<name>` of volumes. Only preferred,
    /// never required; at most a few hundred make sense.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub holds: BTreeSet<String>,
    /// Takes no new jobs; those it has are moved away, except that jobs of batches and gangs may run to their end.
    #[serde(default)]
    pub is_draining: bool,
    /// Where it drains: how long jobs of batches and gangs may stay, in milliseconds since the Unix epoch. Those that run
    /// then are stopped and run anew elsewhere, which does not count as an attempt. `None`: until they end. Services
    /// neither wait for it nor are hurried by it: each goes as soon as another is up in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_by_ms: Option<u64>,
    /// Why it takes no new jobs although it is alive, such as a full disk; those it has stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
    /// A number drawn at each start of the daemon, which tells a restart from a second host with the same id.
    #[serde(default)]
    pub incarnation: u64,
}

impl Host {
    /// A host with this id and capacity, and nothing else said of it: change the fields that differ.
    #[must_use]
    pub fn new(id: HostId, capacity: Resources) -> Self {
        Self {
            addr: String::new(),
            api_url: String::new(),
            capacity,
            named: Named::default(),
            reserved: Resources::default(),
            overcommit: Overcommit::default(),
            tags: BTreeMap::new(),
            zone: None,
            rack: None,
            taints: Vec::new(),
            holds: BTreeSet::new(),
            is_draining: false,
            drain_by_ms: None,
            unhealthy: None,
            incarnation: 0,
            id,
        }
    }

    /// What may be promised to jobs: the capacity without what is reserved, times the over-commit ratios.
    #[must_use]
    pub fn allocatable(&self) -> Resources {
        let left = self.capacity.saturating_sub(&self.reserved);
        Resources {
            cpu_millis: percent(left.cpu_millis, self.overcommit.cpu_percent),
            memory_bytes: percent(left.memory_bytes, self.overcommit.memory_percent),
            disk_bytes: percent(left.disk_bytes, self.overcommit.disk_percent),
        }
    }

    /// The first of its taints that drives out a job like this: one with the effect
    /// [`NoExecute`](TaintEffect::NoExecute) that it does not tolerate.
    #[must_use]
    pub fn drives_out(&self, spec: &JobSpec) -> Option<&Taint> {
        let evicts = |effect| effect == TaintEffect::NoExecute;
        Taint::untolerated(&self.taints, &spec.tolerations, evicts)
    }
}

/// How much may be promised of what there is, in percent. The default is 100 of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Overcommit {
    /// Of processor time.
    pub cpu_percent: u32,
    /// Of memory.
    pub memory_percent: u32,
    /// Of disk space.
    pub disk_percent: u32,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self {
            cpu_percent: 100,
            memory_percent: 100,
            disk_percent: 100,
        }
    }
}

fn percent(amount: u64, percent: u32) -> u64 {
    if percent == 100 {
        return amount;
    }
    let scaled = u128::from(amount) * u128::from(percent) / 100;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_promised_is_what_is_not_reserved_times_the_ratio() {
        let host = Host {
            reserved: Resources {
                cpu_millis: 500,
                memory_bytes: 100,
                disk_bytes: u64::MAX,
            },
            overcommit: Overcommit {
                cpu_percent: 200,
                memory_percent: 50,
                disk_percent: 100,
            },
            ..Host::new(
                HostId::parse("h").unwrap(),
                Resources {
                    cpu_millis: 4_000,
                    memory_bytes: 300,
                    disk_bytes: 7,
                },
            )
        };
        assert_eq!(
            host.allocatable(),
            Resources {
                cpu_millis: 7_000,
                memory_bytes: 100,
                disk_bytes: 0,
            }
        );
    }
}
