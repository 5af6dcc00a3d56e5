//! `flynn-sim sweep`.

use flynn_sched::sim::{
    architecture::{Architecture, Settings},
    cell::Corner,
    experiment::{self, Point},
    plot,
};

use crate::{
    Done, Failure,
    arguments::{SweepOptions, Varied, seconds},
    files::Directory,
};

pub(crate) fn sweep(options: &SweepOptions) -> Done {
    let shape = options.cell.shape()?;
    let settings = Settings::new(options.time.seed, options.time.length());
    let values = values(options)?;
    // Made first: it would be a pity to find out afterwards that it cannot be.
    let directory = Directory::create(&options.out)?;
    match options.vary {
        Varied::ServiceThinkTime => {
            let all = Architecture::ALL;
            let points = experiment::service_think_times(&shape, &settings, &all, &values)?;
            write(&directory, "t_job_service_s", T_JOB, &points)
        }
        Varied::Corners => {
            let all = Corner::ALL.map(|corner| Architecture::SharedState {
                corner,
                batch_schedulers: 1,
            });
            let points = experiment::service_think_times(&shape, &settings, &all, &values)?;
            write(&directory, "t_job_service_s", T_JOB, &points)
        }
        Varied::BatchLoad => {
            let points = experiment::batch_loads(&shape, &settings, &SCHEDULERS, &values)?;
            write(
                &directory,
                "batch_rate",
                "batch jobs, relative to the cell's own rate",
                &points,
            )
        }
    }
}

fn values(options: &SweepOptions) -> Result<Vec<f64>, Failure> {
    if options.values.is_empty() {
        return Ok(match options.vary {
            Varied::ServiceThinkTime | Varied::Corners => T_JOBS_S.to_vec(),
            Varied::BatchLoad => FACTORS.to_vec(),
        });
    }
    for value in &options.values {
        seconds("--values", *value)?;
        if *value <= 0.0 {
            return Err(Failure::Usage(format!(
                "--values must be more than zero, not {value}"
            )));
        }
    }
    let mut values = options.values.clone();
    values.sort_by(f64::total_cmp);
    Ok(values)
}

fn write(directory: &Directory, column: &str, axis: &str, points: &[Point]) -> Done {
    directory.table("sweep.csv", |file| {
        experiment::write_points(column, points, file)
    })?;
    directory.plot("wait.svg", &plot::wait_series(axis, points)?)?;
    directory.plot("busyness.svg", &plot::busyness_series(axis, points)?)?;
    directory.plot("unscheduled.svg", &plot::unscheduled_series(axis, points)?)?;
    directory.plot("conflicts.svg", &plot::conflict_series(axis, points)?)
}

const T_JOB: &str = "t_job of service jobs [s]";
const T_JOBS_S: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
const FACTORS: [f64; 6] = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
const SCHEDULERS: [u32; 6] = [1, 2, 4, 8, 16, 32];
