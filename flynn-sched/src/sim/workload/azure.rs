//! The Azure Public Dataset's VM traces (V1 of 2017, V2 of 2019): reads `vmtable`, and writes tables of that layout.
//!
//! Format: Cortez et al., "Resource Central", SOSP 2017, and the dataset's own description. The columns are VM,
//! subscription, deployment, created (s), deleted (s), maximal, average and 95th percentile of the maximal CPU use, category,
//! cores, memory (GiB). V2 tells cores and memory in buckets, of which the last is open (`>24`, `>64`): its VMs count as
//! [`OPEN_CORES`] and [`OPEN_MEMORY_GIB`].
//!
//! What becomes of it:
//!
//! * VMs of one deployment that are created at the same time and are of the same size are the tasks of one job.
//! * Category "Interactive" is a service; "Delay-insensitive" and "Unknown" (too short-lived to tell) are batches.
//! * What was created at time 0 is there from the beginning.
//! * The dataset has no machines: see [`Workload::sized`].

mod write;

use std::{collections::BTreeMap, io::BufRead, sync::Arc};

use super::{Class, Durations, Rows, Submission, Workload, rows::Fields};
use crate::{
    Error, Result,
    sim::cell::{Amount, Task},
};

pub use write::{Version, write_vm_table};

/// How many cores a VM of the open bucket (`>24`) has.
pub const OPEN_CORES: u32 = 30;
/// How much memory a VM of the open bucket (`>64`) has.
pub const OPEN_MEMORY_GIB: u32 = 70;

/// Collects the files of a trace.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    /// How long each VM of a job runs.
    jobs: BTreeMap<JobKey, Vec<u64>>,
    vms: usize,
    rows: Rows,
}

/// What the VMs of a job have in common, the time first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct JobKey {
    created_us: u64,
    deployment: Arc<str>,
    cpu_millis: u64,
    memory_bytes: u64,
    class: Class,
}

/// A trace that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// What there is to simulate, without machines: see [`Workload::sized`].
    pub workload: Workload,
    /// How many lines made sense, and which did not.
    pub rows: Rows,
}

impl Reader {
    /// How many VMs are read.
    pub const MAX_VMS: usize = 30_000_000;

    /// A reader that has read nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a `vmtable` file. A first line with the names of the columns is skipped.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it cannot be read, when no line makes sense, or when there are more than
    /// [`Reader::MAX_VMS`] VMs. Broken lines are no error; they are told in [`Trace::rows`].
    pub fn vm_table(&mut self, file: &str, input: &mut dyn BufRead) -> Result<()> {
        let mut rows = std::mem::take(&mut self.rows);
        let mut is_first = true;
        let result = rows.read(file, input, |fields| {
            let is_header =
                is_first && fields.text(3, "created")?.eq_ignore_ascii_case("vmcreated");
            is_first = false;
            if is_header { Ok(()) } else { self.vm(fields) }
        });
        self.rows = rows;
        result?;
        if self.vms > Self::MAX_VMS {
            return Err(Error::Invalid {
                what: format!("trace {file}"),
                why: format!("brings more than {} VMs: read fewer files", Self::MAX_VMS),
            });
        }
        Ok(())
    }

    fn vm(&mut self, fields: &Fields<'_>) -> Result<(), String> {
        let deployment = fields.text(2, "deployment")?;
        let created_s = fields.amount(3, "created", MOST_SECONDS)?;
        let deleted_s = fields.amount(4, "deleted", MOST_SECONDS)?;
        let class = match fields.text(8, "category")? {
            "Interactive" => Class::Service,
            "Delay-insensitive" | "Unknown" | "" => Class::Batch,
            other => {
                return Err(format!(
                    "column 9 (category) is none that there is: {other:?}"
                ));
            }
        };
        let cores = bucket(fields, 9, "cores", OPEN_CORES, 10_000.0)?;
        let memory_gib = bucket(fields, 10, "memory", OPEN_MEMORY_GIB, 1_000_000.0)?;
        if cores <= 0.0 || memory_gib <= 0.0 {
            return Err("is of a VM without cores or memory".to_owned());
        }
        if deleted_s < created_s {
            return Err(format!(
                "was deleted ({deleted_s}) before it was created ({created_s})"
            ));
        }
        if self.vms >= Self::MAX_VMS {
            self.vms += 1;
            return Err("is of one VM too many".to_owned());
        }
        self.vms += 1;
        let key = JobKey {
            created_us: whole(created_s, 1e6),
            deployment: Arc::from(deployment),
            cpu_millis: whole(cores, 1e3),
            memory_bytes: whole(memory_gib, GIB),
            class,
        };
        self.jobs
            .entry(key)
            .or_default()
            .push(whole(deleted_s - created_s, 1e6));
        Ok(())
    }

    /// What was read, as a workload.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when nothing was read.
    pub fn finish(self) -> Result<Trace> {
        let (mut residents, mut submissions) = (Vec::new(), Vec::new());
        for (key, durations) in self.jobs {
            let submission = Submission {
                at_us: key.created_us,
                class: key.class,
                tasks: u32::try_from(durations.len()).unwrap_or(u32::MAX),
                task: Task {
                    amount: Amount {
                        cpu_millis: key.cpu_millis,
                        memory_bytes: key.memory_bytes,
                    },
                    ..Task::default()
                },
                durations: Durations::Each(durations.into()),
            };
            if key.created_us == 0 {
                residents.push(submission);
            } else {
                submissions.push(submission);
            }
        }
        if residents.is_empty() && submissions.is_empty() {
            return Err(Error::Invalid {
                what: "trace".to_owned(),
                why: "has no VM: give it a vmtable file".to_owned(),
            });
        }
        Ok(Trace {
            workload: Workload {
                name: "azure".to_owned(),
                machines: Vec::new(),
                residents,
                submissions,
            },
            rows: self.rows,
        })
    }
}

/// A number, or an open bucket such as `>24`.
fn bucket(
    fields: &Fields<'_>,
    column: usize,
    name: &str,
    open: u32,
    most: f64,
) -> Result<f64, String> {
    if fields.text(column, name)?.starts_with('>') {
        return Ok(f64::from(open));
    }
    fields.amount(column, name, most)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and what is read has bounds"
)]
fn whole(value: f64, factor: f64) -> u64 {
    (value * factor).round() as u64
}

/// Bytes in a GiB.
const GIB: f64 = 1_073_741_824.0;
/// Ten years.
const MOST_SECONDS: f64 = 315_360_000.0;
