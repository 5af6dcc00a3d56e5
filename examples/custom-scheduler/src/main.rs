//! Run with `cargo run -p custom-scheduler`.
//!
//! An own scheduling policy: batches with deadlines, the most urgent first, on the cheapest host that has room.
#![allow(clippy::print_stdout, reason = "an example shows what it did")]

mod deadline;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flynn_sched::{
    Cluster, ClusterState, Group, GroupId, GroupKind, Host, HostId, HostLink, JobSpec,
    LocalCluster, Resources, Result, Scheduler, SimCluster, Transaction,
    clock::{Clock, ManualClock},
    scheduler::{Context, SeededIds},
    sim::Behaviour,
};

use deadline::DeadlineScheduler;

/// What there is: two cheap hosts, and one that costs ten times as much.
const HOSTS: [(&str, &str); 3] = [("cheap1", "1"), ("cheap2", "1"), ("dear", "10")];
/// What is asked for: how many jobs, and by when, in seconds from now.
const BATCHES: [(&str, u32, u64); 3] = [("report", 6, 60), ("invoice", 4, 20), ("backup", 6, 600)];

fn main() -> Result<()> {
    futures::executor::block_on(one_round_on_a_local_cell())?;
    a_simulated_minute()
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
    Ok(Group {
        id: GroupId::parse(id)?,
        kind: GroupKind::Batch { count, retries: 0 },
        spec: Arc::new(spec),
        priority: 50,
        max_unavailable: None,
        keep: None,
        owner: "example".to_owned(),
    })
}
