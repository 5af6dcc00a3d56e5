//! The blob store's HTTP API.
//!
//! `PUT`, `GET`, `HEAD` and `DELETE` on `/<name>`; `GET /?dir=<prefix>` lists. Who calls shows a key of the cluster, or
//! a [`Capability`] in the query, which is good for one path and a short time.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use flynn_discovery::http::{Failure, Health, Keys, presented_key, status_route};
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::{
    BlobInfo, BlobName, BlobStore, BlobStream, Capability, CapabilityKey, DeleteOptions, Digest,
    Grant, ListOptions, MAX_BLOB_BYTES, PutOptions, Version, client::SIZE,
};
use crate::{Error, Result, error::one_line};

/// The HTTP API over a blob store.
#[derive(Debug, Clone)]
pub struct BlobServer {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    /// What clients see.
    store: Arc<dyn BlobStore>,
    /// What this replica alone has.
    local: Arc<dyn BlobStore>,
    keys: Keys,
    capabilities: Option<CapabilityKey>,
}

impl BlobServer {
    /// Serves `store` to those who have one of `keys`.
    #[must_use]
    pub fn new(store: Arc<dyn BlobStore>, keys: Keys) -> Self {
        Self {
            parts: Arc::new(Parts {
                local: Arc::clone(&store),
                store,
                keys,
                capabilities: None,
            }),
        }
    }

    /// What other replicas read and write: this one's own store, without passing anything on.
    #[must_use]
    pub fn with_local(self, local: Arc<dyn BlobStore>) -> Self {
        self.with(|parts| parts.local = local)
    }

    /// Accepts capabilities signed with `key`.
    #[must_use]
    pub fn with_capabilities(self, key: CapabilityKey) -> Self {
        self.with(|parts| parts.capabilities = Some(key))
    }

    /// The routes, for [`flynn_discovery::http::serve`].
    pub fn router(&self) -> Router {
        let parts = Arc::clone(&self.parts);
        Router::new()
            .fallback(handle)
            .with_state(parts)
            .merge(status_route(env!("CARGO_PKG_VERSION"), || async {
                Health::healthy()
            }))
    }

    fn with(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        let old = &self.parts;
        let mut parts = Parts {
            store: Arc::clone(&old.store),
            local: Arc::clone(&old.local),
            keys: old.keys.clone(),
            capabilities: old.capabilities.clone(),
        };
        change(&mut parts);
        self.parts = Arc::new(parts);
        self
    }
}

async fn handle(State(parts): State<Arc<Parts>>, request: Request) -> Response {
    match parts.answer(request).await {
        Ok(response) => response,
        Err(error) => refuse(error),
    }
}

impl Parts {
    async fn answer(&self, request: Request) -> Result<Response> {
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        let path = head.uri.path().strip_prefix('/').unwrap_or_default();
        let limit = self.permit(&head.method, path, query, &head.headers)?;
        let store = if head.headers.contains_key(SCOPE) {
            &self.local
        } else {
            &self.store
        };
        if path.is_empty() {
            return match head.method {
                Method::GET | Method::HEAD => list(&**store, query).await,
                _ => Ok(StatusCode::METHOD_NOT_ALLOWED.into_response()),
            };
        }
        let name = BlobName::parse(path)?;
        match head.method {
            Method::GET => {
                let blob = store.get(&name).await?;
                let mut response = Body::from_stream(blob.body).into_response();
                describe(response.headers_mut(), &blob.info);
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, HeaderValue::from(blob.info.size));
                Ok(response)
            }
            Method::HEAD => {
                let info = store.head(&name).await?;
                let mut response = ().into_response();
                describe(response.headers_mut(), &info);
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, HeaderValue::from(info.size));
                Ok(response)
            }
            Method::PUT => {
                let mut options = put_options(&head.headers, limit)?;
                if let Some(digest) = limit.digest {
                    options.sha256 = Some(digest);
                }
                let body = body
                    .into_data_stream()
                    .map_err(|e| Error::upstream("the upload broke off", e))
                    .boxed();
                let info = store.put(&name, body, options).await?;
                let mut response = ().into_response();
                describe(response.headers_mut(), &info);
                Ok(response)
            }
            Method::DELETE => {
                let mut options = DeleteOptions::default();
                if let Some(version) = number(&head.headers, VERSION)? {
                    options = options.with_version(Version(version));
                }
                store.delete(&name, options).await?;
                Ok(StatusCode::OK.into_response())
            }
            _ => Ok(StatusCode::METHOD_NOT_ALLOWED.into_response()),
        }
    }

    /// May the caller do this, and how much of it?
    fn permit(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        headers: &HeaderMap,
    ) -> Result<Permit> {
        if presented_key(headers).is_some_and(|key| self.keys.contains(&key)) {
            return Ok(Permit {
                limit: MAX_BLOB_BYTES,
                digest: None,
            });
        }
        let denied = |why: &str| Error::Denied {
            why: why.to_owned(),
        };
        let (Some(key), Some(capability)) = (&self.capabilities, Capability::from_query(query))
        else {
            return Err(denied(NO_KEY));
        };
        key.check(&capability)?;
        // A capability writes one version after the other; it is not a replica.
        if headers.contains_key(SCOPE) || headers.contains_key(VERSION) {
            return Err(denied("a capability does not copy versions"));
        }
        let mut permit = Permit {
            limit: capability.limit,
            digest: None,
        };
        let granted = match &capability.grant {
            Grant::Get(on) => method == Method::GET && on == path,
            Grant::Put(on) => method == Method::PUT && on == path,
            Grant::PutByDigest(dir) => {
                permit.digest = path
                    .strip_prefix(dir.as_str())
                    .and_then(|rest| rest.strip_prefix('/')?.strip_suffix(".tgz"))
                    .and_then(|digest| Digest::parse(digest).ok());
                method == Method::PUT && permit.digest.is_some()
            }
        };
        if granted {
            Ok(permit)
        } else {
            Err(denied("the URL was signed for something else"))
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Permit {
    limit: u64,
    /// The SHA-256 that the body must have, because the name says so.
    digest: Option<Digest>,
}

fn put_options(headers: &HeaderMap, permit: Permit) -> Result<PutOptions> {
    let asked = number(headers, LIMIT)?.unwrap_or(MAX_BLOB_BYTES);
    let mut options = PutOptions::new().with_limit(asked.min(permit.limit));
    if let Some(sha256) = text(headers, SHA256) {
        options = options.with_sha256(Digest::parse(sha256)?);
    }
    if let Some(version) = number(headers, VERSION)? {
        options = options.with_version(Version(version));
    }
    if let Some(size) = number(headers, header::CONTENT_LENGTH)? {
        options = options.with_size(size);
    }
    Ok(options)
}

/// `?dir=` answers a sorted list of names, as the original does; with `info=true` a [`Page`](super::Page).
async fn list(store: &dyn BlobStore, query: &str) -> Result<Response> {
    let query: HashMap<&str, &str> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let mut options = ListOptions::prefix(
        query
            .get("dir")
            .map(|dir| dir.trim_start_matches('/').replace("%2F", "/"))
            .unwrap_or_default(),
    );
    options.deleted = query.get("deleted") == Some(&"true");
    if let Some(limit) = query.get("limit") {
        options.limit = limit
            .parse()
            .map_err(|_| Error::invalid("limit", "a number is needed"))?;
    }
    if let Some(after) = query.get("after") {
        options.after = Some(BlobName::parse(*after)?);
    }
    if query.get("info") == Some(&"true") {
        return Ok(axum::Json(store.list(options).await?).into_response());
    }
    let mut names = Vec::new();
    loop {
        let page = store.list(options.clone()).await?;
        options.after = page.blobs.last().map(|blob| blob.name.clone());
        names.extend(page.blobs.into_iter().map(|blob| blob.name));
        if !page.more {
            return Ok(axum::Json(names).into_response());
        }
    }
}

fn describe(headers: &mut HeaderMap, info: &BlobInfo) {
    let etag = format!("\"{}\"", info.sha256);
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(VERSION, HeaderValue::from(info.version.0));
    headers.insert(SIZE, HeaderValue::from(info.size));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn number(headers: &HeaderMap, name: HeaderName) -> Result<Option<u64>> {
    let what = name.to_string();
    text(headers, name)
        .map(|text| {
            text.parse()
                .map_err(|_| Error::invalid(what, "a number is needed"))
        })
        .transpose()
}

fn refuse(error: Error) -> Response {
    let status = match &error {
        Error::NotFound { .. } => {
            return (StatusCode::NOT_FOUND, "NotFound\n").into_response();
        }
        Error::Denied { why } if why == NO_KEY => {
            let challenge = HeaderValue::from_static("Basic realm=\"flynn\"");
            return (
                StatusCode::UNAUTHORIZED,
                [(header::WWW_AUTHENTICATE, challenge)],
            )
                .into_response();
        }
        Error::Denied { .. } => StatusCode::FORBIDDEN,
        Error::Invalid { .. } | Error::Refused { .. } => {
            return Failure::validation("", &error.to_string()).into_response();
        }
        Error::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Error::Unavailable { .. } | Error::Stopped { .. } => {
            return Failure::unavailable(error.to_string()).into_response();
        }
        Error::Storage { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        Error::Storage { .. } | Error::Corrupt { .. } | Error::Upstream { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    let code = match status {
        StatusCode::FORBIDDEN => "unauthorized",
        StatusCode::PAYLOAD_TOO_LARGE => "request_body_too_big",
        StatusCode::INSUFFICIENT_STORAGE => "storage_full",
        _ => "unknown_error",
    };
    let message = one_line(&error);
    if status.is_server_error() {
        warn!(message, "a blob request failed");
    }
    Failure::new(status, code, message).into_response()
}

/// Passes `body` on and ends in an error unless it is what `info` says.
pub(super) fn checked(body: BlobStream, info: &BlobInfo) -> BlobStream {
    let state = (body, Sha256::new(), 0, info.clone(), false);
    futures::stream::try_unfold(
        state,
        |(mut body, mut hasher, mut size, info, over)| async move {
            if over {
                return Ok(None);
            }
            if let Some(chunk) = body.next().await.transpose()? {
                hasher.update(&chunk);
                size += chunk.len() as u64;
                return Ok(Some((chunk, (body, hasher, size, info, false))));
            }
            if size == info.size && Digest::finish(hasher.clone()) == info.sha256 {
                return Ok(None);
            }
            Err(Error::Corrupt {
                name: info.name,
                why: format!("{size} bytes arrived that are not those sent"),
            })
        },
    )
    .boxed()
}

/// `local`: this replica alone is meant.
pub(super) const SCOPE: HeaderName = HeaderName::from_static("blobstore-scope");
/// The SHA-256 a body must have.
pub(super) const SHA256: HeaderName = HeaderName::from_static("blobstore-sha256");
/// The version of a blob.
pub(super) const VERSION: HeaderName = HeaderName::from_static("blobstore-version");
/// The most bytes to accept.
pub(super) const LIMIT: HeaderName = HeaderName::from_static("blobstore-limit");

const NO_KEY: &str = "a key is needed";
