//! Builds in this process, for tests and for a receiver without a cluster.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{BuildOrder, BuildRunner, Slug};
use crate::{
    Console, Result,
    blob::{BlobStore, PutOptions, body_of_file},
    builder::{BUILD_TIMEOUT, Build, slug_name},
    cache,
    slug::temporary_dir,
};

/// Builds in this process; the programs of buildpacks are its children.
///
/// Whoever can push can run what they like as the user of this process: it is for tests, and for receivers whose
/// pushers may do that.
#[derive(Debug)]
pub struct LocalBuildRunner {
    blobs: Arc<dyn BlobStore>,
    env: BTreeMap<String, String>,
    buildpacks: Option<PathBuf>,
    timeout: Duration,
}

impl LocalBuildRunner {
    /// Stores slugs in `blobs`; the buildpacks' programs have the environment `env`
    /// (see [`build_env`](crate::builder::build_env)).
    #[must_use]
    pub fn new(blobs: Arc<dyn BlobStore>, env: BTreeMap<String, String>) -> Self {
        Self {
            blobs,
            env,
            buildpacks: None,
            timeout: BUILD_TIMEOUT,
        }
    }

    /// Takes the buildpacks from `dir` instead of those of this crate.
    #[must_use]
    pub fn with_buildpacks(mut self, dir: impl Into<PathBuf>) -> Self {
        self.buildpacks = Some(dir.into());
        self
    }

    /// How long a build may take; default [`BUILD_TIMEOUT`].
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

#[async_trait]
impl BuildRunner for LocalBuildRunner {
    async fn build(
        &self,
        order: BuildOrder,
        console: &Console,
        cancel: &CancellationToken,
    ) -> Result<Slug> {
        let scratch = temporary_dir("build", None)?;
        let scratch = scratch.path();
        let cache_name = cache::name_of(&order.app_id)?;
        let cache_dir = scratch.join("cache");
        let kept = cache::fetch(&*self.blobs, &cache_name, &cache_dir, scratch).await;
        let slug = scratch.join("slug.tgz");
        let built = Build::new(&order.source, &cache_dir, scratch, self.env.clone())
            .with_buildpacks(self.buildpacks.clone())
            .with_app_env(order.env)
            .with_timeout(self.timeout)
            .run(&slug, console, cancel)
            .await?;
        let options = PutOptions::new()
            .with_sha256(built.sha256)
            .with_size(built.size);
        let name = slug_name(&built)?;
        self.blobs
            .put(&name, body_of_file(&slug).await?, options)
            .await?;
        cache::keep(&*self.blobs, &cache_name, &cache_dir, scratch, kept).await;
        Ok(Slug::new(name, built))
    }
}
