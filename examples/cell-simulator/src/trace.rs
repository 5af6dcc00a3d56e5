//! `flynn-sim trace`.

use std::path::Path;

use flynn_sched::sim::{
    architecture::Simulation,
    cell::{Amount, Machine},
    workload::{Rows, Workload, azure, google},
};

use crate::{
    Done, Failure,
    arguments::{TraceOptions, length},
    files::{Directory, open, tell},
};

pub(crate) fn trace(options: &TraceOptions) -> Done {
    let mut workload = if options.azure.is_empty() {
        read_google(options)?
    } else {
        read_azure(options)?
    };
    let time = match options.hours {
        Some(hours) => length(hours),
        None => workload.length() + std::time::Duration::from_secs(1),
    };
    if workload.machines.is_empty() {
        let machine = machine(options);
        workload = match options.machines {
            Some(count) => workload.on(machine, count),
            None => workload.sized(machine, BUSIEST, time)?,
        };
        say!(
            "{} machines of {} m of cpu and {} MiB of memory",
            workload.machines.len(),
            machine.capacity.cpu_millis,
            machine.capacity.memory_bytes >> 20
        );
    }
    let settings = options.architecture.settings(options.seed, time)?;
    let simulation = Simulation::new(&workload, options.architecture.architecture(), settings);
    let outcome = simulation.run()?;
    tell(&outcome);
    Directory::create(&options.out)?.outcome(&outcome)
}

fn read_google(options: &TraceOptions) -> Result<Workload, Failure> {
    let whole = machine(options).capacity;
    let mut reader = google::Reader::new(google::Options { whole });
    if let Some(path) = &options.machine_events {
        reader.machine_events(&name(path), &mut open(path)?)?;
    }
    for path in &options.google {
        reader.task_events(&name(path), &mut open(path)?)?;
    }
    let trace = reader.finish()?;
    tell_rows(&trace.rows);
    if trace.never_ran > 0 {
        say!("{} tasks never ran and are left out", trace.never_ran);
    }
    Ok(trace.workload)
}

fn read_azure(options: &TraceOptions) -> Result<Workload, Failure> {
    let mut reader = azure::Reader::new();
    for path in &options.azure {
        reader.vm_table(&name(path), &mut open(path)?)?;
    }
    let trace = reader.finish()?;
    tell_rows(&trace.rows);
    Ok(trace.workload)
}

fn machine(options: &TraceOptions) -> Machine {
    let (cores, gib) = if options.azure.is_empty() {
        (16, 64)
    } else {
        (64, 256)
    };
    Machine {
        capacity: Amount {
            cpu_millis: options.machine_cores.unwrap_or(cores).saturating_mul(1000),
            memory_bytes: options.machine_gib.unwrap_or(gib).saturating_mul(1 << 30),
        },
        kind: 0,
    }
}

fn tell_rows(rows: &Rows) {
    say!("read {} lines, {} more are broken", rows.read, rows.broken);
    for report in &rows.reports {
        complain!("{report}");
    }
    let untold = rows.broken - rows.reports.len() as u64;
    if untold > 0 {
        complain!("and {untold} more");
    }
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

/// How full the cell is at the busiest moment, if nothing else is said.
const BUSIEST: f64 = 0.8;
