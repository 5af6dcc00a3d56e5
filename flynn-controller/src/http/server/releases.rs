//! Artifacts and releases.

use axum::extract::{Path, State};
use flynn_discovery::http::Json;
use serde::Deserialize;

use super::{Server, answer::Answer};
use crate::{
    Error,
    model::{Artifact, Release},
};

/// The id of something to choose.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Chosen {
    pub(super) id: String,
}

pub(super) async fn artifacts(State(server): State<Server>) -> Answer<Json<Vec<Artifact>>> {
    Ok(Json(server.platform.store().artifacts().await?))
}

pub(super) async fn create_artifact(
    State(server): State<Server>,
    Json(artifact): Json<Artifact>,
) -> Answer<Json<Artifact>> {
    Ok(Json(server.platform.create_artifact(artifact).await?))
}

pub(super) async fn artifact(
    State(server): State<Server>,
    Path(id): Path<String>,
) -> Answer<Json<Artifact>> {
    let artifact = server.platform.store().artifact(&id).await?;
    Ok(Json(artifact.ok_or_else(|| {
        Error::missing(format_args!("artifact {id}"))
    })?))
}

pub(super) async fn all(State(server): State<Server>) -> Answer<Json<Vec<Release>>> {
    Ok(Json(server.platform.store().releases(None).await?))
}

pub(super) async fn create(
    State(server): State<Server>,
    Json(release): Json<Release>,
) -> Answer<Json<Release>> {
    Ok(Json(server.platform.create_release(release).await?))
}

pub(super) async fn one(
    State(server): State<Server>,
    Path(id): Path<String>,
) -> Answer<Json<Release>> {
    let release = server.platform.store().release(&id).await?;
    Ok(Json(release.ok_or_else(|| {
        Error::missing(format_args!("release {id}"))
    })?))
}

pub(super) async fn of_app(
    State(server): State<Server>,
    Path(app): Path<String>,
) -> Answer<Json<Vec<Release>>> {
    let app = server.platform.app(&app).await?;
    Ok(Json(server.platform.store().releases(Some(&app.id)).await?))
}

pub(super) async fn one_of_app(
    State(server): State<Server>,
    Path((app, release)): Path<(String, String)>,
) -> Answer<Json<Release>> {
    Ok(Json(server.platform.release_of(&app, &release).await?))
}

pub(super) async fn delete(
    State(server): State<Server>,
    Path((app, release)): Path<(String, String)>,
) -> Answer<()> {
    Ok(server
        .platform
        .store()
        .delete_release(&app, &release)
        .await?)
}

pub(super) async fn current(
    State(server): State<Server>,
    Path(app): Path<String>,
) -> Answer<Json<Release>> {
    let release = server.platform.current_release(&app).await?;
    Ok(Json(
        release.ok_or_else(|| Error::missing("a current release"))?,
    ))
}

pub(super) async fn set_current(
    State(server): State<Server>,
    Path(app): Path<String>,
    Json(chosen): Json<Chosen>,
) -> Answer<Json<Release>> {
    let app = server.platform.app(&app).await?;
    match server
        .platform
        .store()
        .set_release(&app.id, &chosen.id)
        .await
    {
        Err(Error::NotFound { what }) => {
            Err(Error::refused(format!("{what} does not exist in app {}", app.name)).into())
        }
        other => Ok(Json(other?)),
    }
}
