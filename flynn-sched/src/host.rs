//! A host as the cell sees it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{HostId, Resources};

/// A host as it describes itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its identity in the cell.
    pub id: HostId,
    /// The address its jobs are reached at, for example `10.0.0.7`.
    pub addr: String,
    /// The URL of its host API.
    pub api_url: String,
    /// What it can give to jobs.
    pub capacity: Resources,
    /// Free-form labels that constraints refer to.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// The failure domain it stands in, if it said so.
    #[serde(default)]
    pub zone: Option<String>,
    /// Takes no new jobs; those it has are moved away.
    #[serde(default)]
    pub is_draining: bool,
    /// A number drawn at each start of the daemon, which tells a restart from a second host with the same id.
    #[serde(default)]
    pub incarnation: u64,
}
