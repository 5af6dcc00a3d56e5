//! Our side: three members within this process, or as processes of their own behind their HTTP API.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use flynn_benches::{Program, free_port};
use flynn_discovery::{
    Secret,
    backend::{
        Backend, Condition, Key, Prefix, RemoteBackend, WatchEvent,
        raft::{MemberId, Peer, RaftBackend, RaftConfig, RocksLog, TcpTransport},
    },
    http::kv_router,
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use tokio::{net::TcpListener, sync::mpsc};

use crate::load::Store;

const LEADER_LIMIT: Duration = Duration::from_secs(20);
const TOKEN: &str = "bench";

/// Members in this process.
pub(crate) struct Embedded {
    members: Vec<Arc<RaftBackend>>,
}

impl Embedded {
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let voters = voters()?;
        let mut members = Vec::new();
        for peer in &voters {
            members.push(Arc::new(member(dir, peer, &voters).await?));
        }
        for member in &members {
            member.wait_for_leader(LEADER_LIMIT).await?;
        }
        Ok(Self { members })
    }

    pub(crate) async fn stop(&self) {
        for member in &self.members {
            let _ = member.shutdown().await;
        }
    }

    fn of(&self, client: usize) -> &RaftBackend {
        &self.members[client % self.members.len()]
    }
}

impl Store for Embedded {
    fn put(&self, client: usize, key: String, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        put(self.of(client), key, value).boxed()
    }

    fn get(&self, client: usize, key: String) -> BoxFuture<'_, Result<()>> {
        get(self.of(client), key).boxed()
    }

    fn watch(&self, watcher: usize, seen: mpsc::Sender<usize>) -> BoxFuture<'_, Result<()>> {
        watch(self.of(watcher), watcher, seen).boxed()
    }
}

/// Members in processes of their own.
pub(crate) struct Served {
    clients: Vec<RemoteBackend>,
    /// They end with this value.
    _programs: Vec<Program>,
}

impl Served {
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let voters = voters()?;
        let list: Vec<String> = voters
            .iter()
            .map(|p| format!("{}={}", p.id, p.addr))
            .collect();
        let mut served = Self {
            clients: Vec::new(),
            _programs: Vec::new(),
        };
        for peer in &voters {
            let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
            let mut command = Command::new(std::env::current_exe()?);
            command
                .args(["member", &peer.id.to_string(), &addr.to_string()])
                .arg(dir.join("served"))
                .args(&list)
                .stdout(Stdio::null());
            served._programs.push(Program::start(&mut command, addr)?);
            let endpoint = format!("http://{addr}");
            served
                .clients
                .push(RemoteBackend::new(vec![endpoint], None)?);
        }
        // Answered as soon as there is a leader.
        put(&served.clients[0], "ready".to_owned(), Vec::new()).await?;
        Ok(served)
    }

    fn of(&self, client: usize) -> &RemoteBackend {
        &self.clients[client % self.clients.len()]
    }
}

impl Store for Served {
    fn put(&self, client: usize, key: String, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        put(self.of(client), key, value).boxed()
    }

    fn get(&self, client: usize, key: String) -> BoxFuture<'_, Result<()>> {
        get(self.of(client), key).boxed()
    }

    fn watch(&self, watcher: usize, seen: mpsc::Sender<usize>) -> BoxFuture<'_, Result<()>> {
        watch(self.of(watcher), watcher, seen).boxed()
    }
}

/// The process of one member: `ID HTTP-ADDRESS DIRECTORY ID=ADDRESS…`.
pub(crate) async fn serve(arguments: &[String]) -> Result<()> {
    let [id, addr, dir, voters @ ..] = arguments else {
        anyhow::bail!("usage: member ID HTTP-ADDRESS DIRECTORY ID=ADDRESS…");
    };
    let id: MemberId = id.parse()?;
    let mut peers = Vec::new();
    for voter in voters {
        let (id, addr) = voter.split_once('=').context("a voter is ID=ADDRESS")?;
        peers.push(Peer::new(id.parse()?, addr));
    }
    let me = peers
        .iter()
        .find(|peer| peer.id == id)
        .context("no voter")?;
    let backend = Arc::new(member(Path::new(dir), me, &peers).await?);
    let listener = TcpListener::bind(addr).await?;
    let app = kv_router(Arc::clone(&backend) as Arc<dyn Backend>);
    flynn_discovery::http::serve(listener, app, futures::future::pending()).await?;
    Ok(())
}

fn voters() -> Result<Vec<Peer>> {
    (0..3)
        .map(|i| {
            let addr = format!("127.0.0.1:{}", free_port()?);
            Ok(Peer::new(MemberId::from_name(&format!("bench-{i}")), addr))
        })
        .collect()
}

async fn member(dir: &Path, peer: &Peer, voters: &[Peer]) -> Result<RaftBackend> {
    let config = RaftConfig::new(peer.clone(), "bench", voters.to_vec());
    let store = RocksLog::new(dir.join(format!("member-{}", peer.id)));
    let listener = TcpListener::bind(&peer.addr).await?;
    let transport = TcpTransport::new(listener, Secret::new(TOKEN));
    Ok(RaftBackend::start(config, store, transport).await?)
}

async fn put(backend: &dyn Backend, key: String, value: Vec<u8>) -> Result<()> {
    let key = Key::parse(key)?;
    backend.put(&key, value.into(), Condition::Any).await?;
    Ok(())
}

async fn get(backend: &dyn Backend, key: String) -> Result<()> {
    let key = Key::parse(key)?;
    backend.get(&key).await?.context("the key was written")?;
    Ok(())
}

async fn watch(backend: &dyn Backend, watcher: usize, seen: mpsc::Sender<usize>) -> Result<()> {
    let mut events = backend.watch(&Prefix::parse("watched/")?);
    let first = events.next().await.context("a watch begins")??;
    anyhow::ensure!(matches!(first, WatchEvent::Reset { .. }), "with Reset");
    tokio::spawn(async move {
        while let Some(Ok(WatchEvent::Changes { changes, .. })) = events.next().await {
            for _ in changes {
                if seen.send(watcher).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(())
}
