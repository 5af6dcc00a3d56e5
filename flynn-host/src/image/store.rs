//! A store of artifacts: fetched once, verified, cached, unpacked.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use flynn_sched::Artifact;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use uuid::Uuid;

use super::{
    ArtifactReader, ArtifactSource, FileSource, ImageStore,
    unpack::{UnpackLimits, unpack},
};
use crate::{Error, Result, error::is_disk_full};

/// Fetches artifacts from sources by the scheme of their URI, keeps them by their checksum, and unpacks them.
///
/// A source for `file:` is built in.
#[derive(Debug)]
pub struct ArtifactStore {
    dir: PathBuf,
    sources: BTreeMap<String, Arc<dyn ArtifactSource>>,
    max_cache_bytes: u64,
    limits: UnpackLimits,
    /// Held while an artifact is fetched, so that those who want it at the same time wait for the one fetch.
    fetching: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl ArtifactStore {
    /// How much is kept, if nothing else is said.
    pub const DEFAULT_CACHE_BYTES: u64 = 4 << 30;

    /// A store that keeps artifacts below `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let file: Arc<dyn ArtifactSource> = Arc::new(FileSource);
        Self {
            dir: dir.into(),
            sources: BTreeMap::from([("file".to_owned(), file)]),
            max_cache_bytes: Self::DEFAULT_CACHE_BYTES,
            limits: UnpackLimits::default(),
            fetching: Mutex::default(),
        }
    }

    /// Fetches URIs that begin with `scheme:` from `source`.
    #[must_use]
    pub fn with_source(mut self, scheme: &str, source: impl ArtifactSource) -> Self {
        self.sources.insert(scheme.to_owned(), Arc::new(source));
        self
    }

    /// Keeps at most so many bytes; those used least recently go first.
    #[must_use]
    pub fn with_cache_bytes(mut self, bytes: u64) -> Self {
        self.max_cache_bytes = bytes;
        self
    }

    /// Refuses archives beyond these limits.
    #[must_use]
    pub fn with_limits(mut self, limits: UnpackLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The artifact's file, fetched unless it is here already.
    async fn open(&self, artifact: &Artifact) -> Result<File> {
        let key = artifact
            .sha256
            .clone()
            .unwrap_or_else(|| artifact.uri.clone());
        let turn = Arc::clone(self.fetching.lock().entry(key.clone()).or_default());
        let result = {
            let _turn = turn.lock().await;
            self.open_or_fetch(artifact).await
        };
        drop(turn);
        let mut fetching = self.fetching.lock();
        if fetching
            .get(&key)
            .is_some_and(|turn| Arc::strong_count(turn) == 1)
        {
            fetching.remove(&key);
        }
        result
    }

    async fn open_or_fetch(&self, artifact: &Artifact) -> Result<File> {
        if let Some(sha256) = &artifact.sha256 {
            let is_hex = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
            if !is_hex {
                return Err(failed(artifact, format!("{sha256:?} is no SHA-256"), false));
            }
            if let Ok(file) = File::open(self.cached(&sha256.to_lowercase())) {
                // The time of last use decides what is dropped first. It is only a hint.
                let _ = file.set_modified(crate::wall::wall());
                return Ok(file);
            }
        }
        let scheme = artifact.uri.split(':').next().unwrap_or_default();
        let Some(source) = self.sources.get(scheme) else {
            let known: Vec<&str> = self.sources.keys().map(String::as_str).collect();
            let why = format!("no source for {scheme:?}; there are {}", known.join(", "));
            return Err(failed(artifact, why, false));
        };
        let reader = source.open(&artifact.uri).await?;
        self.fetch(artifact, reader).await
    }

    async fn fetch(&self, artifact: &Artifact, reader: ArtifactReader) -> Result<File> {
        let temporary = self.dir.join(format!("fetch-{}", Uuid::new_v4()));
        let result = self.fetch_to(artifact, reader, &temporary).await;
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    async fn fetch_to(
        &self,
        artifact: &Artifact,
        mut reader: ArtifactReader,
        temporary: &Path,
    ) -> Result<File> {
        let disk = |e: io::Error| Error::file("write", temporary, e);
        fs::create_dir_all(&self.dir).map_err(disk)?;
        let mut file = tokio::fs::File::create(temporary).await.map_err(disk)?;
        let mut hash = Sha256::new();
        let mut size = 0u64;
        let mut buffer = vec![0; BLOCK];
        loop {
            let read = timeout(STALL, reader.read(&mut buffer)).await;
            let count = match read {
                Ok(Ok(0)) => break,
                Ok(Ok(count)) => count,
                Ok(Err(e)) => {
                    return Err(failed(artifact, format!("the fetch broke off: {e}"), true));
                }
                Err(_) => {
                    let why = format!("nothing came for {} s", STALL.as_secs());
                    return Err(failed(artifact, why, true));
                }
            };
            size += count as u64;
            if artifact.size.is_some_and(|expected| size > expected) || size > self.limits.bytes {
                return Err(failed(
                    artifact,
                    "it is larger than announced".to_owned(),
                    false,
                ));
            }
            hash.update(&buffer[..count]);
            file.write_all(&buffer[..count]).await.map_err(disk)?;
        }
        if let Some(expected) = artifact.size.filter(|expected| *expected != size) {
            let why = format!("it has {size} bytes where {expected} were announced");
            return Err(failed(artifact, why, true));
        }
        let sha256 = hex::encode(hash.finalize());
        if let Some(expected) = &artifact.sha256
            && !expected.eq_ignore_ascii_case(&sha256)
        {
            let why = format!("its SHA-256 is {sha256} and should be {expected}");
            return Err(failed(artifact, why, false));
        }
        // What is under its checksum is never checked again: it must be on the disk before it is there.
        file.sync_all().await.map_err(disk)?;
        drop(file);
        let path = self.cached(&sha256);
        let opened = File::open(temporary).map_err(disk)?;
        fs::rename(temporary, path).map_err(disk)?;
        self.shrink();
        Ok(opened)
    }

    fn cached(&self, sha256: &str) -> PathBuf {
        self.dir.join(format!("sha256-{sha256}"))
    }

    /// Drops what was used least recently, until the rest is within the bound. Open files stay readable.
    fn shrink(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        let mut files: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("sha256-"))
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= self.max_cache_bytes {
                return;
            }
            if fs::remove_file(path).is_ok() {
                total -= size;
            }
        }
    }
}

#[async_trait]
impl ImageStore for ArtifactStore {
    async fn unpack(&self, artifacts: &[Artifact], root: &Path) -> Result<()> {
        for artifact in artifacts {
            let file = self.open(artifact).await?;
            let (root, limits) = (root.to_owned(), self.limits);
            let unpacked = tokio::task::spawn_blocking({
                let root = root.clone();
                move || unpack(file, &root, limits)
            });
            unpacked.await.map_err(|_| Error::Closed)?.map_err(|e| {
                if is_disk_full(&e) {
                    Error::DiskFull { dir: root }
                } else {
                    failed(artifact, e.to_string(), false)
                }
            })?;
        }
        Ok(())
    }
}

fn failed(artifact: &Artifact, why: String, is_transient: bool) -> Error {
    Error::Artifact {
        uri: artifact.uri.clone(),
        why,
        is_transient,
    }
}

const BLOCK: usize = 256 * 1024;

/// A fetch that brings nothing for so long is given up.
const STALL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
