//! A change of a cell that is only imagined.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{HostId, Named, Resources};

/// A change of a cell that is only imagined. Its text form is what a person types, and what [`fmt::Display`] gives back:
///
/// | Text | Meaning |
/// |---|---|
/// | `lose zone b`, `lose rack r7`, `lose host h3` | these hosts vanish |
/// | `lose 3 hosts` | the three fullest hosts vanish |
/// | `drain host h1`, `drain zone b`, `drain 2 hosts` | they take no new jobs, and lose those they have |
/// | `return host h3` | a lost or draining host is back |
/// | `add 10 hosts like h1` | hosts with the same capacity, tags, zone and so on |
/// | `add 10 hosts cpu=8000 memory=32GiB zone=c` | hosts of this shape; also `disk=`, `rack=`, `tag.KEY=`, `named.KEY=` |
/// | `scale web to 200` | a group's count (of an omni group: on each host; of a cron group: of each run) |
/// | `remove group x` | a group goes, and its jobs |
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Hypothesis {
    /// Hosts vanish.
    Lose(Hosts),
    /// Hosts take no new jobs, and those they have are moved away.
    Drain(Hosts),
    /// A lost host is back, or a draining one takes jobs again.
    Return(HostId),
    /// New hosts join.
    Add {
        /// How many.
        count: u32,
        /// What they are.
        host: NewHost,
    },
    /// A group's count changes.
    Scale {
        /// Its id, or a part of it between dots that no other group has.
        group: String,
        /// The new count.
        count: u32,
    },
    /// A group is removed.
    Remove {
        /// Its id, or a part of it between dots that no other group has.
        group: String,
    },
}

/// Which hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hosts {
    /// All in this zone.
    Zone(String),
    /// All in this rack.
    Rack(String),
    /// This one.
    Host(HostId),
    /// The fullest so many of those that take jobs: the worst that can happen.
    Fullest(u32),
}

/// What a host that does not exist is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NewHost {
    /// The same as this one.
    Like(HostId),
    /// Of this shape.
    Shape(Shape),
}

/// What is said of a host that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    /// What it has.
    pub capacity: Resources,
    /// What it has of named resources.
    pub named: Named,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Its rack.
    pub rack: Option<String>,
}

impl fmt::Display for Hypothesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lose(hosts) => write!(f, "lose {hosts}"),
            Self::Drain(hosts) => write!(f, "drain {hosts}"),
            Self::Return(host) => write!(f, "return host {host}"),
            Self::Add { count, host } => {
                write!(f, "add {} {host}", Plural(*count))
            }
            Self::Scale { group, count } => write!(f, "scale {group} to {count}"),
            Self::Remove { group } => write!(f, "remove group {group}"),
        }
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zone(zone) => write!(f, "zone {zone}"),
            Self::Rack(rack) => write!(f, "rack {rack}"),
            Self::Host(id) => write!(f, "host {id}"),
            Self::Fullest(count) => write!(f, "{}", Plural(*count)),
        }
    }
}

impl fmt::Display for NewHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = match self {
            Self::Like(id) => return write!(f, "like {id}"),
            Self::Shape(shape) => shape,
        };
        let capacity = &shape.capacity;
        write!(f, "cpu={}", capacity.cpu_millis)?;
        write!(f, " memory={}", Amount(capacity.memory_bytes))?;
        if capacity.disk_bytes > 0 {
            write!(f, " disk={}", Amount(capacity.disk_bytes))?;
        }
        for (name, value) in [("zone", &shape.zone), ("rack", &shape.rack)] {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        for (key, value) in &shape.tags {
            write!(f, " tag.{key}={value}")?;
        }
        for (name, amount) in shape.named.iter() {
            write!(f, " named.{name}={amount}")?;
        }
        Ok(())
    }
}

impl From<Hypothesis> for String {
    fn from(hypothesis: Hypothesis) -> Self {
        hypothesis.to_string()
    }
}

struct Plural(u32);

impl fmt::Display for Plural {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 host"),
            n => write!(f, "{n} hosts"),
        }
    }
}

/// Bytes in the largest unit that needs no fraction.
struct Amount(u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            n if n % (1 << 30) == 0 => write!(f, "{}GiB", n >> 30),
            n if n % (1 << 20) == 0 => write!(f, "{}MiB", n >> 20),
            n if n % (1 << 10) == 0 => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}"),
        }
    }
}
