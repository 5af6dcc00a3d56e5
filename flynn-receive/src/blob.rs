//! Blobs: slugs, sources and caches, stored whole, checked whole.
//!
//! Implement [`BlobStore`] to keep blobs elsewhere. A blob has a name, a version and a SHA-256; writers replace it as
//! one step, and of two versions of a name the higher one stays.

mod capability;
mod client;
mod fs;
mod name;
mod peers;
mod registry_peers;
mod replicated;
mod server;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

pub use capability::{Capability, CapabilityKey, Grant};
pub use client::HttpBlobStore;
pub use fs::{FsBlobStore, MEMORY_OF_DELETED};
pub use name::BlobName;
pub use peers::{Peer, Peers, StaticPeers};
pub use registry_peers::RegistryPeers;
pub use replicated::{PUT_DEADLINE, ReplicatedBlobStore, SYNC_INTERVAL};
pub use server::BlobServer;

/// The bytes of a blob on their way. An `Err` item is the last: what came before it must not be used.
pub type BlobStream = BoxStream<'static, Result<Bytes>>;

/// A store of blobs.
///
/// # Contract
///
/// Each sentence below is a case of the conformance suite.
#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// Stores `body` as `name`, replacing what was there as one step.
    ///
    /// When it returns, the blob survives a crash; when it fails, what was there before is there still. A put whose
    /// version is not higher than the one stored changes nothing and returns what is stored.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when `body` is not what `options` says; [`Error::TooLarge`] over its limit;
    /// [`Error::Storage`] when the disk failed or is full; the error of `body` if it ends with one.
    async fn put(&self, name: &BlobName, body: BlobStream, options: PutOptions)
    -> Result<BlobInfo>;

    /// Opens `name` for reading. The bytes are checked as they are read: a damaged blob ends in an error, never in
    /// wrong bytes followed by a normal end.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Corrupt`] when damage is seen at once.
    async fn get(&self, name: &BlobName) -> Result<Blob>;

    /// What is known of `name` without reading it.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    async fn head(&self, name: &BlobName) -> Result<BlobInfo>;

    /// Deletes `name`. Deleting an absent blob succeeds. A delete whose version is not higher than the one stored
    /// changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] when the disk failed.
    async fn delete(&self, name: &BlobName, options: DeleteOptions) -> Result<()>;

    /// One page of what is stored, in the order of the names.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] when the disk failed.
    async fn list(&self, options: ListOptions) -> Result<Page>;
}

/// What a put promises about its body.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PutOptions {
    /// The SHA-256 the body must have.
    pub sha256: Option<Digest>,
    /// The size the body must have.
    pub size: Option<u64>,
    /// The most bytes to accept; [`MAX_BLOB_BYTES`] if absent.
    pub limit: Option<u64>,
    /// The version to store it as; the next one if absent.
    pub version: Option<Version>,
}

impl PutOptions {
    /// Nothing is promised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The body must have this SHA-256.
    #[must_use]
    pub fn with_sha256(mut self, sha256: Digest) -> Self {
        self.sha256 = Some(sha256);
        self
    }

    /// The body must have this size.
    #[must_use]
    pub const fn with_size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    /// No more bytes than this are accepted.
    #[must_use]
    pub const fn with_limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// It is a copy of this version.
    #[must_use]
    pub const fn with_version(mut self, version: Version) -> Self {
        self.version = Some(version);
        self
    }
}

/// Which version a delete is.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DeleteOptions {
    /// The version to store it as; the next one if absent.
    pub version: Option<Version>,
}

impl DeleteOptions {
    /// The delete is a copy of this version.
    #[must_use]
    pub const fn with_version(mut self, version: Version) -> Self {
        self.version = Some(version);
        self
    }
}

/// Which page of a list.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListOptions {
    /// Only names that begin with this text.
    pub prefix: String,
    /// Only names after this one.
    pub after: Option<BlobName>,
    /// At most so many.
    pub limit: usize,
    /// Also those deleted, which are remembered for a while so that a replica that was away learns of it.
    pub deleted: bool,
}

impl ListOptions {
    /// The largest page.
    pub const MAX_LIMIT: usize = 1000;

    /// The first page of the names that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            ..Self::default()
        }
    }
}

impl Default for ListOptions {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            after: None,
            limit: Self::MAX_LIMIT,
            deleted: false,
        }
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The blobs, in the order of their names.
    pub blobs: Vec<BlobInfo>,
    /// Are there names after the last?
    pub more: bool,
}

/// What is known of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    /// Its name.
    pub name: BlobName,
    /// Its version.
    pub version: Version,
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its bytes.
    pub sha256: Digest,
    /// Is this the memory of a deleted blob?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// A blob opened for reading.
pub struct Blob {
    /// What is known of it.
    pub info: BlobInfo,
    /// Its bytes.
    pub body: BlobStream,
}

impl Blob {
    /// Reads all of it into memory.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] over `limit`; what the stream ends with.
    pub async fn bytes(mut self, limit: u64) -> Result<Bytes> {
        let mut all = Vec::new();
        while let Some(chunk) = self.body.next().await {
            let chunk = chunk?;
            if all.len() as u64 + chunk.len() as u64 > limit {
                return Err(Error::TooLarge {
                    what: format!("blob {}", self.info.name),
                    limit,
                });
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("info", &self.info).finish()
    }
}

/// The position of a version of a name in time: milliseconds since 1970, moved on where two would be equal.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// The version of a change made now to what has version `present`.
    pub(crate) fn next(present: Option<Self>) -> Self {
        Self(unix_millis().max(present.map_or(0, |v| v.0 + 1)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Parses 64 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when `text` is not that.
    pub fn parse(text: &str) -> Result<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest)
            .map_err(|_| Error::invalid("SHA-256", "64 hexadecimal digits are needed"))?;
        Ok(Self(digest))
    }

    pub(crate) fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// The body of a put that is in memory already.
#[must_use]
pub fn body_of(bytes: impl Into<Bytes>) -> BlobStream {
    let bytes = bytes.into();
    futures::stream::once(async move { Ok(bytes) }).boxed()
}

/// The file at `path` as the body of a put.
///
/// # Errors
///
/// [`Error::Storage`] when it cannot be opened.
pub async fn body_of_file(path: &std::path::Path) -> Result<BlobStream> {
    let operation = format!("read {}", path.display());
    let file = tokio::fs::File::open(path)
        .await
        .map_err(Error::storage(operation.clone()))?;
    Ok(tokio_util::io::ReaderStream::with_capacity(file, CHUNK)
        .map(move |chunk| chunk.map_err(Error::storage(operation.clone())))
        .boxed())
}

/// Wall time, which only orders versions and dates capabilities.
#[expect(
    clippy::disallowed_methods,
    reason = "versions of blobs are compared across machines and restarts, which only wall time allows"
)]
pub(crate) fn unix_millis() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// The largest blob unless a put says otherwise: 4 GiB.
pub const MAX_BLOB_BYTES: u64 = 4 << 30;

/// How much of a blob is in memory at a time.
pub(crate) const CHUNK: usize = 64 << 10;
