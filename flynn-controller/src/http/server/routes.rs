//! Routes.

use axum::extract::{Path, State};
use flynn_discovery::http::Json;
use flynn_router::{Route, RouteId};

use super::{Server, answer::Answer};
use crate::{Error, model::NewRoute};

pub(super) async fn all(State(server): State<Server>) -> Answer<Json<Vec<Route>>> {
    Ok(Json(server.platform.all_routes().await?))
}

pub(super) async fn of_app(
    State(server): State<Server>,
    Path(app): Path<String>,
) -> Answer<Json<Vec<Route>>> {
    Ok(Json(server.platform.routes(&app).await?))
}

pub(super) async fn create(
    State(server): State<Server>,
    Path(app): Path<String>,
    Json(route): Json<NewRoute>,
) -> Answer<Json<Route>> {
    Ok(Json(server.platform.create_route(&app, route).await?))
}

pub(super) async fn one(
    State(server): State<Server>,
    Path((app, kind, id)): Path<(String, String, String)>,
) -> Answer<Json<Route>> {
    Ok(Json(
        server.platform.route(&app, &route_id(&kind, &id)?).await?,
    ))
}

pub(super) async fn update(
    State(server): State<Server>,
    Path((app, kind, id)): Path<(String, String, String)>,
    Json(route): Json<NewRoute>,
) -> Answer<Json<Route>> {
    let id = route_id(&kind, &id)?;
    Ok(Json(server.platform.update_route(&app, &id, &route).await?))
}

pub(super) async fn delete(
    State(server): State<Server>,
    Path((app, kind, id)): Path<(String, String, String)>,
) -> Answer<()> {
    Ok(server
        .platform
        .delete_route(&app, &route_id(&kind, &id)?)
        .await?)
}

/// What is not the id of a route is not the id of one that exists.
fn route_id(kind: &str, id: &str) -> Result<RouteId, Error> {
    RouteId::parse(&format!("{kind}/{id}"))
        .map_err(|_| Error::missing(format_args!("route {kind}/{id}")))
}
