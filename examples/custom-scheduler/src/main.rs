//! Run with `cargo run -p custom-scheduler`.
//!
//! An own scheduling policy: batches with deadlines, the most urgent first, on the cheapest host that has room.
#![allow(clippy::print_stdout, reason = "an example shows what it did")]

mod deadline;

use std::{collections::BTreeMap, error::Error, sync::Arc, time::Duration};

use flynn_discovery::{
    Backend,
    backend::{MemoryBackend, RemoteBackend},
    http::{kv_router, serve},
};
use flynn_sched::{
    Cluster, ClusterState, DiscoveryCluster, Driver, Group, GroupId, GroupKind, Host, HostId,
    HostLink, Job, JobSpec, JobStatus, LocalCluster, Phase, Resources, Result, Scheduler,
    SimCluster, Transaction,
    clock::{Clock, ManualClock},
    scheduler::{Context, SeededIds},
    sim::Behaviour,
};
use futures::StreamExt;
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};

use deadline::DeadlineScheduler;

/// What there is: two cheap hosts, and one that costs ten times as much.
const HOSTS: [(&str, &str); 3] = [("cheap1", "1"), ("cheap2", "1"), ("dear", "10")];
/// What is asked for: how many jobs, and by when, in seconds from now.
const BATCHES: [(&str, u32, u64); 3] = [("report", 6, 60), ("invoice", 4, 20), ("backup", 6, 600)];

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    one_round_on_a_local_cell().await?;
    a_simulated_minute()?;
    until_all_is_done_on_a_remote_cell().await
}

/// A cell in this process: schedule once by hand and look at what came of it.
async fn one_round_on_a_local_cell() -> Result<()> {
    println!("A local cell, one round:");
    let clock = Arc::new(ManualClock::at(1_000));
    let cell = LocalCluster::new(Arc::clone(&clock) as Arc<dyn Clock>);
    let mut members = Vec::new();
    for (id, price) in HOSTS {
        members.push(cell.join(host(id, price)?).await?);
    }
    let mut wanted = Transaction::default();
    for (id, count, seconds) in BATCHES {
        wanted = wanted.put_group(batch(id, count, clock.now_ms() + seconds * 1000)?);
    }
    cell.commit(wanted).await?;

    let mut ids = SeededIds::new(1);
    let mut context = Context::new(clock.now_ms(), &mut ids);
    let proposal = DeadlineScheduler.schedule(&*cell.snapshot().await?, &mut context);
    let committed = cell.commit(proposal).await?;
    assert!(committed.refused.is_empty(), "nobody else was faster");
    show(&committed.state);
    Ok(())
}

/// The same policy in a cell whose time is simulated, with a host that dies on the way.
fn a_simulated_minute() -> Result<()> {
    println!("\nA simulated cell, one minute in which cheap1 dies:");
    let cell = SimCluster::new(42);
    for (id, price) in HOSTS {
        cell.join(host(id, price)?)?;
    }
    for (id, count, seconds) in BATCHES {
        cell.put_group(batch(id, count, cell.now_ms() + seconds * 1000)?);
        cell.behave(
            GroupId::parse(id)?,
            Behaviour::Completes(Duration::from_secs(8)),
        );
    }
    let mut scheduler = DeadlineScheduler;
    cell.run(&mut [&mut scheduler], Duration::from_secs(5));
    cell.lose(&HostId::parse("cheap1")?);
    cell.run(&mut [&mut scheduler], Duration::from_secs(55));
    print!("{}", cell.log());
    show(&cell.state());
    let counters = cell.counters();
    println!("{} jobs were started", counters.started);
    Ok(())
}

/// A cell whose state is behind HTTP, with a driver that schedules whenever something changes, and hosts that run each
/// job to its end at once.
async fn until_all_is_done_on_a_remote_cell() -> std::result::Result<(), Box<dyn Error>> {
    println!("\nA remote cell, until all jobs are done:");
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (close, closed) = oneshot::channel::<()>();
    let store = kv_router(Arc::new(MemoryBackend::new()));
    let server = tokio::spawn(serve(listener, store, async { drop(closed.await) }));

    let backend: Arc<dyn Backend> = Arc::new(RemoteBackend::connect(vec![url], None).await?);
    let cell = DiscoveryCluster::new(backend);
    let mut members = Vec::new();
    let mut hosts = JoinSet::new();
    for (id, price) in HOSTS {
        members.push(cell.join(host(id, price)?).await?);
        hosts.spawn(run_jobs(cell.clone(), HostId::parse(id)?));
    }
    let (stop, stopped) = oneshot::channel::<()>();
    let driver = Driver::on_tokio(Arc::new(cell.clone())).with_scheduler(DeadlineScheduler);
    let counters = driver.counters();
    let driver = tokio::spawn(driver.run(async { drop(stopped.await) }));
    let mut wanted = Transaction::default();
    for (id, count, seconds) in BATCHES {
        wanted = wanted.put_group(batch(id, count, seconds * 1000)?);
    }
    cell.commit(wanted).await?;

    let all: usize = BATCHES.iter().map(|(_, count, _)| *count as usize).sum();
    let mut states = cell.watch();
    while let Some(state) = states.next().await {
        let state = state?;
        let is_done = |phase| phase == Phase::Done;
        if state.jobs().filter(|job| is_done(job.status.phase)).count() == all {
            show(&state);
            break;
        }
    }
    drop((stop, states));
    driver.await?;
    let counted = counters.snapshot();
    let placed: u64 = counted.schedulers.values().map(|own| own.placements).sum();
    println!("{placed} jobs were placed, {} conflicts", counted.conflicts);
    for member in members {
        member.leave().await?;
    }
    hosts.shutdown().await;
    drop((cell, close));
    server.await??;
    Ok(())
}

/// What a host does, in short: whatever is assigned to it is done.
async fn run_jobs(cell: DiscoveryCluster, host: HostId) -> Result<()> {
    let mut assignments = cell.assignments(&host);
    while let Some(jobs) = assignments.next().await {
        let done = JobStatus {
            phase: Phase::Done,
            exit_status: Some(0),
            ..JobStatus::default()
        };
        let done = |job: &Arc<Job>| (job.id.clone(), done.clone());
        cell.report(&host, jobs?.iter().map(done).collect()).await?;
    }
    Ok(())
}

fn show(state: &ClusterState) {
    for host in state.hosts() {
        let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
        for job in state.jobs_on(&host.host.id) {
            *groups.entry(job.group.as_str()).or_default() += 1;
        }
        println!("  {:6} {groups:?}", host.host.id);
    }
}

fn host(id: &str, price: &str) -> Result<Host> {
    Ok(Host {
        addr: format!("{id}.example"),
        api_url: format!("http://{id}.example:1113"),
        tags: BTreeMap::from([("price".to_owned(), price.to_owned())]),
        incarnation: 1,
        ..Host::new(
            HostId::parse(id)?,
            Resources {
                cpu_millis: 4000,
                ..Resources::default()
            },
        )
    })
}

fn batch(id: &str, count: u32, deadline_ms: u64) -> Result<Group> {
    let spec = JobSpec {
        request: Resources {
            cpu_millis: 1000,
            ..Resources::default()
        },
        metadata: BTreeMap::from([("deadline_ms".to_owned(), deadline_ms.to_string())]),
        ..JobSpec::default()
    };
    let kind = GroupKind::Batch { count, retries: 0 };
    Ok(Group {
        owner: "example".to_owned(),
        ..Group::new(GroupId::parse(id)?, kind, spec)
    })
}
