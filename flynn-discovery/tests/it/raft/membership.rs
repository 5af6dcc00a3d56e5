//! Members that come, rise, fall and go.

use std::time::Duration;

use flynn_discovery::{
    Error,
    backend::{
        Backend, Prefix, WatchEvent,
        raft::{MemberRole, Peer, RaftRole},
    },
};
use futures::StreamExt;

use super::cluster::{Cluster, DEADLINE, key, put, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_gets_a_snapshot_then_a_vote_and_the_cluster_can_lose_a_founder() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..20 {
        let put = put(cluster.any(), i);
        put.await.unwrap();
    }
    let peer = cluster.new_peer("host-new").await;
    let joined = cluster.start_peer(&peer).await.unwrap();
    // Asked at a member that does not lead, to have the change forwarded.
    let leader = cluster.leader_index().await;
    let asked = cluster.member((leader + 1) % 3);
    within("the learner", asked.add_learner(peer.clone()))
        .await
        .unwrap();
    let mut status = joined.watch_status();
    let is_in = status.wait_for(|s| s.role == RaftRole::Learner && s.members.len() == 4);
    within("the learner's snapshot", is_in).await.unwrap();
    let entry = within("a read at the learner", joined.get(&key(7))).await;
    assert!(entry.unwrap().is_some());

    within("the promotion", asked.promote(peer.id))
        .await
        .unwrap();
    let role = |members: &[flynn_discovery::backend::raft::Member]| {
        members.iter().find(|m| m.id == peer.id).map(|m| m.role)
    };
    assert_eq!(role(&asked.status().members), Some(MemberRole::Voter));

    // Also when it is the leader that goes.
    let founder = cluster.member(leader).member();
    within("the removal", asked.remove(founder)).await.unwrap();
    let mut status = cluster.member(leader).watch_status();
    within("word of the removal", status.wait_for(|s| s.is_removed))
        .await
        .unwrap();
    cluster.kill(leader).await;
    // It is told again if it comes back.
    cluster.start_member(leader).await;
    let back = cluster.member(leader);
    let error = within("a word", back.wait_for_leader(Duration::from_secs(3)))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("was removed"), "{error}");
    cluster.kill(leader).await;
    let put = put(&joined, 99);
    within("a write at the new member", put).await.unwrap();
    assert_eq!(joined.status().members.len(), 3);

    within("the demotion", joined.demote(peer.id))
        .await
        .unwrap();
    assert_eq!(role(&joined.status().members), Some(MemberRole::Learner));
    joined.shutdown().await.unwrap();
    cluster.kill_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_make_no_sense_are_refused_with_the_reason() {
    let cluster = Cluster::start(1).await;
    let member = cluster.any();
    let stranger = cluster.new_peer("stranger").await;
    for (error, word) in [
        (member.promote(stranger.id).await, "not a member"),
        (member.remove(member.member()).await, "last voter"),
        (member.demote(member.member()).await, "last voter"),
    ] {
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    // Removing what is gone succeeds.
    member.remove(stranger.id).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lagged_behind_the_log_gets_a_snapshot_and_its_watchers_a_reset() {
    let mut cluster = Cluster::with(3, |config| config.with_max_log(50, 1 << 20)).await;
    let lagging = (cluster.leader_index().await + 1) % 3;
    let id = cluster.member(lagging).member();
    cluster.kill(lagging).await;
    for i in 0..500 {
        let put = put(cluster.any(), i);
        put.await.unwrap();
    }
    cluster.start_member(lagging).await;
    let member = cluster.member(lagging);
    assert_eq!(member.member(), id);
    let mut watch = member.watch(&Prefix::parse("k/").unwrap());
    within("all keys at the lagging member", async {
        loop {
            match watch.next().await.unwrap().unwrap() {
                WatchEvent::Reset { entries, .. } if entries.len() == 500 => return,
                WatchEvent::Reset { .. } => {}
                event => panic!("the log behind the snapshot is not replayed: {event:?}"),
            }
        }
    })
    .await;
    let put = put(member, 500);
    within("a write", put).await.unwrap();
    // What it got is on its disk.
    cluster.kill_all().await;
    cluster.start_all().await;
    for member in cluster.members() {
        assert!(member.get(&key(499)).await.unwrap().is_some());
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_can_change_between_two_runs() {
    let mut cluster = Cluster::start(3).await;
    cluster.kill_all().await;
    for i in 0..3 {
        let addr = cluster.new_peer("any").await.addr;
        cluster.voters[i] = Peer::new(cluster.voters[i].id, addr);
    }
    cluster.start_all().await;
    let put = put(cluster.any(), 0);
    tokio::time::timeout(DEADLINE, put)
        .await
        .expect("the members find each other")
        .unwrap();
    cluster.shutdown().await;
}
