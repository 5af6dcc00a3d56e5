//! What builds of an app keep for the next one: a directory, as a blob. Best effort: a build without it is only slower.

use std::path::Path;

use tracing::debug;

use crate::{
    Error, Result,
    blob::{BlobName, BlobStore, Digest, PutOptions, body_of_file},
    slug::{Ignore, Limits, MAX_CACHE_BYTES, pack, unpack},
};

/// The name of an app's cache.
pub(crate) fn name_of(app_id: &str) -> Result<BlobName> {
    BlobName::parse(format!("caches/{app_id}.tgz"))
}

/// Unpacks the cache `name` into `dir`. Returns what it was.
pub(crate) async fn fetch(
    blobs: &dyn BlobStore,
    name: &BlobName,
    dir: &Path,
    scratch: &Path,
) -> Option<Digest> {
    match try_fetch(blobs, name, dir, scratch).await {
        Ok(digest) => Some(digest),
        Err(error) => {
            if !matches!(error, Error::NotFound { .. }) {
                debug!(%error, "building without a cache");
            }
            // Half a cache is worse than none.
            let _ = tokio::fs::remove_dir_all(dir).await;
            None
        }
    }
}

async fn try_fetch(
    blobs: &dyn BlobStore,
    name: &BlobName,
    dir: &Path,
    scratch: &Path,
) -> Result<Digest> {
    let blob = blobs.get(name).await?;
    let digest = blob.info.sha256;
    let file = scratch.join("cache-in.tgz");
    download(blob, &file).await?;
    let dir = dir.to_owned();
    blocking(move || {
        let archive = std::fs::File::open(&file).map_err(Error::storage("read the cache"))?;
        unpack(archive, &dir, Limits::default())?;
        let _ = std::fs::remove_file(&file);
        Ok(())
    })
    .await?;
    Ok(digest)
}

/// Keeps the cache in `dir` as `name`, unless it is as it `was`.
pub(crate) async fn keep(
    blobs: &dyn BlobStore,
    name: &BlobName,
    dir: &Path,
    scratch: &Path,
    was: Option<Digest>,
) {
    if let Err(error) = try_keep(blobs, name, dir, scratch, was).await {
        debug!(%error, "the cache is not kept");
    }
}

async fn try_keep(
    blobs: &dyn BlobStore,
    name: &BlobName,
    dir: &Path,
    scratch: &Path,
    was: Option<Digest>,
) -> Result<()> {
    let file = scratch.join("cache-out.tgz");
    let packed = {
        let (dir, file) = (dir.to_owned(), file.clone());
        blocking(move || pack(&dir, &file, &Ignore::default(), MAX_CACHE_BYTES)).await?
    };
    if was == Some(packed.sha256) {
        return Ok(());
    }
    let options = PutOptions::new()
        .with_sha256(packed.sha256)
        .with_size(packed.size);
    blobs.put(name, body_of_file(&file).await?, options).await?;
    Ok(())
}

/// Writes a blob into the file `to`.
pub(crate) async fn download(mut blob: crate::blob::Blob, to: &Path) -> Result<()> {
    use futures::StreamExt;
    use tokio::io::AsyncWriteExt;

    let failed = || Error::storage(format!("write {}", to.display()));
    let mut file = tokio::fs::File::create(to).await.map_err(failed())?;
    while let Some(chunk) = blob.body.next().await {
        file.write_all(&chunk?).await.map_err(failed())?;
    }
    file.flush().await.map_err(failed())
}

/// Runs what blocks on its own thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::upstream("work on files broke off", e))?
}
