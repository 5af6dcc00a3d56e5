//! The whole store over HTTP, for [`RemoteBackend`](crate::backend::RemoteBackend) and for `curl`.
//!
//! | Route | Body → answer |
//! |---|---|
//! | `GET /kv/get?key=` | → `{"entry": {"key","value","version","created","lease"?} \| null}` |
//! | `GET /kv/list?prefix=&after=&limit=` | → `{"entries","revision","more"}` |
//! | `POST /kv/commit` | `{"compares":[{"key","is"}],"ops":[{"put":{"key","value","lease"?}} \| {"delete"}]}` → `{"revision"}` |
//! | `POST /kv/leases` | `{"ttl_ms"}` → `{"lease"}` |
//! | `POST /kv/leases/keepalive` | `{"leases":[…]}` → `{"lost":[…]}` |
//! | `DELETE /kv/leases/{id}` | → nothing |
//! | `GET /kv/watch?prefix=` | → lines of JSON, or server-sent events if asked: `{"reset":…}`, then `{"changes":…}` |
//! | `GET /kv/capabilities` | → what the backend promises |
//!
//! Values are base64. An error's `code` and `detail` tell exactly which [`Error`] it was.

pub(crate) mod errors;
pub(crate) mod wire;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    response::Response,
    routing::{delete, get, post},
};
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, header};
use serde::Deserialize;

use self::wire::{
    Committed, Found, Grant, Granted, KeepAlive, KeptAlive, WireCapabilities, WireCommit, WirePage,
};
use super::{Failure, Json, events, read_body, stream::ndjson_every};
use crate::{
    Backend, Error,
    backend::{Key, LeaseId, ListOptions, Prefix},
};

/// The largest transaction that is accepted, as JSON.
pub const MAX_COMMIT_BYTES: usize = 32 * 1024 * 1024;

/// A watch says that it lives this often; [`RemoteBackend`](crate::backend::RemoteBackend) gives up on one that does
/// not.
pub(crate) const WATCH_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How many leases of one keep-alive are renewed at a time.
const RENEWALS_AT_ONCE: usize = 64;

type Store = Arc<dyn Backend>;

/// The store's routes, `/kv/…`, over `backend`. Put [`require_key`](super::require_key) before it: it gives all there is.
pub fn kv_router(backend: Arc<dyn Backend>) -> Router {
    Router::new()
        .route("/kv/get", get(get_entry))
        .route("/kv/list", get(list))
        .route("/kv/commit", post(commit))
        .route("/kv/leases", post(grant))
        .route("/kv/leases/keepalive", post(keep_alive))
        .route("/kv/leases/{id}", delete(revoke))
        .route("/kv/watch", get(watch))
        .route("/kv/capabilities", get(capabilities))
        .layer(DefaultBodyLimit::disable()) // `Json` and `read_body` have limits of their own
        .with_state(backend)
}

#[derive(Debug, Deserialize)]
struct KeyQuery {
    key: Key,
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    #[serde(default = "Prefix::root")]
    prefix: Prefix,
    after: Option<Key>,
    limit: Option<usize>,
}

async fn get_entry(State(store): State<Store>, query: Asked<KeyQuery>) -> Answer<Json<Found>> {
    let Asked(Query(KeyQuery { key })) = query;
    let entry = store.get(&key).await?.map(Into::into);
    Ok(Json(Found { entry }))
}

async fn list(State(store): State<Store>, query: Asked<ListQuery>) -> Answer<Json<WirePage>> {
    let Asked(Query(query)) = query;
    let options = ListOptions {
        after: query.after,
        limit: query
            .limit
            .unwrap_or(ListOptions::MAX_LIMIT)
            .clamp(1, ListOptions::MAX_LIMIT),
    };
    let page = store.list(&query.prefix, options).await?;
    Ok(Json(page.into()))
}

async fn commit(State(store): State<Store>, request: Request) -> Answer<Json<Committed>> {
    let body = read_body(request.into_body(), MAX_COMMIT_BYTES).await?;
    let commit: WireCommit = serde_json::from_slice(&body)
        .map_err(|e| Failure::validation("", &format!("the transaction is not valid: {e}")))?;
    let (compares, ops) = commit.into_parts();
    let revision = store.commit(compares, ops).await?;
    Ok(Json(Committed { revision }))
}

async fn grant(State(store): State<Store>, Json(grant): Json<Grant>) -> Answer<Json<Granted>> {
    let lease = store.grant(Duration::from_millis(grant.ttl_ms)).await?;
    Ok(Json(Granted { lease }))
}

async fn keep_alive(
    State(store): State<Store>,
    Json(KeepAlive { leases }): Json<KeepAlive>,
) -> Answer<Json<KeptAlive>> {
    let lost = stream::iter(leases)
        .map(|lease| {
            let store = Arc::clone(&store);
            async move {
                match store.keep_alive(lease).await {
                    Ok(()) => Ok(None),
                    Err(Error::LeaseLost { .. }) => Ok(Some(lease)),
                    Err(error) => Err(Failure::from(error)),
                }
            }
        })
        .buffer_unordered(RENEWALS_AT_ONCE)
        .try_filter_map(async |lost| Ok(lost))
        .try_collect()
        .await?;
    Ok(Json(KeptAlive { lost }))
}

async fn revoke(State(store): State<Store>, Path(id): Path<u64>) -> Answer<()> {
    Ok(store.revoke(LeaseId(id)).await?)
}

#[derive(Debug, Deserialize)]
struct WatchQuery {
    #[serde(default = "Prefix::root")]
    prefix: Prefix,
}

async fn watch(
    State(store): State<Store>,
    query: Asked<WatchQuery>,
    headers: HeaderMap,
) -> Response {
    let Asked(Query(WatchQuery { prefix })) = query;
    let lines = store.watch(&prefix).flat_map(|event| {
        stream::iter(match event {
            Ok(event) => wire::lines(event).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(Failure::from(error))],
        })
    });
    if wants_events(&headers) {
        events(lines)
    } else {
        ndjson_every(WATCH_KEEP_ALIVE, lines)
    }
}

async fn capabilities(State(store): State<Store>) -> Json<WireCapabilities> {
    Json(WireCapabilities::new(store.name(), store.capabilities()))
}

pub(crate) fn wants_events(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.as_bytes().starts_with(b"text/event-stream"))
}

type Answer<T> = Result<T, Failure>;

/// A query whose errors have our envelope.
struct Asked<T>(Query<T>);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> axum::extract::FromRequestParts<S>
    for Asked<T>
{
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        state: &S,
    ) -> Result<Self, Failure> {
        Query::from_request_parts(parts, state)
            .await
            .map(Self)
            .map_err(|e| Failure::validation("", &e.body_text()))
    }
}
