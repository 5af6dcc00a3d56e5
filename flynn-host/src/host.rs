//! A host: the shell around the supervisor, in the cell.

mod builder;
mod checks;
mod draining;
mod environment;
mod handle;
mod link;
mod registrar;
mod reporter;
mod shell;
mod world;

use std::{fmt, future::Future, sync::Arc};

use flynn_sched::HostId;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use builder::{HostBuilder, detect_capacity};
pub use draining::Drain;
pub use handle::{AttachRequest, AttachSession, HostHandle, JobView, Jobs};

use self::shell::Order;
use crate::{Error, Result, runtime::ContainerRuntime};

/// A host at work: runs the jobs that the cell places on it.
///
/// Dropping it ends all of its tasks at once, as a crash would; its jobs go on.
pub struct Host {
    handle: HostHandle,
    orders: mpsc::Sender<Order>,
    shell: JoinHandle<()>,
    /// Why the host cannot go on, once it cannot.
    failure: watch::Receiver<Option<Arc<Error>>>,
    is_joined: watch::Receiver<bool>,
}

/// What becomes of the jobs when a host shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Shutdown {
    /// They go on and stay registered until their leases run out: the daemon will be back soon.
    #[default]
    LeaveJobs,
    /// They are stopped, each with its grace, and the host leaves the cell.
    StopJobs,
}

impl Host {
    /// Begins to describe a host whose jobs run under `runtime`.
    pub fn builder(runtime: impl ContainerRuntime) -> HostBuilder {
        HostBuilder::new(Arc::new(runtime))
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> &HostId {
        self.handle.id()
    }

    /// What may be asked of it from elsewhere.
    #[must_use]
    pub fn handle(&self) -> &HostHandle {
        &self.handle
    }

    /// Waits until the host has entered the cell.
    ///
    /// # Errors
    ///
    /// [`Error::Cluster`] when the cell refuses it for good, for example because its id is taken.
    pub async fn joined(&self) -> Result<()> {
        let mut is_joined = self.is_joined.clone();
        if is_joined.wait_for(|joined| *joined).await.is_ok() {
            return Ok(());
        }
        // It was given up, for a reason that is told.
        Err(self.failed().await)
    }

    /// Resolves when the host cannot go on: its id is taken by another.
    pub async fn failed(&self) -> Error {
        let mut failure = self.failure.clone();
        let failed = failure.wait_for(Option::is_some).await;
        match failed.ok().and_then(|f| f.clone()) {
            Some(error) => Error::Ended {
                why: error.to_string(),
            },
            None => Error::Closed,
        }
    }

    /// Works until `shutdown`, then leaves the jobs running.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] when the host cannot go on.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let failure = tokio::select! {
            error = self.failed() => Some(error),
            () = shutdown => None,
        };
        self.shutdown(Shutdown::LeaveJobs).await;
        failure.map_or(Ok(()), Err)
    }

    /// Ends the host.
    pub async fn shutdown(mut self, jobs: Shutdown) {
        if self.orders.send(Order::Shutdown(jobs)).await.is_ok() {
            let _ = (&mut self.shell).await;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shell.abort();
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("id", self.id())
            .finish_non_exhaustive()
    }
}
