//! Events: a list for who accepts exactly JSON, a stream for all others.

use axum::{
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use flynn_discovery::http::{Json, events_with_id};
use futures::{StreamExt as _, stream};
use http::{HeaderMap, header};
use serde::Deserialize;

use super::{
    Server,
    answer::{Answer, failure},
};
use crate::{
    Error,
    model::{Event, EventKind},
    store::EventFilter,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Which {
    app_id: Option<String>,
    object_types: Option<String>,
    object_id: Option<String>,
    past: bool,
    count: Option<usize>,
    before_id: Option<i64>,
    since_id: Option<i64>,
}

pub(super) async fn all(
    State(server): State<Server>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Answer<Response> {
    let filter = filter(&server, &which).await?;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::ACCEPT) == Some("application/json") {
        return Ok(Json(server.platform.store().events(&filter).await?).into_response());
    }
    let seen = match headers
        .get("last-event-id")
        .map(|id| id.to_str().unwrap_or("?"))
    {
        None | Some("") => None,
        Some(id) => Some(id.parse::<i64>().map_err(|_| {
            Error::refused("the header Last-Event-Id must be the number of an event")
        })?),
    };
    follow(&server, filter, &which, seen.filter(|id| *id > 0)).await
}

async fn follow(
    server: &Server,
    filter: EventFilter,
    which: &Which,
    seen: Option<i64>,
) -> Answer<Response> {
    let store = server.platform.store();
    let (past, after) = match (seen, which.past, which.count) {
        // Taken up again: everything after the last one seen.
        (Some(seen), ..) => (Vec::new(), Some(seen)),
        (None, true, None) => (Vec::new(), Some(which.since_id.unwrap_or(0))),
        (None, _, Some(_)) => {
            // The newest so many, then what follows the newest of all at this moment.
            let newest = EventFilter {
                count: Some(1),
                ..EventFilter::default()
            };
            let head = store
                .events(&newest)
                .await?
                .first()
                .map_or(0, |event| event.id);
            let mut filter = filter.clone();
            let before = filter.before.unwrap_or(i64::MAX).min(head + 1);
            filter.before = Some(before);
            let mut past = store.events(&filter).await?;
            past.reverse();
            (past, Some(head))
        }
        (None, false, None) => (Vec::new(), which.since_id),
    };
    let live = store.watch_events(after).filter(move |event| {
        std::future::ready(event.as_ref().map_or(true, |event| filter.admits(event)))
    });
    let all = stream::iter(past.into_iter().map(Ok)).chain(live);
    Ok(events_with_id(all.map(|event| match event {
        Ok(event) => Ok((event.id, event)),
        Err(error) => Err(failure(error)),
    })))
}

async fn filter(server: &Server, which: &Which) -> Answer<EventFilter> {
    let app = match which.app_id.as_deref().filter(|app| !app.is_empty()) {
        // A deleted app is only known by its id: its events are still there.
        Some(app) => Some(match server.platform.store().app(app).await? {
            Some(app) => app.id,
            None => app.to_owned(),
        }),
        None => None,
    };
    let kinds = which.object_types.as_deref().unwrap_or_default();
    Ok(EventFilter {
        app,
        kinds: kinds
            .split(',')
            .filter(|kind| !kind.is_empty())
            .map(EventKind::parse)
            .collect(),
        object_id: which.object_id.clone().filter(|id| !id.is_empty()),
        before: which.before_id,
        since: which.since_id,
        count: which.count,
    })
}

pub(super) async fn one(
    State(server): State<Server>,
    Path(id): Path<String>,
) -> Answer<Json<Event>> {
    let missing = || Error::missing(format_args!("event {id}"));
    let number = id.parse().map_err(|_| missing())?;
    let event = server.platform.store().event(number).await?;
    Ok(Json(event.ok_or_else(missing)?))
}
