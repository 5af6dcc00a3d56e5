//! `RaftBackend`: clusters over TCP and in one process, restarts, faults.

mod cluster;

use std::time::Duration;

use flynn_discovery::backend::{Backend, Condition, Key};

use self::cluster::{Cluster, DEADLINE};

#[tokio::test(flavor = "multi_thread")]
async fn three_members_over_tcp_elect_a_leader_and_take_writes_anywhere() {
    let cluster = Cluster::start(3).await;
    for (i, member) in cluster.members().enumerate() {
        let key = Key::parse(format!("k/{i}")).unwrap();
        member
            .put(&key, "v".into(), Condition::Absent)
            .await
            .unwrap();
        for reader in cluster.members() {
            assert!(reader.get(&key).await.unwrap().is_some());
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_back_from_its_disks() {
    let mut cluster = Cluster::start(3).await;
    let key = Key::parse("counter").unwrap();
    let mut version = cluster
        .any()
        .put(&key, "0".into(), Condition::Absent)
        .await
        .unwrap();
    for round in 1..4 {
        cluster.kill_all().await;
        cluster.start_all().await;
        let entry = cluster.any().get(&key).await.unwrap().unwrap();
        assert_eq!(entry.version, version, "round {round}");
        version = cluster
            .any()
            .put(&key, round.to_string().into(), Condition::Version(version))
            .await
            .unwrap();
    }
    tokio::time::timeout(DEADLINE, cluster.shutdown())
        .await
        .unwrap();
    let _ = Duration::ZERO;
}
