//! Who may take part: tokens, ids, cells, directories.

use flynn_discovery::{
    Error, Secret,
    backend::raft::{MemberId, MemoryLog, Peer, RaftBackend, RaftConfig, TcpTransport},
};
use std::time::Duration;
use tokio::net::TcpListener;

use super::cluster::{Cluster, TOKEN, within};

async fn started(config: RaftConfig, addr: &str, token: &str) -> RaftBackend {
    let listener = TcpListener::bind(addr).await.unwrap();
    let transport = TcpTransport::new(listener, Secret::new(token));
    RaftBackend::start(config, MemoryLog::new(), transport)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_the_wrong_token_is_refused_and_told_so() {
    let cluster = Cluster::start(2).await;
    let peer = cluster.new_peer("intruder").await;
    let mut voters = cluster.voters.clone();
    voters.push(peer.clone());
    let config = RaftConfig::new(peer.clone(), "test", voters);
    let intruder = started(config, &peer.addr, "wrong").await;
    let error = within(
        "the refusal",
        intruder.wait_for_leader(Duration::from_secs(3)),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("token") && !text.contains("wrong"), "{text}");
    assert!(!format!("{intruder:?}").contains(TOKEN));
    // The cluster takes no notice.
    within(
        "a leader",
        cluster.any().wait_for_leader(Duration::from_secs(20)),
    )
    .await
    .unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_two_members_with_one_id_is_refused() {
    let cluster = Cluster::start(3).await;
    let twin = Peer::new(cluster.voters[0].id, "127.0.0.1:0");
    let config = RaftConfig::new(twin, "test", cluster.voters.clone());
    let twin = started(config, "127.0.0.1:0", TOKEN).await;
    let error = within("the refusal", twin.wait_for_leader(Duration::from_secs(3)))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("two members"), "{error}");
    within(
        "the first",
        cluster.any().wait_for_leader(Duration::from_secs(20)),
    )
    .await
    .unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_belongs_to_one_member_of_one_cell() {
    let mut cluster = Cluster::start(1).await;
    cluster.kill(0).await;
    let Peer { id, addr } = cluster.voters[0].clone();
    let dir = cluster.dir(id);
    let other = MemberId::from_name("other");
    for (id, cell, word) in [(other, "test", "member"), (id, "elsewhere", "cell")] {
        let peer = Peer::new(id, addr.clone());
        let config = RaftConfig::new(peer.clone(), cell, vec![peer]);
        let store = flynn_discovery::backend::raft::RocksLog::new(&dir);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let transport = TcpTransport::new(listener, Secret::new(TOKEN));
        let error = RaftBackend::start(config, store, transport)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Storage { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(word) && text.contains("directory"), "{text}");
    }
    cluster.start_all().await;
    cluster.shutdown().await;
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let peer = |name: &str| Peer::new(MemberId::from_name(name), "127.0.0.1:1");
    let six: Vec<Peer> = (0..6).map(|i| peer(&i.to_string())).collect();
    for (config, word) in [
        (RaftConfig::new(peer("a"), "cell", six), "at most 5"),
        (
            RaftConfig::new(peer("a"), "cell", vec![peer("a"), peer("a")]),
            "twice",
        ),
        (RaftConfig::new(peer("a"), "", vec![peer("a")]), "name"),
        (
            RaftConfig::new(peer("a"), "cell", vec![peer("a")])
                .with_election_timeout(Duration::from_millis(60)),
            "three ticks",
        ),
    ] {
        let error = runtime.block_on(async {
            let network = flynn_discovery::backend::raft::ChannelNetwork::new();
            RaftBackend::start(config, MemoryLog::new(), network.transport())
                .await
                .unwrap_err()
        });
        assert!(error.to_string().contains(word), "{error}");
    }
}
