//! Jobs: listing, running one-off ones, stopping.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flynn_sched::{
    ClusterState, Group, GroupId, GroupKind, Host, JobId, Transaction, transaction::Change,
};
use futures::StreamExt as _;

use super::Platform;
use crate::{
    Error, Result,
    model::{App, Artifact, Job, NewJob, Release, new_id},
    reconcile::{META_APP, PRIORITIES, RUN_OWNER, one_off_spec},
    streams::{AttachOptions, ByteStream},
    track::describe,
};

/// How long a one-off job may wait for a host.
pub const PLACEMENT_DEADLINE: Duration = Duration::from_secs(15);

impl Platform {
    /// The jobs of an app, newest first: those in the cell, and those that ended not long ago.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for an unknown app.
    pub async fn jobs(&self, app: &str) -> Result<Vec<Job>> {
        let app = self.app(app).await?;
        let state = self.cluster.snapshot().await?;
        let mut jobs: Vec<Job> = jobs_of(&state, &app.id).collect();
        let live: BTreeSet<String> = jobs.iter().map(|job| job.uuid.clone()).collect();
        for mut job in self.store.jobs(Some(&app.id)).await? {
            if !live.contains(&job.uuid) {
                if job.state.is_active() {
                    job.state = crate::model::JobState::Down;
                }
                jobs.push(job);
            }
        }
        jobs.sort_by(|a, b| {
            b.created_at
                .cmp(&a.created_at)
                .then_with(|| a.uuid.cmp(&b.uuid))
        });
        Ok(jobs)
    }

    /// The jobs of all apps that run or are about to, newest first.
    ///
    /// # Errors
    ///
    /// When the cell cannot be read.
    pub async fn active_jobs(&self) -> Result<Vec<Job>> {
        let state = self.cluster.snapshot().await?;
        let mut jobs: Vec<Job> = state
            .jobs()
            .filter_map(|job| describe(&state, job))
            .filter(|job| job.state.is_active())
            .collect();
        jobs.sort_by(|a, b| {
            b.updated_at
                .cmp(&a.updated_at)
                .then_with(|| a.uuid.cmp(&b.uuid))
        });
        Ok(jobs)
    }

    /// One job of an app, by id or UUID.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn job(&self, app: &str, id: &str) -> Result<Job> {
        let jobs = self.jobs(app).await?;
        jobs.into_iter()
            .find(|job| job.id == id || job.uuid == id)
            .ok_or_else(|| Error::missing(format_args!("job {id}")))
    }

    /// Stops a job. One that belongs to a formation is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn kill(&self, app: &str, id: &str) -> Result<()> {
        let job = self.job(app, id).await?;
        if !job.state.is_active() && job.state != crate::model::JobState::Crashed {
            return Ok(());
        }
        self.commit(Change::Stop(JobId::parse(job.uuid)?)).await
    }

    /// Runs a one-off job; returns when a host has it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the field; [`Error::Unavailable`] when no host takes it within [`PLACEMENT_DEADLINE`],
    /// with the reason.
    pub async fn run(&self, app: &str, job: &NewJob) -> Result<Job> {
        self.place(app, job, false).await.map(|(job, _)| job)
    }

    /// Runs a one-off job attached to the returned stream of attach frames.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and when the job's host cannot be reached.
    pub async fn run_attached(
        &self,
        app: &str,
        job: &NewJob,
    ) -> Result<(Job, Box<dyn ByteStream>)> {
        let streams = self.streams()?;
        let (placed, host) = self.place(app, job, true).await?;
        let options = AttachOptions {
            tty: job.tty.then_some((job.columns, job.lines)),
        };
        let id = JobId::parse(&*placed.uuid)?;
        match streams.attach(&host, &id, &options).await {
            Ok(attached) => Ok((placed, attached)),
            Err(error) => {
                // It would wait for an attached client for ever.
                self.commit(Change::Stop(id)).await?;
                Err(error)
            }
        }
    }

    async fn place(&self, app: &str, job: &NewJob, is_attached: bool) -> Result<(Job, Arc<Host>)> {
        let app = self.app(app).await?;
        let group = self.one_off_group(&app, job, is_attached).await?;
        let id = group.id.clone();
        let mut states = self.cluster.watch();
        self.commit(Change::PutGroup(Arc::new(group))).await?;
        let placed = async {
            while let Some(state) = states.next().await {
                let state = state?;
                let job = state.jobs_of(&id).next();
                if let Some(job) = job
                    && let (Some(described), Some(host)) =
                        (describe(&state, job), state.host(&job.host))
                {
                    return Ok((described, Arc::clone(&host.host)));
                }
            }
            Err(Error::Unavailable {
                why: "the cell was shut down".to_owned(),
            })
        };
        match tokio::time::timeout(PLACEMENT_DEADLINE, placed).await {
            Ok(placed) => placed,
            Err(_) => {
                let state = self.cluster.snapshot().await?;
                self.commit(Change::RemoveGroup(id.clone())).await?;
                Err(Error::Unavailable {
                    why: format!(
                        "the job was not placed within {} s: {}",
                        PLACEMENT_DEADLINE.as_secs(),
                        blocked(&state, &id)
                    ),
                })
            }
        }
    }

    async fn one_off_group(&self, app: &App, job: &NewJob, is_attached: bool) -> Result<Group> {
        if job.full_args().is_empty() {
            return Err(Error::invalid("args", "must name a command to run"));
        }
        crate::model::check_env("env", &job.env)?;
        let release = if job.release.is_empty() {
            match &app.release {
                Some(id) => self.store.release(id).await?,
                None => None,
            }
            .unwrap_or_default()
        } else {
            let found = self.store.release(&job.release).await?;
            found.ok_or_else(|| {
                Error::invalid(
                    "release",
                    format!("names {}, which does not exist", job.release),
                )
            })?
        };
        // The variables of another app's release are not the caller's to read.
        if job.release_env && !release.id.is_empty() && release.app_id != app.id {
            return Err(Error::invalid("release", "belongs to another app"));
        }
        let artifacts = self.artifacts_of(&release, job).await?;
        Ok(Group {
            id: GroupId::parse(format!("{}.run.{}", app.id, new_id()))?,
            kind: GroupKind::Batch {
                count: 1,
                retries: 0,
            },
            spec: Arc::new(one_off_spec(app, &release, &artifacts, job, is_attached)),
            priority: if app.is_system() {
                PRIORITIES.0
            } else {
                PRIORITIES.1
            },
            max_unavailable: None,
            keep: None,
            owner: RUN_OWNER.to_owned(),
        })
    }

    async fn artifacts_of(&self, release: &Release, job: &NewJob) -> Result<Vec<Arc<Artifact>>> {
        let ids = if job.artifacts.is_empty() {
            &release.artifacts
        } else {
            &job.artifacts
        };
        let mut artifacts = Vec::new();
        for id in ids {
            let artifact = self.store.artifact(id).await?.ok_or_else(|| {
                Error::invalid("artifacts", format!("names {id}, which does not exist"))
            })?;
            artifacts.push(Arc::new(artifact));
        }
        Ok(artifacts)
    }

    pub(crate) async fn commit(&self, change: Change) -> Result<()> {
        let transaction = Transaction {
            changes: vec![change],
            ..Transaction::default()
        };
        let committed = self.cluster.commit(transaction).await?;
        match committed.refused.into_iter().next() {
            None => Ok(()),
            Some(refused) => Err(Error::Conflict { why: refused.why }),
        }
    }
}

/// The jobs of an app in the cell.
pub(crate) fn jobs_of<'a>(state: &'a ClusterState, app: &'a str) -> impl Iterator<Item = Job> + 'a {
    state
        .jobs()
        .filter(move |job| job.spec.metadata.get(META_APP).is_some_and(|id| id == app))
        .filter_map(|job| describe(state, job))
}

/// Why a group has no job.
fn blocked(state: &ClusterState, group: &GroupId) -> String {
    let status = state.group_status(group);
    if let Some(why) = status.and_then(|status| status.blocked.clone()) {
        return why;
    }
    if state.hosts().any(|host| host.is_schedulable()) {
        "no scheduler has taken it up; is one running?".to_owned()
    } else {
        "there is no host that takes jobs".to_owned()
    }
}
