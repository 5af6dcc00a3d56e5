//! What survives the loss of a leader: every acknowledged write, exactly once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flynn_discovery::{
    Error,
    backend::{Backend, Condition, Key, raft::RaftBackend},
};

use super::cluster::{Cluster, DEADLINE, within};

/// Counts up by compare-and-set until it is told to stop; returns how many increments were acknowledged, and how many
/// have an unknown outcome.
async fn count_up(member: Arc<RaftBackend>, key: Key, stop: Arc<AtomicBool>) -> (u64, u64) {
    let (mut acknowledged, mut unknown) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let Ok(entry) = member.get(&key).await else {
            continue;
        };
        let (count, condition) = match entry {
            Some(entry) => (number(&entry.value), Condition::Version(entry.version)),
            None => (0, Condition::Absent),
        };
        let put = member.put(&key, (count + 1).to_string().into(), condition);
        match put.await {
            Ok(_) => acknowledged += 1,
            Err(Error::Conflict { .. } | Error::Unavailable { .. } | Error::Closed { .. }) => {}
            Err(Error::Unknown { .. }) => unknown += 1,
            Err(error) => panic!("{error}"),
        }
    }
    (acknowledged, unknown)
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_is_exact_after_leaders_were_killed_under_its_writers() {
    let mut cluster = Cluster::start(3).await;
    let key = Key::parse("counter").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    // Each writer asks a member that is never killed in this round; the leader is.
    let mut total = (0, 0);
    for round in 0..3 {
        let leader = cluster.leader_index().await;
        stop.store(false, Ordering::Relaxed);
        let writers: Vec<_> = (0..3)
            .filter(|i| *i != leader)
            .flat_map(|i| std::iter::repeat_n(i, 4))
            .map(|i| {
                let member = Arc::clone(cluster.member(i));
                tokio::spawn(count_up(member, key.clone(), Arc::clone(&stop)))
            })
            .collect();
        wait_for_count(&cluster, leader, &key, total.0 + 20).await;
        cluster.kill(leader).await;
        let after_kill = read(&cluster, leader, &key).await;
        wait_for_count(&cluster, leader, &key, after_kill + 20).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let (acknowledged, unknown) = within("a writer", writer).await.unwrap();
            total = (total.0 + acknowledged, total.1 + unknown);
        }
        cluster.start_member(leader).await;
        let count = read(&cluster, usize::MAX, &key).await;
        assert!(
            (total.0..=total.0 + total.1).contains(&count),
            "round {round}: {count} of {total:?}"
        );
    }
    assert_eq!(
        total.1, 0,
        "a request is sent again until its outcome is known"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_writes_are_refused_and_reads_too() {
    let mut cluster = Cluster::with(3, |config| {
        config.with_request_timeout(Duration::from_secs(1))
    })
    .await;
    let key = Key::parse("k").unwrap();
    cluster
        .any()
        .put(&key, "v".into(), Condition::Any)
        .await
        .unwrap();
    cluster.kill(0).await;
    cluster.kill(1).await;
    let last = Arc::clone(cluster.member(2));
    let error = within("an answer", last.put(&key, "w".into(), Condition::Any))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. } | Error::Unknown { .. }),
        "{error}"
    );
    let error = within("an answer", last.get(&key)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    cluster.start_member(0).await;
    within("a leader", last.wait_for_leader(DEADLINE))
        .await
        .unwrap();
    let entry = within("an answer", last.get(&key)).await.unwrap().unwrap();
    assert!(entry.value == "v" || entry.value == "w");
    drop(last);
    cluster.kill_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_its_leader_and_ends_when_nobody_renews_it() {
    let mut cluster = Cluster::start(3).await;
    let ttl = Duration::from_secs(2);
    let leader = cluster.leader_index().await;
    let other = Arc::clone(cluster.member((leader + 1) % 3));
    let lease = other.grant(ttl).await.unwrap();
    let key = Key::parse("leased").unwrap();
    let op = flynn_discovery::backend::Op::Put {
        key: key.clone(),
        value: "v".into(),
        lease: Some(lease),
    };
    other.commit(vec![], vec![op]).await.unwrap();
    cluster.kill(leader).await;
    let renewed_until = tokio::time::Instant::now() + 2 * ttl;
    while tokio::time::Instant::now() < renewed_until {
        within("a renewal", other.keep_alive(lease)).await.unwrap();
        assert!(other.get(&key).await.unwrap().is_some());
        tokio::time::sleep(ttl / 10).await;
    }
    within("the end of the lease", async {
        while other.get(&key).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let error = other.keep_alive(lease).await.unwrap_err();
    assert!(matches!(error, Error::LeaseLost { .. }), "{error}");
    drop(other);
    cluster.kill_all().await;
}

async fn read(cluster: &Cluster, except: usize, key: &Key) -> u64 {
    let member = (0..3).find(|i| *i != except).unwrap();
    within("a read", async {
        loop {
            if let Ok(entry) = cluster.member(member).get(key).await {
                return entry.map_or(0, |e| number(&e.value));
            }
        }
    })
    .await
}

async fn wait_for_count(cluster: &Cluster, except: usize, key: &Key, count: u64) {
    within("the count", async {
        while read(cluster, except, key).await < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
