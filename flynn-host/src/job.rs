//! One job's life on this host, as a state machine without IO.
//!
//! ```text
//!            ┌────────────────────────── back off ◀──────────────────────────┐
//!            ▼                                                               │
//! queued ─▶ preparing ─▶ creating ─▶ (waiting) ─▶ starting ─▶ running ─▶ deleting ─▶ ended
//!                                                               │            ▲
//!                                                               ▼            │
//!                                        draining ─▶ terminating ─▶ killing ─┘
//! ```

mod ending;
mod recovery;

use std::{sync::Arc, time::Duration};

use flynn_sched::{Check, Job, JobId, JobStatus, Phase};

use crate::{
    journal::Record,
    runtime::Started,
    supervisor::{Command, Now, Options},
};

/// A job and where it stands.
#[derive(Debug)]
pub(crate) struct JobState {
    pub(crate) job: Arc<Job>,
    pub(crate) status: JobStatus,
    pub(crate) stage: Stage,
    /// Is it in the list of the cell?
    pub(crate) is_assigned: bool,
    /// Was it told to stop, for whatever reason? It is not started again then.
    pub(crate) is_stopping: bool,
    /// Counts runs, so that late news of an earlier run is not taken for news of this one.
    pub(crate) run: u32,
    /// Runs in a row that ended soon.
    failures: u32,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits for its turn to start.
    Queued,
    /// Its files, ports and volumes are being made ready.
    Preparing,
    /// Its container is being made.
    Creating,
    /// It starts when a client has attached.
    Waiting {
        until: Duration,
    },
    /// Its process is being started.
    Starting,
    Running(Running),
    Stopping(Stopping),
    /// Its container and files are being removed.
    Deleting(Then),
    /// Waits before it is started again.
    BackOff {
        until: Duration,
    },
    /// Nothing of it is left on this host but its log.
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    /// Which ports, by their index, have passed their check; those without one are in it from the start.
    healthy: Vec<bool>,
    /// When it must be healthy; `None` once it was.
    deadline: Option<Duration>,
    is_registered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stopping {
    step: Step,
    /// Why the host ends it, if it should be running.
    why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Out of discovery; clients are given time to notice.
    Draining { until: Duration },
    /// It was asked to end.
    Terminating { kill_at: Duration },
    /// It was killed; killing is repeated, should that ever be needed.
    Killing { again_at: Duration },
}

/// What comes after a job's container and files are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    BackOff { until: Duration },
    End,
}

impl JobState {
    /// A job that is new to this host.
    pub(crate) fn new(job: Arc<Job>) -> Self {
        Self {
            status: JobStatus {
                phase: Phase::Starting,
                ..JobStatus::default()
            },
            stage: Stage::Queued,
            is_assigned: true,
            is_stopping: false,
            run: 0,
            failures: 0,
            job,
        }
    }

    /// A job that was told to stop before this host heard of it.
    pub(crate) fn never_run(job: Arc<Job>) -> Self {
        let mut state = Self::new(job);
        state.is_stopping = true;
        state.status.phase = Phase::Done;
        state.stage = Stage::Ended;
        state
    }

    pub(crate) fn record(&self) -> Record {
        Record {
            job: (*self.job).clone(),
            status: self.status.clone(),
        }
    }

    pub(crate) fn is_starting(&self) -> bool {
        matches!(
            self.stage,
            Stage::Preparing | Stage::Creating | Stage::Starting
        )
    }

    /// Does it, or may it soon, have a process?
    pub(crate) fn may_run(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Ended | Stage::Queued | Stage::BackOff { .. }
        )
    }

    /// Can clients attach to it?
    pub(crate) fn has_container(&self) -> bool {
        matches!(
            self.stage,
            Stage::Waiting { .. } | Stage::Starting | Stage::Running(_) | Stage::Stopping(_)
        )
    }

    /// When it wants to be woken.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match &self.stage {
            Stage::BackOff { until } | Stage::Waiting { until } => Some(*until),
            Stage::Running(running) => running.deadline,
            Stage::Stopping(stopping) => Some(match stopping.step {
                Step::Draining { until } => until,
                Step::Terminating { kill_at } => kill_at,
                Step::Killing { again_at } => again_at,
            }),
            _ => None,
        }
    }

    /// Its turn to start has come.
    pub(crate) fn begin(&mut self, out: &mut Vec<Command>) {
        if self.status.started_at_ms.is_some() {
            self.status.restarts += 1;
        }
        self.run += 1;
        self.stage = Stage::Preparing;
        out.push(Command::Prepare(Arc::clone(&self.job), self.run));
    }

    pub(crate) fn prepared(&mut self, ports: Vec<u16>, out: &mut Vec<Command>) {
        if self.stage != Stage::Preparing {
            return;
        }
        self.status.ports = ports;
        if self.is_stopping {
            self.clear_away(Then::End, out);
        } else {
            self.stage = Stage::Creating;
            out.push(Command::Create(
                Arc::clone(&self.job),
                self.status.ports.clone(),
                self.run,
            ));
        }
    }

    pub(crate) fn created(&mut self, now: Now, options: &Options, out: &mut Vec<Command>) {
        if self.stage != Stage::Creating {
            return;
        }
        if self.is_stopping {
            self.clear_away(Then::End, out);
        } else if self.job.spec.waits_for_attach {
            self.stage = Stage::Waiting {
                until: now.at + options.attach_timeout,
            };
        } else {
            self.stage = Stage::Starting;
            out.push(Command::Start(self.id(), self.run));
        }
    }

    /// A client has attached.
    pub(crate) fn attached(&mut self, out: &mut Vec<Command>) {
        if matches!(self.stage, Stage::Waiting { .. }) {
            self.stage = Stage::Starting;
            out.push(Command::Start(self.id(), self.run));
        }
    }

    pub(crate) fn started(
        &mut self,
        started: Started,
        now: Now,
        options: &Options,
        out: &mut Vec<Command>,
    ) {
        if self.stage != Stage::Starting {
            return;
        }
        self.enter_running(started, now, out);
        if self.is_stopping {
            self.stop(now, options, out);
        }
    }

    fn enter_running(&mut self, started: Started, now: Now, out: &mut Vec<Command>) {
        self.status.started_at_ms = Some(started.at_ms);
        let spec = &self.job.spec;
        let healthy: Vec<bool> = (0..spec.ports.len())
            .map(|port| self.check(port).is_none())
            .collect();
        let patience = (0..spec.ports.len())
            .filter_map(|port| Some(self.check(port)?.start_timeout))
            .min();
        let is_healthy = healthy.iter().all(|h| *h);
        self.stage = Stage::Running(Running {
            healthy,
            deadline: patience.map(|patience| now.at + patience),
            is_registered: false,
        });
        out.push(Command::Watch(self.id(), self.run));
        if patience.is_some() {
            out.push(Command::Check(
                Arc::clone(&self.job),
                self.status.ports.clone(),
                self.run,
            ));
        }
        if is_healthy {
            self.up(out);
        }
    }

    fn check(&self, port: usize) -> Option<&Check> {
        let service = self.job.spec.ports.get(port)?.service.as_ref()?;
        service.check.as_ref()
    }

    fn up(&mut self, out: &mut Vec<Command>) {
        let Stage::Running(running) = &mut self.stage else {
            return;
        };
        running.deadline = None;
        self.status.phase = Phase::Up;
        self.status.error = None;
        let has_service = self.job.spec.ports.iter().any(|p| p.service.is_some());
        if has_service && !running.is_registered {
            running.is_registered = true;
            out.push(Command::Register(
                Arc::clone(&self.job),
                self.status.ports.clone(),
            ));
        }
    }

    fn all_healthy(&mut self, now: Now, out: &mut Vec<Command>) {
        for port in 0..self.job.spec.ports.len() {
            self.healthy(port, now, out);
        }
    }

    /// A port has passed its check.
    pub(crate) fn healthy(&mut self, port: usize, _now: Now, out: &mut Vec<Command>) {
        let Stage::Running(running) = &mut self.stage else {
            return;
        };
        if let Some(healthy) = running.healthy.get_mut(port) {
            *healthy = true;
        }
        if running.healthy.iter().all(|h| *h) {
            self.up(out);
        }
    }

    /// A port has failed its check, often enough to count.
    pub(crate) fn unhealthy(
        &mut self,
        port: usize,
        why: &str,
        now: Now,
        options: &Options,
        out: &mut Vec<Command>,
    ) {
        let kills = self.check(port).is_some_and(|check| check.kill_down);
        let number = self.status.ports.get(port).copied().unwrap_or(0);
        let Stage::Running(running) = &mut self.stage else {
            return;
        };
        let Some(healthy) = running.healthy.get_mut(port) else {
            return;
        };
        // Before it was ever healthy, the deadline decides.
        if !std::mem::replace(healthy, false) || self.status.phase != Phase::Up {
            return;
        }
        let error = format!("port {number} stopped answering: {why}");
        self.status.error = Some(error.clone());
        if kills {
            self.end(Some(error), now, options, out);
        } else {
            running.is_registered = false;
            self.status.phase = Phase::Starting;
            out.push(Command::Deregister(self.id(), self.run));
        }
    }

    /// Time has passed. Returns whether it waits for its turn to start now.
    pub(crate) fn woken(&mut self, now: Now, options: &Options, out: &mut Vec<Command>) -> bool {
        if self.deadline().is_none_or(|deadline| deadline > now.at) {
            return false;
        }
        match &self.stage {
            Stage::BackOff { .. } => {
                self.stage = Stage::Queued;
                return true;
            }
            Stage::Waiting { .. } => {
                let patience = seconds(options.attach_timeout);
                self.status.error = Some(format!("no client attached within {patience}"));
                self.set_final(Phase::Failed);
                self.clear_away(Then::End, out);
            }
            Stage::Running(running) => {
                let late = running.healthy.iter().position(|h| !h).unwrap_or(0);
                let number = self.status.ports.get(late).copied().unwrap_or(0);
                let check = self.check(late);
                let patience = check.map_or(Duration::ZERO, |c| c.start_timeout);
                let kills = check.is_some_and(|c| c.kill_down);
                let is_tcp = check.is_some_and(|c| c.kind == flynn_sched::CheckKind::Tcp);
                let did = if is_tcp {
                    "never opened port"
                } else {
                    "never answered well on port"
                };
                let error = format!("{did} {number} within {}", seconds(patience));
                self.status.error = Some(error.clone());
                if kills {
                    self.end(Some(error), now, options, out);
                } else if let Stage::Running(running) = &mut self.stage {
                    running.deadline = None;
                }
            }
            Stage::Stopping(stopping) => match stopping.step {
                Step::Draining { .. } => {
                    let why = stopping.why.clone();
                    self.terminate(why, now, options, out);
                }
                Step::Terminating { .. } => {
                    let grace = self.job.spec.stop_grace.unwrap_or(options.stop_grace);
                    let text = format!("did not end within {} of SIGTERM: killed", seconds(grace));
                    out.push(Command::Note(self.id(), text));
                    self.kill(now, out);
                }
                Step::Killing { .. } => self.kill(now, out),
            },
            _ => {}
        }
        false
    }

    fn id(&self) -> JobId {
        self.job.id.clone()
    }
}

/// A duration as people say it.
pub(crate) fn seconds(duration: Duration) -> String {
    let tenths = duration.as_millis() / 100;
    if tenths.is_multiple_of(10) && tenths > 0 {
        format!("{} s", tenths / 10)
    } else {
        format!("{}.{} s", tenths / 10, tenths % 10)
    }
}
