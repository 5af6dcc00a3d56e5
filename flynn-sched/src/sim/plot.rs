//! Outcomes as SVG plots: on a white ground, in colours that are told apart with any kind of colour vision (Okabe and Ito),
//! and with a mark of their own for each line.

mod chart;

use super::{experiment::Point, metrics::Outcome, workload::Class};
use crate::Result;

use chart::{Axis, Chart, Line, draw};

/// How busy each scheduler is over time.
///
/// # Errors
///
/// [`Error::Invalid`](crate::Error::Invalid) when it cannot be drawn, which does not happen with finite numbers.
pub fn busyness(outcome: &Outcome) -> Result<String> {
    let lines = outcome
        .schedulers
        .iter()
        .enumerate()
        .map(|(number, scheduler)| Line {
            name: scheduler.name.clone(),
            points: outcome
                .timeline
                .iter()
                .map(|m| (m.at_s / HOUR, m.schedulers[number].busyness))
                .collect(),
        });
    let most = outcome
        .schedulers
        .iter()
        .flat_map(|s| s.busyness.iter().copied());
    draw(&[Chart {
        title: format!("Cell {}, {}", outcome.workload, outcome.architecture),
        x: Axis::linear("time [h]"),
        y: Axis::linear("busyness (share of time)").up_to(most.fold(0.0, f64::max)),
        lines: lines.collect(),
        level: None,
    }])
}

/// How much of processor time and memory is taken over time.
///
/// # Errors
///
/// As [`busyness`].
pub fn utilisation(outcome: &Outcome) -> Result<String> {
    let line = |name: &str, value: fn(&super::metrics::Moment) -> f64| Line {
        name: name.to_owned(),
        points: outcome
            .timeline
            .iter()
            .map(|m| (m.at_s / HOUR, value(m)))
            .collect(),
    };
    draw(&[Chart {
        title: format!("Cell {}, {}", outcome.workload, outcome.architecture),
        x: Axis::linear("time [h]"),
        y: Axis::linear("utilisation (share of the cell)").up_to(1.0),
        lines: vec![
            line("processor time", |m| m.cpu),
            line("memory", |m| m.memory),
        ],
        level: None,
    }])
}

/// How long jobs wait for their first attempt: for each time, the share of jobs that waited at most so long.
///
/// # Errors
///
/// As [`busyness`].
pub fn waits(outcome: &Outcome) -> Result<String> {
    let lines = outcome
        .classes
        .iter()
        .filter(|class| !class.waits_s.is_empty())
        .map(|class| Line {
            name: class.class.to_string(),
            points: distribution(&class.waits_s),
        });
    draw(&[Chart {
        title: format!("Cell {}, {}", outcome.workload, outcome.architecture),
        x: Axis::logarithmic("job wait time until the first attempt [s] (0.001: none)"),
        y: Axis::linear("share of jobs").up_to(1.0),
        lines: lines.collect(),
        level: None,
    }])
}

/// The mean wait of batch and of service jobs, by architecture, over what is varied.
///
/// # Errors
///
/// As [`busyness`].
pub fn wait_series(varied: &str, points: &[Point]) -> Result<String> {
    let chart = |class: Class| Chart {
        title: format!("cell {}: {class} jobs", cell(points)),
        x: Axis::logarithmic(varied),
        y: Axis::logarithmic("mean job wait time [s]").spanning(LEAST_WAIT_S, 1e5),
        lines: series(points, |outcome| {
            outcome
                .class(class)
                .map(|class| class.wait().mean.max(LEAST_WAIT_S))
        }),
        level: Some((30.0, "30 s")),
    };
    draw(&Class::ALL.map(chart))
}

/// How busy the schedulers of batch and of service jobs are, by architecture, over what is varied.
///
/// # Errors
///
/// As [`busyness`].
pub fn busyness_series(varied: &str, points: &[Point]) -> Result<String> {
    let chart = |class: Class| Chart {
        title: format!("cell {}: scheduler of {class} jobs", cell(points)),
        x: Axis::logarithmic(varied),
        y: Axis::linear("busyness (median share of time)").up_to(1.0),
        lines: series(points, |outcome| Some(outcome.busyness_of(class).0)),
        level: None,
    };
    draw(&Class::ALL.map(chart))
}

/// How many jobs were given up or left waiting, as a share, by architecture, over what is varied.
///
/// # Errors
///
/// As [`busyness`].
pub fn unscheduled_series(varied: &str, points: &[Point]) -> Result<String> {
    let chart = |class: Class| Chart {
        title: format!("cell {}: {class} jobs", cell(points)),
        x: Axis::logarithmic(varied),
        y: Axis::linear("abandoned or still waiting (share of jobs)").up_to(1.0),
        lines: series(points, |outcome| {
            outcome.class(class).map(|class| class.unscheduled_share())
        }),
        level: None,
    };
    draw(&Class::ALL.map(chart))
}

/// Conflicts per transaction without one, by architecture, over what is varied.
///
/// # Errors
///
/// As [`busyness`].
pub fn conflict_series(varied: &str, points: &[Point]) -> Result<String> {
    let most = points.iter().map(|point| point.outcome.conflict_fraction());
    draw(&[Chart {
        title: format!("cell {}: all schedulers", cell(points)),
        x: Axis::logarithmic(varied),
        y: Axis::linear("conflict fraction (conflicts per success)")
            .up_to(most.fold(0.0, f64::max)),
        lines: series(points, |outcome| Some(outcome.conflict_fraction())),
        level: None,
    }])
}

fn cell(points: &[Point]) -> &str {
    points.first().map_or("", |point| &point.outcome.workload)
}

/// A line for each architecture, in the order in which they come.
fn series(points: &[Point], value: impl Fn(&Outcome) -> Option<f64>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for point in points {
        let Some(y) = value(&point.outcome) else {
            continue;
        };
        let name = point.outcome.architecture.to_string();
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push((point.value, y)),
            None => lines.push(Line {
                name,
                points: vec![(point.value, y)],
            }),
        }
    }
    lines
}

/// At most [`RESOLUTION`] points of the cumulative distribution of sorted values.
fn distribution(sorted: &[f64]) -> Vec<(f64, f64)> {
    let count = sorted.len();
    let steps = RESOLUTION.min(count);
    let point = |step: usize| {
        let rank = (count * step).div_ceil(steps).max(1);
        (sorted[rank - 1].max(LEAST_WAIT_S), share(rank, count))
    };
    (1..=steps).map(point).collect()
}

#[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// Seconds in an hour.
const HOUR: f64 = 3600.0;
/// What a wait of nothing is drawn as: a logarithm has no zero.
const LEAST_WAIT_S: f64 = 1e-3;
/// How many points a distribution is drawn with.
const RESOLUTION: usize = 200;
