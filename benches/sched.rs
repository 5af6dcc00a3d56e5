//! The scheduler: one file a case, in `sched/`. Name cases behind `--` to run only those.
#![allow(clippy::print_stderr, reason = "a bench talks to its terminal")]

#[path = "sched/commit_raft.rs"]
mod commit_raft;
#[path = "sched/preempt.rs"]
mod preempt;

use anyhow::Result;
use flynn_benches::Report;

fn main() -> Result<()> {
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let is_wanted = |case: &str| named.is_empty() || named.iter().any(|name| name == case);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut report = Report::new("sched");
    if is_wanted("commit_raft") {
        runtime.block_on(commit_raft::report(&mut report))?;
    }
    if is_wanted("preempt_5k") {
        runtime.block_on(preempt::report(&mut report))?;
    }
    report.write()
}
