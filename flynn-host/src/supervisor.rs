//! All jobs of a host: what happened goes in, what must be done comes out.
//!
//! Everything that a host decides is decided here and in [`crate::job`], without IO, clocks or tasks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use flynn_sched::{Job, JobId, JobStatus};

use crate::{
    job::{JobState, Stage},
    journal::Record,
    runtime::{ContainerState, ExitStatus, Signal, Started},
};

/// The jobs of a host.
#[derive(Debug)]
pub(crate) struct Supervisor {
    options: Options,
    jobs: BTreeMap<JobId, JobState>,
    /// Jobs that wait for their turn to start, first come first served.
    queue: VecDeque<JobId>,
    /// Jobs that are over and no longer assigned, oldest first. Their logs are kept for a while.
    past: VecDeque<(Arc<Job>, JobStatus)>,
    /// Nothing is started before the cell has said what it wants: it may have placed our jobs elsewhere meanwhile.
    may_start: bool,
    /// All jobs were told to stop, and no more are taken.
    is_closing: bool,
}

/// When things happen.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) stop_grace: Duration,
    /// How long clients have to notice that a job is out of discovery.
    pub(crate) drain_delay: Duration,
    /// How long discovery may take to be told so.
    pub(crate) deregister_timeout: Duration,
    pub(crate) first_back_off: Duration,
    pub(crate) max_back_off: Duration,
    /// A run this long is no failed start.
    pub(crate) settled_after: Duration,
    /// How long a job that waits for a client waits.
    pub(crate) attach_timeout: Duration,
    /// How many jobs are started at once.
    pub(crate) max_starts: usize,
    /// Attempts at starting that the host fails in a way that may pass, for jobs that are not restarted.
    pub(crate) transient_attempts: u32,
    /// Attempts at starting that the host fails in a way that will hardly pass.
    pub(crate) permanent_attempts: u32,
    /// How many jobs of the past are remembered.
    pub(crate) past_jobs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            stop_grace: Duration::from_secs(30),
            drain_delay: Duration::from_secs(1),
            deregister_timeout: Duration::from_secs(5),
            first_back_off: Duration::from_millis(100),
            max_back_off: Duration::from_secs(30),
            settled_after: Duration::from_secs(60),
            attach_timeout: Duration::from_secs(600),
            max_starts: 4,
            transient_attempts: 10,
            permanent_attempts: 5,
            past_jobs: 100,
        }
    }
}

impl Options {
    /// The delay after so many failures in a row.
    pub(crate) fn back_off(&self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(0);
        if factor == 0 {
            return self.max_back_off;
        }
        self.first_back_off
            .saturating_mul(factor)
            .min(self.max_back_off)
    }
}

/// The present, read once per event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// On a clock that only goes forward; zero is some time in the past.
    pub(crate) at: Duration,
    pub(crate) wall_ms: u64,
}

/// What a host is told. Numbers are runs, see [`JobState::run`].
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// What was found at the start of the daemon. The first event, once.
    Recovered(Vec<Survivor>),
    /// All jobs the cell wants here.
    Assigned(Vec<Arc<Job>>),
    Prepared(JobId, u32, Vec<u16>),
    Created(JobId, u32),
    /// A client is connected to the job's streams.
    Attached(JobId),
    Started(JobId, u32, Started),
    /// Preparing, creating or starting did not work.
    Failed(JobId, u32, Failure),
    Healthy(JobId, u32, usize),
    Unhealthy(JobId, u32, usize, String),
    Exited(JobId, u32, ExitStatus),
    Deregistered(JobId, u32),
    Deleted(JobId, u32),
    /// An operator wants the job to stop.
    StopRequested(JobId),
    /// An operator wants all jobs to stop, and none to start.
    StopAll,
    Woken,
}

/// A job that the journal or the runtime still knows.
#[derive(Debug, Clone)]
pub(crate) struct Survivor {
    pub(crate) id: JobId,
    pub(crate) record: Option<Record>,
    pub(crate) container: Option<ContainerState>,
}

/// Why a job could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) error: String,
    pub(crate) kind: FailureKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The host's fault, and it may pass.
    Transient,
    /// The host's fault, and it will hardly pass.
    Permanent,
    /// The job's fault: its command cannot be run.
    Command,
}

/// What is asked of the world. This enum is everything a host can do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    /// Remember the job, before anything else that follows is done.
    Remember(Box<Record>),
    /// Forget the job; its ports are free.
    Forget(JobId),
    /// Make files, ports and volumes ready.
    Prepare(Arc<Job>, u32),
    Create(Arc<Job>, Vec<u16>, u32),
    Start(JobId, u32),
    /// Say when it has ended.
    Watch(JobId, u32),
    /// Try its ports, and say when their health changes.
    Check(Arc<Job>, Vec<u16>, u32),
    StopChecks(JobId, u32),
    /// Put its ports into discovery.
    Register(Arc<Job>, Vec<u16>),
    Deregister(JobId, u32),
    Kill(JobId, u32, Signal),
    /// Remove container and files.
    Delete(JobId, u32),
    DropLog(JobId),
    /// Write a line into the job's log.
    Note(JobId, String),
    Report(JobId, JobStatus),
}

impl Supervisor {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            jobs: BTreeMap::new(),
            queue: VecDeque::new(),
            past: VecDeque::new(),
            may_start: false,
            is_closing: false,
        }
    }

    /// Takes one fact; returns what must be done about it, in order.
    pub(crate) fn handle(&mut self, now: Now, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        match event {
            Event::Recovered(survivors) => self.recover(survivors, now, &mut out),
            Event::Assigned(jobs) => self.assign(jobs, now, &mut out),
            Event::Attached(id) => self.update(&id, None, now, &mut out, |job, _, out| {
                job.attached(out);
            }),
            Event::StopRequested(id) => self.stop(&id, now, &mut out),
            Event::StopAll => {
                self.is_closing = true;
                for id in self.ids() {
                    self.stop(&id, now, &mut out);
                }
            }
            Event::Woken => {
                for id in self.ids() {
                    let mut is_queued = false;
                    self.update(&id, None, now, &mut out, |job, options, out| {
                        is_queued = job.woken(now, options, out);
                    });
                    if is_queued {
                        self.queue.push_back(id);
                    }
                }
            }
            Event::Prepared(id, run, ports) => {
                self.update(&id, Some(run), now, &mut out, |job, _, out| {
                    job.prepared(ports, out);
                });
            }
            Event::Created(id, run) => {
                self.update(&id, Some(run), now, &mut out, |job, options, out| {
                    job.created(now, options, out);
                });
            }
            Event::Started(id, run, started) => {
                self.update(&id, Some(run), now, &mut out, |job, options, out| {
                    job.started(started, now, options, out);
                });
            }
            Event::Failed(id, run, failure) => {
                self.update(&id, Some(run), now, &mut out, |job, options, out| {
                    job.failed(&failure, now, options, out);
                });
            }
            Event::Healthy(id, run, port) => {
                self.update(&id, Some(run), now, &mut out, |job, _, out| {
                    job.healthy(port, now, out);
                });
            }
            Event::Unhealthy(id, run, port, why) => {
                self.update(&id, Some(run), now, &mut out, |job, options, out| {
                    job.unhealthy(port, &why, now, options, out);
                });
            }
            Event::Exited(id, run, exit) => {
                self.update(&id, Some(run), now, &mut out, |job, options, out| {
                    job.exited(&exit, now, options, out);
                });
            }
            Event::Deregistered(id, run) => {
                self.update(&id, Some(run), now, &mut out, |job, options, _| {
                    job.deregistered(now, options);
                });
            }
            Event::Deleted(id, run) => {
                self.update(&id, Some(run), now, &mut out, |job, _, _| {
                    job.deleted();
                });
            }
        }
        self.start_queued(now, &mut out);
        out
    }

    /// When [`Event::Woken`] is due.
    pub(crate) fn next_wake(&self) -> Option<Duration> {
        self.jobs.values().filter_map(JobState::deadline).min()
    }

    /// The jobs this host is concerned with, those that are over for good first; and whether one has a container that
    /// can be attached to.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = (&Arc<Job>, &JobStatus, bool)> {
        let past = self.past.iter().map(|(job, status)| (job, status, false));
        let present = self.jobs.values();
        past.chain(present.map(|state| (&state.job, &state.status, state.has_container())))
    }

    /// Does no job run, and will none without being told?
    pub(crate) fn is_idle(&self) -> bool {
        !self.jobs.values().any(JobState::may_run)
    }

    fn ids(&self) -> Vec<JobId> {
        self.jobs.keys().cloned().collect()
    }

    /// Lets one job react, if it is still in that run, and records and reports what became of it.
    fn update(
        &mut self,
        id: &JobId,
        run: Option<u32>,
        now: Now,
        out: &mut Vec<Command>,
        react: impl FnOnce(&mut JobState, &Options, &mut Vec<Command>),
    ) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        if run.is_some_and(|run| run != job.run) {
            return;
        }
        let before = job.status.clone();
        let mut commands = Vec::new();
        react(job, &self.options, &mut commands);
        let is_over = job.stage == Stage::Ended && !job.is_assigned;
        let has_changed = job.status != before;
        if has_changed {
            if job.status.phase != before.phase {
                job.status.since_ms = now.wall_ms;
            }
            if !is_over {
                out.push(Command::Remember(Box::new(job.record())));
            }
        }
        out.append(&mut commands);
        if has_changed {
            out.push(Command::Report(id.clone(), job.status.clone()));
        }
        if is_over {
            self.forget(id, out);
        }
    }

    fn forget(&mut self, id: &JobId, out: &mut Vec<Command>) {
        let Some(job) = self.jobs.remove(id) else {
            return;
        };
        self.queue.retain(|queued| queued != id);
        out.push(Command::Forget(id.clone()));
        self.past.push_back((job.job, job.status));
        while self.past.len() > self.options.past_jobs {
            if let Some((oldest, _)) = self.past.pop_front() {
                out.push(Command::DropLog(oldest.id.clone()));
            }
        }
    }

    fn recover(&mut self, survivors: Vec<Survivor>, now: Now, out: &mut Vec<Command>) {
        for Survivor {
            id,
            record,
            container,
        } in survivors
        {
            let Some(record) = record else {
                // Without a record it was never ours, or is no longer.
                out.push(Command::Delete(id, 0));
                continue;
            };
            let before = record.status.clone();
            let mut commands = Vec::new();
            let mut state = JobState::recover(record, container, now, &self.options, &mut commands);
            if state.status.phase != before.phase {
                state.status.since_ms = now.wall_ms;
            }
            if state.status != before {
                out.push(Command::Remember(Box::new(state.record())));
            }
            out.append(&mut commands);
            // Also if nothing changed: the last report may have been lost with the daemon.
            out.push(Command::Report(id.clone(), state.status.clone()));
            self.jobs.insert(id, state);
        }
    }

    fn assign(&mut self, jobs: Vec<Arc<Job>>, now: Now, out: &mut Vec<Command>) {
        self.may_start = true;
        let wanted: BTreeMap<JobId, Arc<Job>> =
            jobs.into_iter().map(|job| (job.id.clone(), job)).collect();
        for id in self.ids() {
            match wanted.get(&id) {
                Some(job) if !job.is_stopping => {}
                Some(job) => {
                    if let Some(state) = self.jobs.get_mut(&id) {
                        state.job = Arc::clone(job);
                    }
                    self.stop(&id, now, out);
                }
                None => {
                    if let Some(state) = self.jobs.get_mut(&id) {
                        state.is_assigned = false;
                    }
                    self.stop(&id, now, out);
                }
            }
        }
        for (id, job) in wanted {
            // What is final in the cell is over, also if we have forgotten it.
            if self.is_closing || self.jobs.contains_key(&id) || job.status.phase.is_final() {
                continue;
            }
            let mut state = if job.is_stopping {
                JobState::never_run(job)
            } else {
                self.queue.push_back(id.clone());
                JobState::new(job)
            };
            state.status.since_ms = now.wall_ms;
            out.push(Command::Remember(Box::new(state.record())));
            out.push(Command::Report(id.clone(), state.status.clone()));
            self.past.retain(|(past, _)| past.id != id);
            self.jobs.insert(id, state);
        }
    }

    fn stop(&mut self, id: &JobId, now: Now, out: &mut Vec<Command>) {
        self.queue.retain(|queued| queued != id);
        self.update(id, None, now, out, |job, options, out| {
            if job.is_stopping {
                return;
            }
            job.stop(now, options, out);
        });
    }

    fn start_queued(&mut self, now: Now, out: &mut Vec<Command>) {
        if !self.may_start || self.is_closing {
            return;
        }
        let mut starting = self.jobs.values().filter(|job| job.is_starting()).count();
        while starting < self.options.max_starts {
            let Some(id) = self.queue.pop_front() else {
                return;
            };
            self.update(&id, None, now, out, |job, _, out| job.begin(out));
            starting += 1;
        }
    }
}

#[cfg(test)]
mod tests;
