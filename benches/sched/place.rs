//! A million tasks with constraints and zone spread onto ten thousand hosts, on one core: placed, and applied.
//!
//! The whole is one call of `place_all` and one transaction; its seconds are those of the process on a core, because the
//! machine has other work, and those of the clock are beside them. Decisions are timed one by one in a second run, in which
//! groups come in no helpful order. What was applied is checked by `verify`.

use std::{fs, time::Instant};

use anyhow::{Result, ensure};
use flynn_benches::{Better, Report, Row, median};
use flynn_sched::{
    ClusterState, Job, JobId, JobStatus, Transaction,
    placement::{Board, Need, Placer},
};
use serde_json::json;

use crate::{
    cell::{self, Wanted},
    verify::verify,
};

/// Of the largest size; of smaller ones more, since less time is easier to get wrong.
const ROUNDS: usize = 3;
const MOST_ROUNDS: usize = 30;

/// Hosts and tasks.
const SIZES: [(usize, usize); 3] = [(100, 10_000), (1_000, 100_000), (10_000, 1_000_000)];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let mut costs = Vec::new();
    for (hosts, tasks) in SIZES {
        let state = cell::empty(hosts);
        let work = cell::work(tasks);
        let state = cell::with_groups(&state, &work);
        let rounds = (ROUNDS * 1_000_000 / tasks).min(MOST_ROUNDS);
        let rounds: Vec<Batch> = (0..rounds)
            .map(|_| batch(&state, &work))
            .collect::<Result<_>>()?;
        let of = |part: fn(&Batch) -> f64| median(&rounds.iter().map(part).collect::<Vec<_>>());
        let seconds = of(|batch| batch.placed + batch.applied);
        // In later rounds memory that was freed is used again.
        let state_mib = rounds
            .iter()
            .map(|batch| batch.state_mib)
            .fold(0.0, f64::max);
        let online = online(&state, &work)?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let cost = 1e6 * seconds / tasks as f64;
        println!(
            "{tasks} tasks on {hosts} hosts: {seconds:.2} s of one core (wall {:.2}; placed {:.2}, applied {:.2}), {cost:.2} µs each; one by one \
             {:.2} s, p50 {:.1} µs, p99 {:.1} µs, worst {:.0} µs",
            of(|batch| batch.wall),
            of(|batch| batch.placed),
            of(|batch| batch.applied),
            online.seconds,
            online.p50_us,
            online.p99_us,
            online.worst_us,
        );
        costs.push((hosts, cost));
        if hosts == 10_000 {
            let row = Row::alone("place_1m_10k", "s", seconds, Better::Lower, ROUNDS)
                .with_limit("goal: ≤ 10 s, p99 of a decision ≤ 1 ms, ≤ 512 MiB per million")
                .with("seconds", json!(seconds))
                .with("wall_seconds", json!(of(|batch| batch.wall)))
                .with("placed_seconds", json!(of(|batch| batch.placed)))
                .with("applied_seconds", json!(of(|batch| batch.applied)))
                .with("p99_decision_us", json!(online.p99_us))
                .with("p50_decision_us", json!(online.p50_us))
                .with("one_by_one_seconds", json!(online.seconds))
                .with("state_rss_mib", json!(state_mib))
                .with("peak_rss_mib", json!(peak_mib()))
                .with("verified", json!(true));
            report.push(row);
        }
    }
    let (first, last) = (costs[0], costs[costs.len() - 1]);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let exponent = (last.1 / first.1).ln() / (last.0 as f64 / first.0 as f64).ln();
    println!("cost per task grows with the hosts' number to the power of {exponent:.2}");
    let sizes: Vec<_> = costs
        .iter()
        .map(|(hosts, us)| json!({"hosts": hosts, "us_per_task": us}))
        .collect();
    let row = Row::alone(
        "place, exponent of cost per task",
        "",
        exponent,
        Better::Lower,
        ROUNDS,
    )
    .with_limit("100, 1,000 and 10,000 hosts with 100 tasks each")
    .with("sizes", json!(sizes));
    report.push(row);
    Ok(())
}

struct Batch {
    placed: f64,
    applied: f64,
    wall: f64,
    /// How much more memory the process has with the placed state than before.
    state_mib: f64,
}

fn batch(state: &ClusterState, work: &[Wanted]) -> Result<Batch> {
    let before = resident_mib();
    let (start, began) = (cpu(), now());
    let placer = Placer::default();
    let mut board = Board::of(state);
    let needs: Vec<(Need<'_>, usize)> = work
        .iter()
        .map(|wanted| (Need::new(&wanted.id, &wanted.spec), wanted.count))
        .collect();
    let placed = placer.place_all(&needs, &mut board);
    drop(board);
    let mut transaction = Transaction::on(state);
    let mut n = 0;
    for (wanted, hosts) in work.iter().zip(placed) {
        for host in hosts {
            n += 1;
            transaction = transaction.start(Job {
                id: id(n),
                group: wanted.id.clone(),
                host,
                spec: std::sync::Arc::clone(&wanted.spec),
                is_stopping: false,
                placed_at_ms: 0,
                attempt: 0,
                evicted: None,
                status: JobStatus::default(),
            });
        }
    }
    let middle = cpu();
    let applied = state.apply(&transaction)?;
    let (end, wall) = (cpu(), began.elapsed().as_secs_f64());
    ensure!(
        applied.refused.is_empty(),
        "refused: {:?}",
        applied.refused[0]
    );
    let state = applied.state;
    drop((transaction, applied.accepted));
    let state_mib = resident_mib() - before;
    verify(&state, work)?;
    Ok(Batch {
        placed: middle - start,
        applied: end - middle,
        wall,
        state_mib,
    })
}

struct Online {
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
    worst_us: f64,
}

fn online(state: &ClusterState, work: &[Wanted]) -> Result<Online> {
    let placer = Placer::default();
    let mut board = Board::of(state);
    let mut times: Vec<f64> = Vec::new();
    let began = cpu();
    for wanted in work {
        let need = Need::new(&wanted.id, &wanted.spec);
        let mut start = now();
        let mut tally = board.tally(state, &wanted.id);
        for _ in 0..wanted.count {
            let placed = placer.place(&need, &mut board, &mut tally);
            ensure!(
                placed.is_some(),
                "{}: {}",
                wanted.id,
                placer.why(&need, &board, &tally)
            );
            let end = now();
            times.push(1e6 * (end - start).as_secs_f64());
            start = end;
        }
    }
    let seconds = cpu() - began;
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Ok(Online {
        seconds,
        p50_us: at(50),
        p99_us: at(99),
        worst_us: at(100),
    })
}

/// Like a UUID: of the same length, and in no order.
fn id(n: u64) -> JobId {
    let mut draw = cell::Draw(n);
    let (a, b) = (draw.below(u64::MAX), draw.below(u64::MAX));
    let text = format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xffff,
        b >> 48,
        b & 0xffff_ffff_ffff
    );
    JobId::parse(text).expect("digits, letters and dashes")
}

#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// The processor time of this thread, which does all the work: on a machine with other work, what one core of its own
/// would take.
fn cpu() -> f64 {
    let times = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let on_cpu = times
        .split(' ')
        .next()
        .and_then(|ns| ns.parse::<f64>().ok());
    on_cpu.map_or(f64::NAN, |ns| ns / 1e9)
}

fn resident_mib() -> f64 {
    status_mib("VmRSS:")
}

fn peak_mib() -> f64 {
    status_mib("VmHWM:")
}

fn status_mib(key: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}
