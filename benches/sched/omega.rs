//! How long a day of a large cell takes to simulate, and how seldom eight schedulers get in each other's way in it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flynn_benches::{Better, Report, Row, median};
use flynn_sched::sim::experiment;
use serde_json::json;
use tokio::time::Instant;

const ROUNDS: u64 = 5;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A day of the cell in the shape of cluster B, on one core; each round is another day.
pub(crate) fn day(report: &mut Report) -> Result<()> {
    let mut seconds = Vec::new();
    let mut tasks = 0;
    let mut jobs = 0;
    for seed in 1..=ROUNDS {
        let started = Instant::now();
        let outcome = experiment::omega_day(seed)?;
        seconds.push(started.elapsed().as_secs_f64());
        tasks = outcome.classes.iter().map(|class| class.tasks_placed).sum();
        jobs = outcome.classes.iter().map(|class| class.submitted).sum();
        let scheduled: u64 = outcome.classes.iter().map(|class| class.scheduled).sum();
        ensure!(
            scheduled * 100 > jobs * 95,
            "only {scheduled} of {jobs} jobs were placed: this was not a day"
        );
    }
    let rounds = usize::try_from(ROUNDS)?;
    report.push(
        Row::alone("omega_day", "s", median(&seconds), Better::Lower, rounds)
            .with_limit("at most 20 s for 24 hours of 10,000 machines on one core: issue 3")
            .with("jobs", json!(jobs))
            .with("tasks_placed", json!(tasks)),
    );
    Ok(())
}

/// Eight batch schedulers at the default think times, at the usual load and above.
pub(crate) fn conflicts(report: &mut Report) -> Result<()> {
    for load in [1.0, 4.0, 10.0] {
        let mut fractions = Vec::new();
        for seed in 1..=ROUNDS {
            let outcome = experiment::conflict_8(seed, DAY, load)?;
            ensure!(outcome.schedulers.len() >= 8, "eight schedulers take part");
            fractions.push(outcome.conflict_fraction());
        }
        let worst = fractions.iter().copied().max_by(f64::total_cmp);
        let worst = worst.context("there were rounds")?;
        let case = if load > 1.0 {
            format!("conflict_8, {load} times the load")
        } else {
            "conflict_8".to_owned()
        };
        let fraction = median(&fractions);
        report.push(
            Row::alone(
                &case,
                "conflicts/commit",
                fraction,
                Better::Lower,
                usize::try_from(ROUNDS)?,
            )
            .with_limit("at most 0.1 at the default think times: issue 3")
            .with("worst", json!(worst)),
        );
    }
    Ok(())
}
