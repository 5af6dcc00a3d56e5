//! How a job ends: because it is told to, because the host must end it, or by itself.

use std::time::Duration;

use flynn_sched::{Phase, RestartPolicy};

use super::{JobState, Stage, Step, Stopping, Then, seconds};
use crate::{
    runtime::{ExitStatus, Signal},
    supervisor::{Command, Failure, FailureKind, Now, Options},
};

impl JobState {
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
    pub(super) fn end(
        &mut self,
        why: Option<String>,
        now: Now,
        options: &Options,
        out: &mut Vec<Command>,
    ) {
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

    pub(super) fn terminate(
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

    pub(super) fn kill(&mut self, now: Now, out: &mut Vec<Command>) {
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
    pub(super) fn over(
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

    pub(super) fn again(
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

    pub(super) fn clear_away(&mut self, then: Then, out: &mut Vec<Command>) {
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
    pub(super) fn set_final(&mut self, phase: Phase) {
        if !self.status.phase.is_final() {
            self.status.phase = phase;
            if phase == Phase::Done {
                self.status.error = None;
            }
        }
    }
}

const KILL_AGAIN: Duration = Duration::from_secs(5);
