//! Apps.

use axum::extract::{Path, State};
use flynn_discovery::http::Json;

use super::{Server, answer::Answer};
use crate::model::{App, AppUpdate};

pub(super) async fn list(State(server): State<Server>) -> Answer<Json<Vec<App>>> {
    Ok(Json(server.platform.store().apps().await?))
}

pub(super) async fn create(
    State(server): State<Server>,
    Json(app): Json<App>,
) -> Answer<Json<App>> {
    Ok(Json(server.platform.create_app(app).await?))
}

pub(super) async fn one(
    State(server): State<Server>,
    Path(app): Path<String>,
) -> Answer<Json<App>> {
    Ok(Json(server.platform.app(&app).await?))
}

pub(super) async fn update(
    State(server): State<Server>,
    Path(app): Path<String>,
    Json(update): Json<AppUpdate>,
) -> Answer<Json<App>> {
    Ok(Json(server.platform.update_app(&app, update).await?))
}

/// Clients send the whole app here; only its meta counts.
pub(super) async fn set_meta(
    State(server): State<Server>,
    Path(app): Path<String>,
    Json(sent): Json<App>,
) -> Answer<Json<App>> {
    let update = AppUpdate {
        meta: Some(sent.meta),
        ..AppUpdate::default()
    };
    Ok(Json(server.platform.update_app(&app, update).await?))
}

pub(super) async fn delete(State(server): State<Server>, Path(app): Path<String>) -> Answer<()> {
    Ok(server.platform.delete_app(&app).await?)
}
