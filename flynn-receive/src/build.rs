//! Who carries out a build: a job of the cluster, or this process.

mod attach;
mod job;
mod local;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{
    Console, Result,
    blob::{BlobName, Digest},
    builder::Built,
    procfile::ProcessTypes,
};

pub use job::JobBuildRunner;
pub use local::LocalBuildRunner;

/// Carries out builds.
#[async_trait]
pub trait BuildRunner: fmt::Debug + Send + Sync + 'static {
    /// Builds what `order` says and stores the slug in the blob store. What happens is written to `console`.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`](crate::Error::Refused) with a sentence for the one who pushed when the build fails;
    /// [`Error::Stopped`](crate::Error::Stopped) after `cancel`, when nothing of the build is left running.
    async fn build(
        &self,
        order: BuildOrder,
        console: &Console,
        cancel: &CancellationToken,
    ) -> Result<Slug>;
}

/// What is to be built.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BuildOrder {
    /// The app.
    pub app_id: String,
    /// Its name.
    pub app_name: String,
    /// The commit that was pushed.
    pub commit: String,
    /// The directory with its files. The build may change them.
    pub source: PathBuf,
    /// The environment of the app's current release.
    pub env: BTreeMap<String, String>,
}

/// A slug in the blob store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Slug {
    /// Its name there.
    pub name: BlobName,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Digest,
    /// What kind of app it is, in the buildpack's words.
    pub kind: String,
    /// The commands, by process type.
    pub processes: ProcessTypes,
}

impl Slug {
    pub(crate) fn new(name: BlobName, built: Built) -> Self {
        Self {
            name,
            size: built.size,
            sha256: built.sha256,
            kind: built.kind,
            processes: built.processes,
        }
    }
}
