//! Cells and workloads in the shape of those of the Omega paper.
//!
//! The paper shows distributions and not numbers; these are drawn from simple ones **in the shape of** its figures 2 to 4
//! and of what is published of the trace of cluster C (Reiss et al., "Heterogeneity and dynamicity of clouds at scale",
//! SoCC 2012):
//!
//! * Jobs arrive as a Poisson process, more than nine in ten of them batch.
//! * Most jobs have a few tasks, some have thousands: tasks per job are lognormal, cut at a maximum.
//! * Batch tasks run for minutes, service tasks for hours to weeks: durations are lognormal. All tasks of a job run equally
//!   long.
//! * Requests are lognormal, in steps of 10 thousandths of a core and 16 MiB.
//! * Machines are of the five kinds of the trace, of which two make up five sixths.
//! * Arrival rates are such that one scheduler at the default think times is as busy with batch jobs as the paper's
//!   saturation points say (figure 8: cell A saturates at about 2.5 times its rate, B at 6, C at 9.5).
//! * At the beginning the cell is as full as [`CellShape::utilisation`] says: with the jobs that would be running if the
//!   workload had gone on for ever, each with what is left of its time, and with services that never end for the rest.

mod distribution;
mod draw;

use std::time::Duration;

use rand::RngExt;

use super::{Class, Durations, Submission, Workload};
use crate::{
    Error, Result,
    sim::{
        cell::{Amount, Machine},
        streams::{Purpose, stream},
    },
};

pub use distribution::Distribution;
use distribution::scaled;
use draw::Draw;

/// A cell and its two workloads, as distributions.
#[derive(Debug, Clone, PartialEq)]
pub struct CellShape {
    /// What it is called.
    pub name: String,
    /// How many machines it has.
    pub machines: u32,
    /// Of which kinds they are: weight and capacity.
    pub kinds: Vec<(f64, Amount)>,
    /// Its batch workload.
    pub batch: ClassShape,
    /// Its service workload.
    pub service: ClassShape,
    /// The share of processor time (0 to 0.95) that is taken at the beginning.
    pub utilisation: f64,
    /// The share (0 to 1) of batch jobs that are picky: they run only on the last of the kinds. The paper's light
    /// simulator knows no constraints, so this is 0 by default.
    pub picky: f64,
}

/// A workload, as distributions.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassShape {
    /// Seconds between two jobs.
    pub interarrival_s: Distribution,
    /// Tasks of a job.
    pub tasks: Distribution,
    /// Seconds that a task runs.
    pub duration_s: Distribution,
    /// Thousandths of a core that a task needs.
    pub cpu_millis: Distribution,
    /// MiB of memory that a task needs.
    pub memory_mib: Distribution,
}

impl CellShape {
    /// In the shape of cluster A: middling in size and busy; 6,000 machines.
    #[must_use]
    pub fn a() -> Self {
        Self::shaped("a", 6_000, (0.65, 100.0, 1.5), (12.0, 2_200.0, 2.15))
    }

    /// In the shape of cluster B: large; 10,000 machines.
    #[must_use]
    pub fn b() -> Self {
        Self::shaped("b", 10_000, (1.5, 240.0, 1.6), (15.0, 4_500.0, 2.2))
    }

    /// In the shape of cluster C, the one of the public trace: 12,500 machines.
    #[must_use]
    pub fn c() -> Self {
        Self::shaped("c", 12_500, (2.5, 400.0, 1.6), (18.0, 7_200.0, 2.2))
    }

    /// The cell of this name: `a`, `b` or `c`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says which there are.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "a" | "A" => Ok(Self::a()),
            "b" | "B" => Ok(Self::b()),
            "c" | "C" => Ok(Self::c()),
            _ => Err(Error::Invalid {
                what: format!("cell {name:?}"),
                why: "there are a, b and c".to_owned(),
            }),
        }
    }

    /// For each class: mean time between jobs, median duration and its sigma.
    fn shaped(name: &str, machines: u32, batch: (f64, f64, f64), service: (f64, f64, f64)) -> Self {
        let gib = |cores: u64, gib: u64| Amount {
            cpu_millis: cores * 1000,
            memory_bytes: gib << 30,
        };
        Self {
            name: name.to_owned(),
            machines,
            kinds: vec![
                (0.53, gib(8, 32)),
                (0.31, gib(8, 16)),
                (0.08, gib(8, 48)),
                (0.07, gib(16, 64)),
                (0.01, gib(4, 16)),
            ],
            batch: ClassShape {
                interarrival_s: Distribution::Exponential { mean: batch.0 },
                tasks: Distribution::lognormal(4.0, 2.0, 1.0, 3_000.0),
                duration_s: Distribution::lognormal(batch.1, batch.2, 1.0, 3.0 * DAY),
                cpu_millis: Distribution::lognormal(600.0, 0.75, 10.0, 4_000.0),
                memory_mib: Distribution::lognormal(1_400.0, 0.9, 16.0, 12_288.0),
            },
            service: ClassShape {
                interarrival_s: Distribution::Exponential { mean: service.0 },
                tasks: Distribution::lognormal(2.0, 1.75, 1.0, 1_000.0),
                duration_s: Distribution::lognormal(service.1, service.2, 60.0, 60.0 * DAY),
                cpu_millis: Distribution::lognormal(750.0, 0.75, 10.0, 4_000.0),
                memory_mib: Distribution::lognormal(2_000.0, 0.9, 16.0, 12_288.0),
            },
            utilisation: 0.6,
            picky: 0.0,
        }
    }

    /// The same with so many machines, and with as many decisions an hour as before: jobs arrive as often, no job has more
    /// tasks than half of the machines, and tasks run the shorter the fewer machines there are.
    #[must_use]
    pub fn scaled_to(mut self, machines: u32) -> Self {
        let factor = f64::from(machines) / f64::from(self.machines.max(1));
        let most = f64::from((machines / 2).max(1));
        for class in [&mut self.batch, &mut self.service] {
            class.duration_s = class.duration_s.times(factor);
            class.tasks = class.tasks.at_most(most);
        }
        self.machines = machines;
        self
    }

    /// The same with so many times as many batch jobs an hour, which run the shorter.
    #[must_use]
    pub fn with_batch_rate(mut self, factor: f64) -> Self {
        self.batch.interarrival_s = self.batch.interarrival_s.times(1.0 / factor);
        self.batch.duration_s = self.batch.duration_s.times(1.0 / factor);
        self
    }

    /// The same with another share of picky batch jobs.
    #[must_use]
    pub fn with_picky(mut self, share: f64) -> Self {
        self.picky = share;
        self
    }

    /// Draws a workload of this length. The same seed gives the same.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names what in the shape makes no sense, or what there would be too much of.
    pub fn generate(&self, seed: u64, length: Duration) -> Result<Workload> {
        self.validate()?;
        let machines = self.draw_machines(seed);
        let mut submissions = Vec::new();
        for class in Class::ALL {
            self.submit(class, seed, length, &mut submissions)?;
        }
        submissions.sort_by_key(|job: &Submission| job.at_us);
        let residents = self.settle(seed, &machines)?;
        let workload = Workload {
            name: self.name.clone(),
            machines,
            residents,
            submissions,
        };
        workload.validate()?;
        Ok(workload)
    }

    fn validate(&self) -> Result<()> {
        let check = |is_right: bool, what: &str, why: &str| {
            if is_right {
                Ok(())
            } else {
                Err(Error::Invalid {
                    what: format!("{what} of cell {:?}", self.name),
                    why: why.to_owned(),
                })
            }
        };
        let count = self.machines as usize;
        check(
            (1..=Workload::MAX_MACHINES).contains(&count),
            "the number of machines",
            "must be between 1 and 1000000",
        )?;
        let weights = self.kinds.iter().map(|(weight, _)| *weight);
        check(
            !self.kinds.is_empty()
                && self.kinds.len() <= 255
                && weights
                    .clone()
                    .all(|weight| weight.is_finite() && weight >= 0.0)
                && weights.sum::<f64>() > 0.0,
            "the kinds of machines",
            "must be 1 to 255, with weights that are not negative and not all zero",
        )?;
        check(
            (0.0..=0.95).contains(&self.utilisation),
            "the utilisation",
            "must be between 0 and 0.95",
        )?;
        check(
            (0.0..=1.0).contains(&self.picky),
            "the share of picky jobs",
            "must be between 0 and 1",
        )?;
        for (class, shape) in [("batch", &self.batch), ("service", &self.service)] {
            for (what, distribution, least) in [
                ("time between jobs", &shape.interarrival_s, 0.0),
                ("tasks of a job", &shape.tasks, 0.0),
                ("duration", &shape.duration_s, 0.0),
                ("processor time", &shape.cpu_millis, 0.0),
                ("memory", &shape.memory_mib, 0.0),
            ] {
                check(
                    distribution.is_sound() && distribution.mean() > least,
                    &format!("the {what} ({class})"),
                    "must be finite and more than zero on average",
                )?;
            }
        }
        Ok(())
    }

    fn class(&self, class: Class) -> &ClassShape {
        match class {
            Class::Batch => &self.batch,
            Class::Service => &self.service,
        }
    }

    fn draw_machines(&self, seed: u64) -> Vec<Machine> {
        let mut rng = stream(seed, Purpose::Machines);
        let whole: f64 = self.kinds.iter().map(|(weight, _)| weight).sum();
        let last = self.kinds.len() - 1;
        let machine = |_| {
            let mut point = rng.random::<f64>() * whole;
            let found = self.kinds.iter().position(|(weight, _)| {
                point -= weight;
                point < 0.0
            });
            let kind = found.unwrap_or(last);
            Machine {
                capacity: self.kinds[kind].1,
                kind: u8::try_from(kind).unwrap_or(u8::MAX),
            }
        };
        let mut machines: Vec<Machine> = (0..self.machines).map(machine).collect();
        // However small the cell, what picky jobs want is there.
        machines[0] = Machine {
            capacity: self.kinds[last].1,
            kind: u8::try_from(last).unwrap_or(u8::MAX),
        };
        machines
    }

    fn submit(
        &self,
        class: Class,
        seed: u64,
        length: Duration,
        submissions: &mut Vec<Submission>,
    ) -> Result<()> {
        let shape = self.class(class);
        let expected = length.as_secs_f64() / shape.interarrival_s.mean();
        if scaled(expected, 1.0) > Workload::MAX_JOBS as u64 {
            return Err(self.too_many_jobs());
        }
        let mut interarrival = stream(seed, Purpose::Interarrival(class));
        let mut draw = Draw::new(self, class, seed);
        let mut at_s = 0.0;
        loop {
            at_s += shape.interarrival_s.sample(&mut interarrival);
            if at_s >= length.as_secs_f64() {
                return Ok(());
            }
            if submissions.len() == Workload::MAX_JOBS {
                return Err(self.too_many_jobs());
            }
            submissions.push(draw.job(scaled(at_s, SECOND)));
        }
    }

    fn too_many_jobs(&self) -> Error {
        Error::Invalid {
            what: format!("cell {:?}", self.name),
            why: format!(
                "would have more than {} jobs: simulate fewer hours",
                Workload::MAX_JOBS
            ),
        }
    }

    /// What runs at the beginning: of each workload as much as runs at any time if it goes on for ever, and services that
    /// never end.
    fn settle(&self, seed: u64, machines: &[Machine]) -> Result<Vec<Submission>> {
        let capacity = machines.iter().map(|machine| machine.capacity.cpu_millis);
        let target = self.utilisation * to_f64(capacity.sum());
        let expected = Class::ALL.map(|class| self.class(class).running_cpu_millis());
        let whole: f64 = expected.iter().sum();
        // A cell that its workload would overfill begins with less of it.
        let part = if whole > target { target / whole } else { 1.0 };
        let mut residents = Vec::new();
        for (class, expected) in Class::ALL.into_iter().zip(expected) {
            let remaining = self.class(class).duration_s.remaining();
            let rng = stream(seed, Purpose::Residents(class));
            let mut lives = rng.clone();
            lives.set_word_pos(1 << 40);
            let mut draw = Draw::with(self, class, rng);
            let next = || {
                let left = scaled(remaining.sample(&mut lives), SECOND);
                (draw.job(0), left)
            };
            self.fill(scaled(expected * part, 1.0), next, &mut residents)?;
        }
        let mut draw = Draw::with(self, Class::Service, stream(seed, Purpose::Filling));
        let rest = (target - whole).max(0.0);
        self.fill(
            scaled(rest, 1.0),
            || (draw.job(0), u64::MAX),
            &mut residents,
        )?;
        Ok(residents)
    }

    /// Adds jobs, each with what is left of its time, until they need this much.
    fn fill(
        &self,
        mut cpu_millis: u64,
        mut next: impl FnMut() -> (Submission, u64),
        residents: &mut Vec<Submission>,
    ) -> Result<()> {
        loop {
            let (mut job, left) = next();
            // A task needs ten thousandths of a core at least, so this ends.
            let each = job.task.amount.cpu_millis.max(1);
            job.tasks = job
                .tasks
                .min(u32::try_from(cpu_millis / each).unwrap_or(u32::MAX));
            if job.tasks == 0 {
                return Ok(());
            }
            if residents.len() >= Workload::MAX_JOBS {
                return Err(Error::Invalid {
                    what: format!("cell {:?}", self.name),
                    why: "takes too many jobs to fill: let them need more".to_owned(),
                });
            }
            cpu_millis -= each * u64::from(job.tasks);
            job.durations = Durations::Same(left);
            residents.push(job);
        }
    }
}

impl ClassShape {
    /// How much processor time its running tasks need on average, if it goes on for ever.
    fn running_cpu_millis(&self) -> f64 {
        let jobs = self.duration_s.mean() / self.interarrival_s.mean();
        jobs * self.tasks.mean() * self.cpu_millis.mean()
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share needs no more than 52 bits"
)]
fn to_f64(amount: u64) -> f64 {
    amount as f64
}

/// Seconds in a day.
const DAY: f64 = 86_400.0;
/// Microseconds in a second.
const SECOND: f64 = 1e6;
