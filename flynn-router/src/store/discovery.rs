//! Routes in discovery's store.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use flynn_discovery::{
    Backend,
    backend::{Change, Compare, Condition, Entry, Key, Op, Prefix, Revision, WatchEvent, list_all},
};
use futures::{StreamExt as _, stream::BoxStream};

use super::{RouteStore, StoredRoute};
use crate::{Error, Result, Route, RouteId, Rule, error::while_, route::escape};

/// Routes in discovery's store: a typed view over a [`Backend`].
///
/// A route is the key `router/routes/<type>/<uuid>`. The traffic it takes is a second key below `router/names/` that
/// holds its id; both are written in one transaction, so two routes for the same traffic cannot both be created.
#[derive(Debug, Clone)]
pub struct DiscoveryRouteStore {
    backend: Arc<dyn Backend>,
    routes: Prefix,
    names: Prefix,
}

impl DiscoveryRouteStore {
    /// How often a change is tried while others change the same routes.
    pub const MAX_ATTEMPTS: usize = 8;

    /// The routes in `backend`.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the literals are prefixes")]
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        let prefix = |text| Prefix::parse(text).expect("a literal that is a prefix");
        Self {
            backend,
            routes: prefix("router/routes/"),
            names: prefix("router/names/"),
        }
    }

    fn key(&self, id: &RouteId) -> Key {
        self.routes.key(id).expect("a route id fits into a key")
    }

    fn name(&self, rule: &Rule) -> Result<Key> {
        let key = match rule {
            Rule::Http(rule) => self.names.key(format_args!(
                "http/{}/{}",
                rule.domain,
                escape(rule.path.as_str())
            )),
            Rule::Tcp { port } => self.names.key(format_args!("tcp/{port}")),
        };
        key.map_err(while_("naming a route"))
    }

    async fn read(&self, id: &RouteId) -> Result<Option<(Entry, StoredRoute)>> {
        let entry = self.backend.get(&self.key(id)).await;
        match entry.map_err(while_("reading a route"))? {
            Some(entry) => {
                let stored = decode(&entry)?;
                Ok(Some((entry, stored)))
            }
            None => Ok(None),
        }
    }

    /// The route that holds `name`, if it still does.
    async fn holder(&self, name: &Key) -> Result<Option<Route>> {
        let entry = self.backend.get(name).await;
        let Some(entry) = entry.map_err(while_("reading a route's name"))? else {
            return Ok(None);
        };
        let id = std::str::from_utf8(&entry.value).unwrap_or_default();
        Ok(self.read(&RouteId::parse(id)?).await?.map(|(_, s)| s.route))
    }

    /// Commits `ops` if `id` is still as `current` says. `None`: it changed meanwhile, read again.
    async fn commit(
        &self,
        id: &RouteId,
        current: Option<&Entry>,
        name: Option<&Key>,
        ops: Vec<Op>,
    ) -> Result<Option<Revision>> {
        let unchanged = match current {
            Some(entry) => Condition::Version(entry.version),
            None => Condition::Absent,
        };
        let mut compares: Vec<Compare> = unchanged.on(&self.key(id)).into_iter().collect();
        compares.extend(name.and_then(|name| Condition::Absent.on(name)));
        match self.backend.commit(compares, ops).await {
            Ok(revision) => Ok(Some(revision)),
            Err(flynn_discovery::Error::Conflict { key }) if Some(&key) == name => {
                match self.holder(&key).await? {
                    Some(route) => Err(Error::Duplicate {
                        route: Box::new(route),
                    }),
                    None => Ok(None),
                }
            }
            Err(flynn_discovery::Error::Conflict { .. }) => Ok(None),
            Err(source) => Err(Error::Discovery {
                operation: "writing a route",
                source,
            }),
        }
    }
}

#[async_trait]
impl RouteStore for DiscoveryRouteStore {
    async fn list(&self) -> Result<Vec<StoredRoute>> {
        let entries = list_all(&*self.backend, &self.routes).await;
        let mut entries = entries.map_err(while_("listing routes"))?;
        entries.sort_by_key(|e| e.created);
        entries.iter().map(decode).collect()
    }

    async fn get(&self, id: &RouteId) -> Result<Option<StoredRoute>> {
        Ok(self.read(id).await?.map(|(_, stored)| stored))
    }

    async fn put(&self, route: Route, condition: Condition) -> Result<Revision> {
        let id = route.id;
        let key = self.key(&id);
        let name = self.name(&route.rule)?;
        let value = Bytes::from(serde_json::to_vec(&route).expect("a route is JSON"));
        for _ in 0..Self::MAX_ATTEMPTS {
            let current = self.read(&id).await?;
            if !condition.holds(current.as_ref().map(|(entry, _)| entry)) {
                return Err(Error::Conflict { id });
            }
            let mut ops = vec![Op::put(key.clone(), value.clone())];
            let old_name = match &current {
                Some((_, old)) => Some(self.name(&old.route.rule)?),
                None => None,
            };
            let is_renamed = old_name.as_ref() != Some(&name);
            if is_renamed {
                ops.push(Op::put(name.clone(), id.to_string()));
                ops.extend(old_name.map(Op::delete));
            }
            let entry = current.as_ref().map(|(entry, _)| entry);
            let new_name = is_renamed.then_some(&name);
            if let Some(revision) = self.commit(&id, entry, new_name, ops).await? {
                return Ok(revision);
            }
        }
        Err(Error::Conflict { id })
    }

    async fn remove(&self, id: &RouteId, condition: Condition) -> Result<()> {
        for _ in 0..Self::MAX_ATTEMPTS {
            let current = self.read(id).await?;
            if !condition.holds(current.as_ref().map(|(entry, _)| entry)) {
                return Err(Error::Conflict { id: *id });
            }
            let Some((entry, old)) = current else {
                return Ok(());
            };
            let ops = vec![
                Op::delete(self.key(id)),
                Op::delete(self.name(&old.route.rule)?),
            ];
            if self.commit(id, Some(&entry), None, ops).await?.is_some() {
                return Ok(());
            }
        }
        Err(Error::Conflict { id: *id })
    }

    fn watch(&self) -> BoxStream<'static, Result<Vec<Route>>> {
        let changes = self.backend.watch(&self.routes);
        let view = Vec::<Entry>::new();
        futures::stream::unfold((changes, view), |(mut changes, mut view)| async move {
            let event = match changes.next().await? {
                Ok(event) => event,
                Err(source) => {
                    let operation = "watching routes";
                    let error = Error::Discovery { operation, source };
                    return Some((Err(error), (changes, view)));
                }
            };
            match event {
                WatchEvent::Reset { entries, .. } => view = entries,
                WatchEvent::Changes { changes, .. } => {
                    for change in changes {
                        apply(&mut view, change);
                    }
                }
                _ => {}
            }
            view.sort_by_key(|e| e.created);
            // One damaged entry must not take the others off the air.
            let routes = view.iter().filter_map(|entry| match decode(entry) {
                Ok(stored) => Some(stored.route),
                Err(error) => {
                    tracing::error!(key = %entry.key, %error, "this route is damaged and is left out");
                    None
                }
            });
            let routes = routes.collect();
            Some((Ok(routes), (changes, view)))
        })
        .boxed()
    }
}

fn apply(view: &mut Vec<Entry>, change: Change) {
    let (key, entry) = match change {
        Change::Put(entry) => (entry.key.clone(), Some(entry)),
        Change::Delete(key) => (key, None),
        _ => return,
    };
    view.retain(|e| e.key != key);
    view.extend(entry);
}

fn decode(entry: &Entry) -> Result<StoredRoute> {
    match serde_json::from_slice(&entry.value) {
        Ok(route) => Ok(StoredRoute {
            route,
            version: entry.version,
        }),
        Err(why) => Err(Error::Invalid {
            what: format!("the route stored at {}", entry.key),
            why: why.to_string(),
        }),
    }
}
