//! Leases.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Follower, SOON, commit, exists, key, leased, put, read, until};
use crate::{
    Error,
    backend::{Backend, LeaseId, Op},
};

/// Every lease has an id of its own.
pub async fn leases_are_told_apart(backend: Arc<dyn Backend>) {
    let (one, two) = (long(&backend).await, long(&backend).await);
    assert_ne!(one, two);
    backend.revoke(one).await.unwrap();
    let three = long(&backend).await;
    assert!(three != one && three != two);
}

/// A lease that is not renewed takes its keys with it.
pub async fn a_lease_that_is_not_renewed_takes_its_keys(backend: Arc<dyn Backend>) {
    commit(&backend, vec![put("b", "stays")]).await;
    let lease = short_with(&backend, &["a", "d/a"]).await;
    until("a and d/a deleted with their lease", || async {
        !exists(&backend, "a").await && !exists(&backend, "d/a").await
    })
    .await;
    assert!(exists(&backend, "b").await);
    assert_lost(backend.keep_alive(lease).await, lease);
}

/// A lease that is renewed outlives its time.
pub async fn a_lease_that_is_renewed_keeps_its_keys(backend: Arc<dyn Backend>) {
    let mut ttl = backend
        .capabilities()
        .min_ttl
        .max(Duration::from_millis(500));
    // On a machine too busy to renew in time the lease may rightly be lost: once more, with more time.
    for _ in 0..5 {
        let lease = backend.grant(ttl).await.unwrap();
        let begun = Instant::now();
        let mut renewed = begun;
        let mut longest_pause = Duration::ZERO;
        let mut is_lost = backend
            .commit(vec![], vec![leased("a", lease)])
            .await
            .is_err();
        while !is_lost && begun.elapsed() < 3 * ttl {
            tokio::time::sleep(ttl / 8).await;
            is_lost = backend.keep_alive(lease).await.is_err();
            longest_pause = longest_pause.max(renewed.elapsed());
            renewed = Instant::now();
        }
        let is_there = exists(&backend, "a").await;
        longest_pause = longest_pause.max(renewed.elapsed());
        if !is_lost && is_there {
            return;
        }
        assert!(
            longest_pause > ttl / 2,
            "a lease of {ttl:?} was lost, though it was renewed every {longest_pause:?}"
        );
        ttl *= 3;
    }
    panic!("this machine is too busy to renew a lease of {ttl:?}");
}

/// A lease shorter than `Capabilities` promise is raised to that.
pub async fn the_shortest_lease_is_granted(backend: Arc<dyn Backend>) {
    let lease = backend.grant(Duration::ZERO).await.unwrap();
    until("the shortest lease lost", || async {
        tokio::time::sleep(2 * backend.capabilities().min_ttl).await;
        backend.keep_alive(lease).await.is_err()
    })
    .await;
}

/// Revoking a lease deletes all its keys as one change.
pub async fn the_end_of_a_lease_is_one_change(backend: Arc<dyn Backend>) {
    let lease = long(&backend).await;
    let ops = vec![leased("d/b", lease), leased("d/a", lease), put("d/c", "x")];
    commit(&backend, ops).await;
    let mut follower = Follower::begin(&backend, "d/").await;
    backend.revoke(lease).await.unwrap();
    assert!(!exists(&backend, "d/a").await && !exists(&backend, "d/b").await);
    let (_, mut told) = follower.changes().await;
    told.sort();
    assert_eq!(told, ["-d/a", "-d/b"]);
    assert_lost(backend.keep_alive(lease).await, lease);
}

/// So does its expiry.
pub async fn the_expiry_of_a_lease_is_one_change(backend: Arc<dyn Backend>) {
    let mut follower = Follower::begin(&backend, "d/").await;
    short_with(&backend, &["d/a", "d/b"]).await;
    loop {
        let (_, mut told) = follower.changes().await;
        told.sort();
        if told[0].starts_with('-') {
            assert_eq!(told, ["-d/a", "-d/b"]);
            return;
        }
        assert_eq!(told, ["+d/a", "+d/b"]);
    }
}

/// Revoking a lease that is gone succeeds.
pub async fn revoking_a_lease_that_is_gone_succeeds(backend: Arc<dyn Backend>) {
    let lease = long(&backend).await;
    commit(&backend, vec![leased("a", lease)]).await;
    backend.revoke(lease).await.unwrap();
    backend.revoke(lease).await.unwrap();
    backend.revoke(NEVER_GRANTED).await.unwrap();
}

/// Renewing a lease that is gone is refused.
pub async fn renewing_a_lease_that_is_gone_is_refused(backend: Arc<dyn Backend>) {
    let lease = long(&backend).await;
    backend.keep_alive(lease).await.unwrap();
    backend.revoke(lease).await.unwrap();
    assert_lost(backend.keep_alive(lease).await, lease);
    let never = backend.keep_alive(NEVER_GRANTED).await;
    assert_lost(never, NEVER_GRANTED);
}

/// A transaction with a put under a lease that is gone is refused as a whole.
pub async fn a_put_with_a_lease_that_is_gone_is_refused(backend: Arc<dyn Backend>) {
    let lease = long(&backend).await;
    backend.revoke(lease).await.unwrap();
    let ops = vec![put("b", "x"), leased("a", lease)];
    assert_lost(backend.commit(vec![], ops).await, lease);
    assert!(!exists(&backend, "a").await && !exists(&backend, "b").await);
}

/// A put without a lease takes the key off the one it had.
pub async fn a_put_without_a_lease_takes_the_key_off_it(backend: Arc<dyn Backend>) {
    let lease = long(&backend).await;
    commit(&backend, vec![leased("a", lease)]).await;
    assert_eq!(read(&backend, "a").await.unwrap().lease, Some(lease));
    commit(&backend, vec![put("a", "kept")]).await;
    assert_eq!(read(&backend, "a").await.unwrap().lease, None);
    backend.revoke(lease).await.unwrap();
    assert!(exists(&backend, "a").await);
}

/// A key that moved to another lease stays when the first one ends, and goes with the second.
pub async fn a_key_that_moved_to_another_lease_stays_with_that(backend: Arc<dyn Backend>) {
    let (first, second) = (long(&backend).await, long(&backend).await);
    commit(&backend, vec![leased("a", first)]).await;
    commit(&backend, vec![leased("a", second)]).await;
    backend.revoke(first).await.unwrap();
    assert_eq!(read(&backend, "a").await.unwrap().lease, Some(second));
    backend.revoke(second).await.unwrap();
    assert!(!exists(&backend, "a").await);
}

/// A deleted key is off its lease, also when it is written again.
pub async fn a_deleted_key_is_off_its_lease(backend: Arc<dyn Backend>) {
    let lease = long(&backend).await;
    commit(&backend, vec![leased("a", lease)]).await;
    commit(&backend, vec![Op::delete(key("a"))]).await;
    commit(&backend, vec![put("a", "x")]).await;
    backend.revoke(lease).await.unwrap();
    assert!(exists(&backend, "a").await);
}

/// A lease no case lives to see the end of.
async fn long(backend: &Arc<dyn Backend>) -> LeaseId {
    backend.grant(20 * SOON).await.unwrap()
}

/// A short lease with these keys; longer each time the machine was too busy to write them in time.
async fn short_with(backend: &Arc<dyn Backend>, keys: &[&str]) -> LeaseId {
    let mut ttl = backend
        .capabilities()
        .min_ttl
        .max(Duration::from_millis(50));
    loop {
        let lease = backend.grant(ttl).await.unwrap();
        let ops = keys.iter().map(|key| leased(key, lease)).collect();
        match backend.commit(vec![], ops).await {
            Ok(_) => return lease,
            Err(Error::LeaseLost { .. }) => ttl *= 2,
            Err(error) => panic!("{error}"),
        }
    }
}

#[track_caller]
fn assert_lost<T: std::fmt::Debug>(result: Result<T, Error>, expected: LeaseId) {
    match result {
        Err(Error::LeaseLost { lease }) => assert_eq!(lease, expected),
        other => panic!("lease {expected} is gone, but that was not said: {other:?}"),
    }
}

const NEVER_GRANTED: LeaseId = LeaseId(0x00F0_0000_0000_0001);
