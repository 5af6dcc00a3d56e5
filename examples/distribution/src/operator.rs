//! The operator's commands of `flynn-host`: what the cell looks like, and what to do about it.

mod drain;
pub(crate) mod what_if;

use std::{path::Path, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use flynn_discovery::{
    Backend,
    backend::{ListOptions, Prefix, RemoteBackend},
    http::Client,
};
use flynn_host::{
    http::{Client as HostClient, LogQuery},
    log::LogStream,
};
use flynn_sched::{
    Cluster as _, ClusterState, GroupKind, HostId, Job, JobId, Phase, Transaction,
    remote::DiscoveryCluster, transaction::Change,
};
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::{
    cli::output::{Format, line, note, table},
    settings::{self, Settings},
};

/// The cell, as an operator on one of its hosts reaches it.
#[derive(Debug)]
pub struct Operator {
    settings: Settings,
    token: flynn_discovery::http::Secret,
    /// The store.
    pub backend: Arc<dyn Backend>,
    /// The cell.
    pub cluster: Arc<DiscoveryCluster>,
}

/// How long an operator waits for the store.
const PATIENCE: Duration = Duration::from_secs(20);

impl Operator {
    /// Reads a host's settings and token; any voter of the store will do to answer.
    ///
    /// # Errors
    ///
    /// When the directory is not a host's.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let settings = Settings::load(data_dir)?;
        let token = settings::read_token(&settings::token_path(data_dir))?;
        let backend: Arc<dyn Backend> = Arc::new(RemoteBackend::new(
            settings.discovery_urls(),
            Some(token.clone()),
        )?);
        let cluster = Arc::new(DiscoveryCluster::new(Arc::clone(&backend)));
        Ok(Self {
            settings,
            token,
            backend,
            cluster,
        })
    }

    /// The cluster's token.
    #[must_use]
    pub fn token(&self) -> &flynn_discovery::http::Secret {
        &self.token
    }

    /// This host's settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The cell's present state.
    ///
    /// # Errors
    ///
    /// When the store cannot be reached or has no majority.
    pub async fn state(&self) -> Result<Arc<ClusterState>> {
        // The cell waits for a store that does not answer; a read of anything is told why it does not.
        let one = ListOptions {
            limit: 1,
            ..ListOptions::default()
        };
        let mut trouble = pin!(async {
            match self.backend.list(&Prefix::root(), one).await {
                Err(error) => error,
                Ok(_) => std::future::pending().await,
            }
        });
        let failed = tokio::select! {
            state = tokio::time::timeout(PATIENCE, self.cluster.snapshot()) => match state {
                Ok(Ok(state)) => return Ok(state),
                Ok(Err(error)) => error.into(),
                Err(_) => anyhow!(
                    "the cell's store did not answer within {PATIENCE:?} (asked {}): are a majority of the hosts running?",
                    self.settings.discovery_urls().join(", ")
                ),
            },
            error = &mut trouble => return Err(error.into()),
        };
        match tokio::time::timeout(PATIENCE, trouble).await {
            Ok(error) => Err(error.into()),
            Err(_) => Err(failed),
        }
    }

    /// Lists the hosts.
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub(crate) async fn list(&self, format: Format) -> Result<()> {
        let state = self.state().await?;
        let raft = self.raft_roles().await;
        let rows: Vec<Value> = state
            .hosts()
            .map(|host| {
                let role = raft.iter().find(|(addr, _)| addr == &host.host.addr).map_or(if raft.is_empty() { "-" } else { "learner" }, |(_, role)| role);
                let up = state.jobs_on(&host.host.id).filter(|job| job.status.phase == Phase::Up).count();
                let condition = match host.lost_since_ms {
                    Some(_) => "lost",
                    None if host.host.is_draining => "draining",
                    None => "up",
                };
                json!({
                    "id": host.host.id, "addr": host.host.addr, "state": condition, "raft": role, "jobs": up,
                    "zone": host.host.zone, "tags": host.host.tags,
                    "cpu_millis": host.host.capacity.cpu_millis, "promised_cpu_millis": host.promised.cpu_millis,
                    "memory_bytes": host.host.capacity.memory_bytes, "promised_memory_bytes": host.promised.memory_bytes,
                })
            })
            .collect();
        format.print(&rows, |rows| {
            let text = |value: &Value| {
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            };
            table(
                [
                    "ID",
                    "ADDR",
                    "STATE",
                    "STORE",
                    "JOBS",
                    "CPU PROMISED",
                    "MEMORY PROMISED",
                ],
                rows.iter().map(|row| {
                    let share = |promised: &str, capacity: &str, unit: u64, name: &str| {
                        format!(
                            "{} of {} {name}",
                            row[promised].as_u64().unwrap_or(0) / unit,
                            row[capacity].as_u64().unwrap_or(0) / unit
                        )
                    };
                    [
                        text(&row["id"]),
                        text(&row["addr"]),
                        text(&row["state"]),
                        text(&row["raft"]),
                        text(&row["jobs"]),
                        share("promised_cpu_millis", "cpu_millis", 1, "m"),
                        share("promised_memory_bytes", "memory_bytes", 1 << 20, "MiB"),
                    ]
                }),
            )
        })
    }

    /// Lists the jobs of all hosts.
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub(crate) async fn ps(&self, all: bool, format: Format) -> Result<()> {
        let state = self.state().await?;
        let rows: Vec<Value> = state
            .jobs()
            .filter(|job| all || !job.status.phase.is_final())
            .map(|job| job_row(&state, job))
            .collect();
        format.print(&rows, |rows| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            table(
                ["ID", "HOST", "APP", "TYPE", "STATE", "RESTARTS", "ERROR"],
                rows.iter().map(|row| {
                    [
                        text(&row["id"]),
                        text(&row["host"]),
                        text(&row["app"]),
                        text(&row["type"]),
                        text(&row["state"]),
                        row["restarts"].to_string(),
                        text(&row["error"]),
                    ]
                }),
            )
        })
    }

    /// Prints a job's log.
    ///
    /// # Errors
    ///
    /// When the job is unknown or its host cannot be reached.
    pub async fn log(&self, job: &str, lines: Option<usize>, follow: bool) -> Result<()> {
        let state = self.state().await?;
        let job = find_job(&state, job)?;
        let client = self.host_client(&state, &job.host)?;
        let mut query = LogQuery::default().with_follow(follow);
        if let Some(lines) = lines {
            query = query.with_lines(lines);
        }
        let mut log = client
            .log(&format!("{}-{}", job.host, job.id), &query)
            .await?;
        while let Some(entry) = log.next().await {
            let entry = entry?;
            if entry.stream == LogStream::Stderr {
                note(&entry.msg);
            } else {
                line(&entry.msg);
            }
        }
        Ok(())
    }

    /// Stops jobs; a group that still wants them gets others.
    ///
    /// # Errors
    ///
    /// When a job is unknown or the store refuses.
    pub async fn stop(&self, jobs: &[String]) -> Result<()> {
        let state = self.state().await?;
        for job in jobs {
            let job = find_job(&state, job)?;
            let change = Change::Stop(job.id.clone());
            let transaction = Transaction {
                changes: vec![change],
                basis: state.revision(),
                ..Transaction::default()
            };
            self.cluster.commit(transaction).await?;
            note(&format!("Job {}-{} is told to stop.", job.host, job.id));
        }
        Ok(())
    }

    /// Makes a host's member of the store a voter, or no longer one.
    ///
    /// # Errors
    ///
    /// When the host is unknown, or the store refuses.
    pub async fn set_voter(&self, host: &HostId, is_voter: bool) -> Result<()> {
        let state = self.state().await?;
        let known = state.host(host).with_context(|| {
            format!("host {host} is not in the cell; `flynn-host list` shows those that are")
        })?;
        let url = format!(
            "http://{}",
            settings::at(known.host.addr.parse()?, self.settings.discovery_port)
        );
        let client = Client::new(vec![url])?
            .with_key(self.token.clone())
            .with_noun("host")
            .with_timeout(Duration::from_secs(60));
        let what = if is_voter { "promote" } else { "demote" };
        client
            .post::<Value>(&format!("/raft/{what}"), &json!({}))
            .await
            .with_context(|| format!("host {host} was not {what}d"))?;
        note(&format!(
            "Host {host} is {} the store.",
            if is_voter {
                "now a voter of"
            } else {
                "no longer a voter of"
            }
        ));
        Ok(())
    }

    fn host_client(&self, state: &ClusterState, host: &HostId) -> Result<HostClient> {
        let host = state
            .host(host)
            .with_context(|| format!("host {host} is not in the cell"))?;
        Ok(HostClient::new(&*host.host.api_url, self.token.clone())?)
    }

    /// The addresses of the store's members and what each is; empty when nobody answers.
    async fn raft_roles(&self) -> Vec<(String, String)> {
        let Ok(client) = Client::new(self.settings.discovery_urls()) else {
            return Vec::new();
        };
        let client = client.with_key(self.token.clone()).with_timeout(PATIENCE);
        let leader: Option<Value> = client.get("/raft/leader").await.ok();
        let leader = leader.and_then(|leader| Some(addr_of(leader["host"].as_str()?)));
        let peers: Vec<String> = client.get("/raft/peers").await.unwrap_or_default();
        peers
            .iter()
            .map(|peer| {
                let addr = addr_of(peer);
                let role = if Some(&addr) == leader.as_ref() {
                    "leader"
                } else {
                    "follower"
                };
                (addr, role.to_owned())
            })
            .collect()
    }
}

/// The address in `host:port`.
fn addr_of(peer: &str) -> String {
    peer.rsplit_once(':')
        .map_or(peer, |(addr, _)| addr)
        .trim_matches(['[', ']'])
        .to_owned()
}

fn job_row(state: &ClusterState, job: &Job) -> Value {
    let meta = |key: &str| job.spec.metadata.get(key).map_or("-", String::as_str);
    let is_omni = state
        .group(&job.group)
        .is_some_and(|group| matches!(group.kind, GroupKind::Omni { .. }));
    let is_lost = state
        .host(&job.host)
        .is_none_or(|host| host.lost_since_ms.is_some());
    json!({
        "id": format!("{}-{}", job.host, job.id),
        "host": job.host,
        "app": meta("flynn-controller.app_name"),
        "type": meta("flynn-controller.type"),
        "release": meta("flynn-controller.release"),
        "state": if is_lost { json!("lost") } else { json!(job.status.phase) },
        "omni": is_omni,
        "restarts": job.status.restarts,
        "exit_status": job.status.exit_status,
        "error": job.status.error,
        "ports": job.status.ports,
    })
}

/// The job with this id, with its host in front or without.
fn find_job<'s>(state: &'s ClusterState, id: &str) -> Result<&'s Arc<Job>> {
    let unknown = || format!("job {id} is not in the cell; `flynn-host ps -A` lists all");
    let with_host = id
        .split_once('-')
        .filter(|(host, _)| state.hosts().any(|known| known.host.id.as_str() == *host));
    let id = JobId::parse(with_host.map_or(id, |(_, job)| job)).with_context(unknown)?;
    state.job(&id).with_context(unknown)
}
