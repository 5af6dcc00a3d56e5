//! What may be asked of a host from elsewhere: the host API stands on it, and tests do.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use flynn_sched::{HostId, Job, JobId, JobStatus, Phase};
use futures::stream::{BoxStream, StreamExt};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{Drain, world::World};
use crate::{
    Error, Result,
    attach::{Attached, Channel, Frame, flags},
    log::{Cursor, LogLine, LogSink, LogStream, Tail, TailOptions},
    runtime::{AttachOptions, Attachment, Signal},
    supervisor::Event,
};

/// A handle on a running host. Cheap to clone; it does not keep the host alive.
#[derive(Clone)]
pub struct HostHandle {
    world: Arc<World>,
    events: mpsc::Sender<Event>,
    jobs: watch::Receiver<Arc<Jobs>>,
}

/// The jobs of a host: those it has, and the newest of those it had.
pub type Jobs = BTreeMap<JobId, JobView>;

/// A job as its host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobView {
    /// The job as it was assigned; its own status is what the cell knew then.
    pub job: Arc<Job>,
    /// How it is.
    pub status: JobStatus,
    /// Can clients attach to it?
    pub has_container: bool,
}

/// What a client that attaches wants: the bits of [`flags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachRequest {
    /// See [`flags`].
    pub flags: u8,
}

/// What a client that attached gets: first the replay, then what comes.
#[derive(Debug)]
#[non_exhaustive]
pub struct AttachSession {
    /// What was logged, if that was asked for.
    pub replay: Vec<Frame>,
    /// What comes, if that was asked for and the job has not ended.
    pub live: Option<Attached>,
    /// The exit status, if the job has ended.
    pub exit: Option<u32>,
}

impl HostHandle {
    pub(super) fn new(
        world: Arc<World>,
        events: mpsc::Sender<Event>,
        jobs: watch::Receiver<Arc<Jobs>>,
    ) -> Self {
        Self {
            world,
            events,
            jobs,
        }
    }

    /// The host's identity.
    #[must_use]
    pub fn id(&self) -> &HostId {
        &self.world.id
    }

    /// The address of its jobs.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.world.addr
    }

    /// Was it told to give its jobs away?
    #[must_use]
    pub fn drain(&self) -> Option<Drain> {
        self.world.draining.get()
    }

    /// Makes the host give its jobs away and take no others until it is told otherwise, or ends that: schedulers move
    /// services elsewhere, within their budgets, and let jobs that end by themselves run, as long as they may. A restart
    /// of the daemon does not forget it. Returns once it is remembered; the cell hears of it soon after.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::DiskFull`]: it could not be remembered, and the cell is told nothing.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have had its effect.
    pub async fn set_drain(&self, drain: Option<Drain>) -> Result<()> {
        let world = Arc::clone(&self.world);
        tokio::task::spawn_blocking(move || world.draining.set(drain))
            .await
            .unwrap_or(Err(Error::Closed))
    }

    /// Its jobs as they are now.
    #[must_use]
    pub fn jobs(&self) -> Arc<Jobs> {
        Arc::clone(&self.jobs.borrow())
    }

    /// Its jobs as they are now, and again after each change; a slow reader skips states, never the last.
    #[must_use]
    pub fn watch_jobs(&self) -> BoxStream<'static, Arc<Jobs>> {
        tokio_stream::wrappers::WatchStream::new(self.jobs.clone()).boxed()
    }

    /// One job.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownJob`].
    pub fn job(&self, id: &JobId) -> Result<JobView> {
        self.jobs
            .borrow()
            .get(id)
            .cloned()
            .ok_or_else(|| Error::UnknownJob { job: id.clone() })
    }

    /// Waits until a job is as wanted, and returns it. A job that is unknown may still come.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the host ends first.
    pub async fn wait_for(
        &self,
        id: &JobId,
        mut is_wanted: impl FnMut(&JobView) -> bool + Send,
    ) -> Result<JobView> {
        let mut jobs = self.jobs.clone();
        let found = jobs
            .wait_for(|jobs| jobs.get(id).is_some_and(&mut is_wanted))
            .await
            .map_err(|_| Error::Closed)?;
        found.get(id).cloned().ok_or(Error::Closed)
    }

    /// Stops a job, with its grace, for good. Returns at once.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownJob`]; [`Error::Closed`].
    pub async fn stop(&self, id: &JobId) -> Result<()> {
        self.job(id)?;
        self.tell(Event::StopRequested(id.clone())).await
    }

    /// Sends a signal to a job.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownJob`]; [`Error::NotRunning`].
    pub async fn signal(&self, id: &JobId, signal: Signal) -> Result<()> {
        self.job(id)?;
        match self.world.runtime.kill(id, signal).await {
            Err(Error::UnknownJob { job }) => Err(Error::NotRunning { job }),
            result => result,
        }
    }

    /// Connects to a job's streams. A job that waits for a client is started by it. If the job is about to start,
    /// this waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] when it has ended and only what comes was asked for, or is not here after a minute.
    pub async fn attach(&self, id: &JobId, request: AttachRequest) -> Result<AttachSession> {
        let has = |flag: u8| request.flags & flag != 0;
        let patience = if self.job(id).is_ok() {
            START_PATIENCE
        } else {
            ARRIVAL_PATIENCE
        };
        loop {
            let arrived = self.wait_for(id, |view| {
                view.has_container || view.status.phase.is_final()
            });
            let Ok(arrived) = timeout(patience, arrived).await else {
                return Err(Error::NotRunning { job: id.clone() });
            };
            let view = arrived?;
            if view.has_container && has(flags::STREAM) {
                let options = AttachOptions::default().with_stdin(has(flags::STDIN));
                match self.world.runtime.attach(id, options).await {
                    Ok(Attachment { streams, log_end }) => {
                        let replay = match log_end {
                            Some(end) if has(flags::LOGS) => self.replay(id, request, end).await?,
                            _ => Vec::new(),
                        };
                        self.tell(Event::Attached(id.clone())).await?;
                        return Ok(AttachSession {
                            replay,
                            live: Some(streams),
                            exit: None,
                        });
                    }
                    // It ended just now; its state will say so in a moment.
                    Err(Error::NotRunning { .. } | Error::UnknownJob { .. }) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            if !has(flags::LOGS) {
                return Err(Error::NotRunning { job: id.clone() });
            }
            let JobStatus {
                phase,
                exit_status,
                error,
                ..
            } = view.status;
            let mut replay = self.replay(id, request, LOG_END).await?;
            // A job that never ran has no exit status, and must not look like one that ended well.
            if let (Phase::Failed, None) = (phase, exit_status) {
                let why = error.unwrap_or_else(|| "the job could not be run".to_owned());
                replay.push(Frame::Error(why));
                return Ok(AttachSession {
                    replay,
                    live: None,
                    exit: None,
                });
            }
            let code = u32::try_from(exit_status.unwrap_or(0)).unwrap_or(255);
            return Ok(AttachSession {
                replay,
                live: None,
                exit: phase.is_final().then_some(code),
            });
        }
    }

    /// The newest lines of a job's log.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when it cannot be read.
    pub async fn log(&self, id: &JobId, options: TailOptions) -> Result<Tail> {
        self.world.logs.tail(id, options).await
    }

    /// Follows a job's log until the job is over and all of it was read.
    #[must_use]
    pub fn follow_log(&self, id: &JobId, from: Cursor) -> BoxStream<'static, Result<LogLine>> {
        let lines = self.world.logs.follow(id, from);
        let over = {
            let (handle, id) = (self.clone(), id.clone());
            async move {
                let arrived = handle.wait_for(&id, |_| true);
                if timeout(ARRIVAL_PATIENCE, arrived).await.is_ok() {
                    let is_over =
                        |view: &JobView| view.status.phase.is_final() && !view.has_container;
                    let _ = handle.wait_for(&id, is_over).await;
                }
                // The last line may be on its way from the shim to the file, and from there to us.
                tokio::time::sleep(LAST_LINES).await;
            }
        };
        lines.take_until(over).boxed()
    }

    /// Where the logs are.
    #[must_use]
    pub fn logs(&self) -> &Arc<dyn LogSink> {
        &self.world.logs
    }

    async fn replay(&self, id: &JobId, request: AttachRequest, end: Cursor) -> Result<Vec<Frame>> {
        let wanted = [
            (flags::STDOUT, LogStream::Stdout),
            (flags::STDERR, LogStream::Stderr),
            (flags::INITLOG, LogStream::Host),
        ];
        let streams: Vec<LogStream> = wanted
            .into_iter()
            .filter(|(flag, _)| request.flags & flag != 0)
            .map(|(_, stream)| stream)
            .collect();
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        let mut options = TailOptions::default().with_streams(streams);
        if end != LOG_END {
            options = options.with_until(end);
        }
        let tail = self.world.logs.tail(id, options).await?;
        Ok(tail.lines.iter().map(frame).collect())
    }

    async fn tell(&self, event: Event) -> Result<()> {
        self.events.send(event).await.map_err(|_| Error::Closed)
    }
}

impl AttachRequest {
    /// Everything: the log, what comes, and the job's input.
    pub const ALL: Self = Self {
        flags: flags::STDOUT | flags::STDERR | flags::STDIN | flags::LOGS | flags::STREAM,
    };
}

impl fmt::Debug for HostHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostHandle")
            .field("id", self.id())
            .finish_non_exhaustive()
    }
}

impl JobView {
    /// The number that Flynn's host API has for the job's state: starting, running, done, crashed, failed.
    #[must_use]
    pub fn status_number(&self) -> u8 {
        match self.status.phase {
            Phase::Up | Phase::Stopping => 1,
            Phase::Done => 2,
            Phase::Crashed => 3,
            Phase::Failed => 4,
            // A job that is being started again is, for whoever reads these numbers, starting.
            _ => 0,
        }
    }
}

/// A line as the bytes that the job wrote.
fn frame(line: &LogLine) -> Frame {
    let mut bytes = BytesMut::with_capacity(line.message.len() + 1);
    bytes.put_slice(&line.message);
    if line.is_whole {
        bytes.put_u8(b'\n');
    }
    let channel = match line.stream {
        LogStream::Stdout => Channel::Stdout,
        LogStream::Stderr => Channel::Stderr,
        LogStream::Host => Channel::Host,
    };
    Frame::Data(channel, Bytes::from(bytes))
}

const LOG_END: Cursor = Cursor {
    file: u64::MAX,
    offset: u64::MAX,
};

/// How long a job that is here may take to have a container: artifacts may be large.
const START_PATIENCE: Duration = Duration::from_secs(600);
/// How long a job may take to arrive: a client may be faster than the cell.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a follower takes to look again.
const LAST_LINES: Duration = Duration::from_millis(300);
