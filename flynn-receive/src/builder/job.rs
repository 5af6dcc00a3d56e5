//! The build inside a build job.
//!
//! The job has the source as its directory and one environment variable with its order: what to build, and signed URLs
//! to upload to. It holds no secret of the cluster. Its output is what the pusher sees; the last line is its report.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use super::{Build, Built, build_env};
use crate::{
    Console, Error, ProcessGroup, Result,
    blob::{BlobName, BlobStore, Capability, HttpBlobStore, PutOptions, body_of_file},
    cache,
    error::one_line,
    slug::temporary_dir,
};

/// What a build job is told, as JSON in the variable [`JOB_ORDER_VARIABLE`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JobOrder {
    /// URLs of blob servers.
    pub(crate) blobs: Vec<String>,
    /// The queries that permit: to upload the slug, to read the cache, to write the cache.
    pub(crate) put_slug: String,
    pub(crate) get_cache: String,
    pub(crate) put_cache: String,
    pub(crate) cache: BlobName,
    pub(crate) app_env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) buildpacks: Option<PathBuf>,
    pub(crate) timeout_ms: u64,
    pub(crate) slug_limit: u64,
}

/// How a build job ended, as JSON in its last line, after [`REPORT_PREFIX`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JobReport {
    Built(Built),
    Refused(String),
}

/// What begins the last line of a build job.
pub(crate) const REPORT_PREFIX: &str = "##flynn-build ";

/// The environment variable that holds a build job's order.
pub const JOB_ORDER_VARIABLE: &str = "FLYNN_BUILD";

/// Carries out a build job in the directory `dir`, which holds the source; `vars` is the job's environment.
///
/// Writes what happens to standard output. A stopped job (`SIGTERM`) stops the programs it runs.
pub async fn main_in_job(dir: &Path, vars: BTreeMap<String, String>) -> ExitCode {
    let (console, mut written) = Console::new();
    let printing = async {
        let mut stdout = tokio::io::stdout();
        while let Some(bytes) = written.recv().await {
            // Nobody reads any more: the build goes on until it is stopped.
            let _ = stdout.write_all(&bytes).await;
            let _ = stdout.flush().await;
        }
    };
    let building = async move {
        let cancel = CancellationToken::new();
        let build = build(dir, &vars, &console, &cancel);
        let result = tokio::select! {
            result = build => result,
            () = terminated() => {
                // Dropped above, the build has killed its programs.
                Err(Error::Stopped { what: "the build" })
            }
        };
        let (report, code) = match result {
            Ok(built) => (JobReport::Built(built), ExitCode::SUCCESS),
            Err(error) => (JobReport::Refused(one_line(&error)), ExitCode::FAILURE),
        };
        if let Ok(json) = serde_json::to_string(&report) {
            console.line(format!("{REPORT_PREFIX}{json}")).await;
        }
        code
    };
    let (code, ()) = tokio::join!(building, printing);
    code
}

async fn build(
    dir: &Path,
    vars: &BTreeMap<String, String>,
    console: &Console,
    cancel: &CancellationToken,
) -> Result<Built> {
    let order = vars.get(JOB_ORDER_VARIABLE).ok_or_else(|| {
        Error::invalid(
            JOB_ORDER_VARIABLE,
            "it is not set: this command is for build jobs, which the receiver starts on a push",
        )
    })?;
    let order: JobOrder = serde_json::from_str(order)
        .map_err(|e| Error::invalid(JOB_ORDER_VARIABLE, e.to_string()))?;
    let scratch = temporary_dir("build", None)?;
    let cache_dir = scratch.path().join("cache");
    let kept = cache::fetch(
        &blobs(&order, &order.get_cache)?,
        &order.cache,
        &cache_dir,
        scratch.path(),
    )
    .await;

    let mut env = build_env(vars.clone());
    // What package managers leave in their home must not end up in the slug.
    if env
        .get("HOME")
        .is_none_or(|home| Path::new(home).starts_with(dir))
    {
        let home = scratch.path().join("home");
        std::fs::create_dir_all(&home).map_err(Error::storage("create a home directory"))?;
        env.insert("HOME".to_owned(), home.to_string_lossy().into_owned());
    }
    let slug = scratch.path().join("slug.tgz");
    let built = Build::new(dir, &cache_dir, scratch.path(), env)
        .with_buildpacks(order.buildpacks.clone())
        .with_app_env(order.app_env.clone())
        .with_group(ProcessGroup::Ours)
        .with_timeout(Duration::from_millis(order.timeout_ms))
        .with_slug_limit(order.slug_limit)
        .run(&slug, console, cancel)
        .await?;

    let options = PutOptions::new()
        .with_sha256(built.sha256)
        .with_size(built.size);
    blobs(&order, &order.put_slug)?
        .put(&slug_name(&built)?, body_of_file(&slug).await?, options)
        .await?;
    let target = blobs(&order, &order.put_cache)?;
    cache::keep(&target, &order.cache, &cache_dir, scratch.path(), kept).await;
    Ok(built)
}

/// The name a slug has in the blob store: that of its content.
pub(crate) fn slug_name(built: &Built) -> Result<BlobName> {
    BlobName::parse(format!("{SLUGS}/{}.tgz", built.sha256))
}

/// The directory of slugs in the blob store.
pub(crate) const SLUGS: &str = "slugs";

fn blobs(order: &JobOrder, query: &str) -> Result<HttpBlobStore> {
    let capability = Capability::from_query(query)
        .ok_or_else(|| Error::invalid(JOB_ORDER_VARIABLE, "a capability in it is not one"))?;
    Ok(HttpBlobStore::new(order.blobs.clone())?.with_capability(&capability))
}

async fn terminated() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            terminate.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}
