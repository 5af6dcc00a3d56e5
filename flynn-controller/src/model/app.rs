//! An app: a name, its settings, and which release is current.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Time, empty_is_none, nullable, time};

/// An app.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct App {
    /// Its identity.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub id: String,
    /// Its name, unique among the apps that are not deleted.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub name: String,
    /// Free-form facts; see [`App::SYSTEM`] and the other constants for those with a meaning.
    #[serde(deserialize_with = "nullable")]
    pub meta: BTreeMap<String, String>,
    /// How deployments proceed, by [`DeployStrategy`](crate::deploy::DeployStrategy) name.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub strategy: String,
    /// The current release.
    #[serde(
        deserialize_with = "empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub release: Option<String>,
    /// How long each step of a deployment may take, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy_timeout: Option<u32>,
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

impl App {
    /// The meta key that marks a part of the platform: it runs in the system partition and gets no automatic route.
    pub const SYSTEM: &str = "flynn-system-app";
    /// The meta key that marks an app which must not be scaled to nothing.
    pub const CRITICAL: &str = "flynn-system-critical";
    /// The meta key with the number of jobs that `in-batches` moves at a time.
    pub const BATCH_SIZE: &str = "flynn-deploy-batch-size";

    /// An app to create, with this name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Is it a part of the platform?
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.has(Self::SYSTEM)
    }

    /// Would the platform be harmed if nothing of it ran?
    #[must_use]
    pub fn is_critical(&self) -> bool {
        self.has(Self::CRITICAL)
    }

    fn has(&self, flag: &str) -> bool {
        self.meta.get(flag).is_some_and(|value| value == "true")
    }
}

/// A partial change of an app; what is absent stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AppUpdate {
    /// Replaces all of the meta.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<BTreeMap<String, String>>,
    /// Replaces the strategy.
    #[serde(
        deserialize_with = "empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub strategy: Option<String>,
    /// Replaces the time a step of a deployment may take, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy_timeout: Option<u32>,
}
