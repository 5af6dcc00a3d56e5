//! What a member makes of a disk that lost something, or is full.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flynn_discovery::{
    Error,
    backend::{
        Backend, Condition, Key,
        raft::{
            ChannelNetwork, MemberId, MemoryLog, Peer, RaftBackend, RaftConfig, RocksLog,
            log::{Batch, HardState, LogError, LogStore, Position, Recovered},
        },
    },
};

use super::cluster::{Cluster, DEADLINE, key, put, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_back_from_its_disks_again_and_again() {
    let mut cluster = Cluster::start(3).await;
    let key = Key::parse("counter").unwrap();
    let put = cluster.any().put(&key, "0".into(), Condition::Absent);
    let mut version = put.await.unwrap();
    for round in 1..4 {
        cluster.kill_all().await;
        cluster.start_all().await;
        let entry = cluster.any().get(&key).await.unwrap().unwrap();
        assert_eq!(entry.version, version, "round {round}");
        let value = round.to_string().into();
        let put = cluster.any().put(&key, value, Condition::Version(version));
        version = put.await.unwrap();
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_alone_is_a_cluster_and_comes_back() {
    let mut cluster = Cluster::with(1, |config| config.with_max_log(20, 1 << 20)).await;
    for i in 0..100 {
        let put = put(cluster.any(), i);
        put.await.unwrap();
        if i % 40 == 0 {
            cluster.kill_all().await;
            cluster.start_all().await;
        }
    }
    for i in 0..100 {
        assert!(cluster.any().get(&key(i)).await.unwrap().is_some(), "{i}");
    }
    cluster.shutdown().await;
}

/// Writes, kills, damages the files of one member, and starts it again.
async fn damage(harm: impl Fn(&Path)) -> (Cluster, Error) {
    let mut cluster = Cluster::start(3).await;
    for i in 0..200 {
        put(cluster.any(), i).await.unwrap();
    }
    cluster.kill(1).await;
    let peer = cluster.voters[1].clone();
    harm(&cluster.dir(peer.id));
    let error = cluster.start_peer(&peer).await.unwrap_err();
    (cluster, error)
}

fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    files.sort();
    files
}

fn newest_wal(dir: &Path) -> PathBuf {
    let mut wals: Vec<_> = files(dir, ".log")
        .into_iter()
        .filter(|wal| fs::metadata(wal).unwrap().len() > 0)
        .collect();
    wals.pop().unwrap()
}

/// The sentence names the member, the damage and the next step; the others go on.
async fn check(cluster: Cluster, error: Error) {
    assert!(matches!(error, Error::Storage { .. }), "{error}");
    let text = error.to_string();
    let id = cluster.voters[1].id.to_string();
    for word in [
        id.as_str(),
        "damaged",
        "remove this directory",
        "joins as new",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let put = put(cluster.any(), 999);
    within("a write by the others", put).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_cut_in_half_is_noticed() {
    let (cluster, error) = damage(|dir| {
        let wal = newest_wal(dir);
        let len = fs::metadata(&wal).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&wal).unwrap();
        file.set_len(len / 2).unwrap();
    })
    .await;
    check(cluster, error).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_gone_is_noticed() {
    let (cluster, error) = damage(|dir| {
        for wal in files(dir, ".log") {
            fs::remove_file(wal).unwrap();
        }
    })
    .await;
    check(cluster, error).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_in_the_log_are_noticed() {
    let (cluster, error) = damage(|dir| {
        let wal = newest_wal(dir);
        let mut bytes = fs::read(&wal).unwrap();
        let middle = bytes.len() / 2;
        for byte in &mut bytes[middle..middle + 64] {
            *byte ^= 0x55;
        }
        fs::write(&wal, bytes).unwrap();
    })
    .await;
    check(cluster, error).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_is_not_taken_for_a_new_member() {
    let (cluster, error) = damage(|dir| fs::remove_dir_all(dir.join("db")).unwrap()).await;
    check(cluster, error).await;
}

/// A name, and what is done to a directory.
type Case = (&'static str, fn(&Path));

/// What `RocksLog` makes of a directory, and what it leaves there.
fn recover(dir: &Path) -> Result<Recovered, LogError> {
    RocksLog::new(dir).recover()
}

/// The steps in which a new store is made, with what a kill after each leaves behind. The mark comes before the database:
/// the other way round a member killed between the two would be called damaged, and a person be needed for nothing.
#[test]
fn a_kill_while_the_store_is_made_leaves_nothing_that_looks_damaged() {
    let steps: [Case; 7] = [
        ("nothing", |_| {}),
        ("the directory", |dir| fs::create_dir(dir).unwrap()),
        ("an empty mark", |dir| {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("highwater"), []).unwrap();
        }),
        ("the mark", |dir| {
            recover(dir).unwrap();
            fs::remove_dir_all(dir.join("db")).unwrap();
        }),
        ("the mark and the directory of the database", |dir| {
            recover(dir).unwrap();
            fs::remove_dir_all(dir.join("db")).unwrap();
            fs::create_dir(dir.join("db")).unwrap();
        }),
        ("the mark and a database that is not in force yet", |dir| {
            recover(dir).unwrap();
            for entry in fs::read_dir(dir.join("db")).unwrap() {
                let entry = entry.unwrap();
                if !entry.file_name().to_string_lossy().starts_with("MANIFEST") {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        }),
        ("the mark and a database without a write", |dir| {
            recover(dir).unwrap();
        }),
    ];
    for (what, make) in steps {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("raft");
        make(&dir);
        let recovered = recover(&dir).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(recovered.identity.is_none(), "{what}");
        // From here on it is a store like any other: it can be written, and comes back.
        let mut log = RocksLog::new(&dir);
        log.recover().unwrap();
        let at = Position { index: 7, term: 1 };
        let batch = Batch {
            reset_to: Some(at),
            hard_state: Some(HardState {
                term: at.term,
                vote: 0,
                commit: at.index,
            }),
            applied: Some(at),
            ..Batch::default()
        };
        log.write(batch, true).unwrap();
        drop(log);
        let again = recover(&dir).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(again.applied, at, "{what}");
    }
}

/// What no kill leaves, only a loss: it must not be taken for a new store.
#[test]
fn a_store_whose_mark_or_database_is_lost_is_damaged() {
    let losses: [Case; 4] = [
        ("highwater is gone", |dir| {
            fs::remove_file(dir.join("highwater")).unwrap();
        }),
        ("the database is gone", |dir| {
            fs::remove_dir_all(dir.join("db")).unwrap();
        }),
        ("highwater cannot be read", |dir| {
            fs::write(dir.join("highwater"), [0; 5]).unwrap();
        }),
        ("1 are lost", |dir| {
            let record: Vec<u8> = [2_u64, !2].iter().flat_map(|n| n.to_be_bytes()).collect();
            fs::write(dir.join("highwater"), record).unwrap();
        }),
    ];
    for (said, lose) in losses {
        let dir = tempfile::tempdir().unwrap();
        let mut log = RocksLog::new(dir.path());
        log.recover().unwrap();
        log.write(Batch::default(), true).unwrap();
        drop(log);
        lose(dir.path());
        let error = recover(dir.path()).unwrap_err();
        assert!(matches!(error, LogError::Damaged { .. }), "{said}: {error}");
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_file_is_noticed() {
    // A restart writes the log out into tables.
    let mut cluster = Cluster::start(3).await;
    for i in 0..50 {
        let put = put(cluster.any(), i);
        put.await.unwrap();
    }
    for _ in 0..2 {
        cluster.kill(1).await;
        cluster.start_member(1).await;
    }
    cluster.kill(1).await;
    let peer = cluster.voters[1].clone();
    let tables = files(&cluster.dir(peer.id), ".sst");
    assert!(!tables.is_empty(), "a restart writes tables");
    fs::remove_file(&tables[0]).unwrap();
    let error = cluster.start_peer(&peer).await.unwrap_err();
    check(cluster, error).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused() {
    let cluster = Cluster::start(1).await;
    let mut peer = cluster.voters[0].clone();
    peer.addr = cluster.new_peer("any").await.addr;
    let error = cluster.start_peer(&peer).await.unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    cluster.shutdown().await;
}

/// A store whose disk can be full. What it holds when a write fails is what was synced before.
#[derive(Debug)]
struct Filling {
    inner: MemoryLog,
    is_full: Arc<AtomicBool>,
}

impl LogStore for Filling {
    fn recover(&mut self) -> Result<Recovered, LogError> {
        self.inner.recover()
    }

    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), LogError> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(LogError::Full {
                place: "the disk under test".to_owned(),
                source: "no space left on device".into(),
            });
        }
        self.inner.write(batch, sync)
    }

    fn is_durable(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_full_disk_acknowledges_nothing_and_comes_back_when_there_is_room() {
    let network = ChannelNetwork::new();
    let voters: Vec<Peer> = (0..3)
        .map(|i| {
            Peer::new(
                MemberId::from_name(&format!("host-{i}")),
                format!("host-{i}"),
            )
        })
        .collect();
    let mut members = Vec::new();
    for peer in &voters {
        let is_full = Arc::new(AtomicBool::new(false));
        let store = Filling {
            inner: MemoryLog::new(),
            is_full: Arc::clone(&is_full),
        };
        let config = RaftConfig::new(peer.clone(), "test", voters.clone());
        let member = RaftBackend::start(config, store, network.transport())
            .await
            .unwrap();
        members.push((member, is_full));
    }
    let leader = members[0].0.wait_for_leader(DEADLINE).await.unwrap();
    let (leader, others): (Vec<_>, Vec<_>) =
        members.iter().partition(|(m, _)| m.member() == leader);
    let (leader, disk) = leader[0];
    leader
        .put(&key(0), "v".into(), Condition::Any)
        .await
        .unwrap();

    disk.store(true, Ordering::SeqCst);
    let error = within("an answer", leader.put(&key(1), "v".into(), Condition::Any))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. } | Error::Unknown { .. }),
        "{error}"
    );
    let problem = within("the report", async {
        let mut status = leader.watch_status();
        let told = status.wait_for(|s| s.problem.is_some()).await.unwrap();
        told.problem.clone().unwrap()
    })
    .await;
    assert!(problem.contains("no space is left"), "{problem}");
    // The others elect one of them, and go on.
    let other = &others[0].0;
    let put = put(other, 2);
    within("a write by the others", put).await.unwrap();
    assert_ne!(other.status().leader, Some(leader.member()));

    disk.store(false, Ordering::SeqCst);
    let mut status = leader.watch_status();
    let is_back = status.wait_for(|s| s.problem.is_none() && s.leader.is_some());
    within("its return", is_back).await.unwrap();
    let entry = within("a read", leader.get(&key(2))).await.unwrap();
    assert!(entry.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_directory_was_removed_joins_as_new_and_votes_again() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..50 {
        put(cluster.any(), i).await.unwrap();
    }
    cluster.kill(1).await;
    fs::remove_dir_all(cluster.dir(cluster.voters[1].id)).unwrap();
    cluster.start_member(1).await;
    within("a read at the new one", cluster.member(1).get(&key(49)))
        .await
        .unwrap()
        .unwrap();
    // Its vote is needed now.
    cluster.kill(0).await;
    within("a write", put(cluster.member(1), 50)).await.unwrap();
    within("a write", put(cluster.member(2), 51)).await.unwrap();
    cluster.kill_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_founders_found_the_cluster_and_the_third_joins_later() {
    let mut cluster = Cluster::start(3).await;
    cluster.kill_all().await;
    for peer in cluster.voters.clone() {
        fs::remove_dir_all(cluster.dir(peer.id)).unwrap();
    }
    for i in 0..2 {
        cluster.start_member(i).await;
    }
    within("a write of two", put(cluster.member(0), 1))
        .await
        .unwrap();
    cluster.start_member(2).await;
    within("a read of the third", cluster.member(2).get(&key(1)))
        .await
        .unwrap()
        .unwrap();
    cluster.kill(0).await;
    within("a write with the third", put(cluster.member(2), 2))
        .await
        .unwrap();
    cluster.kill_all().await;
}

/// A small disk of its own, if this process may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path());
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_really_full_disk_loses_nothing_that_was_acknowledged() {
    let Some(disk) = SmallDisk::mount(160) else {
        eprintln!("skipped: a small disk cannot be mounted here (it takes root)");
        return;
    };
    let network = ChannelNetwork::new();
    let peer = Peer::new(MemberId::from_name("host"), "host");
    let config = RaftConfig::new(peer.clone(), "test", vec![peer])
        .with_request_timeout(Duration::from_secs(2));
    let store = RocksLog::new(disk.0.path().join("raft"));
    let member = RaftBackend::start(config.clone(), store, network.transport())
        .await
        .unwrap();
    within("a leader", member.wait_for_leader(DEADLINE))
        .await
        .unwrap();
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![0; 120 << 20]).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        match within("an answer", put_large(&member, acknowledged)).await {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::Unavailable { .. } | Error::Unknown { .. }),
        "{error}"
    );
    assert!(acknowledged > 3, "{acknowledged}");
    fs::remove_file(ballast).unwrap();
    let mut status = member.watch_status();
    let is_back = status.wait_for(|s| s.problem.is_none() && s.leader.is_some());
    within("its return", is_back).await.unwrap();
    for i in 0..acknowledged {
        assert!(member.get(&key(i)).await.unwrap().is_some(), "{i}");
    }
    within("a write", put(&member, 9999)).await.unwrap();
    member.shutdown().await.unwrap();
    drop(member);
    let store = RocksLog::new(disk.0.path().join("raft"));
    let member = RaftBackend::start(config, store, network.transport())
        .await
        .unwrap();
    within("a leader", member.wait_for_leader(DEADLINE))
        .await
        .unwrap();
    for i in 0..acknowledged {
        assert!(member.get(&key(i)).await.unwrap().is_some(), "{i}");
    }
    member.shutdown().await.unwrap();
}

async fn put_large(member: &RaftBackend, i: usize) -> flynn_discovery::Result<()> {
    let value = vec![b'v'; 256 << 10];
    member
        .put(&key(i), value.into(), Condition::Any)
        .await
        .map(drop)
}
