//! The rules of [`ClusterState::apply`].

use std::sync::Arc;

use flynn_sched::{
    ClusterState, Constraint, Error, GroupKind, GroupStatus, Host, Job, JobSpec, Phase, Port,
    Resources, Service, Transaction,
    transaction::{Applied, Change, Conflict, Mode},
};
use proptest::prelude::*;

use crate::fixture::{group, group_id, host, host_id, job, job_id, memory, phase};

fn cell(hosts: &[Host]) -> ClusterState {
    hosts.iter().fold(ClusterState::default(), |state, host| {
        state.host_joined(host.clone(), 1000).unwrap()
    })
}

fn applied(state: &ClusterState, transaction: &Transaction) -> Applied {
    let applied = state.apply(transaction).unwrap();
    assert_eq!(applied.refused, vec![], "nothing is refused");
    applied
}

fn why_refused(state: &ClusterState, transaction: &Transaction) -> String {
    let applied = state.apply(transaction).unwrap();
    assert_eq!(applied.refused.len(), 1, "exactly one change is refused");
    applied.refused[0].why.clone()
}

#[test]
fn an_incremental_transaction_applies_what_fits_and_names_the_rest() {
    let state = cell(&[host("a", 100)]);
    let transaction = Transaction::on(&state)
        .start(job("j1", "g", "a", 60))
        .start(job("j2", "g", "a", 60))
        .start(job("j3", "g", "a", 40));
    let applied = state.apply(&transaction).unwrap();
    assert!(applied.state.job(&job_id("j1")).is_some());
    assert!(applied.state.job(&job_id("j3")).is_some());
    assert_eq!(applied.refused.len(), 1);
    assert_eq!(applied.refused[0].host, Some(host_id("a")));
    assert!(applied.refused[0].is_conflict);
    assert_eq!(
        applied.refused[0].why,
        "needs 60 MiB of memory, 40 MiB is free"
    );
}

#[test]
fn an_all_or_nothing_transaction_is_refused_whole_and_names_the_host() {
    let state = cell(&[host("a", 100), host("b", 10)]);
    let transaction = Transaction::on(&state)
        .start(job("j1", "g", "a", 60))
        .start(job("j2", "g", "b", 60))
        .all_or_nothing();
    let error = state.apply(&transaction).unwrap_err();
    assert_eq!(
        error.to_string(),
        "host b: needs 60 MiB of memory, 10 MiB is free"
    );
    assert!(error.is_transient());
    assert_eq!(state.jobs().count(), 0);
}

#[test]
fn by_sequence_any_change_of_the_host_conflicts() {
    let before = cell(&[host("a", 100), host("b", 100)]);
    let after = applied(
        &before,
        &Transaction::on(&before).start(job("other", "g", "a", 1)),
    )
    .state;
    let late = Transaction::on(&before)
        .start(job("j1", "g", "a", 1))
        .start(job("j2", "g", "b", 1));
    let fits = applied(&after, &late);
    assert_eq!(fits.accepted.len(), 2);
    let by_sequence = after.apply(&late.by_sequence()).unwrap();
    assert_eq!(by_sequence.accepted.len(), 1, "host b did not change");
    assert!(by_sequence.refused[0].why.starts_with("changed since"));
}

#[test]
fn a_report_does_not_change_the_hosts_version() {
    let state = cell(&[host("a", 100)]);
    let state = applied(
        &state,
        &Transaction::on(&state).start(job("j", "g", "a", 1)),
    )
    .state;
    let reported = state.reported(&host_id("a"), vec![(job_id("j"), phase(Phase::Up))]);
    assert!(reported.revision() > state.revision());
    let version = |state: &ClusterState| state.host(&host_id("a")).unwrap().version;
    assert_eq!(version(&reported), version(&state));
}

#[test]
fn lost_draining_and_unknown_hosts_take_no_jobs() {
    let draining = Host {
        is_draining: true,
        ..host("b", 100)
    };
    let state = cell(&[host("a", 100), draining]).host_lost(&host_id("a"), 2000);
    let start = |on: &str| Transaction::on(&state).start(job("j", "g", on, 1));
    assert_eq!(why_refused(&state, &start("a")), "is lost");
    assert_eq!(why_refused(&state, &start("b")), "is draining");
    assert_eq!(why_refused(&state, &start("c")), "is not in the cluster");
    let error = state.apply(&start("c").all_or_nothing()).unwrap_err();
    assert!(matches!(error, Error::UnknownHost { .. }), "{error}");
}

#[test]
fn an_id_is_used_once() {
    let state = cell(&[host("a", 100)]);
    let state = applied(
        &state,
        &Transaction::on(&state).start(job("j", "g", "a", 1)),
    )
    .state;
    let again = Transaction::on(&state).start(job("j", "other", "a", 1));
    let refused = state.apply(&again).unwrap().refused;
    assert!(!refused[0].is_conflict, "no new snapshot can help");
    assert_eq!(
        refused[0].why,
        "a job with this id exists already on host a"
    );
}

#[test]
fn an_absurd_request_is_refused_and_does_not_overflow() {
    let state = cell(&[host("a", 100)]);
    let mut absurd = job("j", "g", "a", 0);
    absurd.spec = Arc::new(JobSpec {
        request: Resources {
            cpu_millis: u64::MAX,
            memory_bytes: u64::MAX,
            disk_bytes: u64::MAX,
        },
        ..JobSpec::default()
    });
    assert!(why_refused(&state, &Transaction::on(&state).start(absurd)).contains("of cpu"));
}

#[test]
fn constraints_hold_at_commit() {
    let mut tagged = host("a", 100);
    tagged.tags.insert("disk".to_owned(), "ssd".to_owned());
    let state = cell(&[tagged, host("b", 100)]);
    let constrained = |id: &str, on: &str, constraint| Job {
        spec: Arc::new(JobSpec {
            constraints: vec![constraint],
            ..JobSpec::default()
        }),
        ..job(id, "g", on, 0)
    };
    let ssd = Constraint::Tag {
        key: "disk".to_owned(),
        value: "ssd".to_owned(),
    };
    let on_a = Transaction::on(&state).start(constrained("j1", "a", ssd.clone()));
    let on_b = Transaction::on(&state).start(constrained("j2", "b", ssd));
    assert_eq!(applied(&state, &on_a).accepted.len(), 1);
    assert_eq!(
        why_refused(&state, &on_b),
        "needs the tag disk=ssd, there is none"
    );
    let twice = Transaction::on(&state)
        .start(constrained("j1", "a", Constraint::DistinctHosts))
        .start(constrained("j2", "a", Constraint::DistinctHosts));
    assert_eq!(why_refused(&state, &twice), "has a job of group g already");
}

#[test]
fn a_fixed_port_is_shared_only_within_a_service() {
    let state = cell(&[host("a", 100)]);
    let on_80 = |id: &str, service: &str| Job {
        spec: Arc::new(JobSpec {
            ports: vec![Port {
                port: Some(80),
                proto: "http".to_owned(),
                service: Some(Service {
                    name: service.to_owned(),
                    check: None,
                }),
            }],
            ..JobSpec::default()
        }),
        ..job(id, "g", "a", 0)
    };
    let both = |second: &str| {
        Transaction::on(&state)
            .start(on_80("j1", "router"))
            .start(on_80("j2", second))
    };
    assert_eq!(applied(&state, &both("router")).accepted.len(), 2);
    assert_eq!(
        why_refused(&state, &both("www")),
        "port 80 is taken by job j1"
    );
}

#[test]
fn a_running_job_is_stopped_before_it_is_removed() {
    let state = cell(&[host("a", 100)]);
    let state = applied(
        &state,
        &Transaction::on(&state).start(job("j", "g", "a", 9)),
    )
    .state;
    let remove = |state: &ClusterState| Transaction::on(state).remove(job_id("j"));
    assert!(why_refused(&state, &remove(&state)).contains("stop it first"));

    let stopping = applied(&state, &Transaction::on(&state).stop(job_id("j"))).state;
    assert!(stopping.job(&job_id("j")).unwrap().is_stopping);
    let promised = |state: &ClusterState| state.host(&host_id("a")).unwrap().promised;
    assert_eq!(promised(&stopping), memory(9), "it may still run");

    let done = stopping.reported(&host_id("a"), vec![(job_id("j"), phase(Phase::Done))]);
    assert_eq!(promised(&done), memory(0));
    let removed = applied(&done, &remove(&done)).state;
    assert_eq!(removed.jobs().count(), 0);
    assert_eq!(removed.group_version(&group_id("g")), 0);
    let again = applied(&removed, &remove(&removed)).state;
    assert_eq!(again.jobs().count(), 0, "removing what is gone succeeds");
}

#[test]
fn jobs_of_a_lost_host_can_be_removed_and_then_the_host_forgotten() {
    let state = cell(&[host("a", 100)]);
    let state = applied(
        &state,
        &Transaction::on(&state).start(job("j", "g", "a", 9)),
    )
    .state;
    let forget =
        |state: &ClusterState| Transaction::on(state).with(Change::ForgetHost(host_id("a")));
    assert_eq!(why_refused(&state, &forget(&state)), "is alive");
    let lost = state.host_lost(&host_id("a"), 2000);
    assert!(why_refused(&lost, &forget(&lost)).contains("remove them first"));
    let removed = applied(&lost, &Transaction::on(&lost).remove(job_id("j"))).state;
    let forgotten = applied(&removed, &forget(&removed)).state;
    assert_eq!(forgotten.hosts().count(), 0);
}

#[test]
fn a_failed_guard_refuses_the_groups_changes_and_no_others() {
    let state = cell(&[host("a", 100)]);
    let service = GroupKind::Service { count: 1 };
    let state = applied(
        &state,
        &Transaction::on(&state)
            .put_group(group("g", service.clone(), 1))
            .put_group(group("h", service, 1)),
    )
    .state;
    let seen = state.group_version(&group_id("g"));
    let moved = applied(
        &state,
        &Transaction::on(&state).start(job("x", "g", "a", 1)),
    )
    .state;
    let late = Transaction::on(&state)
        .with(Change::ExpectGroup {
            group: group_id("g"),
            version: seen,
        })
        .start(job("j1", "g", "a", 1))
        .start(job("j2", "h", "a", 1))
        .with(Change::Note {
            group: group_id("g"),
            status: Arc::new(GroupStatus {
                missing: 1,
                ..GroupStatus::default()
            }),
        });
    let result = moved.apply(&late).unwrap();
    assert_eq!(result.accepted.len(), 1);
    assert!(result.state.job(&job_id("j2")).is_some());
    assert_eq!(result.refused.len(), 3, "the guard, the start and the note");
    assert!(result.state.group_status(&group_id("g")).is_none());
    let error = moved.apply(&late.all_or_nothing()).unwrap_err();
    assert!(matches!(error, Error::GroupChanged { .. }), "{error}");
}

#[test]
fn a_note_lives_as_long_as_its_group() {
    let state = cell(&[]);
    let note = |missing| Change::Note {
        group: group_id("g"),
        status: Arc::new(GroupStatus {
            missing,
            ..GroupStatus::default()
        }),
    };
    let batch = GroupKind::Batch {
        count: 1,
        retries: 0,
    };
    let noted = applied(
        &state,
        &Transaction::on(&state)
            .put_group(group("g", batch, 1))
            .with(note(3)),
    )
    .state;
    assert_eq!(noted.group_status(&group_id("g")).unwrap().missing, 3);
    assert_eq!(noted.group_statuses().count(), 1);
    let cleared = applied(&noted, &Transaction::on(&noted).with(note(0))).state;
    assert_eq!(cleared.group_statuses().count(), 0);
    let removed = applied(&noted, &Transaction::on(&noted).remove_group(group_id("g"))).state;
    assert_eq!(removed.group_statuses().count(), 0);
    assert_eq!(
        why_refused(&removed, &Transaction::on(&removed).with(note(1))),
        "there is no such group"
    );
}

#[test]
fn a_host_id_is_taken_only_by_another_host_that_is_alive() {
    let state = cell(&[host("a", 100)]);
    let other = Host {
        incarnation: 2,
        addr: "elsewhere".to_owned(),
        ..host("a", 50)
    };
    let error = state.host_joined(other.clone(), 2000).unwrap_err();
    assert!(error.to_string().contains("taken by the host at addr-of-a"));
    let restarted = Host {
        incarnation: 2,
        ..host("a", 50)
    };
    assert!(state.host_joined(restarted, 2000).is_ok());
    let lost = state.host_lost(&host_id("a"), 2000);
    assert_eq!(lost.host(&host_id("a")).unwrap().lost_since_ms, Some(2000));
    let back = lost.host_joined(other, 3000).unwrap();
    let back = back.host(&host_id("a")).unwrap();
    assert_eq!((back.lost_since_ms, back.joined_ms), (None, 3000));
}

#[test]
fn a_job_is_confirmed_once_its_host_has_spoken_since_it_joined() {
    let state = cell(&[host("a", 100)]);
    let state = applied(
        &state,
        &Transaction::on(&state).start(job("j", "g", "a", 1)),
    )
    .state;
    assert!(!state.is_confirmed(&job_id("j")));
    let up =
        |state: &ClusterState| state.reported(&host_id("a"), vec![(job_id("j"), phase(Phase::Up))]);
    let state = up(&state);
    assert!(state.is_confirmed(&job_id("j")));
    let back = state
        .host_lost(&host_id("a"), 2000)
        .host_joined(host("a", 100), 3000)
        .unwrap();
    assert!(!back.is_confirmed(&job_id("j")), "that was before");
    assert!(up(&back).is_confirmed(&job_id("j")));
}

#[test]
fn final_is_final() {
    let state = cell(&[host("a", 100)]);
    let state = applied(
        &state,
        &Transaction::on(&state).start(job("j", "g", "a", 9)),
    )
    .state;
    let report =
        |state: &ClusterState, p| state.reported(&host_id("a"), vec![(job_id("j"), phase(p))]);
    let crashed = report(&state, Phase::Crashed);
    let revived = report(&crashed, Phase::Up);
    assert_eq!(
        revived.job(&job_id("j")).unwrap().status.phase,
        Phase::Crashed
    );
    let stranger = state.reported(&host_id("b"), vec![(job_id("j"), phase(Phase::Up))]);
    assert_eq!(stranger.revision(), state.revision(), "not its job");
}

// Anything that can happen to a cell, in any order.

#[derive(Debug, Clone)]
enum Event {
    Commit {
        changes: Vec<Change>,
        mode: Mode,
        conflict: Conflict,
        /// How many revisions ago its snapshot was taken.
        age: u64,
    },
    Join(Box<Host>),
    Lose(usize),
    Report(usize, Phase),
}

fn name(prefix: &str, n: usize) -> String {
    format!("{prefix}{n}")
}

fn any_change() -> impl Strategy<Value = Change> {
    let start = (0..30_usize, 0..4_usize, 0..5_usize, 0..70_u64).prop_map(|(j, g, h, mib)| {
        Change::Start(Arc::new(job(
            &name("j", j),
            &name("g", g),
            &name("h", h),
            mib,
        )))
    });
    let id = |j| job_id(&name("j", j));
    let g = |g| group_id(&name("g", g));
    prop_oneof![
        6 => start,
        1 => (0..30_usize).prop_map(move |j| Change::Stop(id(j))),
        2 => (0..30_usize).prop_map(move |j| Change::Remove(id(j))),
        1 => (0..4_usize).prop_map(|g| {
            Change::PutGroup(Arc::new(group(&name("g", g), GroupKind::Service { count: 1 }, 1)))
        }),
        1 => (0..4_usize).prop_map(move |n| Change::RemoveGroup(g(n))),
        1 => (0..4_usize, 0..20_u64).prop_map(move |(n, version)| Change::ExpectGroup { group: g(n), version }),
        1 => (0..4_usize, 0..3_u32).prop_map(move |(n, missing)| Change::Note {
            group: g(n),
            status: Arc::new(GroupStatus { missing, ..GroupStatus::default() }),
        }),
        1 => (0..4_usize).prop_map(|h| Change::ForgetHost(host_id(&name("h", h)))),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let mode = prop_oneof![Just(Mode::Incremental), Just(Mode::AllOrNothing)];
    let conflict = prop_oneof![Just(Conflict::ResourceFit), Just(Conflict::Sequence)];
    let commit = (
        prop::collection::vec(any_change(), 1..6),
        mode,
        conflict,
        0..4_u64,
    )
        .prop_map(|(changes, mode, conflict, age)| Event::Commit {
            changes,
            mode,
            conflict,
            age,
        });
    let phase = prop_oneof![
        Just(Phase::Up),
        Just(Phase::Done),
        Just(Phase::Crashed),
        Just(Phase::Starting)
    ];
    prop_oneof![
        6 => commit,
        2 => (0..4_usize, any::<bool>()).prop_map(|(h, is_draining)| Event::Join(Box::new(Host {
            is_draining,
            ..host(&name("h", h), 100)
        }))),
        1 => (0..4_usize).prop_map(Event::Lose),
        3 => (0..30_usize, phase).prop_map(|(j, p)| Event::Report(j, p)),
    ]
}

/// Sums and indices, taken anew the slow and obvious way.
fn assert_consistent(state: &ClusterState) {
    for host in state.hosts() {
        let mut sum = 0;
        for job in state.jobs().filter(|job| job.host == host.host.id) {
            assert!(
                host.jobs.contains(&job.id),
                "{} lists {}",
                host.host.id,
                job.id
            );
            if !job.status.phase.is_final() {
                sum += job.spec.request.memory_bytes;
            }
        }
        assert_eq!(
            host.promised.memory_bytes, sum,
            "promised on {}",
            host.host.id
        );
        assert!(
            host.host.capacity.fits(&host.promised),
            "{} is over-committed",
            host.host.id
        );
        assert_eq!(
            state.jobs_on(&host.host.id).count(),
            host.jobs.len(),
            "the jobs of {} exist",
            host.host.id
        );
        assert!(host.version <= state.revision());
    }
    for job in state.jobs() {
        assert!(state.host(&job.host).is_some(), "every job has a host");
        assert!(state.jobs_of(&job.group).any(|other| other.id == job.id));
        assert!(state.group_version(&job.group) > 0);
    }
    for group in 0..4 {
        let id = group_id(&name("g", group));
        assert!(state.jobs_of(&id).all(|job| job.group == id));
        let is_there = state.group(&id).is_some() || state.jobs_of(&id).next().is_some();
        assert_eq!(state.group_version(&id) > 0, is_there);
    }
}

/// What two states must have in common to be the same.
fn visible(state: &ClusterState) -> String {
    let hosts: Vec<_> = state.hosts().collect();
    let jobs: Vec<_> = state.jobs().collect();
    let groups: Vec<_> = state.groups().collect();
    let notes: Vec<_> = state.group_statuses().collect();
    format!(
        "{} {hosts:?} {jobs:?} {groups:?} {notes:?}",
        state.revision()
    )
}

proptest! {
    /// Whatever happens in whatever order: never over-committed, indices right, refusals named, and a transaction that
    /// is refused whole changes nothing. A snapshot never changes.
    #[test]
    fn commits_keep_the_cell_consistent(events in prop::collection::vec(any_event(), 1..60)) {
        let mut state = cell(&[host("h0", 100), host("h1", 100), host("h2", 100)]);
        for event in events {
            let before = state.clone();
            let visible_before = visible(&before);
            match event {
                Event::Commit { changes, mode, conflict, age } => {
                    let asked = changes.len();
                    let guards = changes.iter().filter(|c| matches!(c, Change::ExpectGroup { .. })).count();
                    let transaction = Transaction {
                        changes, mode, conflict, basis: state.revision().saturating_sub(age),
                    };
                    match state.apply(&transaction) {
                        Ok(applied) => {
                            prop_assert!(applied.refused.iter().all(|r| !r.why.is_empty()));
                            prop_assert!(mode == Mode::Incremental || applied.refused.is_empty());
                            prop_assert!(applied.accepted.len() + applied.refused.len() <= asked);
                            prop_assert!(applied.accepted.len() + applied.refused.len() + guards >= asked);
                            if applied.accepted.is_empty() {
                                prop_assert_eq!(visible(&applied.state), visible_before.clone());
                            }
                            state = applied.state;
                        }
                        Err(error) => {
                            prop_assert!(mode == Mode::AllOrNothing);
                            prop_assert!(!error.to_string().is_empty());
                        }
                    }
                }
                Event::Join(host) => state = state.host_joined(*host, 1).unwrap(),
                Event::Lose(h) => state = state.host_lost(&host_id(&name("h", h)), 1),
                Event::Report(j, p) => {
                    if let Some(job) = state.job(&job_id(&name("j", j))).cloned() {
                        state = state.reported(&job.host, vec![(job.id.clone(), phase(p))]);
                    }
                }
            }
            assert_consistent(&state);
            prop_assert!(state.revision() >= before.revision());
            prop_assert_eq!(visible(&before), visible_before, "a snapshot never changes");
        }
    }
}

#[test]
fn ten_thousand_jobs_start_in_one_transaction() {
    let hosts: Vec<Host> = (0..100).map(|n| host(&name("h", n), 1000)).collect();
    let state = cell(&hosts);
    let transaction = (0..10_000).fold(Transaction::on(&state), |transaction, n| {
        transaction.start(job(&name("j", n), "g", &name("h", n % 100), 10))
    });
    let after = applied(&state, &transaction.all_or_nothing()).state;
    assert_eq!(after.jobs_of(&group_id("g")).count(), 10_000);
    assert_eq!(after.jobs_on(&host_id("h7")).count(), 100);
    assert_eq!(after.host(&host_id("h7")).unwrap().free(), memory(0));
}
