//! The experiments of the Omega paper, as functions.
//!
//! Each takes a [`CellShape`] and [`Settings`], so that the same experiment runs small in a test and at full scale from the
//! command line. What they show is an order (which is worse than which), not a number: cells and think times are only in the
//! shape of the paper's.

use std::{io, time::Duration};

use super::{
    architecture::{Architecture, Settings, Simulation, ThinkTimes},
    cell::Corner,
    metrics::Outcome,
    report::decimal,
    workload::{Class, synthetic::CellShape},
};
use crate::Result;

/// One run of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The value of what is varied.
    pub value: f64,
    /// What came out.
    pub outcome: Outcome,
}

/// A day of the cell in the shape of cluster B (10,000 machines, ten thousands of jobs, well over a million tasks) under the
/// shared-state architecture.
///
/// # Errors
///
/// None with the shapes as they are.
pub fn omega_day(seed: u64) -> Result<Outcome> {
    let day = Duration::from_secs(24 * 3600);
    let workload = CellShape::b().generate(seed, day)?;
    Simulation::new(
        &workload,
        Architecture::SHARED_STATE,
        Settings::new(seed, day),
    )
    .run()
}

/// Eight batch schedulers and a service scheduler on the cell in the shape of cluster B, at the default think times, when
/// `load` times as many batch jobs as usual arrive.
///
/// # Errors
///
/// [`Error::Invalid`](crate::Error::Invalid) when `load` or `length` make no sense.
pub fn conflict_8(seed: u64, length: Duration, load: f64) -> Result<Outcome> {
    let architecture = Architecture::SharedState {
        corner: Corner::default(),
        batch_schedulers: 8,
    };
    let workload = CellShape::b()
        .with_batch_rate(load)
        .generate(seed, length)?;
    Simulation::new(&workload, architecture, Settings::new(seed, length)).run()
}

/// One workload in Omega's four corners, in the order of [`Corner::ALL`], with so many batch schedulers. (The paper's figure
/// 14.)
///
/// # Errors
///
/// [`Error::Invalid`](crate::Error::Invalid) when the shape or the settings make no sense.
pub fn corners(
    shape: &CellShape,
    settings: &Settings,
    batch_schedulers: u32,
) -> Result<Vec<(Corner, Outcome)>> {
    let workload = shape.generate(settings.seed, settings.length)?;
    let run = |corner| {
        let architecture = Architecture::SharedState {
            corner,
            batch_schedulers,
        };
        let outcome = Simulation::new(&workload, architecture, settings.clone()).run()?;
        Ok((corner, outcome))
    };
    Corner::ALL.into_iter().map(run).collect()
}

/// Each architecture for each `t_job` of the service scheduler, in seconds. (The paper's figures 5 to 7.)
///
/// # Errors
///
/// [`Error::Invalid`](crate::Error::Invalid) when the shape, the settings or a time make no sense.
pub fn service_think_times(
    shape: &CellShape,
    settings: &Settings,
    architectures: &[Architecture],
    t_job_s: &[f64],
) -> Result<Vec<Point>> {
    let workload = shape.generate(settings.seed, settings.length)?;
    let mut points = Vec::new();
    for architecture in architectures {
        for value in t_job_s {
            let t_job =
                Duration::try_from_secs_f64(*value).map_err(|error| crate::Error::Invalid {
                    what: format!("t_job of {value} s"),
                    why: error.to_string(),
                })?;
            let mut settings = settings.clone();
            let per_task = settings.think.service.task;
            settings.think.service = ThinkTimes::with_service_job(t_job).service;
            settings.think.service.task = per_task;
            points.push(Point {
                value: *value,
                outcome: Simulation::new(&workload, *architecture, settings).run()?,
            });
        }
    }
    Ok(points)
}

/// Shared state with each number of batch schedulers, for each factor on the rate of batch jobs. (The paper's figures 8 and
/// 9.) The `value` of a point is the factor.
///
/// # Errors
///
/// [`Error::Invalid`](crate::Error::Invalid) when the shape, the settings or a number make no sense.
pub fn batch_loads(
    shape: &CellShape,
    settings: &Settings,
    schedulers: &[u32],
    factors: &[f64],
) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for factor in factors {
        let shape = shape.clone().with_batch_rate(*factor);
        let workload = shape.generate(settings.seed, settings.length)?;
        for batch_schedulers in schedulers {
            let architecture = Architecture::SharedState {
                corner: Corner::default(),
                batch_schedulers: *batch_schedulers,
            };
            points.push(Point {
                value: *factor,
                outcome: Simulation::new(&workload, architecture, settings.clone()).run()?,
            });
        }
    }
    Ok(points)
}

/// Two-level and shared state, in this order, on a cell of whose batch jobs some run on a rare kind of machine only, while a
/// slow service scheduler thinks for `t_job` about each job. (The paper's section 4.2: jobs that see only what others leave
/// of the offers are given up.)
///
/// # Errors
///
/// [`Error::Invalid`](crate::Error::Invalid) when the shape or the settings make no sense.
pub fn picky_jobs(shape: &CellShape, settings: &Settings, t_job: Duration) -> Result<[Outcome; 2]> {
    let workload = shape.generate(settings.seed, settings.length)?;
    let settings = settings
        .clone()
        .with_think(ThinkTimes::with_service_job(t_job));
    let run = |architecture| Simulation::new(&workload, architecture, settings.clone()).run();
    Ok([
        run(Architecture::TWO_LEVEL)?,
        run(Architecture::SHARED_STATE)?,
    ])
}

/// Writes a series as CSV, a line for each run.
///
/// # Errors
///
/// What `out` gives.
pub fn write_points(varied: &str, points: &[Point], out: impl io::Write) -> io::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    let mut names = vec![
        "workload".to_owned(),
        "architecture".to_owned(),
        varied.to_owned(),
    ];
    names.extend(["conflict_fraction", "cpu_share"].map(str::to_owned));
    for class in Class::ALL {
        for what in [
            "wait_mean_s",
            "wait_p90_s",
            "busyness_median",
            "busyness_mad",
            "abandoned",
            "waiting",
        ] {
            names.push(format!("{class}_{what}"));
        }
    }
    table.write_record(&names)?;
    for Point { value, outcome } in points {
        let mut fields = vec![
            outcome.workload.clone(),
            outcome.architecture.to_string(),
            value.to_string(),
            decimal(outcome.conflict_fraction()),
            decimal(outcome.utilisation().0),
        ];
        for class in &outcome.classes {
            let wait = class.wait();
            let (median, mad) = outcome.busyness_of(class.class);
            fields.extend([wait.mean, wait.p90, median, mad].map(decimal));
            fields.extend([class.abandoned, class.waiting].map(|count| count.to_string()));
        }
        table.write_record(&fields)?;
    }
    table.flush()
}
