//! The shell around the cores: it watches the store and the cell, and makes the cell follow the store.
//!
//! Several controllers may run. One of them leads: it reconciles, announces what becomes of jobs and carries out
//! deletions. Deployments are claimed one by one by any of them. Both are leased claims in the store: when a controller
//! dies, another takes over where it stood.
//!
//! ```text
//!   store ──watch──▶ catalog ─┐                       ┌─▶ cell: groups
//!                             ├─▶ leader (one) ───────┼─▶ store: jobs, finished scales, deletions
//!   cell ───watch──▶ state ───┤                       └─▶ events
//!                             └─▶ deployment (claimed) ─▶ store: counts, step by step
//! ```

mod claim;
mod deployments;
mod leader;

use std::{sync::Arc, time::Duration};

use flynn_discovery::Backoff;
use flynn_sched::ClusterState;
use futures::{StreamExt as _, stream::BoxStream};
use tokio::{sync::watch, task::JoinHandle};

use crate::{Platform, store::Catalog};

/// Makes the cell follow a platform's desired state.
#[derive(Debug)]
pub struct Controller {
    platform: Platform,
    id: String,
    claim_ttl: Duration,
    run_history: Duration,
}

impl Controller {
    /// How long the work of a controller that died stays untouched.
    pub const CLAIM_TTL: Duration = Duration::from_secs(6);
    /// How long a one-off job that has ended stays in the cell.
    pub const RUN_HISTORY: Duration = Duration::from_secs(300);

    /// A controller of this platform.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Self {
            platform,
            id: crate::model::new_id(),
            claim_ttl: Self::CLAIM_TTL,
            run_history: Self::RUN_HISTORY,
        }
    }

    /// Replaces [`Self::CLAIM_TTL`].
    #[must_use]
    pub fn with_claim_ttl(mut self, ttl: Duration) -> Self {
        self.claim_ttl = ttl;
        self
    }

    /// Replaces [`Self::RUN_HISTORY`].
    #[must_use]
    pub fn with_run_history(mut self, history: Duration) -> Self {
        self.run_history = history;
        self
    }

    /// Works until `shutdown`, and gives its claims back then.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let (stop, stopped) = watch::channel(false);
        let (catalogs, catalog) = watch::channel(None);
        let (states, state) = watch::channel(None);
        let work = Work {
            platform: self.platform,
            holder: self.id,
            claim_ttl: self.claim_ttl,
            run_history: self.run_history,
            catalog,
            state,
            stopped,
        };
        let store = Arc::clone(work.platform.store());
        let cluster = Arc::clone(work.platform.cluster());
        let follow = async {
            tokio::join!(
                follow(|| store.watch(), &catalogs, "the store"),
                follow(
                    || cluster
                        .watch()
                        .map(|state| state.map_err(crate::Error::from))
                        .boxed(),
                    &states,
                    "the cell"
                ),
            )
        };
        let work =
            async { tokio::join!(leader::lead(work.clone()), deployments::take(work.clone())) };
        tokio::pin!(work);
        tokio::select! {
            _ = follow => {}
            _ = &mut work => {}
            () = shutdown => {
                stop.send_replace(true);
                // What does not end soon is taken over when its claim has run out.
                let _ = tokio::time::timeout(STOP_DEADLINE, work).await;
            }
        }
    }

    /// Works in the background until the handle is stopped or dropped.
    #[must_use]
    pub fn start(self) -> Running {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let shutdown = async {
            // A dropped handle stops too.
            let _ = stopped.await;
        };
        Running {
            stop: Some(stop),
            task: tokio::spawn(self.run(shutdown)),
        }
    }
}

/// How long a controller may take to give its claims back.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// A controller at work. Dropping it ends the work as a crash would: others take over when its claims have run out.
#[derive(Debug)]
pub struct Running {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends the work and gives the claims back.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended by itself.
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What every part of a controller works with.
#[derive(Debug, Clone)]
struct Work {
    platform: Platform,
    /// The name under which this controller claims.
    holder: String,
    claim_ttl: Duration,
    run_history: Duration,
    /// The newest catalog, once there is one.
    catalog: watch::Receiver<Option<Catalog>>,
    /// The newest state of the cell, once there is one.
    state: watch::Receiver<Option<Arc<ClusterState>>>,
    stopped: watch::Receiver<bool>,
}

/// The waits while the store or the cell is out of reach: short, since users wait too.
fn retry() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(1))
}

/// Resolves when the controller is told to stop.
async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // The sender lives as long as the controller.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Keeps the newest of what `open` says, and opens it again when it ends.
async fn follow<T: Send + Sync>(
    open: impl Fn() -> BoxStream<'static, crate::Result<T>> + Send,
    newest: &watch::Sender<Option<T>>,
    what: &str,
) {
    let mut backoff = retry();
    loop {
        let mut values = open();
        while let Some(value) = values.next().await {
            match value {
                Ok(value) => {
                    backoff.reset();
                    newest.send_replace(Some(value));
                }
                Err(error) => {
                    tracing::warn!(%error, "{what} cannot be followed just now");
                    break;
                }
            }
        }
        backoff.wait().await;
    }
}
