//! Builds as jobs of the cluster.
//!
//! The source becomes an artifact; a job made of it runs this crate's builder and is attached to, so that the pusher
//! sees what it writes. What the job may do to the blob store is signed into the URLs it is given.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use flynn_controller::{
    http::Client,
    model::{Artifact, NewJob},
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    BuildOrder, BuildRunner, Slug,
    attach::{self, Said},
};
use crate::{
    Console, Error, Result,
    blob::{BlobName, BlobStore, CapabilityKey, DeleteOptions, Grant, PutOptions, body_of_file},
    builder::{
        BUILD_TIMEOUT, Built, JOB_ORDER_VARIABLE, JobOrder, JobReport, REPORT_PREFIX, SLUGS,
        slug_name,
    },
    cache::{self, blocking},
    slug::{Ignore, MAX_CACHE_BYTES, MAX_SLUG_BYTES, MAX_UNPACKED_BYTES, pack, temporary_dir},
};

/// Runs each build as a job of the app that is built.
#[derive(Debug)]
pub struct JobBuildRunner {
    controller: Client,
    blobs: Arc<dyn BlobStore>,
    blob_urls: Vec<String>,
    capabilities: CapabilityKey,
    program: Vec<String>,
    env: BTreeMap<String, String>,
    buildpacks: Option<PathBuf>,
    timeout: Duration,
}

impl JobBuildRunner {
    /// Jobs run `program`, which calls [`main_in_job`](crate::builder::main_in_job): the path of the receiver's
    /// program on the hosts, and its arguments. They read and write blobs at `blob_urls`, whose servers know
    /// `capabilities`; `blobs` is this receiver's way there.
    #[must_use]
    pub fn new(
        controller: Client,
        blobs: Arc<dyn BlobStore>,
        blob_urls: Vec<String>,
        capabilities: CapabilityKey,
        program: Vec<String>,
    ) -> Self {
        Self {
            controller,
            blobs,
            blob_urls,
            capabilities,
            program,
            env: BTreeMap::new(),
            buildpacks: None,
            timeout: BUILD_TIMEOUT,
        }
    }

    /// Gives build jobs these variables, for example how package managers reach their registries
    /// (see [`build_env`](crate::builder::build_env)).
    #[must_use]
    pub fn with_env(mut self, env: BTreeMap<String, String>) -> Self {
        self.env = env;
        self
    }

    /// Takes the buildpacks from `dir` on the hosts instead of those of this crate.
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

    /// Stores the source of a build. The same files are the same blob.
    async fn store_source(&self, order: &BuildOrder) -> Result<(BlobName, Artifact)> {
        let scratch = temporary_dir("source", None)?;
        let file = scratch.path().join("source.tgz");
        let packed = {
            let (source, file) = (order.source.clone(), file.clone());
            blocking(move || pack(&source, &file, &Ignore::default(), MAX_UNPACKED_BYTES)).await?
        };
        let name = BlobName::parse(format!("sources/{}-{}.tgz", order.app_id, packed.sha256))?;
        let options = PutOptions::new()
            .with_sha256(packed.sha256)
            .with_size(packed.size);
        self.blobs
            .put(&name, body_of_file(&file).await?, options)
            .await?;
        let uri = format!("blob:{name}");
        let artifact = Artifact::slug(uri, packed.sha256.to_string(), packed.size);
        let artifact = self
            .controller
            .create_artifact(&artifact)
            .await
            .map_err(|e| Error::upstream("the source could not be made known", e))?;
        Ok((name, artifact))
    }

    fn job(&self, order: &BuildOrder, source: &Artifact, build_id: &str) -> Result<NewJob> {
        // The signatures outlive the build, whose own clock stops it first.
        let lifetime = self.timeout + SIGNATURE_SLACK;
        let sign = |grant, limit| self.capabilities.grant(grant, lifetime, limit).to_query();
        let cache = cache::name_of(&order.app_id)?;
        let path = cache.as_str().to_owned();
        let job_order = JobOrder {
            blobs: self.blob_urls.clone(),
            put_slug: sign(Grant::PutByDigest(SLUGS.to_owned()), MAX_SLUG_BYTES),
            get_cache: sign(Grant::Get(path.clone()), 0),
            put_cache: sign(Grant::Put(path), MAX_CACHE_BYTES),
            cache,
            app_env: order.env.clone(),
            buildpacks: self.buildpacks.clone(),
            timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
            slug_limit: MAX_SLUG_BYTES,
        };
        let json = serde_json::to_string(&job_order)
            .map_err(|e| Error::upstream("the build could not be described", e))?;
        let mut env = self.env.clone();
        env.insert(JOB_ORDER_VARIABLE.to_owned(), json);
        env.insert("SOURCE_VERSION".to_owned(), order.commit.clone());
        // The program that builds is also the one that serves static sites.
        if let Some(program) = self.program.first() {
            env.entry("FLYNN_STATIC_SERVER".to_owned())
                .or_insert_with(|| program.clone());
        }
        Ok(NewJob {
            artifacts: vec![source.id.clone()],
            args: self.program.clone(),
            env: env.into(),
            meta: [(BUILD_META.to_owned(), build_id.to_owned())].into(),
            partition: "background".to_owned(),
            ..NewJob::default()
        })
    }

    /// Shows what the job writes until it ends; returns its report.
    async fn attend(
        &self,
        app_id: &str,
        job: &NewJob,
        console: &Console,
    ) -> Result<Option<JobReport>> {
        let mut attached = self
            .controller
            .run_attached(app_id, job)
            .await
            .map_err(|e| Error::upstream("the build job could not be started", e))?;
        let mut lines = Lines::default();
        loop {
            let said = attach::next(&mut attached)
                .await
                .map_err(|e| Error::upstream("the build job was lost sight of", e))?;
            match said {
                Some(Said::Output(bytes)) => {
                    let shown = lines.take(&bytes);
                    if !shown.is_empty() {
                        console.write(shown).await;
                    }
                }
                Some(Said::Error(why)) => {
                    return Err(Error::Upstream {
                        what: format!("the build job could not be attached to: {why}"),
                        source: None,
                    });
                }
                Some(Said::Exit(_)) | None => break,
            }
        }
        let rest = lines.finish();
        if !rest.is_empty() {
            console.write(rest).await;
        }
        Ok(lines.report)
    }

    /// Stops the job of a build that nobody waits for.
    async fn stop(&self, app_id: &str, build_id: &str) {
        let jobs = match self.controller.jobs(app_id).await {
            Ok(jobs) => jobs,
            Err(error) => {
                warn!(%error, "a build job may go on: the app's jobs are not known");
                return;
            }
        };
        for job in jobs {
            if job.meta.get(BUILD_META).is_some_and(|id| id == build_id) {
                let id = if job.id.is_empty() {
                    &job.uuid
                } else {
                    &job.id
                };
                match self.controller.kill(app_id, id).await {
                    Ok(()) => info!(job = id, "the build job is stopped"),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => warn!(job = id, %error, "a build job could not be stopped"),
                }
            }
        }
    }

    /// What a report says is only believed if the slug is there.
    async fn slug_of(&self, built: Built) -> Result<Slug> {
        let name = slug_name(&built)?;
        let stored = self.blobs.head(&name).await?;
        if stored.size != built.size || stored.sha256 != built.sha256 {
            return Err(Error::Corrupt {
                name,
                why: "it is not what the build job reported".to_owned(),
            });
        }
        Ok(Slug::new(name, built))
    }
}

#[async_trait]
impl BuildRunner for JobBuildRunner {
    async fn build(
        &self,
        order: BuildOrder,
        console: &Console,
        cancel: &CancellationToken,
    ) -> Result<Slug> {
        let (source, artifact) = self.store_source(&order).await?;
        let build_id = uuid::Uuid::new_v4().to_string();
        let job = self.job(&order, &artifact, &build_id)?;
        let deadline = Instant::now() + self.timeout + SIGNATURE_SLACK;
        let report = tokio::select! {
            report = self.attend(&order.app_id, &job, console) => report,
            () = sleep_until(deadline) => Err(Error::refused("the build did not end in time and was stopped")),
            () = cancel.cancelled() => Err(Error::Stopped { what: "the build" }),
        };
        if report.is_err() {
            self.stop(&order.app_id, &build_id).await;
        }
        // The slug has what is needed of the source.
        if let Err(error) = self.blobs.delete(&source, DeleteOptions::default()).await {
            debug!(%error, "the source of a build stays stored");
        }
        match report? {
            Some(JobReport::Built(built)) => self.slug_of(built).await,
            Some(JobReport::Refused(why)) => Err(Error::Refused { why }),
            None => Err(Error::refused(
                "the build job ended without a word of its outcome: its host may have failed; push again",
            )),
        }
    }
}

/// Splits output into lines, and takes the report out of it.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line that may become the report.
    held: Vec<u8>,
    /// Is this line shown as it comes?
    is_shown: bool,
    report: Option<JobReport>,
}

impl Lines {
    /// What of `bytes`, and of what was held back before, is to be shown.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(bytes.len());
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let is_whole = part.ends_with(b"\n");
            if self.is_shown {
                shown.extend_from_slice(part);
            } else {
                self.held.extend_from_slice(part);
                let prefix = REPORT_PREFIX.as_bytes();
                let compared = self.held.len().min(prefix.len());
                if self.held[..compared] != prefix[..compared] {
                    shown.append(&mut self.held);
                    self.is_shown = true;
                } else if is_whole {
                    shown.extend(self.finish());
                }
            }
            if is_whole {
                self.is_shown = false;
            }
        }
        shown
    }

    /// What is still held, at the end of a line.
    fn finish(&mut self) -> Vec<u8> {
        let line = std::mem::take(&mut self.held);
        let report = line
            .strip_prefix(REPORT_PREFIX.as_bytes())
            .and_then(|json| serde_json::from_slice(json).ok());
        match report {
            Some(report) => {
                self.report = Some(report);
                Vec::new()
            }
            None => line,
        }
    }
}

/// The fact about a job that says which build it is.
const BUILD_META: &str = "flynn-receive.build";

/// How much longer than a build its signatures are good, and how long a job without a word is waited for.
const SIGNATURE_SLACK: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_taken_out_of_the_output_wherever_that_is_cut() {
        let report = JobReport::Refused("no Procfile".to_owned());
        let json = serde_json::to_string(&report).unwrap();
        let output = format!(
            "-----> a\n## b\n{REPORT_PREFIX}not json\nhalf {REPORT_PREFIX}x\n{REPORT_PREFIX}{json}\n"
        );
        let expected = format!("-----> a\n## b\n{REPORT_PREFIX}not json\nhalf {REPORT_PREFIX}x\n");
        for size in 1..output.len() {
            let mut lines = Lines::default();
            let mut shown = Vec::new();
            for chunk in output.as_bytes().chunks(size) {
                shown.extend(lines.take(chunk));
            }
            shown.extend(lines.finish());
            assert_eq!(
                String::from_utf8(shown).unwrap(),
                expected,
                "in pieces of {size}"
            );
            assert_eq!(lines.report, Some(report.clone()));
        }
    }

    #[test]
    fn output_without_an_end_of_line_is_shown_at_once() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"progress 1%"), b"progress 1%");
        assert_eq!(lines.take(b"\rprogress 2%"), b"\rprogress 2%");
    }
}
