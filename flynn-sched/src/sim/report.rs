//! Outcomes as CSV: one table by scheduler, one by workload, one over time. Shares and seconds have six decimals.

use std::io;

use super::metrics::{ClassOutcome, Outcome, SchedulerOutcome};

/// Writes one line for each scheduler of each outcome.
///
/// # Errors
///
/// What `out` gives.
pub fn write_schedulers<'o>(
    outcomes: impl IntoIterator<Item = &'o Outcome>,
    out: impl io::Write,
) -> io::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    table.write_record(RUN.iter().chain(&SCHEDULER))?;
    for outcome in outcomes {
        for scheduler in &outcome.schedulers {
            table.write_record(run(outcome).iter().chain(&scheduler_fields(scheduler)))?;
        }
    }
    table.flush()
}

/// Writes one line for each workload (batch, service) of each outcome.
///
/// # Errors
///
/// What `out` gives.
pub fn write_classes<'o>(
    outcomes: impl IntoIterator<Item = &'o Outcome>,
    out: impl io::Write,
) -> io::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    table.write_record(RUN.iter().chain(&CLASS))?;
    for outcome in outcomes {
        for class in &outcome.classes {
            table.write_record(run(outcome).iter().chain(&class_fields(class)))?;
        }
    }
    table.flush()
}

/// Writes one line for each step of time, with what each scheduler did in it.
///
/// # Errors
///
/// What `out` gives.
pub fn write_timeline(outcome: &Outcome, out: impl io::Write) -> io::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    let mut names: Vec<String> = ["at_s", "cpu_share", "memory_share", "running_tasks"]
        .map(str::to_owned)
        .into();
    for scheduler in &outcome.schedulers {
        for what in ["busyness", "committed", "conflicted", "queued"] {
            names.push(format!("{} {what}", scheduler.name));
        }
    }
    table.write_record(&names)?;
    for moment in &outcome.timeline {
        let mut fields = vec![
            decimal(moment.at_s),
            decimal(moment.cpu),
            decimal(moment.memory),
            moment.running.to_string(),
        ];
        for step in &moment.schedulers {
            fields.push(decimal(step.busyness));
            fields.extend([step.committed, step.conflicted, step.queued].map(|n| n.to_string()));
        }
        table.write_record(&fields)?;
    }
    table.flush()
}

/// Which run a line is about.
const RUN: [&str; 7] = [
    "workload",
    "architecture",
    "seed",
    "length_s",
    "cpu_share",
    "memory_share",
    "residents_left_out",
];

const SCHEDULER: [&str; 10] = [
    "scheduler",
    "attempts",
    "committed",
    "conflicted",
    "without_room",
    "claims",
    "claims_refused",
    "conflict_fraction",
    "busyness_median",
    "busyness_mad",
];

const CLASS: [&str; 17] = [
    "class",
    "submitted",
    "scheduled",
    "abandoned",
    "waiting",
    "tasks_placed",
    "tasks_missing",
    "attempts_mean",
    "attempts_most",
    "wait_mean_s",
    "wait_p50_s",
    "wait_p90_s",
    "wait_p99_s",
    "delay_mean_s",
    "delay_p50_s",
    "delay_p90_s",
    "delay_p99_s",
];

fn run(outcome: &Outcome) -> [String; RUN.len()] {
    let (cpu, memory) = outcome.utilisation();
    [
        outcome.workload.clone(),
        outcome.architecture.to_string(),
        outcome.seed.to_string(),
        decimal(outcome.length.as_secs_f64()),
        decimal(cpu),
        decimal(memory),
        outcome.residents_left_out.to_string(),
    ]
}

fn scheduler_fields(scheduler: &SchedulerOutcome) -> [String; SCHEDULER.len()] {
    [
        scheduler.name.clone(),
        scheduler.attempts.to_string(),
        scheduler.committed.to_string(),
        scheduler.conflicted.to_string(),
        scheduler.without_room.to_string(),
        scheduler.claims.to_string(),
        scheduler.claims_refused.to_string(),
        decimal(scheduler.conflict_fraction()),
        decimal(scheduler.busyness_median()),
        decimal(scheduler.busyness_mad()),
    ]
}

fn class_fields(class: &ClassOutcome) -> [String; CLASS.len()] {
    let (wait, delay) = (class.wait(), class.delay());
    [
        class.class.to_string(),
        class.submitted.to_string(),
        class.scheduled.to_string(),
        class.abandoned.to_string(),
        class.waiting.to_string(),
        class.tasks_placed.to_string(),
        class.tasks_missing.to_string(),
        decimal(class.attempts_mean),
        class.attempts_most.to_string(),
        decimal(wait.mean),
        decimal(wait.p50),
        decimal(wait.p90),
        decimal(wait.p99),
        decimal(delay.mean),
        decimal(delay.p50),
        decimal(delay.p90),
        decimal(delay.p99),
    ]
}

/// A number for a table.
pub(super) fn decimal(value: f64) -> String {
    format!("{value:.6}")
}
