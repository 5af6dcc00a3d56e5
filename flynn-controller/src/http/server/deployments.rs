//! Deployments.

use axum::extract::{Path, State};
use flynn_discovery::http::Json;

use super::{Server, answer::Answer, releases::Chosen};
use crate::{Error, model::Deployment};

pub(super) async fn create(
    State(server): State<Server>,
    Path(app): Path<String>,
    Json(chosen): Json<Chosen>,
) -> Answer<Json<Deployment>> {
    Ok(Json(server.platform.deploy(&app, &chosen.id).await?))
}

pub(super) async fn of_app(
    State(server): State<Server>,
    Path(app): Path<String>,
) -> Answer<Json<Vec<Deployment>>> {
    let app = server.platform.app(&app).await?;
    Ok(Json(server.platform.store().deployments(&app.id).await?))
}

pub(super) async fn one(
    State(server): State<Server>,
    Path(id): Path<String>,
) -> Answer<Json<Deployment>> {
    let record = server.platform.store().deployment(&id).await?;
    let record = record.ok_or_else(|| Error::missing(format_args!("deployment {id}")))?;
    Ok(Json(record.deployment))
}
