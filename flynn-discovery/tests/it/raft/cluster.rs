//! A cluster of members in this process, each with a directory and a port of its own.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use flynn_discovery::{
    Result, Secret,
    backend::{
        Backend, Condition, Key, Revision,
        raft::{MemberId, Peer, RaftBackend, RaftConfig, RocksLog, TcpTransport},
    },
};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// How long anything is waited for: the machine may be very busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const TOKEN: &str = "the token of the cluster under test";

#[derive(Debug)]
pub(crate) struct Cluster {
    dir: TempDir,
    /// An address of the loopback that no other test uses: a port stays the cluster's own while its member is down.
    host: String,
    pub(crate) voters: Vec<Peer>,
    members: Vec<Option<Arc<RaftBackend>>>,
    pub(crate) configure: fn(RaftConfig) -> RaftConfig,
}

impl Cluster {
    pub(crate) async fn start(size: usize) -> Self {
        Self::with(size, |config| config).await
    }

    pub(crate) async fn with(size: usize, configure: fn(RaftConfig) -> RaftConfig) -> Self {
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            host: own_loopback(),
            voters: Vec::new(),
            members: Vec::new(),
            configure,
        };
        for i in 0..size {
            let peer = cluster.new_peer(&format!("host-{i}")).await;
            cluster.voters.push(peer);
            cluster.members.push(None);
        }
        cluster.start_all().await;
        cluster
    }

    /// A member with a port of its own: none of those that the system gives to whoever asks for any.
    pub(crate) async fn new_peer(&self, name: &str) -> Peer {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        loop {
            let port = 10_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000;
            let addr = format!("{}:{port}", self.host);
            if TcpListener::bind(&addr).await.is_ok() {
                return Peer::new(MemberId::from_name(name), addr);
            }
        }
    }

    pub(crate) fn dir(&self, id: MemberId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    pub(crate) fn config(&self, peer: &Peer) -> RaftConfig {
        (self.configure)(RaftConfig::new(peer.clone(), "test", self.voters.clone()))
    }

    pub(crate) async fn start_peer(&self, peer: &Peer) -> Result<RaftBackend> {
        let store = RocksLog::new(self.dir(peer.id));
        let transport = TcpTransport::new(bind(&peer.addr).await, Secret::new(TOKEN));
        RaftBackend::start(self.config(peer), store, transport).await
    }

    pub(crate) async fn start_member(&mut self, i: usize) {
        let member = self.start_peer(&self.voters[i]).await.unwrap();
        self.members[i] = Some(Arc::new(member));
    }

    pub(crate) async fn start_all(&mut self) {
        for i in 0..self.voters.len() {
            self.start_member(i).await;
        }
        for member in self.members() {
            member.wait_for_leader(DEADLINE).await.unwrap();
        }
    }

    /// Ends a member without any farewell.
    pub(crate) async fn kill(&mut self, i: usize) {
        let member = self.members[i].take().unwrap();
        let closed = member.closed();
        drop(member);
        tokio::time::timeout(DEADLINE, closed)
            .await
            .expect("a dropped member stops")
            .unwrap();
    }

    pub(crate) async fn kill_all(&mut self) {
        for i in 0..self.members.len() {
            if self.members[i].is_some() {
                self.kill(i).await;
            }
        }
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<RaftBackend>> {
        self.members.iter().flatten()
    }

    pub(crate) fn member(&self, i: usize) -> &Arc<RaftBackend> {
        self.members[i].as_ref().unwrap()
    }

    pub(crate) async fn leader(&self) -> Arc<RaftBackend> {
        Arc::clone(self.member(self.leader_index().await))
    }

    /// The member that all living ones hold for the leader.
    pub(crate) async fn leader_index(&self) -> usize {
        within("a leader", async {
            loop {
                let mut known: Vec<_> = self.members().map(|m| m.status().leader).collect();
                known.dedup();
                if let [Some(leader)] = known[..]
                    && let Some(i) = self.voters.iter().position(|p| p.id == leader)
                    && self.members[i].is_some()
                {
                    return i;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    pub(crate) fn any(&self) -> &Arc<RaftBackend> {
        self.members().next().unwrap()
    }

    pub(crate) async fn shutdown(self) {
        for member in self.members() {
            tokio::time::timeout(DEADLINE, member.shutdown())
                .await
                .expect("a member stops when it is told to")
                .unwrap();
        }
    }
}

pub(crate) fn key(i: usize) -> Key {
    Key::parse(format!("k/{i}")).unwrap()
}

/// Writes half a KiB to the key of that number.
pub(crate) async fn put(member: &RaftBackend, i: usize) -> Result<Revision> {
    let value = vec![b'v'; 512];
    member.put(&key(i), value.into(), Condition::Any).await
}

/// The future's value; a panic that says what was waited for when it takes too long.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("waited {DEADLINE:?} for {what}"))
}

fn own_loopback() -> String {
    static CLUSTERS: AtomicU16 = AtomicU16::new(1);
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id() % 200 + 50;
    format!("127.{process}.{}.{}", cluster / 250, cluster % 250 + 1)
}

/// The port of a member that has just stopped may be held for a moment.
async fn bind(addr: &str) -> TcpListener {
    let until = tokio::time::Instant::now() + DEADLINE;
    loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => return listener,
            Err(error) if tokio::time::Instant::now() < until => {
                let _ = error;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{addr} cannot be bound: {error}"),
        }
    }
}
