//! Artifacts behind HTTP: at any URL, or in the cell's blob store.

use std::io;

use ::http::{HeaderMap, Method};
use async_trait::async_trait;
use axum::body::Body;
use flynn_discovery::{
    Registry, ServiceName,
    http::{Client, ClientError, Secret},
};
use futures::TryStreamExt;
use http_body_util::BodyExt;
use tokio_util::io::StreamReader;

use super::{ArtifactReader, ArtifactSource};
use crate::{Error, Result};

/// Reads `http://host:port/path`.
#[derive(Debug, Clone, Copy, Default)]
pub struct HttpSource;

#[async_trait]
impl ArtifactSource for HttpSource {
    async fn open(&self, uri: &str) -> Result<ArtifactReader> {
        let rest = uri.strip_prefix("http://").unwrap_or_default();
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let client = Client::new(vec![format!("http://{host}")]).map_err(|e| failed(uri, &e))?;
        read(uri, &client, if path.is_empty() { "/" } else { path }).await
    }
}

/// Reads `blob:path` from any instance of the service `blobstore`.
#[derive(Debug, Clone)]
pub struct BlobSource {
    registry: Registry,
    key: Secret,
}

impl BlobSource {
    /// The service that keeps blobs.
    pub const SERVICE: &'static str = "blobstore";

    /// Finds the blob store in `registry` and presents `key` to it.
    #[must_use]
    pub fn new(registry: Registry, key: Secret) -> Self {
        Self { registry, key }
    }
}

#[async_trait]
impl ArtifactSource for BlobSource {
    async fn open(&self, uri: &str) -> Result<ArtifactReader> {
        let absent = |why: String| Error::Artifact {
            uri: uri.to_owned(),
            why,
            is_transient: true,
        };
        let service = ServiceName::parse(Self::SERVICE).map_err(|e| absent(e.to_string()))?;
        let instances = self
            .registry
            .instances(&service)
            .await
            .map_err(|e| absent(format!("the blob store could not be looked up: {e}")))?;
        let path = format!("/{}", uri.strip_prefix("blob:").unwrap_or_default());
        let mut last = absent("no instance of the blob store is up".to_owned());
        // Each by itself: one that does not have it may only be behind.
        for instance in instances {
            let client = Client::new(vec![format!("http://{}", instance.addr)])
                .map_err(|e| failed(uri, &e))?
                .with_key(self.key.clone())
                .with_noun("blob store");
            match read(uri, &client, &path).await {
                Ok(reader) => return Ok(reader),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

async fn read(uri: &str, client: &Client, path: &str) -> Result<ArtifactReader> {
    let response = client
        .bytes(Method::GET, path, HeaderMap::new(), Body::empty())
        .await
        .map_err(|e| failed(uri, &e))?;
    let bytes = response
        .into_body()
        .into_data_stream()
        .map_err(io::Error::other);
    Ok(Box::new(StreamReader::new(Box::pin(bytes))))
}

fn failed(uri: &str, error: &ClientError) -> Error {
    Error::Artifact {
        uri: uri.to_owned(),
        why: error.to_string(),
        // What is not there yet may be there soon: blobs are copied between instances.
        is_transient: error.is_transient() || error.is_not_found(),
    }
}
