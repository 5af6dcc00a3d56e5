//! How a job is taken up again when the daemon is back.

use std::sync::Arc;

use flynn_sched::{Phase, RestartPolicy};

use super::{JobState, Running, Stage, Then};
use crate::{
    journal::Record,
    runtime::ContainerState,
    supervisor::{Command, Now, Options},
};

impl JobState {
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
}

const LOST: &str = "was lost when the host went down";
