//! What the jobs of an app wrote, merged in the order of time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use flynn_sched::{ClusterState, Host, HostId, JobId};
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, SelectAll},
};

use super::{Platform, jobs::jobs_of};
use crate::{
    Error, Result,
    model::{Job, LogLine, Time},
    streams::{JobStreams, LogOptions, LogQuery, OutputLine},
};

/// The most jobs of which one request reads the output.
const MAX_JOBS: usize = 200;

/// How many lines of a job's past are looked through for those that were written while its log was opened.
const CATCH_UP_LINES: usize = 1000;

impl Platform {
    /// What the jobs of an app wrote. With [`LogQuery::follow`] the stream goes on with new lines, those of new jobs
    /// included; without, it ends.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for an unknown app or job; [`Error::Unavailable`] without a way to jobs' output.
    pub async fn log(
        &self,
        app: &str,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        let streams = Arc::clone(self.streams()?);
        let app = self.app(app).await?;
        let query = Arc::new(query);
        // Watched before the jobs are listed: none can come in between.
        let states = self.cluster.watch();
        let state = self.cluster.snapshot().await?;
        let mut jobs = self.jobs(&app.id).await?;
        jobs.retain(|job| admits(&query, job));
        if let (true, Some(job)) = (jobs.is_empty(), &query.job) {
            return Err(Error::missing(format_args!("job {job}")));
        }
        jobs.truncate(MAX_JOBS);
        let seen: BTreeSet<String> = jobs.iter().map(|job| job.uuid.clone()).collect();

        let past = LogOptions {
            lines: query.lines,
            follow: false,
            streams: query.streams.clone(),
        };
        let mut reads: Vec<BoxFuture<'static, Vec<LogLine>>> = Vec::new();
        for job in &jobs {
            if let Some(host) = host_of(&state, job) {
                let (streams, past) = (Arc::clone(&streams), past.clone());
                reads.push(read(streams, host, job.clone(), past).boxed());
            }
        }
        let mut lines: Vec<LogLine> = stream::iter(reads)
            .buffer_unordered(16)
            .collect::<Vec<_>>()
            .await
            .concat();
        let mut marks: BTreeMap<String, Mark> = BTreeMap::new();
        for line in &lines {
            marks.entry(line.job_id.clone()).or_default().pass(line);
        }
        lines.sort_by_key(|line| line.timestamp);
        if let Some(most) = query.lines {
            lines.drain(..lines.len().saturating_sub(most));
        }
        let past = stream::iter(lines.into_iter().map(Ok));
        if !query.follow {
            return Ok(past.boxed());
        }
        jobs.retain(|job| may_write(&state, job));
        let mut follow = Follow {
            streams,
            app: app.id,
            query,
            seen,
            live: SelectAll::new(),
        };
        for job in jobs {
            if let Some(host) = host_of(&state, &job) {
                let mark = marks.remove(&job.uuid).unwrap_or_default();
                follow.add(host, job, CATCH_UP_LINES, mark);
            }
        }
        Ok(past.chain(follow.run(states)).boxed())
    }
}

/// The lines that are written from now on, and the jobs they come from.
struct Follow {
    streams: Arc<dyn JobStreams>,
    app: String,
    query: Arc<LogQuery>,
    /// Jobs that are or were followed.
    seen: BTreeSet<String>,
    live: SelectAll<BoxStream<'static, Result<LogLine>>>,
}

impl Follow {
    /// Follows a job from behind the mark on; `lines` of the past are read again for those that were written meanwhile.
    fn add(&mut self, host: Arc<Host>, job: Job, lines: usize, mut mark: Mark) {
        let streams = Arc::clone(&self.streams);
        let nothing_past = self.query.lines == Some(0);
        let options = LogOptions {
            lines: Some(if nothing_past { 0 } else { lines }),
            follow: true,
            streams: self.query.streams.clone(),
        };
        let lines = stream::once(async move { open(&*streams, &host, job, &options).await })
            .filter_map(std::future::ready)
            .flatten()
            .filter(move |line| {
                std::future::ready(line.as_ref().map_or(true, |line| mark.is_new(line)))
            });
        self.live.push(lines.boxed());
    }

    /// Follows jobs that were not there before.
    fn look(&mut self, state: &ClusterState) {
        let jobs: Vec<Job> = jobs_of(state, &self.app)
            .filter(|job| may_write(state, job) && admits(&self.query, job))
            .filter(|job| !self.seen.contains(&job.uuid))
            .collect();
        for job in jobs {
            if let Some(host) = host_of(state, &job) {
                self.seen.insert(job.uuid.clone());
                // A new job is read from its first line on.
                self.add(host, job, CATCH_UP_LINES, Mark::default());
            }
        }
    }

    fn run(
        self,
        states: BoxStream<'static, flynn_sched::Result<Arc<ClusterState>>>,
    ) -> BoxStream<'static, Result<LogLine>> {
        stream::unfold((self, states), |(mut follow, mut states)| async move {
            loop {
                tokio::select! {
                    Some(line) = follow.live.next() => return Some((line, (follow, states))),
                    state = states.next() => match state? {
                        Ok(state) => follow.look(&state),
                        Err(error) => return Some((Err(error.into()), (follow, stream::empty().boxed()))),
                    },
                }
            }
        })
        .boxed()
    }
}

/// How far the output of a job was read: the time of its last line, and how many lines have that time.
#[derive(Debug, Default, Clone, Copy)]
struct Mark {
    time: Option<Time>,
    count: usize,
}

impl Mark {
    fn pass(&mut self, line: &LogLine) {
        if line.timestamp > self.time {
            self.time = line.timestamp;
            self.count = 0;
        }
        self.count += usize::from(line.timestamp == self.time);
    }

    /// Is the line behind the mark, when the output is read again from before it?
    fn is_new(&mut self, line: &LogLine) -> bool {
        if line.timestamp == self.time && self.count > 0 {
            self.count -= 1;
            return false;
        }
        line.timestamp >= self.time
    }
}

/// The lines of one job. A host that is gone takes its lines with it: the others are shown without.
async fn read(
    streams: Arc<dyn JobStreams>,
    host: Arc<Host>,
    job: Job,
    options: LogOptions,
) -> Vec<LogLine> {
    match open(&*streams, &host, job, &options).await {
        Some(lines) => {
            lines
                .filter_map(|line| std::future::ready(line.ok()))
                .collect()
                .await
        }
        None => Vec::new(),
    }
}

async fn open(
    streams: &dyn JobStreams,
    host: &Host,
    job: Job,
    options: &LogOptions,
) -> Option<BoxStream<'static, Result<LogLine>>> {
    let id = JobId::parse(&*job.uuid).ok()?;
    match streams.log(host, &id, options).await {
        Ok(lines) => Some(
            lines
                .map(move |line| line.map(|line| label(&job, line)))
                .boxed(),
        ),
        Err(error) => {
            tracing::debug!(job = %job.id, %error, "the output of a job cannot be read");
            None
        }
    }
}

fn label(job: &Job, line: OutputLine) -> LogLine {
    LogLine {
        host_id: job.host_id.clone(),
        job_id: job.uuid.clone(),
        msg: line.msg,
        process_type: job.process_type.clone(),
        source: "app".to_owned(),
        stream: line.stream,
        timestamp: Some(line.time),
    }
}

/// May it write more lines? One that crashed may be started again in its place.
fn may_write(state: &ClusterState, job: &Job) -> bool {
    let job = JobId::parse(&*job.uuid).ok().and_then(|id| state.job(&id));
    job.is_some_and(|job| !job.status.phase.is_final())
}

fn host_of(state: &ClusterState, job: &Job) -> Option<Arc<Host>> {
    let host = state.host(&HostId::parse(&*job.host_id).ok()?)?;
    host.lost_since_ms.is_none().then(|| Arc::clone(&host.host))
}

fn admits(query: &LogQuery, job: &Job) -> bool {
    query
        .job
        .as_ref()
        .is_none_or(|id| *id == job.id || *id == job.uuid)
        && query
            .process_type
            .as_ref()
            .is_none_or(|name| *name == job.process_type)
}
