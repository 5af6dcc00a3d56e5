//! Plots: they name what they show, and the same outcome gives the same bytes.

use std::time::Duration;

use flynn_sched::sim::{
    architecture::{Architecture, Settings, Simulation},
    experiment::{self, Point},
    metrics::Outcome,
    plot,
    workload::{Workload, synthetic::CellShape},
};

fn settings() -> Settings {
    Settings::new(1, Duration::from_secs(300))
}

fn outcome() -> Outcome {
    let settings = settings();
    let workload = CellShape::c()
        .scaled_to(50)
        .generate(1, settings.length)
        .unwrap();
    Simulation::new(&workload, Architecture::SHARED_STATE, settings)
        .run()
        .unwrap()
}

fn points() -> Vec<Point> {
    let shape = CellShape::c().scaled_to(50);
    experiment::service_think_times(&shape, &settings(), &Architecture::ALL, &[0.1, 1.0]).unwrap()
}

/// The texts of a plot.
fn texts(svg: &str) -> Vec<&str> {
    let mut texts = Vec::new();
    for element in svg.split("<text").skip(1) {
        let (_, rest) = element.split_once('>').unwrap();
        texts.push(rest.split_once("</text>").unwrap().0.trim());
    }
    texts
}

#[test]
fn the_plots_of_a_run_name_axes_units_and_lines() {
    let outcome = outcome();
    for (svg, expected) in [
        (
            plot::busyness(&outcome).unwrap(),
            ["time [h]", "busyness (share of time)", "batch", "service"],
        ),
        (
            plot::utilisation(&outcome).unwrap(),
            [
                "time [h]",
                "utilisation (share of the cell)",
                "processor time",
                "memory",
            ],
        ),
        (
            plot::waits(&outcome).unwrap(),
            [
                "job wait time until the first attempt [s] (0.001: none)",
                "share of jobs",
                "batch",
                "service",
            ],
        ),
    ] {
        let texts = texts(&svg);
        assert!(
            expected.iter().all(|text| texts.contains(text)),
            "{texts:?}"
        );
        assert!(texts.contains(&"Cell c, shared-state"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(svg.len() < 60_000, "{}", svg.len());
    }
}

#[test]
fn the_plots_of_a_series_have_a_line_for_each_architecture() {
    let points = points();
    let x = "t_job of service jobs [s]";
    for svg in [
        plot::wait_series(x, &points).unwrap(),
        plot::busyness_series(x, &points).unwrap(),
        plot::unscheduled_series(x, &points).unwrap(),
        plot::conflict_series(x, &points).unwrap(),
    ] {
        let texts = texts(&svg);
        for architecture in Architecture::ALL {
            assert!(texts.contains(&architecture.name()), "{texts:?}");
        }
        assert!(texts.contains(&x));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}

#[test]
fn the_same_outcome_gives_the_same_plot() {
    assert_eq!(
        plot::waits(&outcome()).unwrap(),
        plot::waits(&outcome()).unwrap()
    );
    let svg = |points: &[Point]| plot::wait_series("x", points).unwrap();
    assert_eq!(svg(&points()), svg(&points()));
}

#[test]
fn what_has_no_points_is_an_empty_plot() {
    let workload = Workload {
        submissions: Vec::new(),
        ..CellShape::c()
            .scaled_to(3)
            .generate(1, Duration::from_secs(1))
            .unwrap()
    };
    let outcome = Simulation::new(&workload, Architecture::SHARED_STATE, settings())
        .run()
        .unwrap();
    for svg in [
        plot::waits(&outcome),
        plot::busyness(&outcome),
        plot::wait_series("x", &[]),
    ] {
        assert!(svg.unwrap().ends_with("</svg>\n"));
    }
}
