//! A cell in this process.

use std::{convert::Infallible, sync::Arc};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};

use crate::{
    Cluster, ClusterState, Host, HostId, HostLink, Job, JobId, JobStatus, Membership, Result,
    Transaction,
    clock::Clock,
    cluster::{Assignments, published::Published},
    transaction::Committed,
};

/// A cell in this process: complete, in memory, gone with it. Clones are handles on the same cell.
///
/// A host's lease is its [`Membership`]: dropping it loses the host at once.
#[derive(Debug, Clone)]
pub struct LocalCluster {
    state: Published<Arc<ClusterState>>,
    clock: Arc<dyn Clock>,
}

impl LocalCluster {
    /// An empty cell. The clock is only asked when a host comes or goes.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            state: Published::new(Arc::default()),
            clock,
        }
    }

    /// The present state, without waiting.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        self.state.get()
    }

    /// Loses `host`, as if it had stopped renewing its lease.
    pub fn lose(&self, host: &HostId) {
        let now_ms = self.clock.now_ms();
        self.replace(|state| Ok::<_, Infallible>(state.host_lost(host, now_ms)))
            .unwrap_or_else(|never| match never {});
    }

    fn replace<E>(
        &self,
        change: impl FnOnce(&ClusterState) -> Result<ClusterState, E>,
    ) -> Result<(), E> {
        self.state.update(|state| {
            let next = change(state)?;
            let has_changed = next.revision() > state.revision();
            Ok((has_changed.then(|| Arc::new(next)), ()))
        })
    }
}

#[async_trait]
impl Cluster for LocalCluster {
    async fn snapshot(&self) -> Result<Arc<ClusterState>> {
        Ok(self.state())
    }

    async fn commit(&self, transaction: Transaction) -> Result<Committed> {
        self.state.update(|state| {
            let applied = state.apply(&transaction)?;
            let has_changed = !applied.accepted.is_empty();
            let next = if has_changed {
                Arc::new(applied.state)
            } else {
                Arc::clone(state)
            };
            let committed = Committed {
                state: Arc::clone(&next),
                refused: applied.refused,
            };
            Ok((has_changed.then_some(next), committed))
        })
    }

    fn watch(&self) -> BoxStream<'static, Result<Arc<ClusterState>>> {
        self.state.follow().map(Ok).boxed()
    }
}

#[async_trait]
impl HostLink for LocalCluster {
    async fn join(&self, host: Host) -> Result<Box<dyn Membership>> {
        let now_ms = self.clock.now_ms();
        let membership = LocalMembership {
            cluster: self.clone(),
            host: host.id.clone(),
            incarnation: host.incarnation,
        };
        self.replace(|state| state.host_joined(host, now_ms))?;
        Ok(Box::new(membership))
    }

    fn assignments(&self, host: &HostId) -> BoxStream<'static, Result<Vec<Arc<Job>>>> {
        let host = host.clone();
        let mut assignments = Assignments::default();
        self.state
            .follow()
            .filter_map(move |state| {
                std::future::ready(assignments.changed(state.jobs_on(&host).cloned()).map(Ok))
            })
            .boxed()
    }

    async fn report(&self, host: &HostId, statuses: Vec<(JobId, JobStatus)>) -> Result<()> {
        self.replace(|state| Ok(state.reported(host, statuses)))
    }
}

#[derive(Debug)]
struct LocalMembership {
    cluster: LocalCluster,
    host: HostId,
    incarnation: u64,
}

impl LocalMembership {
    fn is_mine(&self, state: &ClusterState) -> bool {
        state
            .host(&self.host)
            .is_none_or(|host| host.host.incarnation == self.incarnation)
    }
}

#[async_trait]
impl Membership for LocalMembership {
    async fn update(&self, host: Host) -> Result<()> {
        let now_ms = self.cluster.clock.now_ms();
        let host = Host {
            id: self.host.clone(),
            incarnation: self.incarnation,
            ..host
        };
        self.cluster.replace(|state| {
            if self.is_mine(state) {
                state.host_joined(host, now_ms)
            } else {
                Ok(state.clone())
            }
        })
    }

    async fn lost(&self) {
        let mut states = self.cluster.state.follow();
        while let Some(state) = states.next().await {
            if !self.is_mine(&state) {
                return;
            }
        }
    }

    async fn leave(self: Box<Self>) -> Result<()> {
        // Dropping it does.
        Ok(())
    }
}

impl Drop for LocalMembership {
    fn drop(&mut self) {
        if self.is_mine(&self.cluster.state()) {
            self.cluster.lose(&self.host);
        }
    }
}
