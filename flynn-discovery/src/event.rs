//! What can be heard about a service.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Instance;

/// What a watch of a service says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceEvent {
    /// The whole service as it is; forget what was known before. First, and again when something may have been missed.
    Reset {
        /// Its instances, the oldest first.
        instances: Vec<Instance>,
        /// Its leader, if it has one.
        leader: Option<Instance>,
        /// Its metadata, if it has any.
        metadata: Option<Metadata>,
    },
    /// An instance was registered.
    Up(Instance),
    /// An instance's address or attributes changed.
    Update(Instance),
    /// An instance is gone: deregistered, or not renewed in time.
    Down(Instance),
    /// The leader is another one now; follows the event that caused it.
    Leader(Option<Instance>),
    /// The metadata was set, or removed with the service.
    Metadata(Option<Metadata>),
}

/// Data a service's instances share, changed by compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The data, free to choose.
    pub data: Value,
    /// What to compare with when setting it; grows with each change.
    pub index: u64,
}
