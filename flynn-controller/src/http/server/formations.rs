//! Formations and scale requests.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use flynn_discovery::http::{Json, events};
use futures::{StreamExt as _, stream};
use http::{HeaderMap, header};
use serde::Deserialize;

use super::{
    Server,
    answer::{Answer, failure},
};
use crate::{
    Error,
    model::{ExpandedFormation, Formation, ScaleRequest, Time},
    platform::expand,
    store::Catalog,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Which {
    active: bool,
    expand: bool,
    since: Option<String>,
}

/// A list with `?active=true`, a stream for who accepts events.
pub(super) async fn all(
    State(server): State<Server>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Answer<Response> {
    let accepts = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    if accepts.is_some_and(|accepts| accepts.contains("text/event-stream")) {
        return Ok(follow(
            &server,
            which.since.as_deref().and_then(Time::parse),
        ));
    }
    if !which.active {
        return Err(Error::refused("ask for ?active=true, or accept text/event-stream").into());
    }
    let catalog = server.platform.store().watch().next().await;
    let catalog = catalog.unwrap_or_else(|| {
        Err(Error::Unavailable {
            why: "the store was shut down".to_owned(),
        })
    })?;
    let active = catalog
        .formations
        .values()
        .filter(|formation| formation.is_active());
    let active: Vec<ExpandedFormation> = active.map(|f| expand(&catalog, f)).collect();
    Ok(Json(active).into_response())
}

/// Formations that changed since, an empty one that says "that is all so far", then those that change.
fn follow(server: &Server, since: Option<Time>) -> Response {
    let mut known: Option<Catalog> = None;
    let news = server.platform.store().watch().map(move |catalog| {
        let catalog = match catalog {
            Ok(catalog) => catalog,
            Err(error) => return vec![Err(failure(error))],
        };
        let news = match &known {
            None => {
                let changed = catalog
                    .formations
                    .values()
                    .filter(|f| f.updated_at >= since);
                let mut news: Vec<_> = changed.map(|f| Ok(expand(&catalog, f))).collect();
                news.push(Ok(ExpandedFormation::default()));
                news
            }
            Some(before) => changes(before, &catalog).into_iter().map(Ok).collect(),
        };
        known = Some(catalog);
        news
    });
    events(news.flat_map(stream::iter))
}

fn changes(before: &Catalog, after: &Catalog) -> Vec<ExpandedFormation> {
    type Formations = BTreeMap<(String, String), Arc<Formation>>;
    let (old, new): (&Formations, &Formations) = (&before.formations, &after.formations);
    let gone = old
        .iter()
        .filter(|(key, _)| !new.contains_key(*key))
        .map(|(_, formation)| {
            let mut deleted = expand(before, formation);
            deleted.deleted = true;
            deleted.processes.clear();
            deleted.updated_at = Some(Time::now());
            deleted
        });
    let changed = new
        .iter()
        .filter(|(key, formation)| old.get(*key) != Some(formation))
        .map(|(_, formation)| expand(after, formation));
    gone.chain(changed).collect()
}

pub(super) async fn of_app(
    State(server): State<Server>,
    Path(app): Path<String>,
) -> Answer<Json<Vec<Formation>>> {
    let app = server.platform.app(&app).await?;
    Ok(Json(
        server.platform.store().formations(Some(&app.id)).await?,
    ))
}

pub(super) async fn one(
    State(server): State<Server>,
    Path((app, release)): Path<(String, String)>,
    Query(which): Query<Which>,
) -> Answer<Response> {
    if which.expand {
        let formation = server.platform.expanded_formation(&app, &release).await?;
        return Ok(Json(formation).into_response());
    }
    let app = server.platform.app(&app).await?;
    let formation = server.platform.store().formation(&app.id, &release).await?;
    let formation = formation.ok_or_else(|| Error::missing("the formation"))?;
    Ok(Json(formation).into_response())
}

pub(super) async fn replace(
    State(server): State<Server>,
    Path((app, release)): Path<(String, String)>,
    Json(mut formation): Json<Formation>,
) -> Answer<Json<Formation>> {
    formation.app = app;
    formation.release = release;
    Ok(Json(server.platform.put_formation(formation).await?))
}

pub(super) async fn delete(
    State(server): State<Server>,
    Path((app, release)): Path<(String, String)>,
) -> Answer<()> {
    let app = server.platform.app(&app).await?;
    if server
        .platform
        .store()
        .formation(&app.id, &release)
        .await?
        .is_none()
    {
        return Err(Error::missing("the formation").into());
    }
    Ok(server
        .platform
        .store()
        .delete_formation(&app.id, &release)
        .await?)
}

pub(super) async fn scale(
    State(server): State<Server>,
    Path((app, release)): Path<(String, String)>,
    Json(mut request): Json<ScaleRequest>,
) -> Answer<Json<ScaleRequest>> {
    request.app = app;
    request.release = release;
    Ok(Json(server.platform.scale(request).await?))
}
