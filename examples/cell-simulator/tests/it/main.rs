//! The command, from outside: what it writes, what it says, and its exit codes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

fn flynn_sim(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flynn-sim"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

/// Runs it and gives what it says, if it succeeds.
fn said(directory: &Path, arguments: &[&str]) -> String {
    let output = flynn_sim(directory, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (
            entry.file_name().into_string().unwrap(),
            fs::read(entry.path()).unwrap(),
        )
    };
    fs::read_dir(directory).unwrap().map(read).collect()
}

const SMALL: [&str; 6] = ["--cell", "b", "--machines", "40", "--hours", "0.1"];

#[test]
fn a_run_writes_tables_and_plots_and_the_same_ones_again() {
    let temp = TempDir::new().unwrap();
    for out in ["one", "two"] {
        let text = said(
            temp.path(),
            &[&["run", "--seed", "7", "--out", out], &SMALL[..]].concat(),
        );
        assert!(text.starts_with("shared-state on cell b: "), "{text}");
    }
    let one = files(&temp.path().join("one"));
    let names: Vec<&str> = one.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "busyness.svg",
            "schedulers.csv",
            "timeline.csv",
            "utilisation.svg",
            "waits.svg",
            "workloads.csv"
        ]
    );
    assert_eq!(one, files(&temp.path().join("two")));
}

#[test]
fn nobody_need_read_what_it_says() {
    let temp = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_flynn-sim"));
    command
        .args([&["run", "--out", "out"], &SMALL[..]].concat())
        .current_dir(temp.path());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(files(&temp.path().join("out")).len(), 6);
}

#[test]
fn every_architecture_can_be_run() {
    let temp = TempDir::new().unwrap();
    for architecture in [
        "single-path",
        "multi-path",
        "partitioned",
        "two-level",
        "shared-state",
    ] {
        let text = said(
            temp.path(),
            &[
                &["run", "--architecture", architecture, "--out", "out"],
                &SMALL[..],
            ]
            .concat(),
        );
        assert!(text.starts_with(architecture), "{text}");
    }
    let corner = [
        "run",
        "--gang",
        "--coarse",
        "--batch-schedulers",
        "4",
        "--out",
        "out",
    ];
    let text = said(temp.path(), &[&corner[..], &SMALL[..]].concat());
    assert!(
        text.starts_with("shared-state (gang, coarse) (4 batch schedulers) on cell b"),
        "{text}"
    );
}

#[test]
fn a_sweep_has_a_line_for_each_architecture_and_value() {
    let temp = TempDir::new().unwrap();
    for (vary, count) in [("service-think-time", 5), ("corners", 4), ("batch-load", 6)] {
        let sweep = ["sweep", "--vary", vary, "--values", "2,1", "--out", vary];
        said(temp.path(), &[&sweep[..], &SMALL[..]].concat());
        let found = files(&temp.path().join(vary));
        assert_eq!(found.len(), 5, "{:?}", found.keys());
        let table = String::from_utf8(found["sweep.csv"].clone()).unwrap();
        assert_eq!(table.lines().count(), 1 + 2 * count, "{table}");
    }
}

#[test]
fn generated_traces_can_be_simulated_packed_or_not() {
    let temp = TempDir::new().unwrap();
    let write = [
        "generate",
        "--google",
        "t.csv",
        "--machine-events",
        "m.csv",
        "--azure-v1",
        "v1.csv",
        "--azure-v2",
        "v2.csv",
    ];
    said(temp.path(), &[&write[..], &SMALL[..]].concat());
    let mut packed = GzEncoder::new(
        File::create(temp.path().join("t.csv.gz")).unwrap(),
        Compression::fast(),
    );
    packed
        .write_all(&fs::read(temp.path().join("t.csv")).unwrap())
        .unwrap();
    packed.finish().unwrap();
    let trace = |files: &[&str]| said(temp.path(), &[&["trace", "--out", "out"], files].concat());
    let plain = trace(&["--google", "t.csv", "--machine-events", "m.csv"]);
    assert!(
        plain.contains(", 0 more are broken") && plain.contains("on cell google"),
        "{plain}"
    );
    assert_eq!(
        trace(&["--google", "t.csv.gz", "--machine-events", "m.csv"]),
        plain
    );
    for table in ["v1.csv", "v2.csv"] {
        let text = trace(&["--azure", table]);
        assert!(
            text.contains("machines of 64000 m of cpu") && text.contains("on cell azure"),
            "{text}"
        );
    }
}

#[test]
fn broken_rows_are_told_with_their_lines() {
    let temp = TempDir::new().unwrap();
    let rows = "1,,1,0,,0,u,0,1,0.5,0.5,0,0\n1,,1,0,,1,u,0,1,0.5,0.5,0,0\nnonsense\n";
    fs::write(temp.path().join("t.csv"), rows).unwrap();
    let output = flynn_sim(
        temp.path(),
        &[
            "trace",
            "--google",
            "t.csv",
            "--machines",
            "3",
            "--out",
            "out",
        ],
    );
    assert!(output.status.success(), "{output:?}");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        errors,
        "t.csv, line 3: column 1 (time) is not a number in range: \"nonsense\"\n"
    );
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_2() {
    let temp = TempDir::new().unwrap();
    for arguments in [
        &["run"][..],
        &["run", "--out", "o", "--cell", "z"],
        &["run", "--out", "o", "--hours", "-1"],
        &["run", "--out", "o", "--hours", "1e9"],
        &["run", "--out", "o", "--machines", "0"],
        &["run", "--out", "o", "--t-job-batch", "-5"],
        &["run", "--out", "o", "--batch-rate", "0"],
        &["sweep", "--out", "o", "--values", "0"],
        &["trace", "--out", "o"],
        &["generate"],
    ] {
        let output = flynn_sim(temp.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn what_fails_ends_with_1_and_one_sentence() {
    let temp = TempDir::new().unwrap();
    fs::write(temp.path().join("file"), "x\n").unwrap();
    for (arguments, says) in [
        (
            &["run", "--out", "file", "--machines", "3", "--hours", "0.01"][..],
            "flynn-sim: cannot make the directory file: ",
        ),
        (
            &["run", "--out", "o", "--utilisation", "7"],
            "flynn-sim: the utilisation of cell \"b\": must be between 0 and 0.95",
        ),
        (
            &["run", "--out", "o", "--batch-schedulers", "0"],
            "flynn-sim: 0 batch schedulers: must be between 1 and 999",
        ),
        (
            &["trace", "--google", "none", "--out", "o"],
            "flynn-sim: cannot open none: ",
        ),
        (
            &["trace", "--google", "file", "--out", "o"],
            "flynn-sim: trace file: has no line that makes sense; line 1: ",
        ),
    ] {
        let output = flynn_sim(temp.path(), arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(
            errors.starts_with(says) && errors.lines().count() == 1,
            "{errors}"
        );
    }
}
