//! The contract of [`ContainerRuntime`](crate::runtime::ContainerRuntime).

use std::{collections::BTreeMap, fs, time::Duration};

use flynn_sched::JobId;
use tokio::time::sleep;

use super::RuntimeFixture;
use crate::{
    Error,
    attach::{Attached, Channel, Frame},
    log::{LogStream, TailOptions},
    runtime::{AttachOptions, ContainerSpec, ContainerState, ExitStatus, Signal},
};

impl RuntimeFixture {
    fn spec(&self, script: &str) -> ContainerSpec {
        ContainerSpec {
            args: ["sh", "-c", script].map(String::from).to_vec(),
            env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            root: self.root.clone(),
            log: self.logs.target(&id()),
            ..ContainerSpec::default()
        }
    }

    async fn run(&self, script: &str) {
        self.create(&self.spec(script)).await;
        self.runtime.start(&id()).await.unwrap();
    }

    async fn create(&self, spec: &ContainerSpec) {
        self.runtime.create(&id(), spec).await.unwrap();
    }

    async fn exit(&self) -> ExitStatus {
        self.runtime.wait(&id()).await.unwrap()
    }

    async fn clear(&self) {
        self.runtime.delete(&id()).await.unwrap();
    }

    /// Waits for a file that a job writes into its root, and reads it.
    async fn file(&self, name: &str) -> String {
        loop {
            match fs::read_to_string(self.root.join(name)) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// Waits until a file that a job keeps touching is no longer there for longer than a breath.
    async fn stays_away(&self, name: &str) {
        let path = self.root.join(name);
        for _ in 0..10 {
            let _ = fs::remove_file(&path);
            sleep(PAUSE * 10).await;
            if !path.exists() {
                return;
            }
        }
        panic!("something of the job still writes {name}");
    }

    async fn logged(&self, stream: LogStream) -> Vec<String> {
        let options = TailOptions::default().with_streams([stream]);
        let tail = self.logs.tail(&id(), options).await.unwrap();
        tail.lines.iter().map(|line| line.text()).collect()
    }
}

fn id() -> JobId {
    JobId::parse("job-1").unwrap()
}

/// What comes on a stream, and the exit status at its end.
async fn read_all(attached: &mut Attached) -> (Vec<u8>, Option<u32>) {
    let (mut bytes, mut exit) = (Vec::new(), None);
    while let Some(frame) = attached.recv().await.unwrap() {
        match frame {
            Frame::Data(Channel::Stdout, data) => bytes.extend_from_slice(&data),
            Frame::Exit(code) => exit = Some(code),
            _ => {}
        }
    }
    (bytes, exit)
}

/// A created container does not run yet.
pub async fn a_created_container_does_not_run_yet(f: RuntimeFixture) {
    f.create(&f.spec("echo ran > ran; sleep 1000")).await;
    sleep(PAUSE * 5).await;
    assert!(!f.root.join("ran").exists());
    assert_eq!(
        f.runtime.list().await.unwrap()[0].state,
        ContainerState::Created
    );
    let error = f.runtime.kill(&id(), Signal::TERM).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning { .. }), "{error}");
    f.runtime.start(&id()).await.unwrap();
    f.file("ran").await;
    f.clear().await;
}

/// A container cannot be created twice, whether it runs or has ended.
pub async fn a_container_cannot_be_created_twice(f: RuntimeFixture) {
    let spec = f.spec("exit 0");
    f.create(&spec).await;
    let error = f.runtime.create(&id(), &spec).await.unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    f.runtime.start(&id()).await.unwrap();
    assert_eq!(f.exit().await.code, 0);
    let error = f.runtime.create(&id(), &spec).await.unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    f.clear().await;
    f.create(&spec).await;
    f.clear().await;
}

/// The command gets its arguments, its directory, and no environment but its own.
pub async fn the_command_gets_its_arguments_its_directory_and_no_environment_but_its_own(
    f: RuntimeFixture,
) {
    let mut spec = f.spec("echo \"$1|$PWD|$(env | sort | tr '\\n' ' ')\" > said");
    spec.args
        .extend(["name".to_owned(), "two words".to_owned()]);
    spec.env.insert("GREETING".to_owned(), "a\nb".to_owned());
    f.create(&spec).await;
    f.runtime.start(&id()).await.unwrap();
    assert_eq!(f.exit().await.code, 0);
    let said = f.file("said").await;
    let parts: Vec<&str> = said.trim().splitn(3, '|').collect();
    assert_eq!(parts[0], "two words");
    let expected = fs::canonicalize(&f.root).unwrap();
    assert_eq!(fs::canonicalize(parts[1]).unwrap(), expected);
    let names: Vec<&str> = parts[2]
        .split(' ')
        .filter_map(|pair| Some(pair.split_once('=')?.0))
        .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
        .collect();
    assert_eq!(names, ["GREETING", "PATH"]);
    f.clear().await;
}

/// A command with a slash is relative to the root.
pub async fn a_command_with_a_slash_is_relative_to_the_root(f: RuntimeFixture) {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir(f.root.join("bin")).unwrap();
    let script = f.root.join("bin/run");
    fs::write(&script, "#!/bin/sh\nexit 5\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = f.spec("");
    spec.args = vec!["bin/run".to_owned()];
    f.create(&spec).await;
    f.runtime.start(&id()).await.unwrap();
    assert_eq!(f.exit().await.code, 5);
    f.clear().await;
}

/// A missing command is named, and ends with status 127.
pub async fn a_missing_command_is_named_and_ends_with_127(f: RuntimeFixture) {
    let mut spec = f.spec("");
    spec.args = vec!["no-such-command".to_owned()];
    f.create(&spec).await;
    let error = f.runtime.start(&id()).await.unwrap_err();
    assert!(matches!(error, Error::Command { .. }), "{error}");
    assert!(error.to_string().contains("no-such-command"), "{error}");
    assert_eq!(f.exit().await.code, 127);
    f.clear().await;
}

/// The exit status is known to all who wait, before and after, and until deletion.
pub async fn the_exit_status_is_known_to_all_who_wait_and_until_deletion(f: RuntimeFixture) {
    f.run("sleep 0.2; exit 3").await;
    let id = id();
    let (one, two) = tokio::join!(f.runtime.wait(&id), f.runtime.wait(&id));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.code, one.signal), (3, None));
    assert_eq!(one, two);
    assert_eq!(f.exit().await, one);
    f.clear().await;
    let error = f.runtime.wait(&id).await.unwrap_err();
    assert!(matches!(error, Error::UnknownJob { .. }), "{error}");
}

/// A signal ends a job with 128 and its number.
pub async fn a_signal_ends_a_job_with_128_and_its_number(f: RuntimeFixture) {
    f.run("echo ready > ready; exec sleep 1000").await;
    f.file("ready").await;
    f.runtime.kill(&id(), Signal::TERM).await.unwrap();
    let status = f.exit().await;
    assert_eq!((status.code, status.signal), (143, Some(15)));
    f.clear().await;
}

/// A job may handle a signal.
pub async fn a_job_may_handle_a_signal(f: RuntimeFixture) {
    f.run("trap 'exit 9' TERM; echo ready > ready; while :; do sleep 0.05; done")
        .await;
    f.file("ready").await;
    f.runtime.kill(&id(), Signal::TERM).await.unwrap();
    assert_eq!(f.exit().await.code, 9);
    f.clear().await;
}

/// Killing reaches every process of the job, also one that has left its group and session.
pub async fn kill_reaches_every_process_of_the_job(f: RuntimeFixture) {
    f.run(
        "setsid sh -c 'while :; do touch alive; sleep 0.01; done' & \
         trap '' TERM; echo ready > ready; while :; do sleep 0.05; done",
    )
    .await;
    f.file("ready").await;
    while !f.root.join("alive").exists() {
        sleep(PAUSE).await;
    }
    f.runtime.kill(&id(), Signal::TERM).await.unwrap();
    f.runtime.kill(&id(), Signal::KILL).await.unwrap();
    assert_eq!(f.exit().await.signal, Some(9));
    f.stays_away("alive").await;
    f.clear().await;
}

/// Nothing of a job is left when its first process has ended, not even what ignores signals.
pub async fn nothing_of_a_job_is_left_when_its_first_process_has_ended(f: RuntimeFixture) {
    f.run(
        "(trap '' TERM HUP; while :; do touch alive; sleep 0.01; done) & \
         while ! [ -e alive ]; do sleep 0.01; done",
    )
    .await;
    assert_eq!(f.exit().await.code, 0);
    f.stays_away("alive").await;
    f.clear().await;
}

/// What has ended cannot be signalled.
pub async fn what_has_ended_cannot_be_signalled(f: RuntimeFixture) {
    f.run("exit 0").await;
    f.exit().await;
    let error = f.runtime.kill(&id(), Signal::TERM).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning { .. }), "{error}");
    let attached = f.runtime.attach(&id(), AttachOptions::default()).await;
    assert!(matches!(attached, Err(Error::NotRunning { .. })));
    f.clear().await;
}

/// A container that was never made is unknown.
pub async fn a_container_that_was_never_made_is_unknown(f: RuntimeFixture) {
    let id = id();
    let errors = [
        f.runtime.start(&id).await.unwrap_err(),
        f.runtime.wait(&id).await.unwrap_err(),
        f.runtime.kill(&id, Signal::TERM).await.unwrap_err(),
        f.runtime
            .attach(&id, AttachOptions::default())
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::UnknownJob { .. }), "{error}");
    }
}

/// Deleting a running container kills it.
pub async fn deleting_a_running_container_kills_it(f: RuntimeFixture) {
    f.run("trap '' TERM; while :; do touch alive; sleep 0.01; done")
        .await;
    while !f.root.join("alive").exists() {
        sleep(PAUSE).await;
    }
    f.clear().await;
    f.stays_away("alive").await;
    assert!(f.runtime.list().await.unwrap().is_empty());
}

/// Deleting an absent container succeeds.
pub async fn deleting_an_absent_container_succeeds(f: RuntimeFixture) {
    f.clear().await;
    f.create(&f.spec("exit 0")).await;
    f.clear().await;
    f.clear().await;
}

/// Containers are listed with their states.
pub async fn containers_are_listed_with_their_states(f: RuntimeFixture) {
    assert!(f.runtime.list().await.unwrap().is_empty());
    f.create(&f.spec("sleep 1000")).await;
    let started = f.runtime.start(&id()).await.unwrap();
    let listed = f.runtime.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].id, id());
    assert_eq!(listed[0].state, ContainerState::Running(started));
    f.runtime.kill(&id(), Signal::KILL).await.unwrap();
    let status = f.exit().await;
    let listed = f.runtime.list().await.unwrap();
    assert_eq!(listed[0].state, ContainerState::Exited(status));
    f.clear().await;
}

/// Output is logged from the first byte to the last, with or without a newline at its end.
pub async fn output_is_logged_from_the_first_byte_to_the_last(f: RuntimeFixture) {
    f.run("i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); done; echo oops >&2; printf end")
        .await;
    f.exit().await;
    let mut expected: Vec<String> = (0..500).map(|i| i.to_string()).collect();
    expected.push("end".to_owned());
    assert_eq!(f.logged(LogStream::Stdout).await, expected);
    assert_eq!(f.logged(LogStream::Stderr).await, ["oops"]);
    f.clear().await;
}

/// A client that attached before the start misses nothing, and is told the exit status.
pub async fn a_client_attached_before_the_start_misses_nothing(f: RuntimeFixture) {
    let mut spec = f.spec("printf 'a\\0b'; cat big; exit 4");
    spec.waits_for_readers = true;
    let big: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    fs::write(f.root.join("big"), &big).unwrap();
    f.create(&spec).await;
    let attachment = f.runtime.attach(&id(), AttachOptions::default()).await;
    let mut attached = attachment.unwrap().streams;
    f.runtime.start(&id()).await.unwrap();
    // A slow start: the job waits, and nothing is cut off.
    sleep(PAUSE * 10).await;
    let (bytes, exit) = read_all(&mut attached).await;
    assert_eq!(&bytes[..3], b"a\0b");
    assert!(bytes[3..] == big[..], "{} bytes", bytes.len());
    assert_eq!(exit, Some(4));
    f.clear().await;
}

/// The log up to the point of attaching, followed by what the client gets, is all output, exactly.
pub async fn a_client_attached_later_continues_the_log_exactly(f: RuntimeFixture) {
    f.run(
        "i=0; while [ $i -lt 300 ]; do printf \"$i\"; sleep 0.001; printf ' \\n'; i=$((i+1)); done",
    )
    .await;
    while f.logged(LogStream::Stdout).await.len() < 20 {
        sleep(PAUSE).await;
    }
    let attachment = f.runtime.attach(&id(), AttachOptions::default()).await;
    let mut attachment = attachment.unwrap();
    let Some(end) = attachment.log_end else {
        panic!("a log is kept, so its end is known");
    };
    let (bytes, _) = read_all(&mut attachment.streams).await;
    let tail = f
        .logs
        .tail(&id(), TailOptions::default().with_until(end))
        .await
        .unwrap();
    let mut all: String = tail.lines.iter().map(|l| l.text() + "\n").collect();
    all.push_str(&String::from_utf8(bytes).unwrap());
    let expected: String = (0..300).map(|i| format!("{i} \n")).collect();
    assert_eq!(all, expected);
    f.clear().await;
}

/// Input reaches the job, also what came before it started; and so does its end.
pub async fn input_reaches_the_job_and_its_end_too(f: RuntimeFixture) {
    let mut spec = f.spec("cat; echo over");
    spec.has_stdin = true;
    f.create(&spec).await;
    let options = AttachOptions::default().with_stdin(true);
    let mut attached = f.runtime.attach(&id(), options).await.unwrap().streams;
    let data = |text: &'static str| Frame::Data(Channel::Stdin, text.into());
    attached.send(data("early ")).await.unwrap();
    f.runtime.start(&id()).await.unwrap();
    attached.send(data("late\n")).await.unwrap();
    attached.send(data("")).await.unwrap();
    let (bytes, exit) = read_all(&mut attached).await;
    assert_eq!(String::from_utf8(bytes).unwrap(), "early late\nover\n");
    assert_eq!(exit, Some(0));
    f.clear().await;
}

/// Without input, a job reads an end at once.
pub async fn without_input_a_job_reads_an_end(f: RuntimeFixture) {
    f.run("cat; exit 6").await;
    assert_eq!(f.exit().await.code, 6);
    f.clear().await;
}

/// Jobs outlive the daemon: they go on, their output is kept, and their status is known afterwards.
pub async fn jobs_outlive_the_daemon_with_their_output_and_status(f: RuntimeFixture) {
    if !f.runtime.capabilities().survives_restart {
        return;
    }
    f.run("echo before; while ! [ -e go ]; do sleep 0.01; done; echo after; exit 8")
        .await;
    while f.logged(LogStream::Stdout).await.is_empty() {
        sleep(PAUSE).await;
    }
    let again = (f.reopen)();
    let listed = again.list().await.unwrap();
    assert!(matches!(listed[0].state, ContainerState::Running(_)));
    fs::write(f.root.join("go"), "").unwrap();
    assert_eq!(again.wait(&id()).await.unwrap().code, 8);
    let third = (f.reopen)();
    assert_eq!(third.wait(&id()).await.unwrap().code, 8);
    assert_eq!(f.logged(LogStream::Stdout).await, ["before", "after"]);
    third.delete(&id()).await.unwrap();
    assert!(f.runtime.list().await.unwrap().is_empty());
}

const PAUSE: Duration = Duration::from_millis(20);
