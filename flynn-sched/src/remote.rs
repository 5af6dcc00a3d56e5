//! A cell kept in a discovery backend.
//!
//! There is no process in the middle: every handle mirrors the cell by one watch, decides on its mirror, and commits
//! straight to the backend, with compares on what the decision rests on. If one of them fails, the mirror catches up and
//! the decision is made anew.
//!
//! ```text
//!             ┌──────────── what met others ◄────────────┐
//!             ▼                                          │
//!  Carrying ──► apply ──► plan ──► Flight ──► lane: chunk, chunk, … ──► backend
//!   what is     rules     steps              ├► lane: chunk
//!   left                                     └► lane: chunk …
//! ```
//!
//! A transaction that is to be applied as far as it fits becomes many commits. Changes that rest on each other (by a key
//! that one compares and another writes, by their group, by an eviction or a quota) follow each other in one lane, as large
//! as the store takes; the others, starts on different hosts above all, go side by side in chunks of some tens of changes, so
//! that schedulers that meet on one host decide little anew. What was carried out is never repeated; what met others is
//! decided on the mirror that has caught up, in smaller chunks each time, at most
//! [`MAX_ATTEMPTS`](DiscoveryCluster::MAX_ATTEMPTS) times. When nobody knows what became of one commit, those under way are
//! waited for, no other is sent, and the whole ends with that error: look at the cell again, job ids are unique.
//! All or nothing is always one commit.
//!
//! | Key below `cell/` | Value | Written by |
//! |---|---|---|
//! | `hosts/<host>` | [`Host`], leased | the host |
//! | `known/<host>` | [`Host`], so that a lost host stays listed | the host; forgotten by schedulers |
//! | `seq/<host>` | nothing; its version changes with each placement on the host | commits |
//! | `groups/<group>` | [`Group`](crate::Group) | commits |
//! | `groupseq/<group>` | nothing; its version changes with each placement of the group | commits |
//! | `quotas/<namespace>` | [`Quota`](crate::Quota) | commits |
//! | `quotaseq/<namespace>` | nothing; its version changes with each placement of a namespace that has a quota | commits |
//! | `cellseq/apart` | nothing; its version changes with each placement that keeps others apart | commits |
//! | `cellseq/groups` | nothing; its version changes with the first placement of a group | commits |
//! | `ids/<job>` | nothing; there is one for each listed job whose id was not drawn at random | commits |
//! | `notes/<group>` | [`GroupStatus`](crate::GroupStatus) | commits |
//! | `specs/<hash>` | [`JobSpec`](crate::JobSpec), shared by all jobs that name it | commits |
//! | `jobs/<host>/<job>` | [`Job`], what it should be, with its description's hash | commits |
//! | `status/<host>/<job>` | [`JobStatus`], what it is | the host |

mod carrying;
mod clock;
mod commit;
mod flight;
#[cfg(test)]
mod interleavings;
mod keys;
mod link;
mod membership;
mod mirror;
#[cfg(test)]
mod model;
mod plan;
mod specs;
mod versions;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use flynn_discovery::Backend;
use futures::{
    StreamExt, future,
    stream::{self, BoxStream},
};

use crate::{
    Cluster, ClusterState, Driver, Error, Host, HostId, HostLink, Job, JobId, JobStatus,
    Membership, Result, Transaction, clock::Clock, scheduler::SeededIds, transaction::Committed,
};

pub use clock::{SystemClock, TokioTimer};

use mirror::{Follow, View};

/// A cell kept in a discovery backend. Clones share one mirror of the cell.
///
/// The mirror is filled on the first use of [`Cluster`]; a handle that is only used as a [`HostLink`] has none.
/// Must be used within a tokio runtime with time enabled.
#[derive(Clone)]
pub struct DiscoveryCluster {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    lease_ttl: Duration,
    follow: Arc<Follow>,
}

impl fmt::Debug for DiscoveryCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryCluster")
            .field("backend", &self.backend.name())
            .field("lease_ttl", &self.lease_ttl)
            .finish_non_exhaustive()
    }
}

impl DiscoveryCluster {
    /// Default of [`with_lease_ttl`](Self::with_lease_ttl).
    pub const LEASE_TTL: Duration = Duration::from_secs(5);
    /// How long a call waits for the mirror to be filled or to catch up.
    pub const MIRROR_TIMEOUT: Duration = Duration::from_secs(10);
    /// How often what is left of one commit is tried while others get ahead of it.
    pub const MAX_ATTEMPTS: usize = 12;

    /// The cell in `backend`. Use a `PrefixedBackend` for several cells in one store.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            clock: Arc::new(SystemClock),
            lease_ttl: Self::LEASE_TTL,
            follow: Arc::default(),
        }
    }

    /// How long a host that joins by this handle may be silent before it is lost.
    #[must_use]
    pub fn with_lease_ttl(mut self, ttl: Duration) -> Self {
        self.lease_ttl = ttl;
        self
    }

    /// Tells when hosts came and were lost by this clock instead of the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn views(&self) -> BoxStream<'static, View> {
        self.follow.views(&self.backend, &self.clock)
    }
}

impl Driver {
    /// A driver in a tokio runtime: by the system's clock, with ids drawn at random.
    #[must_use]
    pub fn on_tokio(cluster: Arc<dyn Cluster>) -> Self {
        let ids = SeededIds::new(rand::random());
        Self::new(cluster, Arc::new(SystemClock), Arc::new(TokioTimer), ids)
    }
}

#[async_trait]
impl Cluster for DiscoveryCluster {
    async fn snapshot(&self) -> Result<Arc<ClusterState>> {
        Ok(self.mirror_at(0).await?.state)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Committed> {
        self.commit_transaction(transaction).await
    }

    fn watch(&self) -> BoxStream<'static, Result<Arc<ClusterState>>> {
        // Ends behind the first error.
        let states = self.views().filter_map(|view| {
            future::ready(match view {
                View::Loading => None,
                View::Ready(mirror) => Some(Ok(Arc::clone(&mirror.state))),
                View::Failed(why) => Some(Err(why.into_error())),
            })
        });
        stream::unfold(Some(states), |states| async move {
            let mut states = states?;
            let item = states.next().await?;
            let rest = item.is_ok().then_some(states);
            Some((item, rest))
        })
        .boxed()
    }
}

#[async_trait]
impl HostLink for DiscoveryCluster {
    async fn join(&self, host: Host) -> Result<Box<dyn Membership>> {
        let joined = membership::join(Arc::clone(&self.backend), self.lease_ttl, host).await?;
        Ok(Box::new(joined))
    }

    fn assignments(&self, host: &HostId) -> BoxStream<'static, Result<Vec<Arc<Job>>>> {
        link::assignments(Arc::clone(&self.backend), host.clone())
    }

    async fn report(&self, host: &HostId, statuses: Vec<(JobId, JobStatus)>) -> Result<()> {
        link::report(self.backend.as_ref(), host, statuses).await
    }
}

/// The backend's error in the words of this crate.
fn store_error(operation: &'static str, error: flynn_discovery::Error) -> Error {
    let is_transient = matches!(
        error,
        flynn_discovery::Error::Unavailable { .. } | flynn_discovery::Error::Unknown { .. }
    );
    Error::Store {
        operation,
        is_transient,
        source: Box::new(error),
    }
}
