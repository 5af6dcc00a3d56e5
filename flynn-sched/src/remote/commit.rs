//! Commits: decide on the mirror, write with compares, catch up and decide anew what met others that were faster.

use std::{sync::Arc, time::Duration};

use flynn_discovery::Error as StoreError;
use futures::{StreamExt, stream::FuturesUnordered};

use crate::{
    ClusterState, Error, Result, Transaction,
    remote::{
        DiscoveryCluster,
        carrying::Carrying,
        flight::{Flight, Landed},
        mirror::{Mirror, View},
        plan::Limits,
        store_error,
    },
    transaction::{Change, Committed, Mode},
};

impl DiscoveryCluster {
    pub(super) async fn commit_transaction(&self, transaction: Transaction) -> Result<Committed> {
        let mut mirror = self.mirror_at(transaction.basis).await?;
        let mut carrying = Carrying::new(transaction);
        loop {
            let limits = Limits::of_attempt(carrying.attempts());
            let (next, flight, mut decided) = decide(carrying, &mirror, limits).await?;
            carrying = next;
            let landed = self.fly(flight).await?;
            let is_more = carrying.learn(&landed);
            if is_more && carrying.attempts() < Self::MAX_ATTEMPTS {
                mirror = self.mirror_behind(&landed).await?;
                continue;
            }
            if is_more && carrying.transaction().mode == Mode::AllOrNothing {
                return Err(outrun_for_good(carrying.transaction()));
            }
            let reached = carrying.reached;
            let refused = carrying.into_refused(OUTRUN);
            if reached == 0 {
                let state = mirror.state;
                return Ok(Committed { state, refused });
            }
            let state = match self.mirror_at(reached).await {
                Ok(mirror) => mirror.state,
                Err(_) if refused.is_empty() => {
                    // It is done; only this handle has not seen it yet.
                    decided.reach(reached);
                    Arc::new(decided)
                }
                Err(error) => return Err(error),
            };
            return Ok(Committed { state, refused });
        }
    }

    /// Carries out the commits of one decision, side by side as far as they may be.
    async fn fly(&self, mut flight: Flight) -> Result<Landed> {
        let mut under_way = FuturesUnordered::new();
        let mut failed = None;
        loop {
            while failed.is_none() && under_way.len() < MAX_UNDER_WAY {
                match flight.depart() {
                    Ok(Some(next)) => {
                        let commit = self.backend.commit(next.compares, next.ops);
                        under_way.push(async move { (next.lane, commit.await) });
                    }
                    Ok(None) => break,
                    Err(error) => failed = Some(error),
                }
            }
            // What is under way is waited for even when all is lost, so that whoever looks then sees the end of it.
            let Some((lane, outcome)) = under_way.next().await else {
                break;
            };
            match outcome {
                Ok(revision) => flight.carried_out(lane, revision),
                Err(StoreError::Conflict { key }) => {
                    tracing::debug!(%key, "another commit was faster");
                    flight.refused(lane, &key);
                }
                Err(error) => {
                    failed.get_or_insert_with(|| store_error("committing a transaction", error));
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(flight.landed),
        }
    }

    /// The mirror, once it has reached `revision`.
    pub(super) async fn mirror_at(&self, revision: u64) -> Result<Mirror> {
        self.mirror_that(|mirror| mirror.state.revision() >= revision)
            .await
    }

    /// The mirror, once it is as wanted.
    async fn mirror_that(
        &self,
        is_wanted: impl Fn(&Mirror) -> bool + Send + Sync,
    ) -> Result<Mirror> {
        let mut views = self.views();
        let reached = async {
            while let Some(view) = views.next().await {
                match view {
                    View::Ready(mirror) if is_wanted(&mirror) => {
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

    /// The mirror that knows of what a flight wrote and of what it met. If the latter does not come for a moment, it is as
    /// good as it gets.
    async fn mirror_behind(&self, landed: &Landed) -> Result<Mirror> {
        let known = self.mirror_that(|mirror| landed.is_known_to(mirror));
        match tokio::time::timeout(CATCH_UP, known).await {
            Ok(mirror) => mirror,
            Err(_) => self.mirror_at(landed.reached).await,
        }
    }
}

/// Decides; a large transaction on another thread, because those of the runtime carry the store's messages as well.
async fn decide(
    mut carrying: Carrying,
    mirror: &Mirror,
    limits: Limits,
) -> Result<(Carrying, Flight, ClusterState)> {
    if carrying.transaction().changes.len() <= MAX_DECIDED_HERE {
        let (flight, state) = carrying.decide(mirror, limits)?;
        return Ok((carrying, flight, state));
    }
    let mirror = mirror.clone();
    let decided = tokio::task::spawn_blocking(move || {
        let (flight, state) = carrying.decide(&mirror, limits)?;
        Ok((carrying, flight, state))
    });
    match decided.await {
        Ok(decided) => decided,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Error::Store {
                operation: "deciding a transaction",
                is_transient: true,
                source: error.into(),
            }),
        },
    }
}

/// Others were faster each time.
fn outrun_for_good(transaction: &Transaction) -> Error {
    let host = transaction.changes.iter().find_map(|change| match change {
        Change::Start(job) => Some(job.host.clone()),
        _ => None,
    });
    match host {
        Some(host) => Error::Conflict {
            host,
            why: OUTRUN.to_owned(),
        },
        None => Error::Store {
            operation: "committing a transaction",
            is_transient: true,
            source: OUTRUN.into(),
        },
    }
}

const OUTRUN: &str = "other commits were faster each time";
/// How long to wait for the news that made a commit fail.
const CATCH_UP: Duration = Duration::from_millis(500);
/// How many commits of one transaction are under way at a time.
const MAX_UNDER_WAY: usize = 32;
/// How many changes take so little time to decide that it is not worth another thread.
const MAX_DECIDED_HERE: usize = 64;
