//! Routes in this process.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use flynn_discovery::backend::{Condition, Revision};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::sync::watch;

use super::{RouteStore, StoredRoute};
use crate::{Error, Result, Route, RouteId};

/// Routes in this process, for tests and for a router with a fixed list.
///
/// Clones share the routes.
#[derive(Debug, Clone)]
pub struct MemoryRouteStore {
    // The channel is the store: its value is behind a lock, and every change of it is an event.
    routes: Arc<watch::Sender<Routes>>,
}

impl Default for MemoryRouteStore {
    fn default() -> Self {
        let routes = Arc::new(watch::Sender::new(Routes::default()));
        Self { routes }
    }
}

impl MemoryRouteStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl RouteStore for MemoryRouteStore {
    async fn list(&self) -> Result<Vec<StoredRoute>> {
        Ok(self.routes.borrow().in_order())
    }

    async fn get(&self, id: &RouteId) -> Result<Option<StoredRoute>> {
        Ok(self.routes.borrow().get(id))
    }

    async fn put(&self, route: Route, condition: Condition) -> Result<Revision> {
        let mut result = Ok(Revision(0));
        self.routes.send_if_modified(|routes| {
            result = routes.put(route, condition);
            result.is_ok()
        });
        result
    }

    async fn remove(&self, id: &RouteId, condition: Condition) -> Result<()> {
        let mut result = Ok(false);
        self.routes.send_if_modified(|routes| {
            result = routes.remove(id, condition);
            matches!(result, Ok(true))
        });
        result.map(drop)
    }

    fn watch(&self) -> BoxStream<'static, Result<Vec<Route>>> {
        let changes = tokio_stream::wrappers::WatchStream::new(self.routes.subscribe());
        changes
            .map(|routes| Ok(routes.in_order().into_iter().map(|s| s.route).collect()))
            .boxed()
    }
}

#[derive(Debug, Clone, Default)]
struct Routes {
    /// By id: creation, last write, route.
    by_id: BTreeMap<RouteId, (Revision, Revision, Route)>,
    revision: Revision,
}

impl Routes {
    fn get(&self, id: &RouteId) -> Option<StoredRoute> {
        let (_, version, route) = self.by_id.get(id)?;
        Some(StoredRoute {
            route: route.clone(),
            version: *version,
        })
    }

    fn in_order(&self) -> Vec<StoredRoute> {
        let mut routes: Vec<_> = self.by_id.values().collect();
        routes.sort_by_key(|(created, ..)| *created);
        let stored = |(_, version, route): &(Revision, Revision, Route)| StoredRoute {
            route: route.clone(),
            version: *version,
        };
        routes.into_iter().map(stored).collect()
    }

    fn put(&mut self, route: Route, condition: Condition) -> Result<Revision> {
        let id = route.id;
        self.check(&id, condition)?;
        let others = self.by_id.values().map(|(.., other)| other);
        if let Some(other) = others
            .filter(|other| other.id != id)
            .find(|other| other.rule.collides(&route.rule))
        {
            let route = Box::new(other.clone());
            return Err(Error::Duplicate { route });
        }
        self.revision.0 += 1;
        let created = self
            .by_id
            .get(&id)
            .map_or(self.revision, |(created, ..)| *created);
        self.by_id.insert(id, (created, self.revision, route));
        Ok(self.revision)
    }

    /// Was there anything to remove?
    fn remove(&mut self, id: &RouteId, condition: Condition) -> Result<bool> {
        self.check(id, condition)?;
        Ok(self.by_id.remove(id).is_some())
    }

    fn check(&self, id: &RouteId, condition: Condition) -> Result<()> {
        let version = self.by_id.get(id).map(|(_, version, _)| *version);
        let holds = match condition {
            Condition::Absent => version.is_none(),
            Condition::Present => version.is_some(),
            Condition::Version(expected) => version == Some(expected),
            // `Any`, and whatever is added later.
            _ => true,
        };
        if holds {
            Ok(())
        } else {
            Err(Error::Conflict { id: *id })
        }
    }
}
