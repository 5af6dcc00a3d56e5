//! What the discovery API tells about the store's members.

use std::fmt;

use async_trait::async_trait;

use crate::{Error, Result};

/// What a store with Raft members tells about them. Implement it to serve `/raft/…`.
///
/// The reading methods answer from memory: they are asked with every request.
#[async_trait]
pub trait RaftInfo: fmt::Debug + Send + Sync + 'static {
    /// Where the leader's HTTP API is, as `ip:port`; `None` while there is none.
    fn leader(&self) -> Option<String>;

    /// Where the members' HTTP APIs are.
    fn peers(&self) -> Vec<String>;

    /// The index of the last change this member has applied.
    fn index(&self) -> u64;

    /// Makes `peer` a member; returns the index of that change.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where members are not managed this way.
    async fn add_peer(&self, peer: &str) -> Result<u64> {
        Err(unmanaged(peer))
    }

    /// Takes `peer` out of the members.
    ///
    /// # Errors
    ///
    /// As [`add_peer`](Self::add_peer).
    async fn remove_peer(&self, peer: &str) -> Result<()> {
        Err(unmanaged(peer))
    }

    /// Makes the asked host a member.
    ///
    /// # Errors
    ///
    /// As [`add_peer`](Self::add_peer).
    async fn promote(&self) -> Result<()> {
        Err(unmanaged("this host"))
    }

    /// Takes the asked host out of the members; it stays a client.
    ///
    /// # Errors
    ///
    /// As [`add_peer`](Self::add_peer).
    async fn demote(&self) -> Result<()> {
        Err(unmanaged("this host"))
    }
}

fn unmanaged(peer: &str) -> Error {
    Error::Invalid {
        what: peer.to_owned(),
        why: "members of this cluster are not changed through the discovery API".to_owned(),
    }
}
