//! The contract of every backend, kept by one member and by three.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flynn_discovery::{
    Result,
    backend::{
        Backend, Capabilities, Compare, Entry, Key, LeaseId, ListOptions, Op, Page, Prefix,
        Revision, WatchEvent, raft::RaftBackend,
    },
    conformance::{Harness, Skip},
};
use futures::stream::BoxStream;

use super::cluster::Cluster;

/// A cluster, of which each call asks the next member.
#[derive(Debug)]
struct Anyone {
    members: Vec<Arc<RaftBackend>>,
    next: AtomicUsize,
    _cluster: Cluster,
}

impl Anyone {
    async fn start(size: usize) -> Arc<dyn Backend> {
        let cluster = Cluster::start(size).await;
        Arc::new(Self {
            members: cluster.members().cloned().collect(),
            next: AtomicUsize::new(0),
            _cluster: cluster,
        })
    }

    fn next(&self) -> &RaftBackend {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        &self.members[next % self.members.len()]
    }
}

#[async_trait]
#[deny(
    clippy::missing_trait_methods,
    reason = "each call asks the next member"
)]
impl Backend for Anyone {
    fn name(&self) -> &'static str {
        self.next().name()
    }

    fn capabilities(&self) -> Capabilities {
        self.next().capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.next().get(key).await
    }

    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<Page> {
        self.next().list(prefix, options).await
    }

    async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Revision> {
        self.next().commit(compares, ops).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.next().grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.next().keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.next().revoke(lease).await
    }

    fn watch(&self, prefix: &Prefix) -> BoxStream<'static, Result<WatchEvent>> {
        self.next().watch(prefix)
    }

    async fn put(
        &self,
        key: &Key,
        value: bytes::Bytes,
        condition: flynn_discovery::backend::Condition,
    ) -> Result<Revision> {
        self.next().put(key, value, condition).await
    }

    async fn delete(
        &self,
        key: &Key,
        condition: flynn_discovery::backend::Condition,
    ) -> Result<Revision> {
        self.next().delete(key, condition).await
    }
}

struct Members(usize);

#[async_trait]
impl Harness for Members {
    async fn fresh(&self) -> Result<Arc<dyn Backend>, Skip> {
        Ok(Anyone::start(self.0).await)
    }
}

mod of_one_member {
    use super::Members;
    flynn_discovery::backend_conformance!(Members(1));
}

mod of_three_members {
    use super::Members;
    flynn_discovery::backend_conformance!(Members(3));
}
