//! The desired state as one value.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::DeploymentRecord;
use crate::model::{App, Artifact, Formation, Release, ScaleRequest, ScaleState, Time};

/// The desired state of the whole platform at one moment. Cloning it is cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Apps by id.
    pub apps: Arc<BTreeMap<String, Arc<App>>>,
    /// Artifacts by id.
    pub artifacts: Arc<BTreeMap<String, Arc<Artifact>>>,
    /// Releases by id.
    pub releases: Arc<BTreeMap<String, Arc<Release>>>,
    /// Formations by app and release.
    pub formations: Arc<BTreeMap<(String, String), Arc<Formation>>>,
    /// The last scale request of each formation, by app and release.
    pub scales: Arc<BTreeMap<(String, String), Arc<ScaleRequest>>>,
    /// Deployments by id.
    pub deployments: Arc<BTreeMap<String, Arc<DeploymentRecord>>>,
    /// Apps that are being deleted, by id.
    pub deletions: Arc<BTreeMap<String, Arc<Deletion>>>,
}

impl Catalog {
    /// Scale requests that are being carried out.
    pub fn pending_scales(&self) -> impl Iterator<Item = &Arc<ScaleRequest>> {
        self.scales
            .values()
            .filter(|request| request.state == ScaleState::Pending)
    }

    /// Deployments that are not over.
    pub fn open_deployments(&self) -> impl Iterator<Item = &Arc<DeploymentRecord>> {
        self.deployments
            .values()
            .filter(|record| !record.deployment.status.is_final())
    }
}

/// An app that is being deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// The app's id.
    #[serde(rename = "app")]
    pub app: String,
    /// When it was begun.
    pub begun_at: Time,
}
