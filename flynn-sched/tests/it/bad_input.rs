//! What nobody should ask: a clear answer each, and nothing lost.

use std::{sync::Arc, time::Duration};

use flynn_discovery::{Backend, backend::MemoryBackend};
use flynn_sched::{
    Cluster, ClusterState, Constraint, DiscoveryCluster, Error, Group, GroupKind, Host, HostLink,
    Job, JobSpec, LocalCluster, Named, Overcommit, Quota, Resources, SimCluster, Transaction,
    clock::ManualClock, scheduler::ServiceScheduler, transaction::Change,
};

use crate::{
    checker::assert_sound,
    fixture::{group, group_id, host, host_id, job, job_id, memory, until},
};

const EVERYTHING: Resources = Resources {
    cpu_millis: u64::MAX,
    memory_bytes: u64::MAX,
    disk_bytes: u64::MAX,
};

fn cell(hosts: impl IntoIterator<Item = Host>) -> ClusterState {
    hosts
        .into_iter()
        .fold(ClusterState::default(), |state, host| {
            state.host_joined(host, 0).unwrap()
        })
}

fn of(job: Job, spec: JobSpec) -> Job {
    Job {
        spec: spec.into(),
        ..job
    }
}

/// Starts one job; why it was refused, if it was.
fn refusal(state: &ClusterState, job: Job) -> Option<String> {
    let applied = state.apply(&Transaction::on(state).start(job)).unwrap();
    assert_sound(&applied.state);
    applied
        .refused
        .into_iter()
        .next()
        .map(|refused| refused.why)
}

#[test]
fn negative_fractional_and_overlong_numbers_are_refused_where_they_are_read() {
    for (number, expected) in [
        ("-1", "invalid value: integer `-1`, expected u64"),
        ("1.5", "invalid type: floating point `1.5`, expected u64"),
        ("18446744073709551616", "expected u64"),
        ("\"much\"", "invalid type: string \"much\", expected u64"),
    ] {
        for json in [
            format!(r#"{{"request":{{"memory_bytes":{number}}}}}"#),
            format!(r#"{{"named":{{"gpu":{number}}}}}"#),
        ] {
            let error = serde_json::from_str::<JobSpec>(&json)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{json}: {error}");
            assert!(error.contains("line 1 column"), "{error}");
        }
        let json = format!(r#"{{"namespace":"n","jobs":{number}}}"#);
        let error = serde_json::from_str::<Quota>(&json)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
}

#[test]
fn ids_that_are_none_are_refused_where_they_are_read() {
    let json = r#"{"id":"J 1","group":"g","host":"a","spec":{}}"#;
    let error = serde_json::from_str::<Job>(json).unwrap_err().to_string();
    assert!(
        error.contains("job id \"J 1\": use 1 to 63 of a-z"),
        "{error}"
    );
    let json = r#"{"id":"j","group":"g","host":"a-b","spec":{}}"#;
    let error = serde_json::from_str::<Job>(json).unwrap_err().to_string();
    assert!(error.contains("host id \"a-b\""), "{error}");
}

#[test]
fn requests_whose_sum_overflows_do_not_fit_twice() {
    let boundless = Host {
        overcommit: Overcommit {
            cpu_percent: u32::MAX,
            memory_percent: u32::MAX,
            disk_percent: u32::MAX,
        },
        named: Named::from_iter([("gpu", u64::MAX)]),
        capacity: EVERYTHING,
        ..host("a", 0)
    };
    let state = cell([boundless]);
    let all = |id: &str| {
        let spec = JobSpec {
            request: EVERYTHING,
            named: Named::from_iter([("gpu", u64::MAX)]),
            ..JobSpec::default()
        };
        of(job(id, "g", "a", 0), spec)
    };
    let both = Transaction::on(&state).start(all("one")).start(all("two"));
    let applied = state.apply(&both).unwrap();
    assert_eq!(applied.accepted.len(), 1);
    assert!(
        applied.refused[0].why.starts_with("needs "),
        "{}",
        applied.refused[0].why
    );
    // What the first one frees is all there is.
    let stop = Transaction::on(&applied.state).stop(job_id("one"));
    let state = applied.state.apply(&stop).unwrap().state;
    let done = crate::fixture::phase(flynn_sched::Phase::Done);
    let state = state.reported(&host_id("a"), vec![(job_id("one"), done)]);
    assert_eq!(
        state.host(&host_id("a")).unwrap().promised,
        Resources::default()
    );
    assert_eq!(refusal(&state, all("two")), None);
}

#[test]
fn a_quota_is_not_passed_by_overflow() {
    let state = cell([Host {
        capacity: EVERYTHING,
        ..host("a", 0)
    }]);
    let quota = Quota {
        memory_bytes: Some(u64::MAX - 1),
        ..Quota::of(flynn_sched::Namespace::default())
    };
    let put = Change::PutQuota(quota.into());
    let start = job("one", "g", "a", 1);
    let state = state
        .apply(&Transaction::on(&state).with(put).start(start))
        .unwrap()
        .state;
    let spec = JobSpec {
        request: EVERYTHING,
        ..JobSpec::default()
    };
    let why = refusal(&state, of(job("two", "g", "a", 0), spec)).unwrap();
    assert!(why.contains("is free") || why.contains("quota"), "{why}");
}

#[test]
fn an_unknown_tag_is_named() {
    let state = cell([host("a", 100)]);
    let spec = JobSpec {
        constraints: vec![Constraint::Tag {
            key: "colour".to_owned(),
            value: "red".to_owned(),
        }],
        ..JobSpec::default()
    };
    let why = refusal(&state, of(job("j", "g", "a", 1), spec)).unwrap();
    assert_eq!(why, "needs the tag colour=red, there is none");
}

#[test]
fn an_unknown_tag_in_an_expression_is_named_with_what_was_asked_of_it() {
    let state = cell([host("a", 100)]);
    let spec = |text: &str| JobSpec {
        constraints: vec![Constraint::Expression(text.parse().unwrap())],
        ..JobSpec::default()
    };
    for text in [
        "tag.colour = red",
        "has tag.colour",
        "tag.colour in (red, blue)",
    ] {
        let why = refusal(&state, of(job("j", "g", "a", 1), spec(text))).unwrap();
        assert!(why.contains("colour"), "{text}: {why}");
    }
    // Not to have a tag is no reason against a host.
    let other = of(job("j", "g", "a", 1), spec("not has tag.colour"));
    let applied = state.apply(&Transaction::on(&state).start(other)).unwrap();
    assert_eq!(applied.refused, vec![]);
}

#[test]
fn a_constraint_that_cannot_be_read_is_shown_with_its_place_in_a_whole_description() {
    let json = r#"{"constraints":[{"expression":"zone in (a, b and cpu > 2"}]}"#;
    let error = serde_json::from_str::<JobSpec>(json)
        .unwrap_err()
        .to_string();
    let mut lines = error.lines();
    assert_eq!(
        lines.next(),
        Some("at 14: expected ',' or ')', found 'and'"),
        "{error}"
    );
    assert_eq!(lines.next(), Some("  zone in (a, b and cpu > 2"));
    let marker = lines.next().unwrap();
    assert!(marker.starts_with("                ^"), "{error}");
    assert!(
        marker.contains("line 1 column"),
        "where in the description: {error}"
    );
}

/// What the scheduler says of a group that wants one such job.
fn blocked(spec: JobSpec) -> String {
    let cell = SimCluster::new(1);
    for id in ["a", "b"] {
        cell.join(host(id, 100)).unwrap();
    }
    let kind = GroupKind::Service { count: 1 };
    cell.put_group(Group::new(group_id("g"), kind, spec));
    let mut scheduler = ServiceScheduler::new();
    cell.run(&mut [&mut scheduler], Duration::from_secs(5));
    assert_eq!(cell.counters().livelocks, 0);
    let state = cell.state();
    assert_eq!(state.jobs().count(), 0);
    let status = state.group_status(&group_id("g")).unwrap();
    assert_eq!(status.missing, 1);
    status.blocked.clone().unwrap()
}

#[test]
fn a_job_larger_than_any_host_is_told_what_it_lacks() {
    let why = blocked(JobSpec {
        request: memory(1 << 20),
        ..JobSpec::default()
    });
    assert!(
        why.contains("needs 1024 GiB of memory, 100 MiB is free"),
        "{why}"
    );
    let why = blocked(JobSpec {
        request: EVERYTHING,
        ..JobSpec::default()
    });
    assert!(why.contains("of cpu"), "{why}");
    let why = blocked(JobSpec {
        named: Named::from_iter([("unicorn", u64::MAX)]),
        ..JobSpec::default()
    });
    assert!(why.contains("of unicorn"), "{why}");
}

#[test]
fn an_id_that_is_taken_is_refused_and_the_first_job_stays() {
    let state = cell([host("a", 100), host("b", 100)]);
    let twice = Transaction::on(&state)
        .start(job("j", "g", "a", 60))
        .start(job("j", "h", "b", 10));
    let applied = state.apply(&twice).unwrap();
    assert_eq!(applied.refused.len(), 1);
    assert_eq!(
        applied.refused[0].why,
        "a job with this id exists already on host a"
    );
    assert!(
        !applied.refused[0].is_conflict,
        "trying again does not help"
    );
    assert_eq!(applied.state.job(&job_id("j")).unwrap().host, host_id("a"));
    assert_sound(&applied.state);
    let error = state.apply(&twice.all_or_nothing()).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(error.to_string().contains("start of job j"), "{error}");
    let again = Transaction::on(&state)
        .start(job("j", "g", "b", 1))
        .all_or_nothing();
    assert!(applied.state.apply(&again).is_err());
}

#[tokio::test]
async fn a_host_that_vanishes_between_snapshot_and_commit_is_named_and_the_rest_goes_on() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let cell = DiscoveryCluster::new(Arc::clone(&backend));
    let _a = cell.join(host("a", 100)).await.unwrap();
    let b = cell.join(host("b", 100)).await.unwrap();
    let snapshot = until(&cell, "both are there", |state| state.hosts().count() == 2).await;
    b.leave().await.unwrap();
    let start = Transaction::on(&snapshot)
        .start(job("one", "g", "a", 1))
        .start(job("two", "g", "b", 1))
        .start(job("three", "g", "nowhere", 1));
    let committed = cell.commit(start.clone()).await.unwrap();
    let refused: Vec<_> = committed
        .refused
        .iter()
        .map(|refused| (refused.host.clone().unwrap(), refused.why.as_str()))
        .collect();
    assert_eq!(
        refused,
        [
            (host_id("b"), "is lost"),
            (host_id("nowhere"), "is not in the cluster")
        ]
    );
    assert!(committed.state.job(&job_id("one")).is_some());
    let error = cell.commit(start.all_or_nothing()).await.unwrap_err();
    assert!(!error.to_string().is_empty());
    assert_eq!(cell.snapshot().await.unwrap().jobs().count(), 1);
}

#[tokio::test]
async fn a_host_that_vanishes_from_a_local_cell_is_named_too() {
    let cell = LocalCluster::new(Arc::new(ManualClock::at(1000)));
    let _a = cell.join(host("a", 100)).await.unwrap();
    let b = cell.join(host("b", 100)).await.unwrap();
    let snapshot = cell.state();
    b.leave().await.unwrap();
    let start = Transaction::on(&snapshot)
        .start(job("one", "g", "a", 1))
        .start(job("two", "g", "b", 1));
    let whole = cell
        .commit(start.clone().all_or_nothing())
        .await
        .unwrap_err();
    assert_eq!(whole.to_string(), "host b: is lost");
    assert!(whole.is_transient());
    assert_eq!(cell.state().jobs().count(), 0, "nothing happened");
    let committed = cell.commit(start.clone()).await.unwrap();
    assert_eq!(committed.refused.len(), 1);
    assert_eq!(committed.refused[0].host, Some(host_id("b")));
    assert_eq!(committed.refused[0].why, "is lost");
    assert_sound(&committed.state);
    // And when nobody remembers it any more.
    let forget = Transaction::default().with(Change::ForgetHost(host_id("b")));
    cell.commit(forget).await.unwrap();
    let late = Transaction::on(&snapshot).start(job("three", "g", "b", 1));
    let late = cell.commit(late.all_or_nothing()).await.unwrap_err();
    assert_eq!(late.to_string(), "host b is not in the cluster");
    assert!(matches!(late, Error::UnknownHost { .. }), "{late}");
}

#[tokio::test]
async fn many_thousand_jobs_in_one_call_are_placed_as_far_as_there_is_room() {
    let cell = DiscoveryCluster::new(Arc::new(MemoryBackend::new()));
    let mut members = Vec::new();
    for n in 0..10 {
        members.push(cell.join(host(&format!("h{n}"), 1500)).await.unwrap());
    }
    let state = until(&cell, "all are there", |state| state.hosts().count() == 10).await;
    let description = group("g", GroupKind::Service { count: 1 }, 1).spec;
    let start = (0..20_000).fold(Transaction::on(&state), |transaction, n| {
        transaction.start(Job {
            spec: Arc::clone(&description),
            ..job(&format!("j{n}"), "g", &format!("h{}", n % 10), 1)
        })
    });
    let whole = cell
        .commit(start.clone().all_or_nothing())
        .await
        .unwrap_err();
    assert!(matches!(whole, Error::Conflict { .. }), "{whole}");
    assert_eq!(
        cell.snapshot().await.unwrap().jobs().count(),
        0,
        "nothing happened"
    );
    let committed = cell.commit(start).await.unwrap();
    assert_eq!(committed.state.jobs().count(), 15_000);
    assert_eq!(committed.refused.len(), 5000);
    assert!(
        committed
            .refused
            .iter()
            .all(|refused| refused.why.contains("of memory"))
    );
}
