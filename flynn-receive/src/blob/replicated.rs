//! One blob store over many replicas.
//!
//! ```text
//!            put                                   get
//!   writer ──────► replica A ──► disk      reader ─────► replica B: sound here? ──► read
//!                     │                                     │ no
//!                     ├──► replica B   a majority of        ▼
//!                     └──► replica C   the live has it   fetch from a peer, keep, read
//! ```
//!
//! Every replica has everything. A put is acknowledged when a majority of the live replicas has it on disk, so that
//! losing one of them loses nothing; one that was away fetches what it missed when it is back.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    Blob, BlobInfo, BlobName, BlobStore, BlobStream, DeleteOptions, FsBlobStore, ListOptions, Page,
    Peer, Peers, PutOptions, Version,
};
use crate::{Error, Result};

/// A blob store that keeps a copy of everything on every replica.
#[derive(Debug)]
pub struct ReplicatedBlobStore {
    local: FsBlobStore,
    peers: Arc<dyn Peers>,
    put_deadline: Duration,
    /// Copies to replicas that were not waited for.
    stragglers: TaskTracker,
    closing: CancellationToken,
}

impl ReplicatedBlobStore {
    /// A replica that keeps its copies in `local`.
    #[must_use]
    pub fn new(local: FsBlobStore, peers: Arc<dyn Peers>) -> Self {
        Self {
            local,
            peers,
            put_deadline: PUT_DEADLINE,
            stragglers: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    /// How long a put tries to reach a majority; default [`PUT_DEADLINE`].
    #[must_use]
    pub const fn with_put_deadline(mut self, deadline: Duration) -> Self {
        self.put_deadline = deadline;
        self
    }

    /// This replica's own store.
    #[must_use]
    pub const fn local(&self) -> &FsBlobStore {
        &self.local
    }

    /// Fetches what peers have and this replica lacks, now and every [`SYNC_INTERVAL`], until `shutdown`.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        loop {
            let pass = async {
                match self.sync().await {
                    Ok(0) => {}
                    Ok(fetched) => info!(fetched, "fetched blobs that peers had"),
                    Err(error) => warn!(%error, "could not compare blobs with the peers"),
                }
                if let Err(error) = self.local.forget_deleted().await {
                    warn!(%error, "could not forget deleted blobs");
                }
                tokio::time::sleep(SYNC_INTERVAL).await;
            };
            tokio::select! {
                () = pass => {}
                () = &mut shutdown => break,
            }
        }
        self.closing.cancel();
        self.stragglers.close();
        self.stragglers.wait().await;
    }

    /// One comparison with every live peer. Returns how many blobs were fetched or deleted here.
    ///
    /// # Errors
    ///
    /// The first error met; the other peers are compared nevertheless.
    pub async fn sync(&self) -> Result<usize> {
        let mut changed = 0;
        let mut failed = None;
        for peer in self.peers.peers().await? {
            match self.sync_with(&peer).await {
                Ok(n) => changed += n,
                Err(error) => {
                    debug!(peer = peer.id, %error, "comparison broke off");
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) if changed == 0 => Err(error),
            _ => Ok(changed),
        }
    }

    async fn sync_with(&self, peer: &Peer) -> Result<usize> {
        let mut changed = 0;
        let mut options = ListOptions {
            deleted: true,
            ..ListOptions::default()
        };
        loop {
            let page = peer.store.list(options.clone()).await?;
            options.after = page.blobs.last().map(|blob| blob.name.clone());
            let mut fetches = futures::stream::iter(page.blobs)
                .map(|theirs| self.catch_up(peer, theirs))
                .buffer_unordered(SYNC_CONCURRENCY);
            while let Some(fetched) = fetches.next().await {
                changed += usize::from(fetched?);
            }
            if !page.more {
                return Ok(changed);
            }
        }
    }

    /// Takes over what `peer` has, if it is newer than what is here.
    async fn catch_up(&self, peer: &Peer, theirs: BlobInfo) -> Result<bool> {
        let ours = self.local.remembered(&theirs.name).await;
        if ours.is_some_and(|ours| ours.version >= theirs.version) {
            return Ok(false);
        }
        if theirs.deleted {
            let options = DeleteOptions::default().with_version(theirs.version);
            self.local.delete(&theirs.name, options).await?;
            return Ok(true);
        }
        match self.fetch(peer, &theirs.name).await {
            Ok(_) => Ok(true),
            // Deleted or replaced between the list and now: the next pass sees to it.
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn fetch(&self, peer: &Peer, name: &BlobName) -> Result<BlobInfo> {
        let blob = peer.store.get(name).await?;
        let options = PutOptions::new()
            .with_sha256(blob.info.sha256)
            .with_size(blob.info.size)
            .with_version(blob.info.version);
        self.local.put(name, blob.body, options).await
    }

    /// Copies what is stored here to the peers, until a majority has it. The rest goes on behind our back.
    async fn spread(&self, info: &BlobInfo) -> Result<()> {
        let deadline = Instant::now() + self.put_deadline;
        let mut have = BTreeSet::new();
        loop {
            let why = match self.peers.peers().await {
                Ok(peers) => {
                    let live = peers.len() + 1;
                    have.retain(|id| peers.iter().any(|peer| peer.id == *id));
                    self.copy_to(&peers, info, live / 2 + 1, &mut have).await;
                    // This replica counts as one.
                    if have.len() + 1 > live / 2 {
                        return Ok(());
                    }
                    format!("only {} of {live} replicas have it", have.len() + 1)
                }
                Err(error) => error.to_string(),
            };
            if Instant::now() + PUT_RETRY > deadline {
                return Err(Error::Unavailable {
                    what: "blob store",
                    why: format!("blob {} is not safe yet: {why}", info.name),
                });
            }
            tokio::time::sleep(PUT_RETRY).await;
        }
    }

    async fn copy_to(
        &self,
        peers: &[Peer],
        info: &BlobInfo,
        majority: usize,
        have: &mut BTreeSet<String>,
    ) {
        let mut copies: FuturesUnordered<_> = peers
            .iter()
            .filter(|peer| !have.contains(&peer.id))
            .map(|peer| {
                let (peer, info, local) = (peer.clone(), info.clone(), self.local.clone());
                let copy = async move { (copy(&local, &peer, &info).await, peer.id) };
                let closing = self.closing.clone();
                // A task of its own: it goes on when the majority is reached and nobody waits any more.
                self.stragglers
                    .spawn(async move { closing.run_until_cancelled_owned(copy).await })
            })
            .collect();
        while let Some(copied) = copies.next().await {
            match copied {
                Ok(Some((Ok(()), id))) => {
                    have.insert(id);
                }
                Ok(Some((Err(error), id))) => {
                    warn!(peer = id, blob = %info.name, %error, "could not copy a blob");
                }
                Ok(None) | Err(_) => {}
            }
            if have.len() + 1 >= majority {
                return;
            }
        }
    }

    /// The blob here, fetched from a peer if it is absent or damaged.
    async fn at_hand(&self, name: &BlobName) -> Result<Option<Blob>> {
        let damage = match self.local.verify(name).await {
            Ok(_) => return self.local.get(name).await.map(Some),
            Err(error @ Error::Corrupt { .. }) => Some(error),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(damage) = &damage {
            warn!(%damage, "looking for a sound copy");
        }
        // What was deleted here must not come back from a peer that does not know yet.
        let deleted = match self.local.remembered(name).await {
            Some(info) if info.deleted => Some(info.version),
            _ => None,
        };
        for peer in self.peers.peers().await? {
            match peer.store.head(name).await {
                Ok(theirs) if deleted.is_none_or(|version| theirs.version > version) => {}
                Ok(_) => continue,
                Err(error) => {
                    debug!(peer = peer.id, %error, "no copy here");
                    continue;
                }
            }
            match self.fetch(&peer, name).await {
                Ok(_) => {
                    info!(peer = peer.id, blob = %name, "took a copy from a peer");
                    return self.local.get(name).await.map(Some);
                }
                Err(error @ Error::Storage { .. }) => {
                    warn!(%error, "cannot keep a copy; passing the peer's on");
                    return peer.store.get(name).await.map(Some);
                }
                Err(error) => debug!(peer = peer.id, %error, "its copy is no good"),
            }
        }
        damage.map_or(Ok(None), Err)
    }
}

async fn copy(local: &FsBlobStore, peer: &Peer, info: &BlobInfo) -> Result<()> {
    let blob = match local.get(&info.name).await {
        Ok(blob) => blob,
        // Deleted meanwhile: there is nothing to copy any more.
        Err(Error::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let options = PutOptions::new()
        .with_sha256(blob.info.sha256)
        .with_size(blob.info.size)
        .with_version(blob.info.version);
    peer.store
        .put(&info.name, blob.body, options)
        .await
        .map(drop)
}

#[async_trait]
impl BlobStore for ReplicatedBlobStore {
    async fn put(
        &self,
        name: &BlobName,
        body: BlobStream,
        options: PutOptions,
    ) -> Result<BlobInfo> {
        let info = self.local.put(name, body, options).await?;
        // An older version than a delete that is known here has nothing to tell anyone.
        if !info.deleted {
            self.spread(&info).await?;
        }
        Ok(info)
    }

    async fn get(&self, name: &BlobName) -> Result<Blob> {
        self.at_hand(name)
            .await?
            .ok_or_else(|| Error::NotFound { name: name.clone() })
    }

    async fn head(&self, name: &BlobName) -> Result<BlobInfo> {
        match self.local.head(name).await {
            Err(Error::NotFound { .. } | Error::Corrupt { .. }) => {
                self.get(name).await.map(|blob| blob.info)
            }
            known => known,
        }
    }

    async fn delete(&self, name: &BlobName, options: DeleteOptions) -> Result<()> {
        let present = self.local.remembered(name).await.map(|info| info.version);
        let version = options.version.unwrap_or_else(|| Version::next(present));
        let options = DeleteOptions::default().with_version(version);
        self.local.delete(name, options.clone()).await?;
        // Those who are not told now learn of it when they compare.
        let peers = self.peers.peers().await.unwrap_or_default();
        let told = peers.iter().map(|peer| {
            peer.store.delete(name, options.clone()).map(|told| {
                told.inspect_err(|error| debug!(peer = peer.id, %error, "not told of a delete"))
            })
        });
        futures::future::join_all(told).await;
        Ok(())
    }

    async fn list(&self, options: ListOptions) -> Result<Page> {
        self.local.list(options).await
    }
}

/// How long a put tries to reach a majority: longer than a dead replica stays registered.
pub const PUT_DEADLINE: Duration = Duration::from_secs(30);

/// Between two attempts to reach a majority.
const PUT_RETRY: Duration = Duration::from_millis(250);

/// Between two comparisons with the peers.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(60);

/// How many blobs a comparison fetches at a time.
const SYNC_CONCURRENCY: usize = 4;
