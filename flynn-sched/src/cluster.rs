//! The cell behind two traits: [`Cluster`] for those who decide (schedulers, controllers), [`HostLink`] for those who
//! carry out (host agents). [`ClusterState`] is what both look at.

mod assignments;
mod local;
mod published;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::{
    ClusterState, Host, HostId, Job, JobId, JobStatus, Result, Transaction, transaction::Committed,
};

pub use local::LocalCluster;

pub(crate) use assignments::Assignments;
#[cfg(any(feature = "remote", feature = "sim"))]
pub(crate) use published::Published;

/// The cell: a snapshot to decide on, and the one place where its state changes.
#[async_trait]
pub trait Cluster: fmt::Debug + Send + Sync + 'static {
    /// The present state. Cheap, and never changes under the caller's hands.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error::Store) when the cell cannot be read.
    async fn snapshot(&self) -> Result<Arc<ClusterState>>;

    /// Applies a transaction: all or nothing, or as much as fits, as its [`Mode`](crate::transaction::Mode) says.
    ///
    /// The returned state contains what was applied; [`Committed::refused`] names the rest and why.
    ///
    /// # Errors
    ///
    /// When the mode is all-or-nothing, the first change that does not fit, named: [`Error::Conflict`] for a host that
    /// changed or is full, [`Error::GroupChanged`], [`Error::UnknownHost`], [`Error::Invalid`]; nothing was changed
    /// then. [`Error::Store`] when the cell cannot be reached.
    ///
    /// [`Error::Conflict`]: crate::Error::Conflict
    /// [`Error::GroupChanged`]: crate::Error::GroupChanged
    /// [`Error::UnknownHost`]: crate::Error::UnknownHost
    /// [`Error::Invalid`]: crate::Error::Invalid
    /// [`Error::Store`]: crate::Error::Store
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have been applied.
    async fn commit(&self, transaction: Transaction) -> Result<Committed>;

    /// Follows the cell: the present state at once, then the newest after every change (a slow reader skips states,
    /// never the last). An `Err` item is the last.
    fn watch(&self) -> BoxStream<'static, Result<Arc<ClusterState>>>;
}

/// What a host agent needs of the cell.
#[async_trait]
pub trait HostLink: fmt::Debug + Send + Sync + 'static {
    /// Enters the cell as `host` and stays in it while the returned membership lives: it renews the host's lease in the
    /// background. When the agent is gone for longer than the lease, the cell sees the host as lost and places its jobs
    /// elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::HostTaken`](crate::Error::HostTaken) when a host with this id and another incarnation is alive at
    /// another address. The same address is the same host after a restart: it takes over at once.
    async fn join(&self, host: Host) -> Result<Box<dyn Membership>>;

    /// Follows the jobs placed on `host`: the whole list at once, and the whole list again after each change. A job that
    /// is absent from the list is not wanted here (any more). An `Err` item is the last; follow again after a pause.
    fn assignments(&self, host: &HostId) -> BoxStream<'static, Result<Vec<Arc<Job>>>>;

    /// Says how a job of this host is. A report about a job that the cell has forgotten is dropped without an error.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error::Store); the caller tries again, the newest status of a job is enough.
    async fn report(&self, host: &HostId, statuses: Vec<(JobId, JobStatus)>) -> Result<()>;
}

/// A host's stay in the cell. Dropping it stops the renewals and the lease runs out; [`leave`](Self::leave) ends it at
/// once.
#[async_trait]
pub trait Membership: fmt::Debug + Send + Sync {
    /// Replaces what the host says about itself (tags, draining, capacity).
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error::Store).
    async fn update(&self, host: Host) -> Result<()>;

    /// Resolves when the membership was lost for good (another incarnation took over); the agent must stop its jobs'
    /// registrations and join again or exit. Renewal that fails for a while does not resolve it.
    async fn lost(&self);

    /// Leaves the cell now. Its jobs count as lost.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error::Store); the lease runs out by itself then.
    async fn leave(self: Box<Self>) -> Result<()>;
}
