//! A runtime without containers, for tests of what drives one.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use flynn_sched::JobId;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    AttachOptions, Attachment, Capabilities, Container, ContainerRuntime, ContainerSpec,
    ContainerState, ExitStatus, Signal, Started,
};
use crate::{Error, Result, attach::Attached, wall::wall_ms};

/// Remembers what it was asked to do. Containers end when told to: by [`RecordingRuntime::exit`], or by a signal.
///
/// Clones share their containers, so a clone plays the runtime that a restarted daemon finds.
#[derive(Debug, Clone, Default)]
pub struct RecordingRuntime {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    calls: Vec<Call>,
    containers: BTreeMap<JobId, watch::Sender<ContainerState>>,
    ignored: Vec<Signal>,
}

/// One thing the runtime was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// [`ContainerRuntime::create`].
    Create(JobId, Box<ContainerSpec>),
    /// [`ContainerRuntime::start`].
    Start(JobId),
    /// [`ContainerRuntime::kill`].
    Kill(JobId, Signal),
    /// [`ContainerRuntime::delete`].
    Delete(JobId),
}

impl RecordingRuntime {
    /// A runtime without containers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Containers do not end of this signal.
    pub fn ignore(&self, signal: Signal) {
        self.shared.lock().ignored.push(signal);
    }

    /// What it was asked to do, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.shared.lock().calls.clone()
    }

    /// Ends a container as if by itself.
    pub fn exit(&self, id: &JobId, code: i32) {
        let shared = self.shared.lock();
        if let Some(container) = shared.containers.get(id) {
            end(container, code, None);
        }
    }
}

fn end(container: &watch::Sender<ContainerState>, code: i32, signal: Option<i32>) {
    container.send_replace(ContainerState::Exited(ExitStatus {
        code,
        signal,
        error: None,
        is_lost: false,
        at_ms: wall_ms(),
    }));
}

#[async_trait]
impl ContainerRuntime for RecordingRuntime {
    fn name(&self) -> &'static str {
        "recording"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            survives_restart: true,
            ..Capabilities::default()
        }
    }

    async fn create(&self, id: &JobId, spec: &ContainerSpec) -> Result<()> {
        let mut shared = self.shared.lock();
        shared
            .calls
            .push(Call::Create(id.clone(), Box::new(spec.clone())));
        if shared.containers.contains_key(id) {
            return Err(Error::Exists { job: id.clone() });
        }
        let container = watch::Sender::new(ContainerState::Created);
        shared.containers.insert(id.clone(), container);
        Ok(())
    }

    async fn start(&self, id: &JobId) -> Result<Started> {
        let mut shared = self.shared.lock();
        shared.calls.push(Call::Start(id.clone()));
        let Some(container) = shared.containers.get(id) else {
            return Err(Error::UnknownJob { job: id.clone() });
        };
        let started = Started {
            pid: None,
            at_ms: wall_ms(),
        };
        container.send_replace(ContainerState::Running(started));
        Ok(started)
    }

    async fn attach(&self, id: &JobId, _options: AttachOptions) -> Result<Attachment> {
        if !self.shared.lock().containers.contains_key(id) {
            return Err(Error::UnknownJob { job: id.clone() });
        }
        Ok(Attachment {
            streams: Attached::new(tokio::io::empty(), tokio::io::sink()),
            log_end: None,
        })
    }

    async fn kill(&self, id: &JobId, signal: Signal) -> Result<()> {
        let mut shared = self.shared.lock();
        shared.calls.push(Call::Kill(id.clone(), signal));
        let Some(container) = shared.containers.get(id) else {
            return Err(Error::UnknownJob { job: id.clone() });
        };
        if !matches!(&*container.borrow(), ContainerState::Running(_)) {
            return Err(Error::NotRunning { job: id.clone() });
        }
        if !shared.ignored.contains(&signal) {
            end(container, 128 + signal.number(), Some(signal.number()));
        }
        Ok(())
    }

    async fn wait(&self, id: &JobId) -> Result<ExitStatus> {
        let unknown = || Error::UnknownJob { job: id.clone() };
        let mut states = {
            let shared = self.shared.lock();
            shared.containers.get(id).ok_or_else(unknown)?.subscribe()
        };
        let ended = states
            .wait_for(|state| matches!(state, ContainerState::Exited(_)))
            .await
            .map_err(|_| unknown())?;
        match &*ended {
            ContainerState::Exited(status) => Ok(status.clone()),
            ContainerState::Created | ContainerState::Running(_) => Err(unknown()),
        }
    }

    async fn delete(&self, id: &JobId) -> Result<()> {
        let mut shared = self.shared.lock();
        shared.calls.push(Call::Delete(id.clone()));
        shared.containers.remove(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Container>> {
        let shared = self.shared.lock();
        Ok(shared
            .containers
            .iter()
            .map(|(id, state)| Container {
                id: id.clone(),
                state: state.borrow().clone(),
            })
            .collect())
    }
}
