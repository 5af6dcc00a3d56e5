//! Scheduling architectures, simulated: who decides for which jobs, on what, and how conflicts end.
//!
//! Source: Schwarzkopf, Konwinski, Abd-El-Malek, Wilkes: "Omega: flexible, scalable schedulers for large compute clusters",
//! EuroSys 2013, and its *lightweight simulator* (section 4). A scheduler takes one job at a time from its queue, looks at
//! the cell, thinks for `t_job + t_task × tasks`, and commits. What is not placed is tried again: at once after a conflict,
//! after [`Settings::retry_delay`] when there was no room.
//!
//! | architecture | schedulers | sees | conflicts |
//! |---|---|---|---|
//! | monolithic, single-path | one, as slow for batch as for service jobs | all | none |
//! | monolithic, multi-path | one, fast for batch jobs | all | none |
//! | partitioned | one for each workload | its own machines | none |
//! | two-level | one for each workload | what it is offered and nobody else has been | none: others wait |
//! | shared state | one for services, any number for batches | all | at commit |

mod engine;
mod monolithic;
mod partitioned;
mod settings;
mod shared_state;
mod two_level;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use super::{
    cell::{Cell, Corner, LightCell},
    choice::{Choice, RandomFirstFit},
    metrics::Outcome,
    workload::{Class, Workload},
};
use crate::Result;

pub use settings::{Patience, Settings, ThinkTime, ThinkTimes};

use engine::Engine;

/// An architecture.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Architecture {
    /// One scheduler with one queue.
    Monolithic {
        /// Batch jobs take the short way through it. Otherwise all jobs take as long as service jobs.
        is_multi_path: bool,
    },
    /// Two schedulers, each with machines of its own.
    Partitioned {
        /// The share (0 to 1) of the machines that batch jobs have.
        batch_share: f64,
    },
    /// Two schedulers that are offered resources and hold them while they think (Mesos).
    TwoLevel {
        /// How long the allocator takes to make an offer.
        allocation: Duration,
    },
    /// Schedulers that all see all and commit optimistically (Omega).
    SharedState {
        /// How they commit.
        corner: Corner,
        /// How many schedulers share the batch jobs, by a hash of the job.
        batch_schedulers: u32,
    },
}

impl Architecture {
    /// How many schedulers there may be.
    pub const MAX_SCHEDULERS: u32 = 1_000;

    /// Monolithic, single-path.
    pub const SINGLE_PATH: Self = Self::Monolithic {
        is_multi_path: false,
    };
    /// Monolithic, multi-path.
    pub const MULTI_PATH: Self = Self::Monolithic {
        is_multi_path: true,
    };
    /// Partitioned into halves.
    pub const PARTITIONED: Self = Self::Partitioned { batch_share: 0.5 };
    /// Two-level, with an allocator that takes a millisecond.
    pub const TWO_LEVEL: Self = Self::TwoLevel {
        allocation: Duration::from_millis(1),
    };
    /// Shared state as in Omega: incremental, fine-grained, one batch scheduler.
    pub const SHARED_STATE: Self = Self::SharedState {
        corner: Corner::ALL[0],
        batch_schedulers: 1,
    };
    /// The five of the paper.
    pub const ALL: [Self; 5] = [
        Self::SINGLE_PATH,
        Self::MULTI_PATH,
        Self::PARTITIONED,
        Self::TWO_LEVEL,
        Self::SHARED_STATE,
    ];

    /// A short name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Monolithic {
                is_multi_path: false,
            } => "single-path",
            Self::Monolithic {
                is_multi_path: true,
            } => "multi-path",
            Self::Partitioned { .. } => "partitioned",
            Self::TwoLevel { .. } => "two-level",
            Self::SharedState { .. } => "shared-state",
        }
    }

    fn plan(&self, machines: u32, think: &ThinkTimes) -> Result<Plan> {
        match *self {
            Self::Monolithic { is_multi_path } => {
                Ok(monolithic::plan(machines, think, is_multi_path))
            }
            Self::Partitioned { batch_share } => partitioned::plan(machines, think, batch_share),
            Self::TwoLevel { allocation } => Ok(two_level::plan(machines, think, allocation)),
            Self::SharedState {
                corner,
                batch_schedulers,
            } => shared_state::plan(machines, think, corner, batch_schedulers),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match *self {
            Self::SharedState {
                corner,
                batch_schedulers,
            } => {
                if corner != Corner::default() {
                    write!(f, " ({corner})")?;
                }
                if batch_schedulers != 1 {
                    write!(f, " ({batch_schedulers} batch schedulers)")?;
                }
                Ok(())
            }
            Self::Partitioned { batch_share } if *self != Self::PARTITIONED => {
                write!(f, " ({batch_share} for batch jobs)")
            }
            Self::Monolithic { .. } | Self::TwoLevel { .. } | Self::Partitioned { .. } => Ok(()),
        }
    }
}

/// Makes what one scheduler chooses machines with.
pub type MakeChoice = Arc<dyn Fn() -> Box<dyn Choice> + Send + Sync>;

/// A workload on an architecture.
///
/// ```
/// use std::time::Duration;
/// use flynn_sched::sim::{
///     architecture::{Architecture, Settings, Simulation},
///     workload::synthetic::CellShape,
/// };
///
/// # fn main() -> flynn_sched::Result<()> {
/// let hour = Duration::from_secs(3600);
/// let workload = CellShape::b().scaled_to(200).generate(1, hour)?;
/// let simulation = Simulation::new(&workload, Architecture::SHARED_STATE, Settings::new(1, hour));
/// let outcome = simulation.run()?;
/// assert!(outcome.conflict_fraction() < 0.1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Simulation<'w> {
    workload: &'w Workload,
    architecture: Architecture,
    settings: Settings,
    choice: MakeChoice,
}

impl fmt::Debug for Simulation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("workload", &self.workload.name)
            .field("architecture", &self.architecture)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<'w> Simulation<'w> {
    /// A simulation whose schedulers choose by [`RandomFirstFit`].
    #[must_use]
    pub fn new(workload: &'w Workload, architecture: Architecture, settings: Settings) -> Self {
        Self {
            workload,
            architecture,
            settings,
            choice: Arc::new(|| Box::new(RandomFirstFit::default())),
        }
    }

    /// The same with schedulers that choose otherwise.
    #[must_use]
    pub fn with_choice(mut self, choice: MakeChoice) -> Self {
        self.choice = choice;
        self
    }

    /// Runs it on a [`LightCell`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) when the workload, the settings or the architecture make no sense.
    pub fn run(&self) -> Result<Outcome> {
        self.run_on::<LightCell>()
    }

    /// Runs it on another cell. All cells with the same rules give the same outcome.
    ///
    /// # Errors
    ///
    /// As [`Simulation::run`].
    pub fn run_on<C: Cell>(&self) -> Result<Outcome> {
        self.workload.validate()?;
        self.settings.validate()?;
        let cell = C::new(&self.workload.machines);
        let plan = self.architecture.plan(cell.len(), &self.settings.think)?;
        let engine = Engine::new(cell, self.workload, &self.settings, &plan, &self.choice);
        Ok(engine.run(self.architecture))
    }
}

/// What an architecture comes down to.
#[derive(Debug, Clone)]
struct Plan {
    schedulers: Vec<SchedulerPlan>,
    /// Which of them share the batch jobs.
    batch: Range<u32>,
    /// Which of them has the service jobs.
    service: u32,
    corner: Corner,
    /// How long the allocator takes, if resources are offered.
    allocation: Option<Duration>,
}

#[derive(Debug, Clone)]
struct SchedulerPlan {
    name: String,
    machines: Range<u32>,
    think: ThinkTimes,
}

impl Plan {
    /// The workloads a scheduler has.
    fn classes(&self, scheduler: u32) -> Vec<Class> {
        let has = |class: &Class| match class {
            Class::Batch => self.batch.contains(&scheduler),
            Class::Service => self.service == scheduler,
        };
        Class::ALL.into_iter().filter(has).collect()
    }

    /// The scheduler of a job.
    fn scheduler(&self, job: u32, class: Class) -> u32 {
        match class {
            Class::Service => self.service,
            Class::Batch => {
                let count = u64::from(self.batch.end - self.batch.start);
                let offset = shared_state::hash(job) % count.max(1);
                self.batch.start + u32::try_from(offset).unwrap_or_default()
            }
        }
    }
}
