//! SSH keys.

use axum::extract::{Path, State};
use flynn_discovery::http::Json;

use super::{Server, answer::Answer};
use crate::{Error, model::Key};

pub(super) async fn all(State(server): State<Server>) -> Answer<Json<Vec<Key>>> {
    Ok(Json(server.platform.store().keys().await?))
}

pub(super) async fn add(State(server): State<Server>, Json(key): Json<Key>) -> Answer<Json<Key>> {
    Ok(Json(server.platform.add_key(&key.key).await?))
}

pub(super) async fn one(State(server): State<Server>, Path(id): Path<String>) -> Answer<Json<Key>> {
    let missing = || Error::missing(format_args!("key {id}"));
    let digest = Key::id_from(&id).ok_or_else(missing)?;
    let key = server.platform.store().key(&digest).await?;
    Ok(Json(key.ok_or_else(missing)?))
}

pub(super) async fn delete(State(server): State<Server>, Path(id): Path<String>) -> Answer<()> {
    let digest = Key::id_from(&id).ok_or_else(|| Error::missing(format_args!("key {id}")))?;
    Ok(server.platform.store().delete_key(&digest).await?)
}
