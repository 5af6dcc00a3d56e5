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

use std::{sync::Arc, time::Duration};

use flynn_sched::{Check, Job, JobId, JobStatus, Phase, RestartPolicy};

use crate::{
    journal::Record,
    runtime::{ContainerState, ExitStatus, Signal, Started},
    supervisor::{Command, Failure, FailureKind, Now, Options},
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

    /// Takes up a job of an earlier life of the daemon.
    pub(crate) fn recover(
        record: Record,
        container: Option<ContainerState>,
        now: Now,
        options: &Options,
        out: &mut Vec<Command>,
    ) -> Self {
        let mut state = Self::new(Arc::new(record.job));
        let was_up = record.status.phase == Phase::Up;
        state.is_stopping = state.job.is_stopping || record.status.phase == Phase::Stopping;
        state.status = record.status;
        state.run = 1;
        let id = state.job.id.clone();
        match container {
            Some(ContainerState::Running(started)) => {
                state.enter_running(started, now, out);
                if was_up {
                    state.all_healthy(now, out);
                }
                if state.is_stopping || state.status.phase.is_final() {
                    state.stop(now, options, out);
                }
            }
            Some(ContainerState::Exited(exit)) if !state.status.phase.is_final() => {
                state.stage = Stage::Running(Running {
                    healthy: Vec::new(),
                    deadline: None,
                    is_registered: false,
                });
                state.exited(&exit, now, options, out);
            }
            _ => {
                let was_lost = state.status.started_at_ms.is_some()
                    && !state.is_stopping
                    && !state.status.phase.is_final();
                let then = if state.status.phase.is_final() || state.is_stopping {
                    if !state.status.phase.is_final() {
                        state.status.phase = Phase::Done;
                    }
                    Then::End
                } else if was_lost && state.job.spec.restart == RestartPolicy::Never {
                    state.status.phase = Phase::Failed;
                    state.status.error = Some(LOST.to_owned());
                    Then::End
                } else {
                    if was_lost {
                        state.status.phase = Phase::Restarting;
                        state.status.error = Some(LOST.to_owned());
                    }
                    Then::BackOff { until: now.at }
                };
                state.stage = Stage::Deleting(then);
                out.push(Command::Delete(id, state.run));
            }
        }
        state
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

    /// Told to stop, by whomever.
    pub(crate) fn stop(&mut self, now: Now, options: &Options, out: &mut Vec<Command>) {
        self.is_stopping = true;
        if !self.status.phase.is_final() {
            self.status.phase = Phase::Stopping;
        }
        match &mut self.stage {
            // Their news is awaited, and acted upon then.
            Stage::Preparing | Stage::Creating | Stage::Starting => {}
            Stage::Queued | Stage::BackOff { .. } => {
                self.stage = Stage::Ended;
                self.set_final(Phase::Done);
            }
            Stage::Waiting { .. } => {
                self.set_final(Phase::Done);
                self.clear_away(Then::End, out);
            }
            Stage::Running(_) => self.end(None, now, options, out),
            Stage::Stopping(stopping) => {
                stopping.why = None;
                self.status.error = None;
            }
            Stage::Deleting(then) => {
                *then = Then::End;
                self.set_final(Phase::Done);
            }
            Stage::Ended => self.set_final(Phase::Done),
        }
    }

    /// Ends a running job: out of discovery first, then a polite signal, then a deadly one.
    fn end(&mut self, why: Option<String>, now: Now, options: &Options, out: &mut Vec<Command>) {
        let Stage::Running(running) = &self.stage else {
            return;
        };
        if running.healthy.iter().len() > 0 {
            out.push(Command::StopChecks(self.id(), self.run));
        }
        if let Some(why) = &why {
            out.push(Command::Note(self.id(), format!("{why}; it is stopped")));
        }
        if running.is_registered {
            out.push(Command::Deregister(self.id(), self.run));
            self.stage = Stage::Stopping(Stopping {
                step: Step::Draining {
                    until: now.at + options.deregister_timeout,
                },
                why,
            });
        } else {
            self.terminate(why, now, options, out);
        }
    }

    fn terminate(
        &mut self,
        why: Option<String>,
        now: Now,
        options: &Options,
        out: &mut Vec<Command>,
    ) {
        let grace = self.job.spec.stop_grace.unwrap_or(options.stop_grace);
        out.push(Command::Kill(self.id(), self.run, Signal::TERM));
        self.stage = Stage::Stopping(Stopping {
            step: Step::Terminating {
                kill_at: now.at + grace,
            },
            why,
        });
    }

    /// It is out of discovery: clients have this long to notice.
    pub(crate) fn deregistered(&mut self, now: Now, options: &Options) {
        if let Stage::Stopping(Stopping {
            step: Step::Draining { until },
            ..
        }) = &mut self.stage
        {
            *until = (*until).min(now.at + options.drain_delay);
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

    fn kill(&mut self, now: Now, out: &mut Vec<Command>) {
        out.push(Command::Kill(self.id(), self.run, Signal::KILL));
        if let Stage::Stopping(stopping) = &mut self.stage {
            stopping.step = Step::Killing {
                again_at: now.at + KILL_AGAIN,
            };
        }
    }

    /// It has ended.
    pub(crate) fn exited(
        &mut self,
        exit: &ExitStatus,
        now: Now,
        options: &Options,
        out: &mut Vec<Command>,
    ) {
        let why = match &self.stage {
            Stage::Running(running) => {
                if !running.healthy.is_empty() {
                    out.push(Command::StopChecks(self.id(), self.run));
                }
                if running.is_registered {
                    out.push(Command::Deregister(self.id(), self.run));
                }
                None
            }
            Stage::Stopping(stopping) => stopping.why.clone(),
            _ => return,
        };
        let ran_ms = self
            .status
            .started_at_ms
            .map_or(0, |started| exit.at_ms.saturating_sub(started));
        let ran = Duration::from_millis(ran_ms);
        self.status.exit_status = Some(exit.code);
        if ran >= options.settled_after {
            self.failures = 0;
        }
        let how = format!("{exit} after {}", seconds(ran));
        if self.is_stopping {
            out.push(Command::Note(self.id(), format!("{how}: stopped")));
            self.set_final(Phase::Done);
            self.clear_away(Then::End, out);
            return;
        }
        if exit.is_lost && self.job.spec.restart == RestartPolicy::Never {
            out.push(Command::Note(self.id(), how));
            self.status.error = Some(exit.to_string());
            self.set_final(Phase::Failed);
            self.clear_away(Then::End, out);
            return;
        }
        let error = why.unwrap_or_else(|| how.clone());
        self.over(&error, &how, now, options, out);
    }

    /// Something failed on the way to running.
    pub(crate) fn failed(
        &mut self,
        failure: &Failure,
        now: Now,
        options: &Options,
        out: &mut Vec<Command>,
    ) {
        if !self.is_starting() {
            return;
        }
        if self.is_stopping {
            self.set_final(Phase::Done);
            self.clear_away(Then::End, out);
            return;
        }
        let attempts = match (failure.kind, self.job.spec.restart) {
            (FailureKind::Command, _) => {
                self.status.exit_status = Some(127);
                u32::MAX
            }
            (FailureKind::Transient, RestartPolicy::Always) => u32::MAX,
            (FailureKind::Transient, _) => options.transient_attempts,
            (FailureKind::Permanent, _) => options.permanent_attempts,
        };
        if failure.kind == FailureKind::Command {
            self.over(&failure.error, &failure.error, now, options, out);
        } else if self.failures + 1 < attempts {
            self.again(&failure.error, &failure.error, now, options, out);
        } else {
            out.push(Command::Note(self.id(), failure.error.clone()));
            self.status.error = Some(failure.error.clone());
            self.set_final(Phase::Failed);
            self.clear_away(Then::End, out);
        }
    }

    /// The run is over by itself: again, or for good.
    fn over(
        &mut self,
        error: &str,
        note: &str,
        now: Now,
        options: &Options,
        out: &mut Vec<Command>,
    ) {
        if self.job.spec.restart == RestartPolicy::Always {
            self.again(error, note, now, options, out);
            return;
        }
        out.push(Command::Note(self.id(), note.to_owned()));
        if self.status.exit_status == Some(0) && error == note {
            self.status.error = None;
            self.set_final(Phase::Done);
        } else {
            self.status.error = Some(error.to_owned());
            self.set_final(Phase::Crashed);
        }
        self.clear_away(Then::End, out);
    }

    fn again(
        &mut self,
        error: &str,
        note: &str,
        now: Now,
        options: &Options,
        out: &mut Vec<Command>,
    ) {
        self.failures = self.failures.saturating_add(1);
        let delay = options.back_off(self.failures);
        let text = format!("{note}; started again in {}", seconds(delay));
        out.push(Command::Note(self.id(), text));
        self.status.error = Some(error.to_owned());
        self.status.phase = Phase::Restarting;
        let until = now.at + delay;
        self.clear_away(Then::BackOff { until }, out);
    }

    fn clear_away(&mut self, then: Then, out: &mut Vec<Command>) {
        self.stage = Stage::Deleting(then);
        out.push(Command::Delete(self.id(), self.run));
    }

    /// Its container and files are gone.
    pub(crate) fn deleted(&mut self) {
        if let Stage::Deleting(then) = self.stage {
            self.stage = match then {
                Then::BackOff { until } => Stage::BackOff { until },
                Then::End => Stage::Ended,
            };
            if then == Then::End {
                self.set_final(Phase::Done);
            }
        }
    }

    /// Final is final: the first such phase stays.
    fn set_final(&mut self, phase: Phase) {
        if !self.status.phase.is_final() {
            self.status.phase = phase;
            if phase == Phase::Done {
                self.status.error = None;
            }
        }
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

const LOST: &str = "was lost when the host went down";
const KILL_AGAIN: Duration = Duration::from_secs(5);
