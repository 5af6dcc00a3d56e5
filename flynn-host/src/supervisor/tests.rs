use flynn_sched::{Check, GroupId, HostId, JobSpec, Phase, Port, RestartPolicy, Service};

use super::*;

mod properties;

fn now(ms: u64) -> Now {
    Now {
        at: Duration::from_millis(ms),
        wall_ms: 1_000_000 + ms,
    }
}

fn id(name: &str) -> JobId {
    JobId::parse(name).unwrap()
}

fn job(name: &str, spec: JobSpec) -> Arc<Job> {
    Arc::new(Job {
        id: id(name),
        group: GroupId::parse("g").unwrap(),
        host: HostId::parse("h").unwrap(),
        spec: Arc::new(spec),
        is_stopping: false,
        placed_at_ms: 0,
        attempt: 0,
        evicted: None,
        status: JobStatus::default(),
    })
}

fn web(check: Option<Check>) -> JobSpec {
    JobSpec {
        ports: vec![Port {
            port: None,
            proto: "http".to_owned(),
            service: Some(Service {
                name: "web".to_owned(),
                check,
            }),
        }],
        ..JobSpec::default()
    }
}

fn never() -> JobSpec {
    JobSpec {
        restart: RestartPolicy::Never,
        ..JobSpec::default()
    }
}

fn exit(code: i32, ms: u64) -> ExitStatus {
    ExitStatus {
        code,
        signal: None,
        error: None,
        is_lost: false,
        at_ms: 1_000_000 + ms,
    }
}

fn started(ms: u64) -> Started {
    Started {
        pid: Some(1),
        at_ms: 1_000_000 + ms,
    }
}

/// What was asked for, without what is remembered, reported and noted.
fn actions(commands: Vec<Command>) -> Vec<Command> {
    commands
        .into_iter()
        .filter(|command| {
            !matches!(
                command,
                Command::Remember(_) | Command::Report(..) | Command::Note(..)
            )
        })
        .collect()
}

fn reported(commands: &[Command]) -> Vec<(Phase, Option<String>)> {
    commands
        .iter()
        .filter_map(|command| match command {
            Command::Report(_, status) => Some((status.phase, status.error.clone())),
            _ => None,
        })
        .collect()
}

struct Fixture {
    supervisor: Supervisor,
}

impl Fixture {
    fn new() -> Self {
        Self {
            supervisor: Supervisor::new(Options::default()),
        }
    }

    fn at(&mut self, ms: u64, event: Event) -> Vec<Command> {
        self.supervisor.handle(now(ms), event)
    }

    /// Brings a job to where its process runs; returns the commands of the last step.
    fn run(&mut self, ms: u64, job: &Arc<Job>) -> Vec<Command> {
        self.at(ms, Event::Assigned(vec![Arc::clone(job)]));
        self.start_again(ms, job, 1)
    }

    fn start_again(&mut self, ms: u64, job: &Arc<Job>, run: u32) -> Vec<Command> {
        let ports = (0..job.spec.ports.len()).map(|_| 8000).collect();
        self.at(ms, Event::Prepared(job.id.clone(), run, ports));
        self.at(ms, Event::Created(job.id.clone(), run));
        self.at(ms, Event::Started(job.id.clone(), run, started(ms)))
    }

    fn status(&self, name: &str) -> JobStatus {
        let (_, status, _) = self
            .supervisor
            .jobs()
            .find(|(job, ..)| job.id == id(name))
            .unwrap();
        status.clone()
    }
}

#[test]
fn a_job_is_remembered_before_anything_is_done_about_it() {
    let mut f = Fixture::new();
    let job = job("a", JobSpec::default());
    let commands = f.at(0, Event::Assigned(vec![Arc::clone(&job)]));
    assert!(matches!(commands[0], Command::Remember(_)));
    assert_eq!(actions(commands), [Command::Prepare(job, 1)]);
}

#[test]
fn a_job_without_checks_is_up_and_registered_as_soon_as_it_runs() {
    let mut f = Fixture::new();
    let job = job("a", web(None));
    let commands = f.run(0, &job);
    assert_eq!(reported(&commands), [(Phase::Up, None)]);
    assert_eq!(
        actions(commands),
        [
            Command::Watch(id("a"), 1),
            Command::Register(Arc::clone(&job), vec![8000]),
        ]
    );
}

#[test]
fn a_job_with_a_check_is_up_and_registered_only_once_that_passes() {
    let mut f = Fixture::new();
    let job = job("a", web(Some(Check::default())));
    let commands = f.run(0, &job);
    assert_eq!(
        actions(commands),
        [
            Command::Watch(id("a"), 1),
            Command::Check(Arc::clone(&job), vec![8000], 1),
        ]
    );
    assert_eq!(f.status("a").phase, Phase::Starting);
    let commands = f.at(900, Event::Healthy(id("a"), 1, 0));
    assert_eq!(reported(&commands), [(Phase::Up, None)]);
    assert_eq!(actions(commands), [Command::Register(job, vec![8000])]);
    assert_eq!(f.supervisor.next_wake(), None);
}

#[test]
fn a_port_that_never_opens_ends_the_start_and_is_named() {
    let mut f = Fixture::new();
    let job = job("a", web(Some(Check::default())));
    f.run(0, &job);
    assert_eq!(f.supervisor.next_wake(), Some(Duration::from_secs(30)));
    let commands = f.at(30_000, Event::Woken);
    assert_eq!(
        actions(commands),
        [
            Command::StopChecks(id("a"), 1),
            Command::Kill(id("a"), 1, Signal::TERM),
        ]
    );
    let commands = f.at(30_100, Event::Exited(id("a"), 1, exit(143, 30_100)));
    let error = "never opened port 8000 within 30 s".to_owned();
    assert_eq!(reported(&commands), [(Phase::Restarting, Some(error))]);
    assert_eq!(actions(commands), [Command::Delete(id("a"), 1)]);
}

#[test]
fn a_job_that_stops_answering_is_taken_out_of_discovery_and_started_again() {
    let mut f = Fixture::new();
    let job = job("a", web(Some(Check::default())));
    f.run(0, &job);
    f.at(100, Event::Healthy(id("a"), 1, 0));
    let why = "connection refused".to_owned();
    let commands = f.at(5_000, Event::Unhealthy(id("a"), 1, 0, why));
    assert_eq!(
        actions(commands),
        [
            Command::StopChecks(id("a"), 1),
            Command::Deregister(id("a"), 1),
        ]
    );
    f.at(5_001, Event::Deregistered(id("a"), 1));
    let commands = f.at(6_001, Event::Woken);
    assert_eq!(actions(commands), [Command::Kill(id("a"), 1, Signal::TERM)]);
    let commands = f.at(6_100, Event::Exited(id("a"), 1, exit(143, 6_100)));
    let error = "port 8000 stopped answering: connection refused".to_owned();
    assert_eq!(reported(&commands), [(Phase::Restarting, Some(error))]);
}

#[test]
fn without_kill_down_an_unhealthy_job_goes_on_unregistered_until_it_is_healthy_again() {
    let mut f = Fixture::new();
    let check = Check {
        kill_down: false,
        ..Check::default()
    };
    let job = job("a", web(Some(check)));
    f.run(0, &job);
    f.at(100, Event::Healthy(id("a"), 1, 0));
    let commands = f.at(5_000, Event::Unhealthy(id("a"), 1, 0, "slow".to_owned()));
    assert_eq!(actions(commands), [Command::Deregister(id("a"), 1)]);
    assert_eq!(f.status("a").phase, Phase::Starting);
    let commands = f.at(9_000, Event::Healthy(id("a"), 1, 0));
    assert_eq!(reported(&commands), [(Phase::Up, None)]);
    assert_eq!(actions(commands), [Command::Register(job, vec![8000])]);
}

#[test]
fn a_stopped_job_leaves_discovery_drains_is_asked_and_then_killed() {
    let mut f = Fixture::new();
    let job = job("a", web(None));
    f.run(0, &job);
    let commands = f.at(1_000, Event::Assigned(Vec::new()));
    assert_eq!(reported(&commands), [(Phase::Stopping, None)]);
    assert_eq!(
        actions(commands),
        [
            Command::StopChecks(id("a"), 1),
            Command::Deregister(id("a"), 1),
        ]
    );
    // The store is given five seconds, clients one after it has answered.
    assert_eq!(f.supervisor.next_wake(), Some(Duration::from_millis(6_000)));
    f.at(1_200, Event::Deregistered(id("a"), 1));
    assert_eq!(f.supervisor.next_wake(), Some(Duration::from_millis(2_200)));
    let commands = f.at(2_200, Event::Woken);
    assert_eq!(actions(commands), [Command::Kill(id("a"), 1, Signal::TERM)]);
    assert_eq!(
        f.supervisor.next_wake(),
        Some(Duration::from_millis(32_200))
    );
    let commands = f.at(32_200, Event::Woken);
    assert_eq!(actions(commands), [Command::Kill(id("a"), 1, Signal::KILL)]);
    let commands = f.at(32_300, Event::Exited(id("a"), 1, exit(137, 32_300)));
    assert_eq!(reported(&commands), [(Phase::Done, None)]);
    assert_eq!(actions(commands), [Command::Delete(id("a"), 1)]);
    let commands = f.at(32_400, Event::Deleted(id("a"), 1));
    assert_eq!(actions(commands), [Command::Forget(id("a"))]);
    assert!(f.supervisor.is_idle());
}

#[test]
fn a_job_that_keeps_ending_waits_longer_each_time_and_says_why() {
    let mut f = Fixture::new();
    let job = job("a", JobSpec::default());
    f.run(0, &job);
    let mut clock = 0;
    let mut delays = Vec::new();
    for run in 1..=11 {
        clock += 200;
        let commands = f.at(clock, Event::Exited(id("a"), run, exit(1, clock)));
        let error = "exited with status 1 after 0.2 s".to_owned();
        assert_eq!(reported(&commands), [(Phase::Restarting, Some(error))]);
        f.at(clock, Event::Deleted(id("a"), run));
        let wake = f.supervisor.next_wake().unwrap();
        let wake = u64::try_from(wake.as_millis()).unwrap();
        delays.push(wake - clock);
        clock = wake;
        let commands = f.at(clock, Event::Woken);
        assert_eq!(
            actions(commands),
            [Command::Prepare(Arc::clone(&job), run + 1)]
        );
        assert_eq!(f.status("a").restarts, run);
        f.start_again(clock, &job, run + 1);
    }
    assert_eq!(
        delays,
        [
            100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000
        ]
    );
    // A minute of running makes up for it.
    clock += 60_000;
    f.at(clock, Event::Exited(id("a"), 12, exit(1, clock)));
    f.at(clock, Event::Deleted(id("a"), 12));
    assert_eq!(
        f.supervisor.next_wake(),
        Some(Duration::from_millis(clock + 100))
    );
}

#[test]
fn a_job_that_is_not_restarted_is_done_or_crashed() {
    for (code, phase, error) in [
        (0, Phase::Done, None),
        (
            3,
            Phase::Crashed,
            Some("exited with status 3 after 1 s".to_owned()),
        ),
    ] {
        let mut f = Fixture::new();
        let job = job("a", never());
        f.run(0, &job);
        let commands = f.at(1_000, Event::Exited(id("a"), 1, exit(code, 1_000)));
        assert_eq!(reported(&commands), [(phase, error)]);
        assert_eq!(f.status("a").exit_status, Some(code));
        f.at(1_001, Event::Deleted(id("a"), 1));
        // It stays in the list of the cell for a while, and is not started again.
        let commands = f.at(2_000, Event::Assigned(vec![job]));
        assert_eq!(commands, []);
    }
}

#[test]
fn what_is_final_in_the_cell_is_not_run_again() {
    let mut f = Fixture::new();
    let mut over = (*job("a", never())).clone();
    over.status.phase = Phase::Crashed;
    assert_eq!(f.at(0, Event::Assigned(vec![Arc::new(over)])), []);
}

#[test]
fn a_job_told_to_stop_before_it_was_heard_of_is_done() {
    let mut f = Fixture::new();
    let mut stopping = (*job("a", never())).clone();
    stopping.is_stopping = true;
    let commands = f.at(0, Event::Assigned(vec![Arc::new(stopping)]));
    assert_eq!(reported(&commands), [(Phase::Done, None)]);
    assert_eq!(actions(commands), []);
}

#[test]
fn a_job_stopped_while_it_starts_is_cleared_away_as_soon_as_that_is_safe() {
    let mut f = Fixture::new();
    let job = job("a", JobSpec::default());
    f.at(0, Event::Assigned(vec![job]));
    assert_eq!(actions(f.at(1, Event::Assigned(Vec::new()))), []);
    let commands = f.at(2, Event::Prepared(id("a"), 1, Vec::new()));
    assert_eq!(actions(commands), [Command::Delete(id("a"), 1)]);
    let commands = f.at(3, Event::Deleted(id("a"), 1));
    assert_eq!(reported(&commands), [(Phase::Done, None)]);
}

#[test]
fn only_so_many_jobs_start_at_once_and_the_first_come_is_first_served() {
    let mut f = Fixture::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    let jobs = names.map(|name| job(name, JobSpec::default()));
    let commands = f.at(0, Event::Assigned(jobs.to_vec()));
    let prepared = |range: std::ops::Range<usize>| -> Vec<Command> {
        jobs[range]
            .iter()
            .map(|job| Command::Prepare(Arc::clone(job), 1))
            .collect()
    };
    assert_eq!(actions(commands), prepared(0..4));
    f.at(1, Event::Prepared(id("b"), 1, Vec::new()));
    f.at(1, Event::Created(id("b"), 1));
    let commands = f.at(1, Event::Started(id("b"), 1, started(1)));
    let mut expected = vec![Command::Watch(id("b"), 1)];
    expected.extend(prepared(4..5));
    assert_eq!(actions(commands), expected);
}

#[test]
fn a_job_that_waits_for_a_client_starts_when_one_has_attached() {
    let mut f = Fixture::new();
    let spec = JobSpec {
        waits_for_attach: true,
        ..never()
    };
    f.at(0, Event::Assigned(vec![job("a", spec)]));
    f.at(0, Event::Prepared(id("a"), 1, Vec::new()));
    assert_eq!(actions(f.at(0, Event::Created(id("a"), 1))), []);
    let commands = f.at(5_000, Event::Attached(id("a")));
    assert_eq!(actions(commands), [Command::Start(id("a"), 1)]);
    assert_eq!(actions(f.at(5_001, Event::Attached(id("a")))), []);
}

#[test]
fn a_job_that_no_client_comes_for_fails_and_says_so() {
    let mut f = Fixture::new();
    let spec = JobSpec {
        waits_for_attach: true,
        ..never()
    };
    f.at(0, Event::Assigned(vec![job("a", spec)]));
    f.at(0, Event::Prepared(id("a"), 1, Vec::new()));
    f.at(0, Event::Created(id("a"), 1));
    assert_eq!(f.supervisor.next_wake(), Some(Duration::from_secs(600)));
    let commands = f.at(600_000, Event::Woken);
    let error = "no client attached within 600 s".to_owned();
    assert_eq!(reported(&commands), [(Phase::Failed, Some(error))]);
    assert_eq!(actions(commands), [Command::Delete(id("a"), 1)]);
}

#[test]
fn a_job_that_was_lost_and_is_not_restarted_has_failed() {
    let mut f = Fixture::new();
    f.run(0, &job("a", never()));
    let lost = ExitStatus {
        error: Some("was lost".to_owned()),
        is_lost: true,
        ..exit(137, 100)
    };
    let commands = f.at(100, Event::Exited(id("a"), 1, lost));
    let error = "was lost".to_owned();
    assert_eq!(reported(&commands), [(Phase::Failed, Some(error))]);
}

#[test]
fn what_the_host_cannot_do_is_tried_again_and_then_left_to_another_host() {
    let mut f = Fixture::new();
    let job = job("a", JobSpec::default());
    f.at(0, Event::Assigned(vec![job]));
    let failure = |kind| Failure {
        error: "no space is left under /data".to_owned(),
        kind,
    };
    let mut clock = 0;
    for run in 1..=4 {
        let event = Event::Failed(id("a"), run, failure(FailureKind::Permanent));
        f.at(clock, event);
        let error = Some("no space is left under /data".to_owned());
        assert_eq!(f.status("a").error, error);
        assert_eq!(f.status("a").phase, Phase::Restarting);
        f.at(clock, Event::Deleted(id("a"), run));
        clock = u64::try_from(f.supervisor.next_wake().unwrap().as_millis()).unwrap();
        f.at(clock, Event::Woken);
    }
    f.at(
        clock,
        Event::Failed(id("a"), 5, failure(FailureKind::Permanent)),
    );
    assert_eq!(f.status("a").phase, Phase::Failed);
}

#[test]
fn a_command_that_cannot_be_run_is_the_jobs_own_fault() {
    let mut f = Fixture::new();
    f.at(0, Event::Assigned(vec![job("a", never())]));
    f.at(0, Event::Prepared(id("a"), 1, Vec::new()));
    f.at(0, Event::Created(id("a"), 1));
    let failure = Failure {
        error: "could not start \"nope\": no such file or directory".to_owned(),
        kind: FailureKind::Command,
    };
    let commands = f.at(0, Event::Failed(id("a"), 1, failure.clone()));
    assert_eq!(reported(&commands), [(Phase::Crashed, Some(failure.error))]);
    assert_eq!(f.status("a").exit_status, Some(127));
}

#[test]
fn late_news_of_an_earlier_run_changes_nothing() {
    let mut f = Fixture::new();
    let job = job("a", web(Some(Check::default())));
    f.run(0, &job);
    f.at(100, Event::Exited(id("a"), 1, exit(1, 100)));
    f.at(100, Event::Deleted(id("a"), 1));
    f.at(200, Event::Woken);
    f.start_again(200, &job, 2);
    assert_eq!(f.at(201, Event::Healthy(id("a"), 1, 0)), []);
    assert_eq!(f.at(201, Event::Exited(id("a"), 1, exit(1, 100))), []);
}

#[test]
fn a_job_that_was_up_goes_on_through_a_restart_of_the_daemon() {
    let mut before = Fixture::new();
    let job = job("a", web(Some(Check::default())));
    before.run(0, &job);
    let commands = before.at(10, Event::Healthy(id("a"), 1, 0));
    let Command::Remember(record) = &commands[0] else {
        panic!("{commands:?}");
    };
    let survivor = Survivor {
        id: id("a"),
        record: Some((**record).clone()),
        container: Some(ContainerState::Running(started(0))),
    };
    let mut f = Fixture::new();
    let commands = f.at(5_000, Event::Recovered(vec![survivor]));
    assert_eq!(reported(&commands), [(Phase::Up, None)]);
    assert_eq!(
        actions(commands),
        [
            Command::Watch(id("a"), 1),
            Command::Check(Arc::clone(&job), vec![8000], 1),
            Command::Register(Arc::clone(&job), vec![8000]),
        ]
    );
    // It is still wanted: nothing is to be done.
    assert_eq!(f.at(6_000, Event::Assigned(vec![job])), []);
}

#[test]
fn what_ended_while_the_daemon_was_away_starts_again_only_if_it_is_still_wanted() {
    let record = |spec| {
        let mut f = Fixture::new();
        let commands = f.run(0, &job("a", spec));
        let Command::Remember(record) = &commands[0] else {
            panic!("{commands:?}");
        };
        (**record).clone()
    };
    let survivor = |record| Survivor {
        id: id("a"),
        record: Some(record),
        container: Some(ContainerState::Exited(exit(1, 900))),
    };
    // A job of the first kind waits for the cell's word.
    let mut f = Fixture::new();
    let always = record(JobSpec::default());
    f.at(5_000, Event::Recovered(vec![survivor(always.clone())]));
    f.at(5_000, Event::Deleted(id("a"), 1));
    assert_eq!(actions(f.at(9_000, Event::Woken)), []);
    let commands = f.at(10_000, Event::Assigned(vec![job("a", JobSpec::default())]));
    assert_eq!(actions(commands).len(), 1);
    // Or is forgotten upon it.
    let mut f = Fixture::new();
    f.at(5_000, Event::Recovered(vec![survivor(always)]));
    f.at(5_000, Event::Deleted(id("a"), 1));
    f.at(9_000, Event::Woken);
    let commands = f.at(10_000, Event::Assigned(Vec::new()));
    assert_eq!(reported(&commands), [(Phase::Done, None)]);
    assert_eq!(actions(commands), [Command::Forget(id("a"))]);
    // One that is not restarted has its status.
    let mut f = Fixture::new();
    let commands = f.at(5_000, Event::Recovered(vec![survivor(record(never()))]));
    let error = "exited with status 1 after 0.9 s".to_owned();
    assert_eq!(reported(&commands), [(Phase::Crashed, Some(error))]);
}

#[test]
fn a_job_lost_with_the_machine_starts_again_or_has_failed() {
    for (spec, phase) in [
        (JobSpec::default(), Phase::Restarting),
        (never(), Phase::Failed),
    ] {
        let mut before = Fixture::new();
        let commands = before.run(0, &job("a", spec));
        let Command::Remember(record) = &commands[0] else {
            panic!("{commands:?}");
        };
        let mut f = Fixture::new();
        let survivor = Survivor {
            id: id("a"),
            record: Some((**record).clone()),
            container: None,
        };
        let commands = f.at(0, Event::Recovered(vec![survivor]));
        let error = "was lost when the host went down".to_owned();
        assert_eq!(reported(&commands), [(phase, Some(error))]);
        assert_eq!(actions(commands), [Command::Delete(id("a"), 1)]);
    }
}

#[test]
fn a_container_that_nobody_remembers_is_deleted() {
    let mut f = Fixture::new();
    let survivor = Survivor {
        id: id("a"),
        record: None,
        container: Some(ContainerState::Created),
    };
    let commands = f.at(0, Event::Recovered(vec![survivor]));
    assert_eq!(commands, [Command::Delete(id("a"), 0)]);
}

#[test]
fn logs_of_the_past_are_dropped_oldest_first() {
    let mut f = Fixture::new();
    f.supervisor.options.past_jobs = 2;
    let mut dropped = Vec::new();
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        let ms = index as u64;
        f.run(ms, &job(name, JobSpec::default()));
        f.at(ms, Event::Assigned(Vec::new()));
        f.at(ms, Event::Exited(id(name), 1, exit(0, ms)));
        let commands = f.at(ms, Event::Deleted(id(name), 1));
        dropped.extend(
            commands
                .into_iter()
                .filter(|c| matches!(c, Command::DropLog(_))),
        );
    }
    assert_eq!(dropped, [Command::DropLog(id("a"))]);
}
