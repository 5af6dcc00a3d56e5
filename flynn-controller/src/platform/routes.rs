//! Routes of apps.

use std::ops::RangeInclusive;

use flynn_discovery::backend::Condition;
use flynn_router::{PathPrefix, Route, RouteId, Rule};
use serde_json::Value;

use super::{Platform, parent_ref};
use crate::{
    Error, Result,
    model::{EventKind, NewRoute, Time},
    store::NewEvent,
};

/// The ports that TCP routes without one are given.
pub const TCP_PORTS: RangeInclusive<u16> = 3000..=3500;

impl Platform {
    /// All routes, newest first.
    ///
    /// # Errors
    ///
    /// When the routes cannot be read.
    pub async fn all_routes(&self) -> Result<Vec<Route>> {
        let mut routes: Vec<Route> = self
            .routes
            .list()
            .await?
            .into_iter()
            .map(|stored| stored.route)
            .collect();
        routes.reverse();
        Ok(routes)
    }

    /// The routes of an app, newest first.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for an unknown app.
    pub async fn routes(&self, app: &str) -> Result<Vec<Route>> {
        let parent = parent_ref(&self.app(app).await?.id);
        let mut routes = self.all_routes().await?;
        routes.retain(|route| route.parent_ref == parent);
        Ok(routes)
    }

    /// One route of an app.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also for a route of another app.
    pub async fn route(&self, app: &str, id: &RouteId) -> Result<Route> {
        let parent = parent_ref(&self.app(app).await?.id);
        let stored = self.routes.get(id).await?.map(|stored| stored.route);
        stored
            .filter(|route| route.parent_ref == parent)
            .ok_or_else(|| Error::missing(format_args!("route {id}")))
    }

    /// Creates a route of an app; a TCP route without a port is given the first free one of [`TCP_PORTS`].
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateRoute`] when the traffic is taken; [`Error::Invalid`] says what is wrong with it.
    pub async fn create_route(&self, app: &str, new: NewRoute) -> Result<Route> {
        let app = self.app(app).await?;
        if new.kind != "tcp" || new.port != 0 {
            return self.create_exact_route(&app.id, &new).await;
        }
        for port in TCP_PORTS {
            let candidate = NewRoute {
                port: port.into(),
                ..new.clone()
            };
            match self.create_exact_route(&app.id, &candidate).await {
                Err(Error::DuplicateRoute { .. }) => {}
                other => return other,
            }
        }
        Err(Error::Conflict {
            why: format!(
                "all TCP ports from {} to {} are taken; remove a TCP route first",
                TCP_PORTS.start(),
                TCP_PORTS.end()
            ),
        })
    }

    async fn create_exact_route(&self, app: &str, new: &NewRoute) -> Result<Route> {
        if new.kind == "tcp" && matches!(new.port, 80 | 443) {
            return Err(Error::Conflict {
                why: "Port reserved for HTTP/HTTPS traffic".to_owned(),
            });
        }
        let mut route = parse(new)?;
        route.parent_ref = parent_ref(app);
        let now = Time::now().timestamp();
        route.created_at = Some(now);
        route.updated_at = Some(now);
        let present: Vec<Route> = self.all_routes().await?;
        check(&route, &present)?;
        self.routes.put(route.clone(), Condition::Absent).await?;
        self.tell(EventKind::Route, app, &route).await?;
        Ok(route)
    }

    /// Changes a route; domain, path and port stay.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also when another domain is named; [`Error::Invalid`].
    pub async fn update_route(&self, app: &str, id: &RouteId, new: &NewRoute) -> Result<Route> {
        let mut new = new.clone();
        let app = self.app(app).await?;
        let present = self.route(&app.id, id).await?;
        if let Rule::Tcp { port } = present.rule
            && new.port == 0
        {
            new.port = port.into();
        }
        new.kind = id.kind.to_string();
        new.id = id.uuid.to_string();
        let mut route = parse(&new)?;
        if !route.rule.collides(&present.rule) {
            return Err(Error::missing(format_args!("route {id} of {}", route.rule)));
        }
        route.parent_ref = present.parent_ref;
        route.created_at = present.created_at;
        route.updated_at = Some(Time::now().timestamp());
        let others: Vec<Route> = self
            .all_routes()
            .await?
            .into_iter()
            .filter(|other| other.id != route.id)
            .collect();
        check(&route, &others)?;
        self.routes.put(route.clone(), Condition::Present).await?;
        self.tell(EventKind::Route, &app.id, &route).await?;
        Ok(route)
    }

    /// Deletes a route.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Invalid`] for the root of a domain that has routes below it.
    pub async fn delete_route(&self, app: &str, id: &RouteId) -> Result<()> {
        let app = self.app(app).await?;
        let route = self.route(&app.id, id).await?;
        if let Some(rule) = route
            .rule
            .as_http()
            .filter(|rule| rule.path == PathPrefix::root())
        {
            let routes = self.all_routes().await?;
            let has_dependents = routes
                .iter()
                .filter(|other| other.id != route.id)
                .filter_map(|other| other.rule.as_http())
                .any(|other| other.domain == rule.domain);
            if has_dependents {
                return Err(Error::refused("Route has dependent routes"));
            }
        }
        self.routes.remove(id, Condition::Any).await?;
        self.tell(EventKind::RouteDeletion, &app.id, &route).await
    }

    /// Removes all routes of an app, whatever depends on them; returns them as JSON.
    pub(crate) async fn remove_routes(&self, app: &str) -> Result<Vec<Value>> {
        let parent = parent_ref(app);
        let mut removed = Vec::new();
        for route in self.all_routes().await? {
            if route.parent_ref == parent {
                self.routes.remove(&route.id, Condition::Any).await?;
                self.tell(EventKind::RouteDeletion, app, &route).await?;
                removed.push(serde_json::to_value(&route).expect("a route is JSON"));
            }
        }
        Ok(removed)
    }

    /// Routes are kept by the router's store, so a change and its event are two steps: an event without its change is
    /// what must not happen.
    async fn tell(&self, kind: EventKind, app: &str, route: &Route) -> Result<()> {
        let event = NewEvent::new(kind, app, route.id.to_string(), route);
        self.store.record(event).await.map(|_| ())
    }
}

fn parse(new: &NewRoute) -> Result<Route> {
    if new.service.is_empty() {
        return Err(Error::invalid(
            "service",
            "must name the service that answers",
        ));
    }
    let value = serde_json::to_value(new).expect("the model is JSON");
    serde_json::from_value(value).map_err(|error| Error::refused(format!("Invalid route: {error}")))
}

fn check(route: &Route, present: &[Route]) -> Result<()> {
    let Some(rule) = route.rule.as_http() else {
        return Ok(());
    };
    if rule.path != PathPrefix::root() {
        let has_root = present
            .iter()
            .filter_map(|other| other.rule.as_http())
            .any(|other| other.domain == rule.domain && other.path == PathPrefix::root());
        if !has_root {
            return Err(Error::refused(format!(
                "Invalid route: a route for a path of {0} needs one for {0} itself first",
                rule.domain
            )));
        }
    }
    let differs = present.iter().any(|other| {
        other.rule.as_http().is_some()
            && other.service == route.service
            && other.drain_backends != route.drain_backends
    });
    if differs {
        return Err(Error::refused(format!(
            "Invalid route: drain_backends must be as in the other routes of service {}",
            route.service
        )));
    }
    Ok(())
}
