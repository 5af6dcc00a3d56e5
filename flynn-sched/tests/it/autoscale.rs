//! What the autoscaler decides, case by case.

use std::time::Duration;

use flynn_sched::{
    ClusterState, Error, GroupKind, JobId, Result, Transaction,
    autoscale::{
        Autoscaler, Decision, Forecast, History, JobSample, Metric, Observation, Pace, Policy,
        PolicyBuilder, Schedule, Seasonal, State, Step, Target,
    },
};

use crate::fixture::{group, group_id};

/// A Monday, 00:00 UTC.
pub(crate) const MONDAY_MS: u64 = 1_700_438_400_000;
pub(crate) const SECOND: u64 = 1000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;

pub(crate) fn job_id(n: u32) -> JobId {
    JobId::parse(format!("job-{n}")).unwrap()
}

/// A sample of a job that has been ready for long.
pub(crate) fn warm(value: f64, at_ms: u64) -> JobSample {
    let ready_since_ms = Some(at_ms.saturating_sub(HOUR));
    JobSample {
        value,
        at_ms,
        ready_since_ms,
    }
}

/// `count` jobs, each with this CPU share.
pub(crate) fn cpu(now_ms: u64, count: u32, value: f64) -> Observation {
    (0..count).fold(Observation::at(now_ms, count), |seen, n| {
        seen.with_job(&Metric::cpu(), job_id(n), warm(value, now_ms))
    })
}

pub(crate) fn total(now_ms: u64, count: u32, value: f64) -> Observation {
    Observation::at(now_ms, count).with_total(&Metric::requests(), value, now_ms)
}

/// Neither windows nor steps: what is asked for is done.
pub(crate) fn eager(minimum: u32, maximum: u32) -> PolicyBuilder {
    Policy::builder(minimum, maximum)
        .with_up(Pace::new(Duration::ZERO))
        .with_down(Pace::new(Duration::ZERO))
}

pub(crate) fn by_cpu() -> Target {
    Target::average(Metric::cpu(), 0.5)
}

pub(crate) fn by_requests() -> Target {
    Target::total(Metric::requests(), 100.0)
}

pub(crate) fn decide(policy: PolicyBuilder, seen: &Observation) -> Decision {
    Autoscaler::new(policy.build().unwrap()).decide(&mut State::default(), seen)
}

pub(crate) fn why(result: Result<impl std::fmt::Debug>) -> String {
    match result.unwrap_err() {
        Error::Invalid { what, why } => format!("{what}: {why}"),
        other => panic!("{other}"),
    }
}

#[test]
fn the_mean_over_the_jobs_is_brought_to_its_target() {
    let policy = || eager(1, 100).with_target(by_cpu());
    let decision = decide(policy(), &cpu(MONDAY_MS, 4, 0.8));
    assert_eq!(decision.count, 7);
    assert_eq!(
        decision.to_string(),
        "go up from 4 to 7: cpu asks for 7 (0.8 a job, target 0.5)"
    );
    assert_eq!(decide(policy(), &cpu(MONDAY_MS, 10, 0.2)).count, 4);
    let decision = decide(policy(), &cpu(MONDAY_MS, 4, 0.54));
    assert_eq!(
        decision.to_string(),
        "stay at 4: cpu asks for 4 (0.54 a job, target 0.5)"
    );
}

#[test]
fn a_total_is_shared_and_a_level_is_held() {
    let policy = eager(1, 100).with_target(by_requests());
    assert_eq!(decide(policy, &total(MONDAY_MS, 3, 1234.0)).count, 13);
    let latency = Metric::parse("p99_latency_ms").unwrap();
    let policy = eager(1, 100).with_target(Target::level(latency.clone(), 200.0));
    let seen = Observation::at(MONDAY_MS, 4).with_total(&latency, 500.0, MONDAY_MS);
    assert_eq!(decide(policy, &seen).count, 10);
}

#[test]
fn of_several_metrics_the_one_that_asks_for_most_counts() {
    let policy = || {
        eager(1, 100)
            .with_target(by_cpu())
            .with_target(by_requests())
    };
    let seen = cpu(MONDAY_MS, 4, 0.8).with_total(&Metric::requests(), 950.0, MONDAY_MS);
    assert_eq!(decide(policy(), &seen).count, 10);
    let seen = cpu(MONDAY_MS, 4, 0.8).with_total(&Metric::requests(), 10.0, MONDAY_MS);
    assert_eq!(decide(policy(), &seen).count, 7);
}

#[test]
fn a_missing_metric_never_lowers_the_count_and_does_not_keep_others_from_raising_it() {
    let policy = || {
        eager(1, 100)
            .with_target(by_cpu())
            .with_target(by_requests())
    };
    let decision = decide(policy(), &cpu(MONDAY_MS, 4, 0.1));
    assert_eq!(decision.count, 4);
    assert!(
        decision.to_string().contains("no fresh sample of requests"),
        "{decision}"
    );
    assert_eq!(decide(policy(), &cpu(MONDAY_MS, 4, 1.0)).count, 8);
    assert_eq!(decide(policy(), &Observation::at(MONDAY_MS, 4)).count, 4);
    let stale =
        Observation::at(MONDAY_MS, 4).with_total(&Metric::requests(), 1.0, MONDAY_MS - HOUR);
    assert_eq!(
        decide(eager(1, 9).with_target(by_requests()), &stale).count,
        4
    );
}

#[test]
fn jobs_without_a_sample_count_as_idle_on_the_way_up_and_as_busy_on_the_way_down() {
    let policy = || eager(1, 100).with_target(by_cpu());
    let two_of = |count: u32, value: f64| {
        (0..2).fold(Observation::at(MONDAY_MS, count), |seen, n| {
            seen.with_job(&Metric::cpu(), job_id(n), warm(value, MONDAY_MS))
        })
    };
    // Two jobs do the work of four: the other two may be about to take their share.
    assert_eq!(decide(policy(), &two_of(4, 1.0)).count, 4);
    assert_eq!(decide(policy(), &two_of(4, 2.0)).count, 8);
    // Two jobs idle: the other two may be busy.
    let decision = decide(policy(), &two_of(4, 0.0));
    assert_eq!(decision.count, 2);
    assert!(
        decision.to_string().contains("2 jobs without a sample"),
        "{decision}"
    );
}

#[test]
fn a_job_that_warms_up_does_not_count_yet() {
    let policy = || {
        eager(1, 100)
            .with_target(by_cpu())
            .with_warm_up(Duration::from_secs(30))
    };
    let ready = |since: Option<u64>| JobSample {
        value: 5.0,
        at_ms: MONDAY_MS,
        ready_since_ms: since,
    };
    for since in [None, Some(MONDAY_MS - 29 * SECOND)] {
        let seen = cpu(MONDAY_MS, 2, 0.5).with_job(&Metric::cpu(), job_id(1), ready(since));
        assert_eq!(decide(policy(), &seen).count, 2, "{since:?}");
    }
    let warm = ready(Some(MONDAY_MS - 30 * SECOND));
    let seen = cpu(MONDAY_MS, 2, 0.5).with_job(&Metric::cpu(), job_id(1), warm);
    assert_eq!(decide(policy(), &seen).count, 11);
}

#[test]
fn absurd_samples_are_ignored_and_counted() {
    let autoscaler = Autoscaler::new(eager(1, 9).with_target(by_cpu()).build().unwrap());
    let mut state = State::default();
    let mut seen = cpu(MONDAY_MS, 4, 0.8);
    for (n, value) in [f64::NAN, f64::INFINITY, -1.0].into_iter().enumerate() {
        let id = job_id(u32::try_from(n).unwrap());
        seen = seen.with_job(&Metric::cpu(), id, warm(value, MONDAY_MS));
    }
    let from_the_future = warm(0.9, MONDAY_MS + HOUR);
    let seen = seen.with_job(&Metric::cpu(), job_id(77), from_the_future);
    let decision = autoscaler.decide(&mut state, &seen);
    assert_eq!((decision.count, state.ignored()), (4, 4));
    assert!(
        decision.to_string().contains("4 samples made no sense"),
        "{decision}"
    );
    let huge = cpu(MONDAY_MS, 4, f64::MAX);
    assert_eq!(
        autoscaler.decide(&mut state, &huge).count,
        9,
        "the maximum holds"
    );
}

#[test]
fn nothing_to_do_means_no_jobs_and_something_to_do_means_one() {
    let target = Target::total(Metric::requests(), 100.0).with_activation(5.0);
    let policy = || {
        eager(0, 9)
            .with_target(target.clone())
            .with_target(by_cpu())
    };
    let both = |count: u32, value: f64, requests: f64| {
        cpu(MONDAY_MS, count, value).with_total(&Metric::requests(), requests, MONDAY_MS)
    };
    assert_eq!(decide(policy(), &both(1, 0.02, 5.0)).count, 0);
    assert_eq!(
        decide(policy(), &both(1, 0.5, 5.0)).count,
        1,
        "it is still busy"
    );
    assert_eq!(decide(policy(), &both(0, 0.0, 5.0)).count, 0);
    assert_eq!(decide(policy(), &both(0, 0.0, 5.1)).count, 1);
    assert_eq!(decide(policy(), &both(0, 0.0, 501.0)).count, 6);
}

#[test]
fn a_forecast_of_nonsense_changes_nothing() {
    #[derive(Debug)]
    struct Oracle(f64);
    impl Forecast for Oracle {
        fn name(&self) -> &'static str {
            "oracle"
        }
        fn lookback(&self) -> Duration {
            Duration::from_secs(60)
        }
        fn expect(&self, _: &History, _: u64, _: u64) -> Option<f64> {
            Some(self.0)
        }
    }
    for (expected, count) in [
        (f64::NAN, 2),
        (f64::INFINITY, 2),
        (-5.0, 2),
        (1.0, 2),
        (450.0, 5),
    ] {
        let policy = eager(1, 100).with_target(by_requests()).build().unwrap();
        let autoscaler = Autoscaler::new(policy)
            .with_forecast(Duration::from_secs(60), Oracle(expected))
            .unwrap();
        let decision = autoscaler.decide(&mut State::default(), &total(MONDAY_MS, 2, 200.0));
        assert_eq!(decision.count, count, "{decision}");
    }
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_with_a_reason() {
    let seconds = Duration::from_secs;
    let some = || Policy::builder(1, 9).with_target(by_cpu());
    let floor = |n: u32| {
        Schedule::weekly("s", "daily 00:00-24:00 UTC")
            .unwrap()
            .with_floor(n)
    };
    let refused = [
        (
            Policy::builder(5, 4).with_target(by_cpu()),
            "the minimum is above the maximum",
        ),
        (
            Policy::builder(0, 0).with_target(by_requests()),
            "nothing could ever run",
        ),
        (Policy::builder(1, 2), "there is nothing to follow"),
        (
            Policy::builder(0, 2).with_target(by_cpu()),
            "stay at 0 for ever",
        ),
        (some().with_target(by_cpu()), "there are two"),
        (
            some().with_target(Target::total(Metric::cpu(), 0.0)),
            "not above zero",
        ),
        (
            some().with_target(Target::total(Metric::cpu(), f64::NAN)),
            "not above zero",
        ),
        (
            some().with_target(Target::level(Metric::cpu(), f64::INFINITY)),
            "not above zero",
        ),
        (
            some().with_target(by_requests().with_activation(-1.0)),
            "an activation of -1",
        ),
        (
            some().with_target(Target::level(Metric::cpu(), 1.0).with_activation(1.0)),
            "only a total",
        ),
        (
            some().with_up(Pace::up().with_tolerance(f64::NAN)),
            "a tolerance of NaN",
        ),
        (
            some().with_down(Pace::new(seconds(90_000))),
            "a day is the most",
        ),
        (
            some().with_up(Pace::up().with_step(Step::jobs(0, seconds(1)))),
            "use Select::Never",
        ),
        (
            some().with_up(Pace::up().with_step(Step::jobs(1, seconds(0)))),
            "period of 0 s",
        ),
        (some().with_schedule(floor(10)), "outside of 1 to 9"),
        (
            some().with_schedule(floor(3).with_ceiling(2)),
            "above its ceiling",
        ),
        (
            some().with_max_age(Duration::ZERO),
            "greatest age of a sample",
        ),
        (
            some().with_history_step(Duration::ZERO),
            "history step of 0 s",
        ),
    ];
    for (policy, expected) in refused {
        let why = why(policy.build());
        assert!(why.contains(expected), "{why}");
    }
    let many = (0..17).fold(Policy::builder(1, 9), |policy, n| {
        policy.with_target(Target::total(Metric::parse(format!("m{n}")).unwrap(), 1.0))
    });
    assert!(why(many.build()).contains("at most 16"));
    let scaler = Autoscaler::new(some().with_history_step(seconds(1)).build().unwrap());
    assert!(
        why(scaler.with_forecast(seconds(60), Seasonal::weekly()))
            .contains("make the steps longer")
    );
    assert!(why(Metric::parse("a b")).contains("letters, digits"));
}

#[test]
fn a_policy_survives_json_and_is_checked_when_it_is_read() {
    let office = Schedule::weekly("office", "mon-fri 08:00-18:00 Europe/Berlin").unwrap();
    let policy = Policy::builder(1, 9)
        .with_target(by_cpu())
        .with_schedule(office.with_floor(3))
        .build()
        .unwrap();
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
    let small =
        r#"{"minimum":2,"maximum":5,"targets":[{"metric":"cpu","measure":"average","value":0.6}]}"#;
    let policy: Policy = serde_json::from_str(small).unwrap();
    assert_eq!((policy.minimum(), policy.maximum()), (2, 5));
    let refused = serde_json::from_str::<Policy>(&small.replace(":5", ":1")).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("the minimum is above the maximum"),
        "{refused}"
    );
}

#[test]
fn a_decision_is_written_unless_somebody_else_scaled_the_group() {
    let decision = decide(eager(1, 9).with_target(by_cpu()), &cpu(MONDAY_MS, 2, 1.0));
    let id = group_id("web");
    let with = |kind: GroupKind| {
        let put = Transaction::default().put_group(group("web", kind, 1));
        ClusterState::default().apply(&put).unwrap().state
    };
    let state = with(GroupKind::Service { count: 2 });
    let transaction = decision.transaction(&state, &id).unwrap();
    let scaled = state.apply(&transaction).unwrap().state;
    assert_eq!(
        scaled.group(&id).unwrap().kind,
        GroupKind::Service { count: 4 }
    );
    // The same transaction once more: the group is not what it was.
    let refused = scaled.apply(&transaction).unwrap().refused;
    assert!(!refused.is_empty() && refused.iter().all(|refused| refused.is_conflict));
    for (state, expected) in [
        (scaled, "its count is 4, and 2 was decided about"),
        (ClusterState::default(), "it is gone"),
        (with(GroupKind::Omni { per_host: 2 }), "only services"),
    ] {
        let error = decision.transaction(&state, &id).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let rest = decide(eager(1, 9).with_target(by_cpu()), &cpu(MONDAY_MS, 2, 0.5));
    assert!(rest.transaction(&state, &id).unwrap().is_empty());
}
