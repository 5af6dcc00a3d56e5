//! Traces: what is read is what was written, and broken rows are told. The files in `tests/data/traces` are made up.

use std::{io, time::Duration};

use flynn_sched::sim::{
    architecture::{Architecture, Settings, Simulation},
    cell::{Amount, Machine},
    workload::{
        Class, Durations, Rows, Submission, Workload, azure,
        google::{self, Options},
        synthetic::CellShape,
    },
};

const SECOND_US: u64 = 1_000_000;

fn google(files: &[(&str, &str)], machines: Option<&str>) -> google::Trace {
    let mut reader = google::Reader::new(Options::default());
    if let Some(text) = machines {
        reader
            .machine_events("machines.csv", &mut text.as_bytes())
            .unwrap();
    }
    for (name, text) in files {
        reader.task_events(name, &mut text.as_bytes()).unwrap();
    }
    reader.finish().unwrap()
}

fn azure(text: &str) -> azure::Trace {
    let mut reader = azure::Reader::new();
    reader
        .vm_table("vmtable.csv", &mut text.as_bytes())
        .unwrap();
    reader.finish().unwrap()
}

fn told(rows: &Rows) -> Vec<String> {
    rows.reports.iter().map(ToString::to_string).collect()
}

/// Jobs without the times of their submission, and each with the durations of its tasks, in order.
fn gist(jobs: &[Submission]) -> Vec<(Class, Amount, bool, Vec<u64>)> {
    let one = |job: &Submission| {
        let durations = (0..job.tasks).map(|task| job.durations.of(task)).collect();
        (job.class, job.task.amount, job.task.is_distinct, durations)
    };
    jobs.iter().map(one).collect()
}

#[test]
fn a_workload_survives_the_way_through_googles_tables() {
    let length = Duration::from_secs(120);
    let mut workload = CellShape::a().scaled_to(10).generate(4, length).unwrap();
    workload.submissions[3].task.is_distinct = true;
    let (mut tasks, mut machines) = (Vec::new(), Vec::new());
    google::write_task_events(&workload, &Options::default(), &mut tasks).unwrap();
    google::write_machine_events(&workload, &Options::default(), &mut machines).unwrap();
    let (tasks, machines) = (
        String::from_utf8(tasks).unwrap(),
        String::from_utf8(machines).unwrap(),
    );
    let trace = google(&[("tasks.csv", &tasks)], Some(&machines));
    assert_eq!((trace.rows.broken, trace.never_ran), (0, 0));
    assert_eq!(
        gist(&trace.workload.submissions),
        gist(&workload.submissions)
    );
    // The time of a trace begins with the first job.
    let first = workload.submissions[0].at_us;
    let times = |jobs: &[Submission], first: u64| {
        jobs.iter().map(|job| job.at_us - first).collect::<Vec<_>>()
    };
    assert_eq!(
        times(&trace.workload.submissions, 0),
        times(&workload.submissions, first)
    );
    assert_eq!(trace.workload.residents.len(), workload.residents.len());
    let capacities = |machines: &[Machine]| machines.iter().map(|m| m.capacity).collect::<Vec<_>>();
    assert_eq!(
        capacities(&trace.workload.machines),
        capacities(&workload.machines)
    );
}

#[test]
fn broken_rows_of_google_are_told_and_the_rest_is_read() {
    let text = include_str!("../data/traces/google-broken-task-events.csv");
    let trace = google(&[("part-0.csv", text)], None);
    assert_eq!(
        told(&trace.rows),
        [
            "part-0.csv, line 5: column 1 (time) is not a number in range: \"this is not a row\"",
            "part-0.csv, line 8: column 10 (CPU request) is empty",
            "part-0.csv, line 9: column 10 (CPU request) is not between 0 and 1: -1",
            "part-0.csv, line 10: column 6 (event type) is not between 0 and 8: 12",
            "part-0.csv, line 12: column 1 (time) is not a number in range: \"18446744073709551616\"",
        ]
    );
    assert_eq!((trace.rows.read, trace.rows.broken), (9, 5));
    // Job 5 was never scheduled.
    assert_eq!(trace.never_ran, 1);
    // Job 1 was there before and ends 50 s after the first job comes; of job 2 one task ends after 10 s and one never.
    let residents = gist(&trace.workload.residents);
    let resident = Amount {
        cpu_millis: 2_000,
        memory_bytes: 16 << 30,
    };
    assert_eq!(
        residents,
        [(Class::Service, resident, false, vec![50 * SECOND_US])]
    );
    let submitted = Amount {
        cpu_millis: 1_000,
        memory_bytes: 2 << 30,
    };
    let expected = (
        Class::Batch,
        submitted,
        true,
        vec![10 * SECOND_US, u64::MAX],
    );
    assert_eq!(gist(&trace.workload.submissions), [expected]);
    assert_eq!(trace.workload.submissions[0].at_us, 0);
}

#[test]
fn a_task_that_is_evicted_counts_with_its_longest_run() {
    let row = |at: u64, event: u8| format!("{at},,1,0,,{event},u,0,1,0.5,0.5,0,0\n");
    let text: String = [(700, 0), (701, 1), (705, 2), (705, 0), (706, 1), (726, 4)]
        .map(|(at, event)| row(at * SECOND_US, event))
        .concat();
    let trace = google(&[("a.csv", &text)], None);
    assert_eq!(
        trace.workload.submissions[0].durations,
        Durations::Each([20 * SECOND_US].into())
    );
}

#[test]
fn tasks_of_a_job_that_need_different_things_become_several_jobs() {
    let mut text = String::new();
    for (task, cpu) in [(0, "0.25"), (1, "0.5"), (2, "0.25")] {
        for (at, event) in [(700, 0), (701, 1), (710 + task, 4)] {
            text += &format!(
                "{},,1,{task},,{event},u,0,1,{cpu},0.5,0,0\n",
                at * SECOND_US
            );
        }
    }
    let trace = google(&[("a.csv", &text)], None);
    let shapes: Vec<_> = trace
        .workload
        .submissions
        .iter()
        .map(|job| (job.tasks, job.task.amount.cpu_millis))
        .collect();
    assert_eq!(shapes, [(2, 4_000), (1, 8_000)]);
}

#[test]
fn machines_that_leave_for_good_are_left_out() {
    let machines = "0,1,0,p,0.5,0.5\n0,2,0,q,1,1\n0,3,0,p,0.5,0.25\n5,1,1,,,\n6,3,1,,,\n9,3,0,p,0.5,0.25\n9,4,7,p,1,1\n";
    let tasks = "1,,1,0,,0,u,0,1,0.5,0.5,0,0\n1,,1,0,,1,u,0,1,0.5,0.5,0,0\n";
    let trace = google(&[("a.csv", tasks)], Some(machines));
    let found: Vec<_> = trace
        .workload
        .machines
        .iter()
        .map(|m| (m.capacity.cpu_millis, m.kind))
        .collect();
    assert_eq!(found, [(16_000, 1), (8_000, 0)]);
    assert_eq!(
        told(&trace.rows),
        ["machines.csv, line 7: column 3 (event type) is not between 0 and 2: 7"]
    );
}

#[test]
fn both_versions_of_azures_table_are_read() {
    let length = Duration::from_secs(120);
    let workload = CellShape::a().scaled_to(10).generate(4, length).unwrap();
    for version in [azure::Version::V1, azure::Version::V2] {
        let mut text = Vec::new();
        azure::write_vm_table(&workload, version, &mut text).unwrap();
        let trace = azure(&String::from_utf8(text).unwrap());
        assert_eq!(trace.rows.broken, 0);
        let tasks = |jobs: &[Submission]| jobs.iter().map(|job| u64::from(job.tasks)).sum::<u64>();
        assert_eq!(
            tasks(&trace.workload.submissions),
            tasks(&workload.submissions),
            "{version:?}"
        );
        assert_eq!(
            tasks(&trace.workload.residents),
            tasks(&workload.residents),
            "{version:?}"
        );
    }
}

#[test]
fn broken_rows_of_azure_are_told_and_the_rest_is_read() {
    let trace = azure(include_str!("../data/traces/azure-broken-vmtable.csv"));
    assert_eq!(
        told(&trace.rows),
        [
            "vmtable.csv, line 6: was deleted (10) before it was created (90)",
            "vmtable.csv, line 7: column 9 (category) is none that there is: \"Curious\"",
            "vmtable.csv, line 8: column 10 (cores) is not between 0 and 10000: NaN",
            "vmtable.csv, line 9: is of a VM without cores or memory",
            "vmtable.csv, line 10: has 3 columns, column 4 (created) is missing",
        ]
    );
    // The open buckets count as 30 cores and 70 GiB.
    let open = Amount {
        cpu_millis: 30_000,
        memory_bytes: 70 << 30,
    };
    assert_eq!(
        gist(&trace.workload.residents),
        [(Class::Service, open, false, vec![100 * SECOND_US])]
    );
    // b and c are one job; d is larger, and j of another deployment.
    let mut tasks: Vec<u32> = trace
        .workload
        .submissions
        .iter()
        .map(|job| job.tasks)
        .collect();
    tasks.sort_unstable();
    assert_eq!(tasks, [1, 1, 2]);
}

#[test]
fn a_trace_without_a_good_row_is_an_error_that_tells_the_first_bad_one() {
    let mut reader = google::Reader::new(Options::default());
    let error = reader
        .task_events("a.csv", &mut &b"x,y\n"[..])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "trace a.csv: has no line that makes sense; line 1: column 1 (time) is not a number in range: \"x\""
    );
    let error = azure::Reader::new()
        .vm_table("b.csv", &mut &b""[..])
        .unwrap_err()
        .to_string();
    assert_eq!(error, "trace b.csv: is empty");
    assert!(google::Reader::new(Options::default()).finish().is_err());
    assert!(azure::Reader::new().finish().is_err());
}

#[test]
fn a_file_that_cannot_be_read_on_is_an_error() {
    struct Torn;
    impl io::Read for Torn {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let mut torn = io::BufReader::new(io::Read::chain(&b"1,,1,0,,0,u,0,1,0.5,0.5,0,0\n"[..], Torn));
    let error = google::Reader::new(Options::default())
        .task_events("a.csv", &mut torn)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "trace a.csv: cannot be read after line 1: the disk is gone"
    );
}

#[test]
fn a_cell_for_a_trace_is_as_large_as_its_busiest_minute_needs() {
    let each = Machine {
        capacity: Amount {
            cpu_millis: 10_000,
            memory_bytes: 10 << 30,
        },
        kind: 0,
    };
    let mut job = Submission {
        at_us: 0,
        class: Class::Batch,
        tasks: 16,
        task: flynn_sched::sim::cell::Task {
            amount: Amount {
                cpu_millis: 1_000,
                memory_bytes: 1 << 20,
            },
            ..Default::default()
        },
        durations: Durations::Same(30 * SECOND_US),
    };
    let mut workload = Workload {
        name: "test".to_owned(),
        submissions: vec![job.clone()],
        ..Workload::default()
    };
    // Ten minutes later half as many.
    job.at_us = 600 * SECOND_US;
    job.tasks = 8;
    workload.submissions.push(job);
    let length = Duration::from_secs(3600);
    let sized = workload.clone().sized(each, 0.8, length).unwrap();
    assert_eq!(sized.machines, [each, each]);
    for (machine, degree) in [
        (each, 0.0),
        (each, f64::NAN),
        (
            Machine {
                capacity: Amount::default(),
                kind: 0,
            },
            0.8,
        ),
    ] {
        assert!(workload.clone().sized(machine, degree, length).is_err());
    }
    let mut tiny = each;
    tiny.capacity.memory_bytes = 1;
    let error = workload.sized(tiny, 0.8, length).unwrap_err().to_string();
    assert!(error.contains("at most 1000000 are possible"), "{error}");
}

#[test]
fn the_made_up_traces_can_be_simulated() {
    let tasks = include_str!("../data/traces/google-task-events.csv");
    let machines = include_str!("../data/traces/google-machine-events.csv");
    let trace = google(&[("a.csv", tasks)], Some(machines));
    let length = trace.length();
    let mut workloads = vec![trace.workload];
    let node = Machine {
        capacity: Amount {
            cpu_millis: 64_000,
            memory_bytes: 256 << 30,
        },
        kind: 0,
    };
    for text in [
        include_str!("../data/traces/azure-v1-vmtable.csv"),
        include_str!("../data/traces/azure-v2-vmtable.csv"),
    ] {
        workloads.push(azure(text).workload.sized(node, 0.8, length).unwrap());
    }
    for workload in &workloads {
        let settings = Settings::new(1, length);
        let outcome = Simulation::new(workload, Architecture::SHARED_STATE, settings)
            .run()
            .unwrap();
        let scheduled: u64 = outcome.classes.iter().map(|class| class.scheduled).sum();
        assert!(scheduled > 0, "{}", workload.name);
        assert!(
            outcome.timeline.iter().all(|moment| moment.cpu > 0.0),
            "{}",
            workload.name
        );
    }
}
