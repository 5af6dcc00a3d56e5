//! Formations: how many jobs of each type of a release there should be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{App, Artifact, Release, Time, nullable, time};

/// How many jobs of each type.
pub type Counts = BTreeMap<String, u32>;

/// Tags that hosts of a type must have, by type.
pub type Tags = BTreeMap<String, BTreeMap<String, String>>;

/// How many jobs of each type of a release there should be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Formation {
    /// The app's identity.
    #[serde(
        rename = "app",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub app: String,
    /// The release's identity.
    #[serde(
        rename = "release",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub release: String,
    /// The counts.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub processes: Counts,
    /// Where they may run.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub tags: Tags,
    /// When it was created.
    #[serde(
        deserialize_with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub created_at: Option<Time>,
    /// When it was last changed.
    #[serde(
        deserialize_with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub updated_at: Option<Time>,
}

impl Formation {
    /// Is any count above zero?
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.processes.values().any(|count| *count > 0)
    }
}

/// A formation with everything it refers to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExpandedFormation {
    /// The app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<App>,
    /// The release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// The release's artifacts.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// The counts.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub processes: Counts,
    /// Where they may run.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub tags: Tags,
    /// When it was last changed; Go's zero time marks the end of the replay in a stream.
    #[serde(serialize_with = "zero_if_none", deserialize_with = "time::optional")]
    pub updated_at: Option<Time>,
    /// The formation was deleted.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "super::is_false")]
    pub deleted: bool,
    /// The scale request that is being carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_scale_request: Option<ScaleRequest>,
}

/// A wish to change a formation, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ScaleRequest {
    /// Its identity.
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    /// The app's identity.
    #[serde(deserialize_with = "nullable")]
    pub app: String,
    /// The release's identity.
    #[serde(deserialize_with = "nullable")]
    pub release: String,
    /// What became of it.
    pub state: ScaleState,
    /// The counts before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_processes: Option<Counts>,
    /// The counts wished for; types that are not named keep theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_processes: Option<Counts>,
    /// The tags before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_tags: Option<Tags>,
    /// The tags wished for; types that are not named keep theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_tags: Option<Tags>,
    /// When it was made.
    #[serde(deserialize_with = "time::optional")]
    pub created_at: Option<Time>,
    /// When it last changed its state.
    #[serde(deserialize_with = "time::optional")]
    pub updated_at: Option<Time>,
}

impl ScaleRequest {
    /// A wish for these counts of a release.
    #[must_use]
    pub fn to(app: impl Into<String>, release: impl Into<String>, processes: Counts) -> Self {
        Self {
            app: app.into(),
            release: release.into(),
            new_processes: Some(processes),
            ..Self::default()
        }
    }
}

/// What became of a scale request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ScaleState {
    /// Jobs are being started and stopped.
    #[default]
    Pending,
    /// Another request or a deployment took its place.
    Cancelled,
    /// As many jobs run as were wished for.
    Complete,
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn zero_if_none<S: serde::Serializer>(
    time: &Option<Time>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => time.serialize(serializer),
        None => serializer.serialize_str("0001-01-01T00:00:00Z"),
    }
}
