//! Work that only one controller does at a time.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use super::until_stopped;
use crate::{
    Error,
    store::{Claim, Store},
};

/// Does `work` for as long as the claim is held and the controller is not told to stop, then gives the claim back.
/// `None` if the work did not end by itself.
pub(super) async fn while_held<T>(
    store: &dyn Store,
    claim: Claim,
    ttl: Duration,
    stopped: watch::Receiver<bool>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let done = tokio::select! {
        done = work => Some(done),
        () = until_lost(store, &claim, ttl) => None,
        () = until_stopped(stopped) => None,
    };
    let name = claim.name.clone();
    if let Err(error) = store.release_claim(claim).await {
        tracing::debug!(%error, claim = %name, "a claim could not be given back; it will run out");
    }
    done
}

/// Renews a claim until it is lost, or may be.
async fn until_lost(store: &dyn Store, claim: &Claim, ttl: Duration) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(ttl / 3).await;
        let asked = Instant::now();
        match tokio::time::timeout(ttl / 3, store.renew(claim)).await {
            Ok(Ok(())) => renewed = asked,
            Ok(Err(Error::ClaimLost { .. })) => break,
            Ok(Err(_)) | Err(_) if renewed.elapsed() < ttl => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    tracing::warn!(claim = %claim.name, "a claim was lost; another controller may go on with it");
}
