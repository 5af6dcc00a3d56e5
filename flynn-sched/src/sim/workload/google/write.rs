//! Workloads as tables in the layout of the trace, to try out what reads them. They are made up and no measurement.

use std::io;

use super::{AFTER, FINISH, FOREVER, MACHINE_ADD, Options, PRODUCTION, SCHEDULE, SUBMIT};
use crate::sim::workload::{Class, Workload};

/// Writes a workload as `task_events`: every task is scheduled when it is submitted. Times begin at 600 s, as in the trace.
/// Which kind of machine a task needs cannot be said in this table.
///
/// # Errors
///
/// What `out` gives.
pub fn write_task_events(
    workload: &Workload,
    options: &Options,
    out: impl io::Write,
) -> io::Result<()> {
    let all = || workload.residents.iter().chain(&workload.submissions);
    let mut events: Vec<(u64, u8, usize, u32)> = Vec::new();
    for (number, job) in all().enumerate() {
        let is_resident = number < workload.residents.len();
        let begin = if is_resident {
            0
        } else {
            job.at_us.saturating_add(OFFSET_US)
        };
        for index in 0..job.tasks {
            events.push((begin, SUBMIT, number, index));
            events.push((begin, SCHEDULE, number, index));
            let duration = job.durations.of(index);
            let end = if is_resident {
                duration.saturating_add(OFFSET_US)
            } else {
                begin.saturating_add(duration)
            };
            if duration != FOREVER && end < AFTER {
                events.push((end, FINISH, number, index));
            }
        }
    }
    events.sort_unstable_by_key(|(at, event, number, index)| (*at, *number, *index, *event));
    let jobs: Vec<_> = all().collect();
    let mut table = csv::Writer::from_writer(out);
    for (at, event, number, index) in events {
        let job = jobs[number];
        let priority = match job.class {
            Class::Service => PRODUCTION,
            Class::Batch => 1,
        };
        let scheduling_class = match job.class {
            Class::Service => "3",
            Class::Batch => "0",
        };
        table.write_record([
            at.to_string(),
            String::new(),
            (FIRST_JOB + number as u64).to_string(),
            index.to_string(),
            String::new(),
            event.to_string(),
            "made-up".to_owned(),
            scheduling_class.to_owned(),
            priority.to_string(),
            share(job.task.amount.cpu_millis, options.whole.cpu_millis).to_string(),
            share(job.task.amount.memory_bytes, options.whole.memory_bytes).to_string(),
            "0".to_owned(),
            u8::from(job.task.is_distinct).to_string(),
        ])?;
    }
    table.flush()
}

/// Writes a workload's machines as `machine_events`: all are there from the beginning.
///
/// # Errors
///
/// What `out` gives.
pub fn write_machine_events(
    workload: &Workload,
    options: &Options,
    out: impl io::Write,
) -> io::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    for (number, machine) in workload.machines.iter().enumerate() {
        table.write_record([
            "0".to_owned(),
            (FIRST_MACHINE + number as u64).to_string(),
            MACHINE_ADD.to_string(),
            format!("platform-{}", machine.kind),
            share(machine.capacity.cpu_millis, options.whole.cpu_millis).to_string(),
            share(machine.capacity.memory_bytes, options.whole.memory_bytes).to_string(),
        ])?;
    }
    table.flush()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share needs no more than 52 bits"
)]
fn share(part: u64, whole: u64) -> f64 {
    (part as f64 / whole.max(1) as f64).min(1.0)
}

/// When the trace begins, in its own time.
const OFFSET_US: u64 = 600_000_000;
/// Ids have ten digits in the trace, too.
const FIRST_JOB: u64 = 6_000_000_000;
const FIRST_MACHINE: u64 = 1_000_000_000;
