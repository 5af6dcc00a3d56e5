//! A wave of important jobs onto a cell that is full of others: every one of them must make room for itself first.
//!
//! Every host is full of batch jobs of four sizes and four low priorities. As many service jobs as there are hosts arrive
//! in groups of a hundred; each needs the room of two or three of them. Whoever is told to go is gone by the next round.
//! At the end nothing is taken on trust: who went, for whom, what is promised where, and that nobody went in vain.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use flynn_benches::{Better, Metric, Report, Row, median};
use flynn_sched::{
    ClusterState, Eviction, Group, GroupId, GroupKind, Host, HostId, Job, JobId, JobSpec,
    JobStatus, Phase, Resources, Scheduler as _, Transaction,
    scheduler::{Context, SeededIds, ServiceScheduler},
};
use serde_json::json;
use tokio::time::Instant;

const ROUNDS: usize = 3;
const LIMIT: &str = "it completes: issue 3";
const MIB: u64 = 1 << 20;
/// The sizes of the jobs that are there, eight of which fill a host.
const SIZES: [u64; 8] = [512, 1024, 1536, 1024, 512, 1024, 1536, 1024];
const PRIORITIES: [u8; 4] = [10, 20, 30, 40];
const CAPACITY: u64 = 8192;
const WANTED: u64 = 2048;
const GROUP: usize = 100;
/// More rounds than this is not getting anywhere.
const MOST_ROUNDS: usize = 1_000;

/// The wave on 500 and on 5,000 hosts.
pub(crate) async fn report(report: &mut Report) -> Result<()> {
    let mut costs = Vec::new();
    for (hosts, name) in [(500, "preempt_500"), (5_000, "preempt_5k")] {
        let case = |figure: &str| format!("{name}{figure}");
        let metrics = [
            Metric::lower(case(""), "s"),
            Metric::higher(case(", the wave"), "placements/s"),
            Metric::lower(case(", who had to go"), "jobs"),
            Metric::lower(case(", the longest round"), "ms"),
        ];
        let mut seconds = Vec::new();
        let run = async || {
            let figures = run(hosts)?;
            seconds.extend(figures.first());
            Ok::<_, anyhow::Error>(figures)
        };
        report.alone(LIMIT, ROUNDS, &metrics, run).await?;
        costs.push((hosts, 1e6 * median(&seconds) / hosts as f64));
    }
    let (few, many) = (costs[0], costs[costs.len() - 1]);
    let exponent = (many.1 / few.1).ln() / (many.0 as f64 / few.0 as f64).ln();
    println!(
        "cost per placement by preemption grows with the hosts' number to the power of {exponent:.2}"
    );
    let sizes: Vec<_> = costs
        .iter()
        .map(|(hosts, us)| json!({"hosts": hosts, "us_per_placement": us}))
        .collect();
    let case = "preempt, exponent of cost per placement";
    let row = Row::alone(case, "", exponent, Better::Lower, ROUNDS)
        .with_limit("500 and 5,000 full hosts, and as many jobs that make their room")
        .with("sizes", json!(sizes));
    report.push(row);
    Ok(())
}

/// The figures of one round, in the order of the metrics.
fn run(hosts: usize) -> Result<Vec<f64>> {
    let mut state = full(hosts)?;
    let wave = wave(hosts)?;
    let mut put = Transaction::on(&state);
    for group in &wave {
        put = put.put_group(group.clone());
    }
    state = state.apply(&put)?.state;
    let before = state.clone();
    let mut scheduler = ServiceScheduler::new();
    let mut ids = SeededIds::new(1);
    let mut elapsed = Duration::ZERO;
    let mut longest = Duration::ZERO;
    let mut victims: BTreeMap<JobId, (GroupId, u8)> = BTreeMap::new();
    for round in 0.. {
        ensure!(
            round < MOST_ROUNDS,
            "the wave is placed in {MOST_ROUNDS} rounds"
        );
        let mut context = Context::new(1_000 + round as u64, &mut ids);
        let started = Instant::now();
        let transaction = scheduler.schedule(&state, &mut context);
        let applied = state.apply(&transaction)?;
        let took = started.elapsed();
        elapsed += took;
        longest = longest.max(took);
        ensure!(
            applied.refused.is_empty(),
            "refused: {:?}",
            applied.refused.first()
        );
        if transaction.is_empty() {
            break;
        }
        state = applied.state;
        for (id, by) in stop(&mut state) {
            victims.insert(id, by);
        }
    }
    verify(&before, &state, &wave, &victims)?;
    let jobs = (wave.len() * GROUP) as f64;
    Ok(vec![
        elapsed.as_secs_f64(),
        jobs / elapsed.as_secs_f64(),
        victims.len() as f64,
        longest.as_secs_f64() * 1e3,
    ])
}

/// A cell that is full to the last byte.
fn full(hosts: usize) -> Result<ClusterState> {
    let mut state = ClusterState::default();
    for n in 0..hosts {
        let host = Host::new(HostId::parse(format!("h{n:05}"))?, memory(CAPACITY));
        state = state.host_joined(host, 0)?;
    }
    let mut put = Transaction::on(&state);
    let mut groups = BTreeMap::new();
    for (nth, size) in SIZES.into_iter().enumerate() {
        for priority in PRIORITIES {
            let id = GroupId::parse(format!("low-{nth}-{priority}"))?;
            let count = u32::try_from(hosts)?;
            let kind = GroupKind::Batch { count, retries: 0 };
            let group = Group {
                priority,
                ..Group::new(id, kind, spec(size))
            };
            put = put.put_group(group.clone());
            groups.insert((nth, priority), group);
        }
    }
    let ids: Vec<HostId> = state.hosts().map(|host| host.host.id.clone()).collect();
    for (n, host) in ids.iter().enumerate() {
        for nth in 0..SIZES.len() {
            let group = &groups[&(nth, PRIORITIES[(n * 7 + nth * 3) % PRIORITIES.len()])];
            put = put.start(Job {
                id: JobId::parse(format!("low-{n}-{nth}"))?,
                group: group.id.clone(),
                host: host.clone(),
                spec: Arc::clone(&group.spec),
                is_stopping: false,
                evicted: None,
                placed_at_ms: 1,
                attempt: 0,
                status: JobStatus::default(),
            });
        }
    }
    let applied = state.apply(&put)?;
    ensure!(applied.refused.is_empty(), "the cell can be filled");
    let mut state = applied.state;
    for host in &ids {
        let jobs = state
            .jobs_on(host)
            .map(|job| (job.id.clone(), says(Phase::Up)));
        state = state.reported(host, jobs.collect());
    }
    Ok(state)
}

fn wave(hosts: usize) -> Result<Vec<Group>> {
    let count = u32::try_from(GROUP)?;
    (0..hosts / GROUP)
        .map(|n| {
            let id = GroupId::parse(format!("wave-{n}"))?;
            Ok(Group {
                priority: 60 + u8::try_from(n % 40)?,
                ..Group::new(id, GroupKind::Service { count }, spec(WANTED))
            })
        })
        .collect()
}

/// Those who were told to go have gone; who they were, and for whom they went.
fn stop(state: &mut ClusterState) -> Vec<(JobId, (GroupId, u8))> {
    let mut gone = Vec::new();
    let mut on: BTreeMap<HostId, Vec<(JobId, JobStatus)>> = BTreeMap::new();
    for job in state.jobs() {
        if job.is_stopping
            && !job.status.phase.is_final()
            && let Some(Eviction::Preempted { by, priority }) = &job.evicted
        {
            gone.push((job.id.clone(), (by.clone(), *priority)));
            let status = (job.id.clone(), says(Phase::Done));
            on.entry(job.host.clone()).or_default().push(status);
        }
    }
    for (host, statuses) in on {
        *state = state.reported(&host, statuses);
    }
    gone
}

fn verify(
    before: &ClusterState,
    after: &ClusterState,
    wave: &[Group],
    victims: &BTreeMap<JobId, (GroupId, u8)>,
) -> Result<()> {
    for group in wave {
        let placed = after.jobs_of(&group.id).filter(|job| !job.is_stopping);
        ensure!(placed.count() == GROUP, "{} is placed whole", group.id);
        let status = after.group_status(&group.id);
        ensure!(
            status.is_none(),
            "{} waits for nothing: {status:?}",
            group.id
        );
    }
    for (job, (by, priority)) in victims {
        let group = &before.job(job).context("it was there before")?.group;
        let was = before.group(group).context("its group was there")?.priority;
        ensure!(
            was < *priority,
            "{job} of {group} was less important than {by}"
        );
    }
    for host in after.hosts() {
        let live = after
            .jobs_on(&host.host.id)
            .filter(|job| !job.status.phase.is_final());
        let promised: u64 = live.map(|job| job.spec.request.memory_bytes).sum();
        ensure!(
            promised <= CAPACITY * MIB,
            "{} is over-committed",
            host.host.id
        );
        // Nobody went in vain: the least of those who went would not fit beside what is there now.
        let gone = after.jobs_on(&host.host.id);
        let gone = gone.filter(|job| victims.contains_key(&job.id));
        let least = gone.map(|job| job.spec.request.memory_bytes).min();
        ensure!(
            least.is_none_or(|least| promised + least > CAPACITY * MIB),
            "one went from {} in vain",
            host.host.id
        );
    }
    Ok(())
}

fn spec(mib: u64) -> JobSpec {
    JobSpec {
        request: memory(mib),
        ..JobSpec::default()
    }
}

fn memory(mib: u64) -> Resources {
    Resources {
        memory_bytes: mib * MIB,
        ..Resources::default()
    }
}

fn says(phase: Phase) -> JobStatus {
    JobStatus {
        phase,
        ..JobStatus::default()
    }
}
