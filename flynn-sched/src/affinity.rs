//! Which jobs should be near each other, apart, or spread: over hosts, racks, zones or the values of a tag.

use std::{collections::BTreeMap, ops::Bound};

use serde::{Deserialize, Serialize};

use crate::{GroupId, Host};

/// What counts as one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Domain {
    /// Each host is a place of its own.
    #[default]
    Host,
    /// The hosts of one rack.
    Rack,
    /// The hosts of one zone.
    Zone,
    /// The hosts with the same value of this tag.
    Tag(String),
}

impl Domain {
    /// The place in which a host stands; `None` where it has not said. Hosts that have not said are one place together.
    #[must_use]
    pub fn of<'h>(&self, host: &'h Host) -> Option<&'h str> {
        match self {
            Self::Host => Some(host.id.as_str()),
            Self::Rack => host.rack.as_deref(),
            Self::Zone => host.zone.as_deref(),
            Self::Tag(key) => host.tags.get(key).map(String::as_str),
        }
    }

    /// The word for it in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Host => "host",
            Self::Rack => "rack",
            Self::Zone => "zone",
            Self::Tag(key) => key,
        }
    }
}

/// Other jobs, by their groups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Jobs {
    /// The jobs of one group.
    Group(GroupId),
    /// The jobs of all groups whose ids begin so. The controller's groups are `app.release.type`: `app.` means an app.
    Prefix(String),
}

impl Jobs {
    /// Are the jobs of this group meant?
    #[must_use]
    pub fn matches(&self, group: &GroupId) -> bool {
        match self {
            Self::Group(id) => id == group,
            Self::Prefix(prefix) => group.as_str().starts_with(prefix.as_str()),
        }
    }

    /// What a map has for the groups that are meant.
    pub(crate) fn within<'m, V>(
        &'m self,
        map: &'m BTreeMap<GroupId, V>,
    ) -> impl Iterator<Item = &'m V> {
        let first = match self {
            Self::Group(id) => id.as_str(),
            Self::Prefix(prefix) => prefix.as_str(),
        };
        map.range::<str, _>((Bound::Included(first), Bound::Unbounded))
            .take_while(|(group, _)| self.matches(group))
            .map(|(_, value)| value)
    }
}

impl std::fmt::Display for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Group(id) => write!(f, "group {id}"),
            Self::Prefix(prefix) => write!(f, "groups {prefix}*"),
        }
    }
}

/// A wish to be spread evenly over places.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Spread {
    /// What counts as a place.
    pub over: Domain,
    /// How much it counts among the other wishes, 1 to 100.
    #[serde(default = "default_weight")]
    pub weight: u8,
    /// If given, no place may have more jobs of the group than the emptiest place that can take one, plus this. (The
    /// `maxSkew` of Kubernetes.)
    ///
    /// A scheduler that has seen all jobs of the group judges by its [`Placer`](crate::placement::Placer), whose filters
    /// say which places can take one. Where the group has changed since the snapshot, the commit judges by what the cell
    /// knows, so that several schedulers, or one with old news, do not make the group less even together.
    #[serde(default)]
    pub max_skew: Option<u32>,
}

/// A wish about a host or about its neighbours. A wish is weighed; a condition is a
/// [`Constraint`](crate::Constraint).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Affinity {
    /// The jobs to be near to, or away from.
    pub to: Jobs,
    /// What counts as near.
    #[serde(default)]
    pub within: Domain,
    /// From -100 (as far away as possible) to 100 (as near as possible).
    pub weight: i8,
}

fn default_weight() -> u8 {
    50
}
