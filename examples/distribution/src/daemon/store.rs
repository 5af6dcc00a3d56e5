//! This host's member of the cell's store. Founders are voters; every other host joins as a learner, which serves reads and watches
//! from its own copy and can be promoted.

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use async_trait::async_trait;
use flynn_discovery::{
    Backend, Error,
    backend::raft::{MemberId, MemberRole, Peer, RaftBackend, RaftConfig, RocksLog, TcpTransport},
    http::{Client, RaftInfo, Secret, segment},
};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::settings::{self, Settings};

/// The member.
#[derive(Debug)]
pub(super) struct Store {
    raft: Arc<RaftBackend>,
    info: Arc<Info>,
}

/// How long a host waits for its cell before it says what is missing, and goes on waiting.
const PATIENCE: Duration = Duration::from_secs(15);

impl Store {
    pub(super) async fn open(
        settings: &Settings,
        data_dir: &Path,
        listener: TcpListener,
        token: &Secret,
    ) -> Result<Self> {
        let dir = data_dir.join("store");
        let member = MemberId::from_name(settings.id.as_str());
        if !settings.is_voter() && !dir.exists() {
            ask_to_join(settings, token).await?;
        }
        let me = Peer::new(member, settings::at(settings.addr, settings.raft_port));
        let founders = settings
            .voters
            .iter()
            .map(|(id, addr)| {
                Peer::new(
                    MemberId::from_name(id.as_str()),
                    settings::at(*addr, settings.raft_port),
                )
            })
            .collect();
        let config = RaftConfig::new(me, &settings.cell, founders);
        let transport = TcpTransport::new(listener, token.clone());
        let raft = RaftBackend::start(config, RocksLog::new(dir), transport).await?;
        let raft = Arc::new(raft);
        let info = Arc::new(Info {
            raft: Arc::clone(&raft),
            discovery_port: settings.discovery_port,
            raft_port: settings.raft_port,
        });
        Ok(Self { raft, info })
    }

    pub(super) fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.raft) as Arc<dyn Backend>
    }

    pub(super) fn info(&self) -> Arc<dyn RaftInfo> {
        Arc::clone(&self.info) as Arc<dyn RaftInfo>
    }

    /// Waits until there is a leader: for ever, if the others are only not there yet.
    ///
    /// # Errors
    ///
    /// When the others refuse this member, or it stopped.
    pub(super) async fn ready(&self) -> Result<()> {
        loop {
            match self.raft.wait_for_leader(PATIENCE).await {
                Ok(leader) => {
                    tracing::info!(%leader, "the store has a leader");
                    return Ok(());
                }
                Err(error @ Error::Unavailable { .. }) => {
                    tracing::warn!(
                        "no leader of the store yet ({error}): are a majority of the voters running?"
                    );
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Resolves when the member has stopped by itself.
    pub(super) async fn failed(&self) -> anyhow::Error {
        match self.raft.closed().await {
            Ok(()) => anyhow!("this host's member of the store stopped"),
            Err(error) => anyhow!("this host's member of the store stopped: {error}"),
        }
    }

    /// Hands the leadership over, if it is ours, and stops.
    pub(super) async fn close(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the member of the store did not stop well");
        }
    }
}

/// Asks the founders to make this host a learner.
async fn ask_to_join(settings: &Settings, token: &Secret) -> Result<()> {
    let client = Client::new(settings.discovery_urls())?
        .with_key(token.clone())
        .with_noun("cell's store");
    let peer = format!("{}={}", settings.id, settings.addr);
    client
        .put::<Value>(&format!("/raft/peers/{}", segment(&peer)), &Value::Null)
        .await
        .with_context(|| format!("host {} could not join the cell", settings.id))?;
    Ok(())
}

/// What the discovery API tells about the members.
#[derive(Debug)]
struct Info {
    raft: Arc<RaftBackend>,
    discovery_port: u16,
    raft_port: u16,
}

impl Info {
    /// Where the HTTP API of the member is whose transport listens at `addr`.
    fn api_of(&self, addr: &str) -> String {
        let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
        format!("{host}:{}", self.discovery_port)
    }
}

#[async_trait]
impl RaftInfo for Info {
    fn leader(&self) -> Option<String> {
        let status = self.raft.status();
        let leader = status.leader?;
        status
            .members
            .iter()
            .find(|member| member.id == leader)
            .map(|member| self.api_of(&member.addr))
    }

    /// Those with a vote; learners serve, and are not listed.
    fn peers(&self) -> Vec<String> {
        let status = self.raft.status();
        let voters = status
            .members
            .iter()
            .filter(|member| member.role == MemberRole::Voter);
        voters.map(|member| self.api_of(&member.addr)).collect()
    }

    fn index(&self) -> u64 {
        self.raft.status().applied
    }

    /// `peer` is `ID=ADDRESS` of a host.
    async fn add_peer(&self, peer: &str) -> flynn_discovery::Result<u64> {
        let invalid = |why: &str| Error::Invalid {
            what: format!("host {peer:?}"),
            why: why.to_owned(),
        };
        let (id, addr) = peer
            .split_once('=')
            .ok_or_else(|| invalid("a host is told as ID=ADDRESS"))?;
        let addr: IpAddr = addr
            .parse()
            .map_err(|_| invalid("its address is not an IP address"))?;
        let new = Peer::new(MemberId::from_name(id), settings::at(addr, self.raft_port));
        if let Some(known) = self
            .raft
            .status()
            .members
            .iter()
            .find(|member| member.id == new.id)
        {
            if known.addr == new.addr {
                return Ok(self.index());
            }
            return Err(Error::Invalid {
                what: format!("host id {id}"),
                why: format!(
                    "it is taken by the host at {}: give the new host another id",
                    known.addr.rsplit_once(':').map_or("", |(host, _)| host)
                ),
            });
        }
        self.raft.add_learner(new).await?;
        Ok(self.index())
    }

    async fn remove_peer(&self, peer: &str) -> flynn_discovery::Result<()> {
        let id = peer.split_once('=').map_or(peer, |(id, _)| id);
        self.raft.remove(MemberId::from_name(id)).await
    }

    async fn promote(&self) -> flynn_discovery::Result<()> {
        self.raft.promote(self.raft.member()).await
    }

    async fn demote(&self) -> flynn_discovery::Result<()> {
        self.raft.demote(self.raft.member()).await
    }
}
