//! Placements that are durable: each batch goes through three embedded Raft members, and a majority has synced it before
//! it counts.
//!
//! Schedulers, each with a mirror of its own on one of the members, commit batches of jobs of one group, one job
//! a host, onto a window of hosts drawn at random: windows overlap, so commits meet and are decided anew. The jobs are
//! real descriptions with arguments, environment, artifacts and ports. At the end the cell is read back through another
//! member and counted.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use flynn_benches::{Metric, Report, cpu_seconds, free_port, workspace_root};
use flynn_discovery::{
    Secret,
    backend::{
        Backend,
        raft::{MemberId, Peer, RaftBackend, RaftConfig, RocksLog, TcpTransport},
    },
};
use flynn_sched::{
    Artifact, Cluster as _, DiscoveryCluster, Group, GroupId, GroupKind, Host, HostId,
    HostLink as _, Job, JobId, JobSpec, JobStatus, Membership, Port, Resources, Service,
    Transaction,
};
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use hdrhistogram::Histogram;
use tokio::{net::TcpListener, time::Instant};

/// What is committed by whom.
#[derive(Debug, Clone, Copy)]
struct Plan {
    hosts: usize,
    schedulers: usize,
    /// Of each scheduler.
    batches: usize,
    /// Jobs in a batch.
    batch: usize,
}

const ROUNDS: usize = 3;
const LIMIT: &str = "at least 20,000 placements/s: issue 3";

/// One scheduler whose batches follow each other, and four at once.
pub(crate) async fn report(report: &mut Report) -> Result<()> {
    for (schedulers, batches) in [(1, 100), (4, 25)] {
        let plan = Plan {
            hosts: 10_000,
            schedulers,
            batches,
            batch: 1000,
        };
        let case = |figure: &str| match schedulers {
            1 => format!("commit_raft{figure}"),
            _ => format!("commit_raft, {schedulers} schedulers{figure}"),
        };
        let metrics = [
            Metric::higher(case(""), "placements/s"),
            Metric::lower(case(", a batch, p50"), "ms"),
            Metric::lower(case(", a batch, p99"), "ms"),
            Metric::lower(case(", CPU of everything"), "µs/placement"),
            Metric::lower(case(", refused and placed anew"), "jobs"),
        ];
        let run = async || run(plan).await;
        report.alone(LIMIT, ROUNDS, &metrics, run).await?;
    }
    Ok(())
}

/// The figures of one round, in the order of the metrics.
async fn run(plan: Plan) -> Result<Vec<f64>> {
    let parent = workspace_root().join("target");
    std::fs::create_dir_all(&parent)?;
    let dir = tempfile::tempdir_in(parent)?;
    let members = start(dir.path()).await?;
    let cell =
        |member: &Arc<RaftBackend>| DiscoveryCluster::new(Arc::clone(member) as Arc<dyn Backend>);
    let joined = join(&cell(&members[0]).with_lease_ttl(LEASE), plan.hosts).await?;
    let schedulers: Vec<DiscoveryCluster> = (0..plan.schedulers)
        .map(|n| cell(&members[n % members.len()]))
        .collect();
    for scheduler in &schedulers {
        let state = scheduler.snapshot().await?;
        ensure!(state.hosts().count() == plan.hosts, "all hosts are seen");
    }
    let cpu = cpu_seconds(std::process::id())?;
    let started = Instant::now();
    let schedulers = schedulers
        .into_iter()
        .enumerate()
        .map(|(n, cell)| tokio::spawn(scheduler(n, cell, plan)));
    let mut latency = Histogram::<u64>::new(3)?;
    let mut refused = 0;
    for done in try_join_all(schedulers).await? {
        let (latencies, again) = done?;
        latency.add(latencies)?;
        refused += again;
    }
    let elapsed = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds(std::process::id())? - cpu;
    let placements = plan.schedulers * plan.batches * plan.batch;
    verify(&cell(&members[2]), placements).await?;
    drop(joined);
    for member in &members {
        let _ = member.shutdown().await;
    }
    Ok(vec![
        placements as f64 / elapsed,
        latency.value_at_quantile(0.5) as f64 / 1000.0,
        latency.value_at_quantile(0.99) as f64 / 1000.0,
        cpu * 1e6 / placements as f64,
        refused as f64,
    ])
}

/// Long enough that no host renews its lease during a round.
const LEASE: Duration = Duration::from_secs(3600);

async fn start(dir: &Path) -> Result<Vec<Arc<RaftBackend>>> {
    let voters: Vec<Peer> = (0..3)
        .map(|i| {
            let addr = format!("127.0.0.1:{}", free_port()?);
            Ok(Peer::new(MemberId::from_name(&format!("bench-{i}")), addr))
        })
        .collect::<Result<_>>()?;
    let mut members = Vec::new();
    for peer in &voters {
        let config = RaftConfig::new(peer.clone(), "bench", voters.clone());
        let store = RocksLog::new(dir.join(format!("member-{}", peer.id)));
        let listener = TcpListener::bind(&peer.addr).await?;
        let transport = TcpTransport::new(listener, Secret::new("bench"));
        members.push(Arc::new(
            RaftBackend::start(config, store, transport).await?,
        ));
    }
    for member in &members {
        member.wait_for_leader(Duration::from_secs(20)).await?;
    }
    Ok(members)
}

fn host_id(n: usize) -> Result<HostId> {
    Ok(HostId::parse(format!("host{n:05}"))?)
}

async fn join(cell: &DiscoveryCluster, hosts: usize) -> Result<Vec<Box<dyn Membership>>> {
    stream::iter(0..hosts)
        .map(|n| async move {
            let capacity = Resources {
                cpu_millis: 64_000,
                memory_bytes: 256 << 30,
                disk_bytes: 1 << 40,
            };
            let host = Host {
                addr: format!("10.0.{}.{}", n / 250, n % 250),
                zone: Some(format!("zone-{}", n % 3)),
                ..Host::new(host_id(n)?, capacity)
            };
            anyhow::Ok(cell.join(host).await?)
        })
        .buffer_unordered(128)
        .try_collect()
        .await
}

/// As the controller writes it for an app of some size.
fn spec(scheduler: usize, batch: usize) -> JobSpec {
    JobSpec {
        args: vec!["/app/bin/serve".into(), "--workers=4".into()],
        env: (0..8)
            .map(|n| {
                (
                    format!("SETTING_{n}"),
                    format!("value-{n}-of-{scheduler}-{batch}"),
                )
            })
            .collect::<BTreeMap<_, _>>(),
        artifacts: vec![Artifact {
            uri: "blob:slugs/0123456789abcdef.tgz".into(),
            sha256: Some("5".repeat(64)),
            size: Some(30 << 20),
        }],
        ports: vec![Port {
            port: None,
            proto: "http".into(),
            service: Some(Service {
                name: format!("app-{scheduler}-{batch}-web"),
                check: None,
            }),
        }],
        request: Resources {
            cpu_millis: 100,
            memory_bytes: 256 << 20,
            disk_bytes: 1 << 30,
        },
        ..JobSpec::default()
    }
}

async fn scheduler(
    n: usize,
    cell: DiscoveryCluster,
    plan: Plan,
) -> Result<(Histogram<u64>, usize)> {
    let mut latency = Histogram::<u64>::new(3)?;
    let mut refused = 0;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n as u64 + 1);
    let mut state = cell.snapshot().await?;
    let mut serial = 0_usize;
    for batch in 0..plan.batches {
        let group = GroupId::parse(format!("app-{n}.{batch}.web"))?;
        let count = u32::try_from(plan.batch)?;
        let group = Group::new(group, GroupKind::Service { count }, spec(n, batch));
        let mut missing = plan.batch;
        let asked = Instant::now();
        while missing > 0 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let window = usize::try_from(random >> 33)? % plan.hosts;
            let mut transaction = Transaction::on(&state).put_group(group.clone());
            for at in 0..missing {
                serial += 1;
                transaction = transaction.start(Job {
                    id: JobId::parse(format!("{n:08x}-0000-4000-8000-{serial:012x}"))?,
                    group: group.id.clone(),
                    host: host_id((window + at) % plan.hosts)?,
                    spec: Arc::clone(&group.spec),
                    is_stopping: false,
                    evicted: None,
                    placed_at_ms: 1_700_000_000_000,
                    attempt: 0,
                    status: JobStatus::default(),
                });
            }
            let committed = cell.commit(transaction).await?;
            missing = committed.refused.len();
            refused += missing;
            state = committed.state;
        }
        latency.record(u64::try_from(asked.elapsed().as_micros())?)?;
    }
    Ok((latency, refused))
}

/// Every job is there once, and no host has more than it can.
async fn verify(cell: &DiscoveryCluster, placements: usize) -> Result<()> {
    let state = cell.snapshot().await?;
    ensure!(
        state.jobs().count() == placements,
        "{} jobs are there",
        state.jobs().count()
    );
    let mut on: BTreeMap<&HostId, Resources> = BTreeMap::new();
    for job in state.jobs() {
        let sum = on.entry(&job.host).or_default();
        *sum = sum
            .checked_add(&job.spec.request)
            .context("a sum overflows")?;
    }
    for (id, sum) in on {
        let host = state.host(id).context("jobs are on hosts")?;
        ensure!(host.host.allocatable().fits(&sum), "{id} is over-committed");
    }
    Ok(())
}
