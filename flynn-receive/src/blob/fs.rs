//! Blobs as files in one directory.
//!
//! A blob is one file: a header of [`HEADER_LEN`] bytes that says what follows, then the bytes. It is written
//! elsewhere, synced, and renamed into place, so that a reader sees the old blob or the new one and a crash leaves
//! nothing between. A deleted blob leaves its header for [`MEMORY_OF_DELETED`], so that a replica that was away does
//! not bring it back.

use std::{
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::BytesMut;
use futures::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    sync::Mutex,
};
use tracing::{debug, warn};

use super::{
    Blob, BlobInfo, BlobName, BlobStore, BlobStream, CHUNK, DeleteOptions, Digest, ListOptions,
    MAX_BLOB_BYTES, Page, PutOptions, Version, unix_millis,
};
use crate::{Error, Result};

/// Blobs as files in one directory, checksummed, written whole or not at all.
///
/// One process owns the directory; clones share it.
#[derive(Debug, Clone)]
pub struct FsBlobStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Finished blobs, one file each; `/` in a name is `%` in the file's.
    blobs: PathBuf,
    /// Blobs on their way in. Emptied at each start.
    incoming: PathBuf,
    /// Held between the comparison of versions and the rename.
    commit: Mutex<()>,
}

impl FsBlobStore {
    /// Opens the store in `dir`, making it if absent, and removes what a crash left half written.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] when the directory cannot be made or read.
    pub async fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let inner = Inner {
            blobs: dir.join("blobs"),
            incoming: dir.join("incoming"),
            commit: Mutex::new(()),
        };
        match fs::remove_dir_all(&inner.incoming).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::storage(format!(
                    "clear {}",
                    inner.incoming.display()
                ))(error));
            }
            _ => {}
        }
        for path in [&inner.blobs, &inner.incoming] {
            fs::create_dir_all(path)
                .await
                .map_err(Error::storage(format!("create {}", path.display())))?;
        }
        sync_dir(dir).await?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Reads all of `name` and compares it with its checksum.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Corrupt`] when a single bit is wrong.
    pub async fn verify(&self, name: &BlobName) -> Result<BlobInfo> {
        let mut blob = self.get(name).await?;
        while let Some(chunk) = blob.body.next().await {
            chunk?;
        }
        Ok(blob.info)
    }

    /// What is known of `name`, also if it was deleted; `None` if it never was or its header is damaged.
    pub(crate) async fn remembered(&self, name: &BlobName) -> Option<BlobInfo> {
        self.header(name).await.ok()
    }

    /// Forgets blobs that were deleted longer ago than [`MEMORY_OF_DELETED`]. Returns how many.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] when the disk failed.
    pub async fn forget_deleted(&self) -> Result<usize> {
        let horizon = unix_millis()
            .saturating_sub(u64::try_from(MEMORY_OF_DELETED.as_millis()).unwrap_or(u64::MAX));
        let mut forgotten = 0;
        for name in self.names("").await? {
            let _commit = self.inner.commit.lock().await;
            match self.header(&name).await {
                Ok(info) if info.deleted && info.version.0 < horizon => {
                    fs::remove_file(self.path(&name))
                        .await
                        .map_err(Error::storage(format!("forget blob {name}")))?;
                    forgotten += 1;
                }
                _ => {}
            }
        }
        Ok(forgotten)
    }

    fn path(&self, name: &BlobName) -> PathBuf {
        self.inner.blobs.join(name.as_str().replace('/', "%"))
    }

    async fn names(&self, prefix: &str) -> Result<Vec<BlobName>> {
        let failed = || Error::storage(format!("list {}", self.inner.blobs.display()));
        let mut dir = fs::read_dir(&self.inner.blobs).await.map_err(failed())?;
        let mut names = Vec::new();
        while let Some(entry) = dir.next_entry().await.map_err(failed())? {
            let Some(name) = entry.file_name().to_str().map(|n| n.replace('%', "/")) else {
                continue;
            };
            match BlobName::parse(name) {
                Ok(name) if name.as_str().starts_with(prefix) => names.push(name),
                Ok(_) => {}
                Err(error) => debug!(%error, "a file among the blobs is not one"),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn header(&self, name: &BlobName) -> Result<BlobInfo> {
        Ok(self.open_file(name).await?.1)
    }

    async fn open_file(&self, name: &BlobName) -> Result<(File, BlobInfo)> {
        let failed = || Error::storage(format!("read blob {name}"));
        let mut file = match File::open(self.path(name)).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotFound { name: name.clone() });
            }
            Err(error) => return Err(failed()(error)),
        };
        let corrupt = |why: &str| Error::Corrupt {
            name: name.clone(),
            why: why.to_owned(),
        };
        let mut header = [0; HEADER_LEN];
        match file.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(corrupt("its header is cut short"));
            }
            Err(error) => return Err(failed()(error)),
        }
        let info = parse_header(name, &header).ok_or_else(|| corrupt("its header is not one"))?;
        let len = file.metadata().await.map_err(failed())?.len();
        if len != info.size + HEADER_LEN as u64 {
            return Err(corrupt(&format!(
                "it has {} bytes where {} were written",
                len.saturating_sub(HEADER_LEN as u64),
                info.size
            )));
        }
        Ok((file, info))
    }

    /// Puts `staged` in the place of what is stored, unless that is as new; `info.version` 0 takes the next version.
    async fn commit(&self, staged: Staged, mut info: BlobInfo) -> Result<BlobInfo> {
        let _commit = self.inner.commit.lock().await;
        let name = info.name.clone();
        let failed = || Error::storage(format!("store blob {name}"));
        let present = self.header(&name).await;
        let version = present.as_ref().ok().map(|p| p.version);
        if info.version == Version::default() {
            info.version = Version::next(version);
        } else if let Ok(present) = present
            && present.version >= info.version
        {
            // The same version may be damaged here: then the copy that comes in replaces it.
            let sound = present.deleted || self.verify(&name).await.is_ok();
            if present.version > info.version || sound {
                return Ok(present);
            }
        }
        let mut file = staged.file;
        file.seek(SeekFrom::Start(0)).await.map_err(failed())?;
        file.write_all(&header_of(&info)).await.map_err(failed())?;
        file.flush().await.map_err(failed())?;
        file.sync_all().await.map_err(failed())?;
        fs::rename(&staged.path.0, self.path(&name))
            .await
            .map_err(failed())?;
        sync_dir(&self.inner.blobs).await?;
        Ok(info)
    }

    async fn stage(&self) -> Result<Staged> {
        let path = self
            .inner
            .incoming
            .join(uuid::Uuid::new_v4().simple().to_string());
        let failed = || Error::storage(format!("write {}", path.display()));
        let mut file = File::create_new(&path).await.map_err(failed())?;
        let path = TempPath(path.clone());
        file.write_all(&[b' '; HEADER_LEN])
            .await
            .map_err(failed())?;
        Ok(Staged { file, path })
    }
}

#[async_trait]
impl BlobStore for FsBlobStore {
    async fn put(
        &self,
        name: &BlobName,
        mut body: BlobStream,
        options: PutOptions,
    ) -> Result<BlobInfo> {
        let limit = options.limit.unwrap_or(MAX_BLOB_BYTES);
        let mut staged = self.stage().await?;
        let mut hasher = Sha256::new();
        let mut size = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            size += chunk.len() as u64;
            if size > limit {
                return Err(Error::TooLarge {
                    what: format!("blob {name}"),
                    limit,
                });
            }
            hasher.update(&chunk);
            staged
                .file
                .write_all(&chunk)
                .await
                .map_err(Error::storage(format!("store blob {name}")))?;
        }
        let sha256 = Digest::finish(hasher);
        if let Some(expected) = options.size.filter(|expected| *expected != size) {
            return Err(Error::invalid(
                format!("blob {name}"),
                format!("{size} bytes came where {expected} were announced"),
            ));
        }
        if let Some(expected) = options.sha256.filter(|expected| *expected != sha256) {
            return Err(Error::invalid(
                format!("blob {name}"),
                format!("its SHA-256 is {sha256} where {expected} was announced"),
            ));
        }
        let info = BlobInfo {
            name: name.clone(),
            version: options.version.unwrap_or_default(),
            size,
            sha256,
            deleted: false,
        };
        self.commit(staged, info).await
    }

    async fn get(&self, name: &BlobName) -> Result<Blob> {
        let (file, info) = self.open_file(name).await?;
        if info.deleted {
            return Err(Error::NotFound { name: name.clone() });
        }
        let state = Reading {
            file,
            hasher: Sha256::new(),
            left: info.size,
            info: info.clone(),
        };
        let body = futures::stream::try_unfold(Some(state), read_chunk).boxed();
        Ok(Blob { info, body })
    }

    async fn head(&self, name: &BlobName) -> Result<BlobInfo> {
        let info = self.header(name).await?;
        if info.deleted {
            return Err(Error::NotFound { name: name.clone() });
        }
        Ok(info)
    }

    async fn delete(&self, name: &BlobName, options: DeleteOptions) -> Result<()> {
        if options.version.is_none() && !fs::try_exists(self.path(name)).await.unwrap_or(true) {
            return Ok(());
        }
        let staged = self.stage().await?;
        let info = BlobInfo {
            name: name.clone(),
            version: options.version.unwrap_or_default(),
            size: 0,
            sha256: Digest::of(b""),
            deleted: true,
        };
        self.commit(staged, info).await?;
        Ok(())
    }

    async fn list(&self, options: ListOptions) -> Result<Page> {
        let limit = options.limit.clamp(1, ListOptions::MAX_LIMIT);
        let mut blobs = Vec::new();
        for name in self.names(&options.prefix).await? {
            if options.after.as_ref().is_some_and(|after| name <= *after) {
                continue;
            }
            match self.header(&name).await {
                Ok(info) if info.deleted && !options.deleted => {}
                Ok(_) if blobs.len() == limit => return Ok(Page { blobs, more: true }),
                Ok(info) => blobs.push(info),
                Err(Error::NotFound { .. }) => {}
                Err(error @ Error::Corrupt { .. }) => warn!(%error, "left out of a list"),
                Err(error) => return Err(error),
            }
        }
        Ok(Page { blobs, more: false })
    }
}

struct Reading {
    file: File,
    hasher: Sha256,
    left: u64,
    info: BlobInfo,
}

/// The next bytes. The last ones are given out only when the checksum of all is right.
async fn read_chunk(state: Option<Reading>) -> Result<Option<(bytes::Bytes, Option<Reading>)>> {
    let Some(mut state) = state else {
        return Ok(None);
    };
    let corrupt = |why: &str| Error::Corrupt {
        name: state.info.name.clone(),
        why: why.to_owned(),
    };
    let want = usize::try_from(state.left).unwrap_or(CHUNK).min(CHUNK);
    let mut chunk = BytesMut::with_capacity(want);
    while chunk.len() < want {
        let read = (&mut state.file)
            .take((want - chunk.len()) as u64)
            .read_buf(&mut chunk)
            .await
            .map_err(Error::storage(format!("read blob {}", state.info.name)))?;
        if read == 0 {
            return Err(corrupt("it ends early"));
        }
    }
    state.hasher.update(&chunk);
    state.left -= chunk.len() as u64;
    if state.left > 0 {
        return Ok(Some((chunk.freeze(), Some(state))));
    }
    let sha256 = Digest::finish(std::mem::take(&mut state.hasher));
    if sha256 != state.info.sha256 {
        return Err(corrupt(&format!(
            "its SHA-256 is {sha256} where {} was written",
            state.info.sha256
        )));
    }
    Ok((!chunk.is_empty()).then(|| (chunk.freeze(), None)))
}

/// A blob on its way in; dropped before its commit, it leaves nothing.
struct Staged {
    file: File,
    path: TempPath,
}

struct TempPath(PathBuf);

impl Drop for TempPath {
    fn drop(&mut self) {
        // After the rename there is nothing to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn header_of(info: &BlobInfo) -> Vec<u8> {
    let state = if info.deleted { "deleted" } else { "stored" };
    let mut header = format!(
        "flynn-blob 1 {state} version={} size={} sha256={}",
        info.version, info.size, info.sha256
    )
    .into_bytes();
    header.resize(HEADER_LEN - 1, b' ');
    header.push(b'\n');
    header
}

fn parse_header(name: &BlobName, header: &[u8]) -> Option<BlobInfo> {
    let text = std::str::from_utf8(header).ok()?.strip_suffix('\n')?;
    let mut words = text.strip_prefix("flynn-blob 1 ")?.split_ascii_whitespace();
    let deleted = match words.next()? {
        "stored" => false,
        "deleted" => true,
        _ => return None,
    };
    let mut field = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=');
    Some(BlobInfo {
        name: name.clone(),
        version: Version(field("version")?.parse().ok()?),
        size: field("size")?.parse().ok()?,
        sha256: Digest::parse(field("sha256")?).ok()?,
        deleted,
    })
}

async fn sync_dir(dir: &Path) -> Result<()> {
    let failed = || Error::storage(format!("sync {}", dir.display()));
    let file = File::open(dir).await.map_err(failed())?;
    file.sync_all().await.map_err(failed())
}

/// The length of the header before a blob's bytes.
pub(crate) const HEADER_LEN: usize = 192;

/// How long a deleted blob is remembered: a replica may be away that long and still learn of it.
pub const MEMORY_OF_DELETED: Duration = Duration::from_secs(7 * 24 * 3600);
