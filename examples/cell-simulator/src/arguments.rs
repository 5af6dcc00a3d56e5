//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use flynn_sched::sim::{
    architecture::{Architecture, Settings, ThinkTimes},
    cell::Corner,
    workload::synthetic::CellShape,
};
use flynn_sched::transaction::{Conflict, Mode};

use crate::Failure;

/// Simulates scheduling architectures on synthetic cells and on traces.
#[derive(Debug, Parser)]
#[command(name = "flynn-sim", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Simulate one architecture on one synthetic cell
    Run(RunOptions),
    /// Vary one thing, compare, and plot what becomes of it
    Sweep(SweepOptions),
    /// Simulate one architecture on a trace
    Trace(TraceOptions),
    /// Write made-up traces in the layout of the real ones
    Generate(GenerateOptions),
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) cell: CellOptions,
    #[command(flatten)]
    pub(crate) architecture: ArchitectureOptions,
    #[command(flatten)]
    pub(crate) time: TimeOptions,
    /// The directory to write tables and plots into (made if there is none)
    #[arg(long)]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SweepOptions {
    #[command(flatten)]
    pub(crate) cell: CellOptions,
    #[command(flatten)]
    pub(crate) time: TimeOptions,
    /// What to vary
    #[arg(long, value_enum, default_value_t = Varied::ServiceThinkTime)]
    pub(crate) vary: Varied,
    /// The values: seconds of t_job (service), or factors on the rate of batch jobs
    #[arg(long, value_delimiter = ',')]
    pub(crate) values: Vec<f64>,
    /// The directory to write tables and plots into (made if there is none)
    #[arg(long)]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Varied {
    /// How long the service scheduler thinks about a job, for all architectures
    ServiceThinkTime,
    /// How many batch jobs arrive, for shared state with 1 to 32 batch schedulers
    BatchLoad,
    /// How long the service scheduler thinks, for Omega's four ways to commit
    Corners,
}

#[derive(Debug, Args)]
pub(crate) struct TraceOptions {
    /// task_events files of Google's ClusterData 2011 (plain or .gz), in the order of their numbers
    #[arg(long, num_args = 1.., required_unless_present = "azure", conflicts_with = "azure")]
    pub(crate) google: Vec<PathBuf>,
    /// A machine_events file of Google's ClusterData 2011 (plain or .gz)
    #[arg(long, conflicts_with = "azure")]
    pub(crate) machine_events: Option<PathBuf>,
    /// vmtable files of the Azure Public Dataset, V1 or V2 (plain or .gz)
    #[arg(long, num_args = 1..)]
    pub(crate) azure: Vec<PathBuf>,
    /// How many machines there are, where the trace does not say [default: as many as make the busiest moment fill 0.8]
    #[arg(long)]
    pub(crate) machines: Option<u32>,
    /// Cores of the largest machine (Google), or of each (Azure: 64 by default)
    #[arg(long)]
    pub(crate) machine_cores: Option<u64>,
    /// GiB of memory of the largest machine (Google), or of each (Azure: 256 by default)
    #[arg(long)]
    pub(crate) machine_gib: Option<u64>,
    #[command(flatten)]
    pub(crate) architecture: ArchitectureOptions,
    /// How many hours to simulate [default: until the last job is submitted]
    #[arg(long, value_parser = hours)]
    pub(crate) hours: Option<f64>,
    /// The seed of all random choices
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The directory to write tables and plots into (made if there is none)
    #[arg(long)]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateOptions {
    #[command(flatten)]
    pub(crate) cell: CellOptions,
    #[command(flatten)]
    pub(crate) time: TimeOptions,
    /// Write task_events in Google's layout here
    #[arg(long, required_unless_present_any = ["azure_v1", "azure_v2"])]
    pub(crate) google: Option<PathBuf>,
    /// Write machine_events in Google's layout here
    #[arg(long, requires = "google")]
    pub(crate) machine_events: Option<PathBuf>,
    /// Write a vmtable in the layout of Azure's V1 here
    #[arg(long)]
    pub(crate) azure_v1: Option<PathBuf>,
    /// Write a vmtable in the layout of Azure's V2 here
    #[arg(long)]
    pub(crate) azure_v2: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CellOptions {
    /// The cell: in the shape of cluster a (6,000 machines), b (10,000) or c (12,500) of the Omega paper
    #[arg(long, default_value = "b", value_parser = ["a", "b", "c"])]
    cell: String,
    /// Scale it to so many machines: as many jobs arrive, and their tasks run the shorter
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    machines: Option<u32>,
    /// The share of processor time that is taken at the beginning
    #[arg(long)]
    utilisation: Option<f64>,
    /// The share of batch jobs that run on a rare kind of machine only
    #[arg(long, default_value_t = 0.0)]
    picky: f64,
    /// So many times as many batch jobs
    #[arg(long, default_value_t = 1.0, value_parser = factor)]
    batch_rate: f64,
}

#[derive(Debug, Args)]
pub(crate) struct TimeOptions {
    /// How many hours to simulate
    #[arg(long, default_value_t = 24.0, value_parser = hours)]
    hours: f64,
    /// The seed of everything random: the same seed gives the same files to the last byte
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ArchitectureOptions {
    /// Who decides
    #[arg(long, value_enum, default_value_t = Kind::SharedState)]
    architecture: Kind,
    /// Shared state: how many schedulers share the batch jobs
    #[arg(long, default_value_t = 1)]
    batch_schedulers: u32,
    /// Shared state: place all tasks of a job or none
    #[arg(long)]
    gang: bool,
    /// Shared state: any change of a machine is a conflict
    #[arg(long)]
    coarse: bool,
    /// Partitioned: the share of machines that batch jobs have
    #[arg(long, default_value_t = 0.5)]
    batch_share: f64,
    /// Seconds to think about a batch job
    #[arg(long, default_value_t = 0.1)]
    t_job_batch: f64,
    /// Seconds to think about a service job
    #[arg(long, default_value_t = 0.1)]
    t_job_service: f64,
    /// Seconds to think about each task of a batch job
    #[arg(long, default_value_t = 0.005)]
    t_task_batch: f64,
    /// Seconds to think about each task of a service job
    #[arg(long, default_value_t = 0.005)]
    t_task_service: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    SinglePath,
    MultiPath,
    Partitioned,
    TwoLevel,
    SharedState,
}

impl CellOptions {
    pub(crate) fn shape(&self) -> Result<CellShape, Failure> {
        let mut shape = CellShape::named(&self.cell)?;
        if let Some(machines) = self.machines {
            shape = shape.scaled_to(machines);
        }
        if let Some(utilisation) = self.utilisation {
            shape.utilisation = utilisation;
        }
        Ok(shape
            .with_picky(self.picky)
            .with_batch_rate(self.batch_rate))
    }
}

impl TimeOptions {
    pub(crate) fn length(&self) -> Duration {
        length(self.hours)
    }
}

impl ArchitectureOptions {
    pub(crate) fn architecture(&self) -> Architecture {
        match self.architecture {
            Kind::SinglePath => Architecture::SINGLE_PATH,
            Kind::MultiPath => Architecture::MULTI_PATH,
            Kind::Partitioned => Architecture::Partitioned {
                batch_share: self.batch_share,
            },
            Kind::TwoLevel => Architecture::TWO_LEVEL,
            Kind::SharedState => Architecture::SharedState {
                corner: Corner::new(
                    if self.gang {
                        Mode::AllOrNothing
                    } else {
                        Mode::Incremental
                    },
                    if self.coarse {
                        Conflict::Sequence
                    } else {
                        Conflict::ResourceFit
                    },
                ),
                batch_schedulers: self.batch_schedulers,
            },
        }
    }

    pub(crate) fn settings(&self, seed: u64, length: Duration) -> Result<Settings, Failure> {
        let mut think = ThinkTimes::default();
        think.batch.job = seconds("--t-job-batch", self.t_job_batch)?;
        think.batch.task = seconds("--t-task-batch", self.t_task_batch)?;
        think.service.job = seconds("--t-job-service", self.t_job_service)?;
        think.service.task = seconds("--t-task-service", self.t_task_service)?;
        Ok(Settings::new(seed, length).with_think(think))
    }
}

/// Hours as a time. They have been checked.
pub(crate) fn length(hours: f64) -> Duration {
    Duration::from_secs_f64(hours * 3600.0)
}

pub(crate) fn seconds(what: &str, value: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| Failure::Usage(format!("{what} must be a number of seconds, not {value}")))
}

fn hours(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(hours) if hours > 0.0 && hours <= 366.0 * 24.0 => Ok(hours),
        _ => Err("must be more than 0 and at most 8784 (a year)".to_owned()),
    }
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if (0.001..=1000.0).contains(&factor) => Ok(factor),
        _ => Err("must be between 0.001 and 1000".to_owned()),
    }
}
