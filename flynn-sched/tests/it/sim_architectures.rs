//! What every simulated architecture keeps: bounds, accounts, and clear errors.

use std::{sync::Arc, time::Duration};

use flynn_sched::{
    sim::{
        architecture::{Architecture, Settings, Simulation, ThinkTimes},
        cell::{Amount, Corner, Machine, Task},
        choice::FullestOf,
        metrics::Outcome,
        report,
        workload::{
            Class, Durations, Submission, Workload,
            synthetic::{CellShape, Distribution},
        },
    },
    transaction::{Conflict, Mode},
};

const SECOND_US: u64 = 1_000_000;

fn amount(cores: u64) -> Amount {
    Amount {
        cpu_millis: cores * 1000,
        memory_bytes: cores << 30,
    }
}

fn machine(cores: u64) -> Machine {
    Machine {
        capacity: amount(cores),
        kind: 0,
    }
}

fn job(at_s: u64, class: Class, tasks: u32, cores: u64, duration_s: u64) -> Submission {
    Submission {
        at_us: at_s * SECOND_US,
        class,
        tasks,
        task: Task {
            amount: amount(cores),
            ..Task::default()
        },
        durations: Durations::Same(duration_s * SECOND_US),
    }
}

fn workload(machines: u32, cores: u64, submissions: Vec<Submission>) -> Workload {
    Workload {
        name: "test".to_owned(),
        machines: (0..machines).map(|_| machine(cores)).collect(),
        residents: Vec::new(),
        submissions,
    }
}

fn settings(seconds: u64) -> Settings {
    Settings::new(1, Duration::from_secs(seconds))
}

fn run(workload: &Workload, architecture: Architecture, settings: Settings) -> Outcome {
    Simulation::new(workload, architecture, settings)
        .run()
        .unwrap()
}

fn every_architecture() -> impl Iterator<Item = Architecture> {
    let corners = Corner::ALL.map(|corner| Architecture::SharedState {
        corner,
        batch_schedulers: 2,
    });
    Architecture::ALL.into_iter().chain(corners)
}

#[test]
fn every_job_is_scheduled_given_up_or_waiting_and_every_task_counted() {
    let length = Duration::from_secs(600);
    let workload = CellShape::a()
        .scaled_to(100)
        .with_picky(0.1)
        .generate(5, length)
        .unwrap();
    let think = ThinkTimes::with_service_job(Duration::from_secs(20));
    for architecture in every_architecture() {
        let outcome = run(
            &workload,
            architecture,
            Settings::new(5, length).with_think(think),
        );
        let mut submitted = 0;
        for class in &outcome.classes {
            submitted += class.submitted;
            assert_eq!(
                class.submitted,
                class.scheduled + class.abandoned + class.waiting,
                "{architecture}"
            );
            assert_eq!(class.waits_s.len() as u64, class.submitted);
            assert_eq!(class.delays_s.len() as u64, class.scheduled);
            let tasks = workload
                .submissions
                .iter()
                .filter(|job| job.class == class.class);
            let tasks: u64 = tasks.map(|job| u64::from(job.tasks)).sum();
            assert_eq!(
                class.tasks_placed + class.tasks_missing,
                tasks,
                "{architecture}"
            );
        }
        assert_eq!(submitted, workload.submissions.len() as u64);
        for moment in &outcome.timeline {
            assert!(
                moment.cpu <= 1.0 && moment.memory <= 1.0,
                "{architecture}: {moment:?}"
            );
            assert!(
                moment.schedulers.iter().all(|step| step.busyness <= 1.0),
                "{architecture}: {moment:?}"
            );
        }
    }
}

#[test]
fn only_shared_state_conflicts() {
    let length = Duration::from_secs(600);
    let workload = CellShape::a().scaled_to(100).generate(5, length).unwrap();
    for architecture in Architecture::ALL {
        let outcome = run(&workload, architecture, Settings::new(5, length));
        if !matches!(architecture, Architecture::SharedState { .. }) {
            assert!(outcome.conflict_fraction() == 0.0, "{architecture}");
        }
    }
}

#[test]
fn a_decision_takes_the_time_of_the_job_and_of_its_tasks() {
    // 0.1 s + 10 × 5 ms: placed after 0.15 s; the second job waits until the first is placed.
    let jobs = vec![
        job(1, Class::Batch, 10, 1, 5),
        job(1, Class::Batch, 10, 1, 5),
    ];
    let mut settings = settings(10);
    settings.bucket = Duration::from_secs(10);
    let outcome = run(&workload(10, 4, jobs), Architecture::SHARED_STATE, settings);
    let batch = outcome.class(Class::Batch).unwrap();
    assert_eq!(batch.waits_s, [0.0, 0.15]);
    assert_eq!(batch.delays_s, [0.15, 0.3]);
    let busyness = &outcome.scheduler("batch").unwrap().busyness;
    assert_eq!(busyness, &[0.03]);
}

/// Two schedulers that want the last free machine at the same time.
fn two_for_one(corner: Corner) -> Outcome {
    let jobs = vec![
        job(1, Class::Batch, 1, 3, 100),
        job(1, Class::Service, 1, 3, 100),
    ];
    let architecture = Architecture::SharedState {
        corner,
        batch_schedulers: 1,
    };
    run(&workload(1, 4, jobs), architecture, settings(50))
}

#[test]
fn of_two_that_want_the_last_room_one_is_refused_and_tries_again() {
    for corner in Corner::ALL {
        let outcome = two_for_one(corner);
        assert_eq!(
            outcome.schedulers.iter().map(|s| s.conflicted).sum::<u64>(),
            1,
            "{corner}"
        );
        assert_eq!(
            outcome
                .classes
                .iter()
                .map(|class| class.scheduled)
                .sum::<u64>(),
            1,
            "{corner}"
        );
        assert_eq!(
            outcome
                .classes
                .iter()
                .map(|class| class.waiting)
                .sum::<u64>(),
            1,
            "{corner}"
        );
    }
}

#[test]
fn a_gang_waits_until_there_is_room_for_all() {
    // Three of four machines are taken for 20 s.
    let jobs = vec![
        job(0, Class::Service, 3, 4, 20),
        job(1, Class::Batch, 4, 4, 5),
    ];
    let workload = workload(4, 4, jobs);
    for (mode, placed_at_once) in [(Mode::Incremental, 4), (Mode::AllOrNothing, 3)] {
        let architecture = Architecture::SharedState {
            corner: Corner::new(mode, Conflict::ResourceFit),
            batch_schedulers: 1,
        };
        let outcome = run(&workload, architecture, settings(60));
        let batch = outcome.class(Class::Batch).unwrap();
        assert_eq!(batch.scheduled, 1, "{mode:?}");
        // After 5 s, before the others end.
        let moment = outcome
            .timeline
            .iter()
            .find(|moment| moment.at_s >= 5.0)
            .unwrap();
        assert_eq!(moment.running, placed_at_once, "{mode:?}");
    }
}

#[test]
fn a_job_that_fits_nowhere_is_given_up_after_as_many_attempts_as_patience_allows() {
    for architecture in every_architecture() {
        let jobs = vec![job(1, Class::Batch, 2, 5, 5)];
        let outcome = run(&workload(4, 4, jobs), architecture, settings(600));
        let batch = outcome.class(Class::Batch).unwrap();
        assert_eq!(
            (batch.abandoned, batch.attempts_most),
            (1, 100),
            "{architecture}"
        );
    }
}

#[test]
fn the_holder_of_an_offer_keeps_others_from_what_it_was_offered() {
    // The service job is thought about for 30 s; it needs one of ten machines, and is offered all.
    let jobs = vec![
        job(0, Class::Service, 1, 1, 100),
        job(1, Class::Batch, 1, 1, 1),
    ];
    let workload = workload(10, 4, jobs);
    let think = ThinkTimes::with_service_job(Duration::from_secs(30));
    let wait = |architecture| {
        let outcome = run(&workload, architecture, settings(60).with_think(think));
        outcome.class(Class::Batch).unwrap().delay().mean
    };
    assert!(wait(Architecture::TWO_LEVEL) > 29.0);
    assert!(wait(Architecture::SHARED_STATE) < 1.0);
}

#[test]
fn partitions_do_not_help_each_other_out() {
    // Batch jobs have half of the machines, and services leave theirs idle.
    let jobs = (0..8).map(|_| job(1, Class::Batch, 1, 4, 1000)).collect();
    let workload = workload(8, 4, jobs);
    let placed = |architecture| {
        let outcome = run(&workload, architecture, settings(60));
        outcome.class(Class::Batch).unwrap().scheduled
    };
    assert_eq!(placed(Architecture::PARTITIONED), 4);
    assert_eq!(placed(Architecture::SHARED_STATE), 8);
}

#[test]
fn tasks_end_after_their_own_durations() {
    let mut tasks = job(1, Class::Batch, 3, 1, 0);
    tasks.durations = Durations::Each([5, 15, 25].map(|seconds| seconds * SECOND_US).into());
    let mut settings = settings(40);
    settings.bucket = Duration::from_secs(10);
    let outcome = run(
        &workload(2, 4, vec![tasks]),
        Architecture::SHARED_STATE,
        settings,
    );
    let running: Vec<u64> = outcome
        .timeline
        .iter()
        .map(|moment| moment.running)
        .collect();
    assert_eq!(running, [2, 1, 0, 0]);
}

#[test]
fn a_cell_begins_as_full_as_its_shape_says() {
    let length = Duration::from_secs(60);
    for shape in [CellShape::a(), CellShape::b(), CellShape::c()] {
        let name = shape.name.clone();
        let workload = shape.scaled_to(1_000).generate(9, length).unwrap();
        let outcome = run(
            &workload,
            Architecture::SHARED_STATE,
            Settings::new(9, length),
        );
        let (cpu, memory) = outcome.utilisation();
        assert!((0.55..0.65).contains(&cpu), "{name}: {cpu}");
        assert!((0.4..0.9).contains(&memory), "{name}: {memory}");
        assert_eq!(outcome.residents_left_out, 0, "{name}");
    }
}

#[test]
fn another_choice_of_machines_packs_more_tightly() {
    // Sixteen small tasks and then jobs that need whole machines.
    let mut jobs = vec![job(1, Class::Batch, 16, 1, 1000)];
    jobs.extend((2..8).map(|at| job(at, Class::Batch, 1, 4, 1000)));
    let workload = workload(10, 4, jobs);
    let scheduled = |simulation: Simulation<'_>| {
        simulation
            .run()
            .unwrap()
            .class(Class::Batch)
            .unwrap()
            .scheduled
    };
    let random = Simulation::new(&workload, Architecture::SHARED_STATE, settings(60));
    let packed = random
        .clone()
        .with_choice(Arc::new(|| Box::new(FullestOf::new(64))));
    assert_eq!(scheduled(packed), 7);
    assert!(scheduled(random) < 7);
}

#[test]
fn tables_have_a_line_for_each_scheduler_workload_and_step() {
    let outcome = two_for_one(Corner::default());
    let table = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut text = Vec::new();
        write(&mut text);
        String::from_utf8(text).unwrap()
    };
    let schedulers = table(&|out| report::write_schedulers([&outcome], out).unwrap());
    let classes = table(&|out| report::write_classes([&outcome], out).unwrap());
    let timeline = table(&|out| report::write_timeline(&outcome, out).unwrap());
    assert_eq!(
        [&schedulers, &classes, &timeline].map(|text| text.lines().count()),
        [3, 3, 25]
    );
    for text in [schedulers, classes, timeline] {
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert!(columns.iter().all(|count| *count == columns[0]), "{text}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let good = || workload(4, 4, vec![job(1, Class::Batch, 1, 1, 1)]);
    let error = |workload: Workload, architecture, settings| {
        Simulation::new(&workload, architecture, settings)
            .run()
            .unwrap_err()
            .to_string()
    };
    let shared = Architecture::SHARED_STATE;
    let mut no_step = settings(10);
    no_step.bucket = Duration::ZERO;
    let mut no_delay = settings(10);
    no_delay.retry_delay = Duration::ZERO;
    let mut out_of_order = good();
    out_of_order.submissions.push(job(0, Class::Batch, 1, 1, 1));
    let mut no_tasks = good();
    no_tasks.submissions[0].tasks = 0;
    let none = Architecture::SharedState {
        corner: Corner::default(),
        batch_schedulers: 0,
    };
    let all = Architecture::Partitioned { batch_share: 1.0 };
    let odd = Architecture::Partitioned {
        batch_share: f64::NAN,
    };
    for (error, says) in [
        (
            error(workload(0, 4, Vec::new()), shared, settings(10)),
            "has no machines",
        ),
        (error(out_of_order, shared, settings(10)), "out of order"),
        (error(no_tasks, shared, settings(10)), "a job of 0 tasks"),
        (error(good(), shared, settings(0)), "simulation length"),
        (error(good(), shared, no_step), "simulation step"),
        (error(good(), shared, no_delay), "retry delay"),
        (error(good(), none, settings(10)), "0 batch schedulers"),
        (
            error(good(), all, settings(10)),
            "leave both sides a machine",
        ),
        (
            error(good(), odd, settings(10)),
            "leave both sides a machine",
        ),
    ] {
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn absurd_shapes_are_refused_with_a_reason() {
    let error = |change: &dyn Fn(&mut CellShape)| {
        let mut shape = CellShape::b().scaled_to(100);
        change(&mut shape);
        shape
            .generate(1, Duration::from_secs(3600))
            .unwrap_err()
            .to_string()
    };
    for (error, says) in [
        (error(&|shape| shape.machines = 0), "number of machines"),
        (error(&|shape| shape.utilisation = 1.5), "utilisation"),
        (error(&|shape| shape.utilisation = f64::NAN), "utilisation"),
        (error(&|shape| shape.picky = -1.0), "picky"),
        (error(&|shape| shape.kinds.clear()), "kinds of machines"),
        (
            error(&|shape| shape.batch.interarrival_s = Distribution::Constant(0.0)),
            "time between jobs (batch)",
        ),
        (
            error(&|shape| shape.service.duration_s = Distribution::Constant(f64::INFINITY)),
            "duration (service)",
        ),
        (
            error(&|shape| shape.batch.interarrival_s = Distribution::Constant(1e-9)),
            "more than 20000000 jobs",
        ),
    ] {
        assert!(error.contains(says), "{error}");
    }
    assert!(
        CellShape::named("d")
            .unwrap_err()
            .to_string()
            .contains("a, b and c")
    );
}

#[test]
fn huge_numbers_do_not_overflow() {
    let huge = Amount {
        cpu_millis: u64::MAX,
        memory_bytes: u64::MAX,
    };
    let mut workload = workload(
        2,
        4,
        vec![
            job(0, Class::Batch, 3, 1, 1),
            job(1, Class::Service, 1, 1, 1),
        ],
    );
    for machine in &mut workload.machines {
        machine.capacity = huge;
    }
    workload.submissions[0].task.amount = huge;
    workload.submissions[1].durations = Durations::Same(u64::MAX);
    let mut think = ThinkTimes::default();
    think.service.task = Duration::MAX;
    for architecture in every_architecture() {
        let outcome = run(&workload, architecture, settings(10).with_think(think));
        assert!(
            outcome.timeline.iter().all(|moment| moment.cpu <= 1.0),
            "{architecture}"
        );
    }
}
