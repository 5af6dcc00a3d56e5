//! Who the other replicas are.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::BlobStore;
use crate::Result;

/// Another replica.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its identity among the replicas.
    pub id: String,
    /// Its own store.
    pub store: Arc<dyn BlobStore>,
}

/// Knows the other live replicas.
#[async_trait]
pub trait Peers: fmt::Debug + Send + Sync + 'static {
    /// The live replicas but for this one.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::Error::Unavailable) when they cannot be known at present.
    async fn peers(&self) -> Result<Vec<Peer>>;
}

/// A set of peers that does not change.
#[derive(Debug, Clone, Default)]
pub struct StaticPeers(pub Vec<Peer>);

#[async_trait]
impl Peers for StaticPeers {
    async fn peers(&self) -> Result<Vec<Peer>> {
        Ok(self.0.clone())
    }
}
