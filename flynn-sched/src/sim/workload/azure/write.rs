//! Workloads as tables in the layout of the dataset, to try out what reads them. They are made up and no measurement.

use std::io;

use crate::sim::workload::{Class, Workload};

/// Which of the datasets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Version {
    /// Of 2017: cores and memory are numbers.
    V1,
    /// Of 2019: cores and memory are buckets.
    V2,
}

/// Writes a workload as `vmtable`, each task a VM that is created when its job is submitted, in whole seconds.
///
/// # Errors
///
/// What `out` gives.
pub fn write_vm_table(
    workload: &Workload,
    version: Version,
    out: impl io::Write,
) -> io::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    let residents = workload.residents.iter().map(|job| (0, job));
    // What is created at time 0 was there before.
    let others = workload
        .submissions
        .iter()
        .map(|job| ((job.at_us / 1_000_000).max(1), job));
    for (number, (created_s, job)) in residents.chain(others).enumerate() {
        let amount = &job.task.amount;
        for task in 0..job.tasks {
            let lifetime_s = job.durations.of(task) / 1_000_000;
            let category = match job.class {
                Class::Service => "Interactive",
                Class::Batch => "Delay-insensitive",
            };
            table.write_record([
                format!("made-up-vm-{number}-{task}"),
                format!("made-up-subscription-{}", number % 97),
                format!("made-up-deployment-{number}"),
                created_s.to_string(),
                (created_s + lifetime_s)
                    .min(END_S)
                    .max(created_s)
                    .to_string(),
                "90.5".to_owned(),
                "12.25".to_owned(),
                "60.125".to_owned(),
                category.to_owned(),
                size(version, amount.cpu_millis.div_ceil(1000), &[2, 4, 8, 24]),
                size(
                    version,
                    amount.memory_bytes.div_ceil(1 << 30),
                    &[2, 4, 8, 32, 64],
                ),
            ])?;
        }
    }
    table.flush()
}

/// A number, or the smallest bucket it fits into.
fn size(version: Version, number: u64, buckets: &[u64]) -> String {
    match version {
        Version::V1 => number.to_string(),
        Version::V2 => match buckets.iter().find(|bucket| number <= **bucket) {
            Some(bucket) => bucket.to_string(),
            None => format!(">{}", buckets.last().copied().unwrap_or_default()),
        },
    }
}

/// When the dataset ends: 30 days.
const END_S: u64 = 2_592_000;
