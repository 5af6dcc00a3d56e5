//! Commits: decide on the mirror, write with compares, catch up and decide anew when others were faster.

use std::{sync::Arc, time::Duration};

use flynn_discovery::{Error as StoreError, backend::Revision};
use futures::StreamExt;

use crate::{
    ClusterState, Error, Result, Transaction,
    remote::{
        DiscoveryCluster,
        mirror::{Mirror, View},
        plan::{Chunk, Limits, Written, plan},
        store_error,
    },
    transaction::{Change, Committed, Mode, Refused},
};

/// How far carrying out chunks came.
enum Carried {
    /// All of them, the last at this revision.
    All(Revision),
    /// Those before this one, the last of them at this revision; then someone else was faster.
    Until(usize, Option<Revision>),
}

impl DiscoveryCluster {
    pub(super) async fn commit_transaction(&self, transaction: Transaction) -> Result<Committed> {
        let mut mirror = self.mirror_at(transaction.basis).await?;
        for _ in 0..Self::MAX_ATTEMPTS {
            let applied = mirror.state.apply(&transaction)?;
            let chunks = plan(&mirror, &transaction, &applied, Limits::STORE)?;
            if chunks.is_empty() {
                return Ok(Committed {
                    state: mirror.state,
                    refused: applied.refused,
                });
            }
            if transaction.mode == Mode::AllOrNothing && chunks.len() > 1 {
                return Err(Error::Invalid {
                    what: format!("transaction of {} changes", transaction.changes.len()),
                    why: "too large to be applied all or nothing; split it or make it incremental"
                        .to_owned(),
                });
            }
            let mut refused = applied.refused;
            let revision = match self.carry_out(&chunks).await? {
                Carried::Until(0, _) => {
                    mirror = self.mirror_behind(&mirror).await?;
                    continue;
                }
                Carried::Until(at, revision) => {
                    let rest = chunks.into_iter().skip(at).flat_map(|chunk| chunk.changes);
                    refused.extend(rest.map(outrun));
                    revision.unwrap_or_default()
                }
                Carried::All(revision) => revision,
            };
            let state = match self.mirror_at(revision.0).await {
                Ok(mirror) => mirror.state,
                Err(_) if refused.is_empty() => {
                    // It is done; only this handle has not seen it yet.
                    let mut state: ClusterState = applied.state;
                    state.reach(revision.0);
                    Arc::new(state)
                }
                Err(error) => return Err(error),
            };
            return Ok(Committed { state, refused });
        }
        self.outrun_for_good(&mirror, transaction)
    }

    async fn carry_out(&self, chunks: &[Chunk]) -> Result<Carried> {
        let mut written = Written::default();
        let mut reached = None;
        for (at, chunk) in chunks.iter().enumerate() {
            let (compares, ops) = chunk.prepared(&written)?;
            match self.backend.commit(compares, ops).await {
                Ok(revision) => {
                    chunk.record(revision, &mut written);
                    reached = Some(revision);
                }
                Err(StoreError::Conflict { key }) => {
                    tracing::debug!(%key, "another commit was faster");
                    return Ok(Carried::Until(at, reached));
                }
                Err(error) => return Err(store_error("committing a transaction", error)),
            }
        }
        Ok(Carried::All(reached.unwrap_or_default()))
    }

    /// Others were faster each time.
    fn outrun_for_good(&self, mirror: &Mirror, transaction: Transaction) -> Result<Committed> {
        if transaction.mode == Mode::AllOrNothing {
            let host = transaction.changes.iter().find_map(|change| match change {
                Change::Start(job) => Some(job.host.clone()),
                _ => None,
            });
            return Err(match host {
                Some(host) => Error::Conflict {
                    host,
                    why: OUTRUN.to_owned(),
                },
                None => Error::Store {
                    operation: "committing a transaction",
                    is_transient: true,
                    source: OUTRUN.into(),
                },
            });
        }
        Ok(Committed {
            state: Arc::clone(&mirror.state),
            refused: transaction.changes.into_iter().map(outrun).collect(),
        })
    }

    /// The mirror, once it has reached `revision`.
    pub(super) async fn mirror_at(&self, revision: u64) -> Result<Mirror> {
        let mut views = self.views();
        let reached = async {
            while let Some(view) = views.next().await {
                match view {
                    View::Ready(mirror) if mirror.state.revision() >= revision => {
                        return Ok(Mirror::clone(&mirror));
                    }
                    View::Failed(why) if !why.may_recover() => return Err(why.into_error()),
                    View::Ready(_) | View::Loading | View::Failed(_) => {}
                }
            }
            std::future::pending().await
        };
        match tokio::time::timeout(Self::MIRROR_TIMEOUT, reached).await {
            Ok(mirror) => mirror,
            Err(elapsed) => Err(Error::Store {
                operation: "waiting for news of the cell",
                is_transient: true,
                source: elapsed.into(),
            }),
        }
    }

    /// The mirror after the one that proved to be out of date. If it does not move for a moment, it is as good as it
    /// gets: the key that failed may have changed back and forth.
    async fn mirror_behind(&self, outdated: &Mirror) -> Result<Mirror> {
        let next = self.mirror_at(outdated.state.revision() + 1);
        match tokio::time::timeout(CATCH_UP, next).await {
            Ok(mirror) => mirror,
            Err(_) => self.mirror_at(0).await,
        }
    }
}

fn outrun(change: Change) -> Refused {
    let host = match &change {
        Change::Start(job) => Some(job.host.clone()),
        _ => None,
    };
    Refused {
        change,
        host,
        why: OUTRUN.to_owned(),
        is_conflict: true,
    }
}

const OUTRUN: &str = "other commits were faster each time";
/// How long to wait for the news that made a commit fail.
const CATCH_UP: Duration = Duration::from_millis(500);
