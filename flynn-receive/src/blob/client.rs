//! A blob store behind HTTP.

use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use flynn_discovery::http::{Client, ClientError, Secret};
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use serde::de::IgnoredAny;

use super::{
    Blob, BlobInfo, BlobName, BlobStore, BlobStream, Capability, DeleteOptions, Digest,
    ListOptions, Page, PutOptions, Version,
    server::{LIMIT, SCOPE, SHA256, VERSION},
};
use crate::{Error, Result};

/// The blob store that a [`BlobServer`](super::BlobServer) serves at a URL.
#[derive(Debug, Clone)]
pub struct HttpBlobStore {
    client: Client,
    query: String,
    is_local: bool,
}

/// How long an upload may take from its first byte to the answer.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(15 * 60);

impl HttpBlobStore {
    /// The store at `endpoints`, URLs such as `http://10.0.0.1:8080`, tried in turn.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when one is not a URL.
    pub fn new(endpoints: Vec<String>) -> Result<Self> {
        let client = Client::new(endpoints)
            .map_err(|e| Error::invalid("blob store", e.to_string()))?
            .with_noun("blob store")
            .with_timeout(UPLOAD_TIMEOUT);
        Ok(Self {
            client,
            query: String::new(),
            is_local: false,
        })
    }

    /// Presents `key`.
    #[must_use]
    pub fn with_key(mut self, key: Secret) -> Self {
        self.client = self.client.with_key(key);
        self
    }

    /// Presents a capability instead of a key; only what it grants can be done then.
    #[must_use]
    pub fn with_capability(mut self, capability: &Capability) -> Self {
        self.query = format!("?{}", capability.to_query());
        self
    }

    /// Speaks to this replica alone: nothing is passed on to others or fetched from them.
    #[must_use]
    pub const fn one_replica(mut self) -> Self {
        self.is_local = true;
        self
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.is_local {
            headers.insert(SCOPE, HeaderValue::from_static("local"));
        }
        headers
    }

    fn path(&self, name: &BlobName) -> String {
        format!("/{name}{}", self.query)
    }

    async fn send(
        &self,
        method: Method,
        name: &BlobName,
        headers: HeaderMap,
        body: Body,
    ) -> Result<http::Response<hyper::body::Incoming>> {
        self.client
            .bytes(method, &self.path(name), headers, body)
            .await
            .map_err(|error| explain(error, name))
    }
}

#[async_trait]
impl BlobStore for HttpBlobStore {
    async fn put(
        &self,
        name: &BlobName,
        body: BlobStream,
        options: PutOptions,
    ) -> Result<BlobInfo> {
        let mut headers = self.headers();
        let mut set = |name: HeaderName, value: Option<String>| {
            if let Some(value) = value.and_then(|v| HeaderValue::try_from(v).ok()) {
                headers.insert(name, value);
            }
        };
        set(SHA256, options.sha256.map(|d| d.to_string()));
        set(VERSION, options.version.map(|v| v.to_string()));
        set(LIMIT, options.limit.map(|l| l.to_string()));
        set(header::CONTENT_LENGTH, options.size.map(|s| s.to_string()));
        let body = Body::from_stream(body);
        let response = self.send(Method::PUT, name, headers, body).await?;
        info_of(name, response.headers())
    }

    async fn get(&self, name: &BlobName) -> Result<Blob> {
        let response = self
            .send(Method::GET, name, self.headers(), Body::empty())
            .await?;
        let info = info_of(name, response.headers())?;
        let lost = format!("read blob {name} from {}", self.client.endpoints());
        let body = response
            .into_body()
            .into_data_stream()
            .map(move |chunk| chunk.map_err(|e| Error::upstream(lost.clone(), e)))
            .boxed();
        Ok(Blob {
            body: super::server::checked(body, &info),
            info,
        })
    }

    async fn head(&self, name: &BlobName) -> Result<BlobInfo> {
        let response = self
            .send(Method::HEAD, name, self.headers(), Body::empty())
            .await?;
        info_of(name, response.headers())
    }

    async fn delete(&self, name: &BlobName, options: DeleteOptions) -> Result<()> {
        let mut headers = self.headers();
        if let Some(version) = options.version {
            headers.insert(VERSION, HeaderValue::from(version.0));
        }
        self.send(Method::DELETE, name, headers, Body::empty())
            .await?;
        Ok(())
    }

    async fn list(&self, options: ListOptions) -> Result<Page> {
        let mut path = format!("/?dir={}&limit={}&info=true", options.prefix, options.limit);
        if let Some(after) = &options.after {
            path.push_str(&format!("&after={after}"));
        }
        if options.deleted {
            path.push_str("&deleted=true");
        }
        self.client.get(&path).await.map_err(|error| match error {
            ClientError::Denied { .. } => Error::Denied {
                why: error.to_string(),
            },
            error => Error::upstream("list blobs", error),
        })
    }
}

impl HttpBlobStore {
    /// Does the server answer, and is it well?
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when not.
    pub async fn ping(&self) -> Result<()> {
        self.client
            .get::<IgnoredAny>("/.well-known/status")
            .await
            .map(drop)
            .map_err(|e| Error::Unavailable {
                what: "blob store",
                why: e.to_string(),
            })
    }
}

fn info_of(name: &BlobName, headers: &HeaderMap) -> Result<BlobInfo> {
    let text = |key: HeaderName| headers.get(key).and_then(|v| v.to_str().ok());
    let info = || {
        Some(BlobInfo {
            name: name.clone(),
            version: Version(text(VERSION)?.parse().ok()?),
            size: text(SIZE)
                .or_else(|| text(header::CONTENT_LENGTH))?
                .parse()
                .ok()?,
            sha256: Digest::parse(text(header::ETAG)?.trim_matches('"')).ok()?,
            deleted: false,
        })
    };
    info().ok_or_else(|| Error::Upstream {
        what: format!("the blob store did not say what blob {name} is"),
        source: None,
    })
}

fn explain(error: ClientError, name: &BlobName) -> Error {
    if error.is_not_found() {
        return Error::NotFound { name: name.clone() };
    }
    match &error {
        ClientError::Denied { .. } => Error::Denied {
            why: error.to_string(),
        },
        ClientError::Status {
            status, message, ..
        } => match *status {
            StatusCode::FORBIDDEN => Error::Denied {
                why: message.clone(),
            },
            StatusCode::BAD_REQUEST => Error::invalid(format!("blob {name}"), message.clone()),
            StatusCode::PAYLOAD_TOO_LARGE => {
                Error::invalid(format!("blob {name}"), message.clone())
            }
            _ => Error::upstream(format!("blob {name}"), error),
        },
        _ if error.is_transient() => Error::Unavailable {
            what: "blob store",
            why: error.to_string(),
        },
        _ => Error::upstream(format!("blob {name}"), error),
    }
}

/// The size in an answer without a body.
pub(super) const SIZE: HeaderName = HeaderName::from_static("blobstore-size");
