//! How fast and how well jobs are placed. Run one case with
//! `cargo bench -p flynn-benches --bench sched -- packing`; without a name all are run.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench talks to its terminal"
)]

#[path = "sched/cell.rs"]
mod cell;
#[path = "sched/commit_raft.rs"]
mod commit_raft;
#[path = "sched/omega.rs"]
mod omega;
#[path = "sched/packing.rs"]
mod packing;
#[path = "sched/place.rs"]
mod place;
#[path = "sched/preempt.rs"]
mod preempt;
#[path = "sched/verify.rs"]
mod verify;

use anyhow::{Context as _, Result, ensure};
use flynn_benches::Report;

type Case = (&'static str, fn(&mut Report) -> Result<()>);

/// A case is a file with a `run`, and a line here.
const CASES: &[Case] = &[
    ("place_1m_10k", place::run),
    ("packing", packing::run),
    ("omega_day", omega::day),
    ("conflict_8", omega::conflicts),
    ("commit_raft", |report| {
        block_on(commit_raft::report(report))
    }),
    ("preempt_5k", |report| block_on(preempt::report(report))),
];

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    for name in &names {
        ensure!(
            CASES.iter().any(|(case, _)| case == name),
            "there is no case {name}"
        );
    }
    let mut report = Report::new("sched");
    if !names.is_empty() {
        report = report.with_earlier_rows();
    }
    for (case, run) in CASES {
        if names.is_empty() || names.iter().any(|name| name == case) {
            run(&mut report).context(*case)?;
        }
    }
    report.write()
}

/// For cases that are asynchronous.
fn block_on(case: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(case)
}
