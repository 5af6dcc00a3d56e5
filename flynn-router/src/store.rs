//! Where routes are kept.

mod discovery;
mod memory;

use std::fmt;

use async_trait::async_trait;
use flynn_discovery::backend::{Condition, Revision};
use futures::stream::BoxStream;

pub use self::{discovery::DiscoveryRouteStore, memory::MemoryRouteStore};
use crate::{Result, Route, RouteId};

/// A consistent set of routes, no two of which take the same traffic.
///
/// # Contract
///
/// Each sentence below is a case of the conformance suite (feature `conformance`).
#[async_trait]
pub trait RouteStore: fmt::Debug + Send + Sync + 'static {
    /// All routes, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::Discovery`](crate::Error::Discovery) when the store cannot be reached.
    async fn list(&self) -> Result<Vec<StoredRoute>>;

    /// One route.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    async fn get(&self, id: &RouteId) -> Result<Option<StoredRoute>>;

    /// Creates or replaces the route with this id, if `condition` holds of the one that is there.
    ///
    /// The check that no other route takes the same traffic and the write are one atomic change.
    ///
    /// # Errors
    ///
    /// [`Error::Duplicate`](crate::Error::Duplicate) with the route that takes this traffic already;
    /// [`Error::Conflict`](crate::Error::Conflict) when the condition does not hold. Nothing is changed then.
    async fn put(&self, route: Route, condition: Condition) -> Result<Revision>;

    /// Removes a route, if `condition` holds of it; its traffic is then free for another. Removing an absent route
    /// succeeds where the condition allows it.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`](crate::Error::Conflict) when the condition does not hold.
    async fn remove(&self, id: &RouteId, condition: Condition) -> Result<()>;

    /// The whole list at once and again after each change; a reader that is slow sees the latest only.
    ///
    /// An `Err` item is the last one; the caller may watch anew.
    fn watch(&self) -> BoxStream<'static, Result<Vec<Route>>>;
}

/// A route and the revision that last wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRoute {
    /// The route.
    pub route: Route,
    /// For [`Condition::Version`].
    pub version: Revision,
}
