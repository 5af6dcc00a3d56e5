//! Google's ClusterData 2011 (version 2): reads `task_events` and `machine_events`, and writes tables of that layout.
//!
//! Format: Reiss, Wilkes, Hellerstein, "Google cluster-usage traces: format + schema", version 2.1. The files have no
//! header and no quotes.
//!
//! | table | columns |
//! |---|---|
//! | `task_events` | time (µs), missing info, job, task index, machine, event type, user, scheduling class, priority, CPU, memory, disk, different machines |
//! | `machine_events` | time (µs), machine, event type, platform, CPUs, memory |
//!
//! What becomes of it:
//!
//! * CPU and memory are shares of the largest machine; [`Options::whole`] says what that has.
//! * The tasks of a job that need the same are one job here. It is submitted when the first of them is; jobs of priority 9
//!   and more ("production") are services, others batches.
//! * A task takes as long as its longest run from SCHEDULE to EVICT, FAIL, FINISH, KILL or LOST. One that is not seen to end
//!   runs for ever. One that never ran says nothing of how long it takes, and is left out and counted.
//! * What was submitted before the trace (time 0) and runs is there from the beginning.
//! * A machine that is removed and does not come back is left out; all others are there all the time.

mod write;

use std::{collections::BTreeMap, io::BufRead, time::Duration};

use super::{
    Class, Durations, Rows, Submission, Workload,
    rows::{Fields, Kinds},
};
use crate::{
    Error, Result,
    sim::cell::{Amount, Machine, Task},
};

pub use write::{write_machine_events, write_task_events};

/// How a trace is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What the largest machine has; the trace tells shares of it.
    pub whole: Amount,
}

impl Default for Options {
    /// 16 cores and 64 GiB: the trace does not say, this is a large machine of the time.
    fn default() -> Self {
        Self {
            whole: Amount {
                cpu_millis: 16_000,
                memory_bytes: 64 << 30,
            },
        }
    }
}

/// Collects the files of a trace.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    options: Options,
    jobs: BTreeMap<u64, JobRows>,
    machines: BTreeMap<u64, MachineRow>,
    kinds: Kinds,
    tasks: usize,
    rows: Rows,
}

/// A trace that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// What there is to simulate. Without `machine_events` it has no machines: see [`Workload::sized`].
    pub workload: Workload,
    /// How many lines made sense, and which did not.
    pub rows: Rows,
    /// Tasks that never ran, which were left out.
    pub never_ran: u64,
}

#[derive(Debug, Clone, Default)]
struct JobRows {
    submitted_us: Option<u64>,
    is_production: bool,
    tasks: BTreeMap<u32, TaskRow>,
}

#[derive(Debug, Clone, Copy)]
struct TaskRow {
    request: Amount,
    is_distinct: bool,
    runs_since: Option<u64>,
    longest_us: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct MachineRow {
    machine: Machine,
    is_removed: bool,
}

impl Reader {
    /// How many tasks are read.
    pub const MAX_TASKS: usize = 30_000_000;

    /// A reader that has read nothing.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Reads a `task_events` file. Files are read in the order of their numbers.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it cannot be read, when no line makes sense, or when there are more than
    /// [`Reader::MAX_TASKS`] tasks. Broken lines are no error; they are told in [`Trace::rows`].
    pub fn task_events(&mut self, file: &str, input: &mut dyn BufRead) -> Result<()> {
        let mut rows = std::mem::take(&mut self.rows);
        let result = rows.read(file, input, |fields| self.task_event(fields));
        self.rows = rows;
        result?;
        if self.tasks > Self::MAX_TASKS {
            return Err(Error::Invalid {
                what: format!("trace {file}"),
                why: format!(
                    "brings more than {} tasks: read fewer files",
                    Self::MAX_TASKS
                ),
            });
        }
        Ok(())
    }

    /// Reads a `machine_events` file.
    ///
    /// # Errors
    ///
    /// As [`Reader::task_events`].
    pub fn machine_events(&mut self, file: &str, input: &mut dyn BufRead) -> Result<()> {
        let mut rows = std::mem::take(&mut self.rows);
        let result = rows.read(file, input, |fields| self.machine_event(fields));
        self.rows = rows;
        result
    }

    fn task_event(&mut self, fields: &Fields<'_>) -> Result<(), String> {
        let at_us: u64 = fields.number(0, "time")?;
        let job: u64 = fields.number(2, "job ID")?;
        let index: u32 = fields.number(3, "task index")?;
        let event: u8 = fields.number(5, "event type")?;
        if event > UPDATE_RUNNING {
            return Err(format!(
                "column 6 (event type) is not between 0 and 8: {event}"
            ));
        }
        if event == SUBMIT || event == SCHEDULE {
            let priority: u8 = fields.number(8, "priority")?;
            let cpu = fields.amount(9, "CPU request", 1.0)?;
            let memory = fields.amount(10, "memory request", 1.0)?;
            let is_distinct = match fields.text(12, "different machines")? {
                "" | "0" => false,
                "1" => true,
                other => {
                    return Err(format!(
                        "column 13 (different machines) is neither 0 nor 1: {other:?}"
                    ));
                }
            };
            if self.tasks >= Self::MAX_TASKS {
                self.tasks += 1;
                return Err("is of one task too many".to_owned());
            }
            let job = self.jobs.entry(job).or_default();
            job.is_production |= priority >= PRODUCTION;
            let submitted = job.submitted_us.get_or_insert(at_us);
            *submitted = (*submitted).min(at_us);
            let request = Amount {
                cpu_millis: share_of(cpu, self.options.whole.cpu_millis),
                memory_bytes: share_of(memory, self.options.whole.memory_bytes),
            };
            let task = job.tasks.entry(index).or_insert_with(|| {
                self.tasks += 1;
                TaskRow {
                    request,
                    is_distinct,
                    runs_since: None,
                    longest_us: None,
                }
            });
            if event == SCHEDULE {
                task.runs_since = Some(at_us);
            }
        } else if (EVICT..=LOST).contains(&event)
            && let Some(task) = self
                .jobs
                .get_mut(&job)
                .and_then(|job| job.tasks.get_mut(&index))
            && let Some(since) = task.runs_since.take()
        {
            let ran = at_us
                .checked_sub(since)
                .ok_or("is earlier than what happened to the task before")?;
            task.longest_us = task.longest_us.max(Some(ran));
        }
        Ok(())
    }

    fn machine_event(&mut self, fields: &Fields<'_>) -> Result<(), String> {
        let _at_us: u64 = fields.number(0, "time")?;
        let id: u64 = fields.number(1, "machine ID")?;
        let event: u8 = fields.number(2, "event type")?;
        match event {
            MACHINE_ADD | MACHINE_UPDATE => {
                let cpu = fields.amount(4, "CPUs", 1.0)?;
                let memory = fields.amount(5, "memory", 1.0)?;
                if !self.machines.contains_key(&id) && self.machines.len() >= Workload::MAX_MACHINES
                {
                    return Err("is of one machine too many".to_owned());
                }
                let machine = Machine {
                    capacity: Amount {
                        cpu_millis: share_of(cpu, self.options.whole.cpu_millis),
                        memory_bytes: share_of(memory, self.options.whole.memory_bytes),
                    },
                    kind: self.kinds.number(fields.text(3, "platform")?),
                };
                let row = MachineRow {
                    machine,
                    is_removed: false,
                };
                self.machines.insert(id, row);
            }
            MACHINE_REMOVE => {
                if let Some(row) = self.machines.get_mut(&id) {
                    row.is_removed = true;
                }
            }
            other => {
                return Err(format!(
                    "column 3 (event type) is not between 0 and 2: {other}"
                ));
            }
        }
        Ok(())
    }

    /// What was read, as a workload.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when no task ran.
    pub fn finish(self) -> Result<Trace> {
        let times = self.jobs.values().filter_map(|job| job.submitted_us);
        let begin = times
            .filter(|at| *at > BEFORE && *at < AFTER)
            .min()
            .unwrap_or_default();
        let (mut residents, mut submissions) = (Vec::new(), Vec::new());
        let mut never_ran = 0;
        for job in self.jobs.values() {
            let submitted = job.submitted_us.unwrap_or_default();
            for (task, durations) in job.by_shape(begin, &mut never_ran) {
                let submission = Submission {
                    at_us: submitted.saturating_sub(begin),
                    class: if job.is_production {
                        Class::Service
                    } else {
                        Class::Batch
                    },
                    tasks: u32::try_from(durations.len()).unwrap_or(u32::MAX),
                    task,
                    durations: Durations::Each(durations.into()),
                };
                if submitted == BEFORE {
                    residents.push(submission);
                } else if submitted < AFTER {
                    submissions.push(submission);
                }
            }
        }
        if residents.is_empty() && submissions.is_empty() {
            return Err(Error::Invalid {
                what: "trace".to_owned(),
                why: "has no task that ran: give it files in which tasks are scheduled".to_owned(),
            });
        }
        submissions.sort_by_key(|job| job.at_us);
        let machines = self
            .machines
            .values()
            .filter(|row| !row.is_removed)
            .map(|row| row.machine);
        Ok(Trace {
            workload: Workload {
                name: "google".to_owned(),
                machines: machines.collect(),
                residents,
                submissions,
            },
            rows: self.rows,
            never_ran,
        })
    }
}

impl JobRows {
    /// The tasks that ran, by what they need: how long they ran, by index.
    fn by_shape(&self, begin: u64, never_ran: &mut u64) -> Vec<(Task, Vec<u64>)> {
        let mut shapes: BTreeMap<(u64, u64, bool), Vec<u64>> = BTreeMap::new();
        for task in self.tasks.values() {
            let duration = match (task.longest_us, task.runs_since) {
                // Its beginning lies before the trace: what counts is when it ends in it.
                (Some(ran), _) if self.submitted_us == Some(BEFORE) => ran.saturating_sub(begin),
                (Some(ran), _) => ran,
                (None, Some(_)) => FOREVER,
                (None, None) => {
                    *never_ran += 1;
                    continue;
                }
            };
            let shape = (
                task.request.cpu_millis,
                task.request.memory_bytes,
                task.is_distinct,
            );
            shapes.entry(shape).or_default().push(duration);
        }
        let task = |(cpu_millis, memory_bytes, is_distinct)| Task {
            amount: Amount {
                cpu_millis,
                memory_bytes,
            },
            kind: None,
            is_distinct,
        };
        shapes
            .into_iter()
            .map(|(shape, durations)| (task(shape), durations))
            .collect()
    }
}

impl Trace {
    /// How long the trace lasts: until the last job is submitted, and a second.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.workload.length() + Duration::from_secs(1)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a machine, between 0 and 1"
)]
fn share_of(share: f64, whole: u64) -> u64 {
    (share * whole as f64).round() as u64
}

const SUBMIT: u8 = 0;
const SCHEDULE: u8 = 1;
const EVICT: u8 = 2;
const FINISH: u8 = 4;
const LOST: u8 = 6;
const UPDATE_RUNNING: u8 = 8;
const MACHINE_ADD: u8 = 0;
const MACHINE_REMOVE: u8 = 1;
const MACHINE_UPDATE: u8 = 2;
/// The least priority of production jobs.
const PRODUCTION: u8 = 9;
/// The time of what happened before the trace.
const BEFORE: u64 = 0;
/// The time of what happened after it.
const AFTER: u64 = i64::MAX as u64;
const FOREVER: u64 = u64::MAX;
