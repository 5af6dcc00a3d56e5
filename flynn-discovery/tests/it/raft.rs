//! `RaftBackend`: clusters over TCP, restarts, faults.

mod cluster;
mod contract;
mod disks;
mod identity;
mod leadership;
mod membership;

use std::sync::Arc;

use flynn_discovery::backend::{Backend, Condition, Key, ListOptions, Op, Prefix, WatchEvent};
use futures::StreamExt;

use self::cluster::{Cluster, DEADLINE, within};

#[tokio::test(flavor = "multi_thread")]
async fn every_member_takes_writes_and_every_member_reads_them() {
    let cluster = Cluster::start(3).await;
    for (i, member) in cluster.members().enumerate() {
        let key = Key::parse(format!("k/{i}")).unwrap();
        let put = member.put(&key, "v".into(), Condition::Absent);
        let version = put.await.unwrap();
        for reader in cluster.members() {
            let entry = reader.get(&key).await.unwrap().unwrap();
            assert_eq!(entry.version, version);
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_at_any_member_hears_of_writes_at_any_other_in_order() {
    let cluster = Cluster::start(3).await;
    let prefix = Prefix::parse("k/").unwrap();
    let mut watches: Vec<_> = cluster.members().map(|m| m.watch(&prefix)).collect();
    for watch in &mut watches {
        let first = within("the reset", watch.next()).await.unwrap().unwrap();
        assert!(matches!(first, WatchEvent::Reset { ref entries, .. } if entries.is_empty()));
    }
    let mut revisions = Vec::new();
    for i in 0..30 {
        let member = cluster.members().nth(i % 3).unwrap();
        let ops = vec![
            Op::put(Key::parse(format!("k/{i}")).unwrap(), "v"),
            Op::put(Key::parse(format!("other/{i}")).unwrap(), "v"),
        ];
        revisions.push(member.commit(vec![], ops).await.unwrap());
    }
    for watch in &mut watches {
        for expected in &revisions {
            match within("a change", watch.next()).await.unwrap().unwrap() {
                WatchEvent::Changes { changes, revision } => {
                    assert_eq!((revision, changes.len()), (*expected, 1));
                }
                event => panic!("{event:?}"),
            }
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_once_are_all_answered_with_different_revisions() {
    let cluster = Cluster::start(3).await;
    let writers = (0..200_usize).map(|i| {
        let member = Arc::clone(cluster.member(i % 3));
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for n in 0..10 {
                let key = Key::parse(format!("w/{i}/{n}")).unwrap();
                let put = member.put(&key, "v".into(), Condition::Absent);
                revisions.push(put.await.unwrap());
            }
            revisions
        })
    });
    let results = within("the writers", futures::future::join_all(writers)).await;
    let mut revisions: Vec<_> = results.into_iter().flat_map(|r| r.unwrap()).collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 2000);
    let page = cluster
        .any()
        .list(&Prefix::root(), ListOptions::default())
        .await
        .unwrap();
    assert_eq!((page.entries.len(), page.more), (1000, true));
    assert_eq!(page.revision, revisions[1999]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_shut_down_hands_the_leadership_over() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    within("the shutdown", leader.shutdown()).await.unwrap();
    let other = cluster
        .members()
        .find(|m| m.member() != leader.member())
        .unwrap();
    let mut status = other.watch_status();
    let is_other = |id| Some(id) != Some(leader.member());
    let changed = status.wait_for(|s| s.leader.is_some_and(is_other));
    tokio::time::timeout(DEADLINE, changed)
        .await
        .expect("another leads")
        .unwrap();
    assert!(leader.get(&Key::parse("k").unwrap()).await.is_err());
    cluster.shutdown().await;
}
