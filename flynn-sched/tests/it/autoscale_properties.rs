//! What the autoscaler never does, whatever it is told; and a day in a closed loop.

use std::time::Duration;

use flynn_sched::autoscale::{
    Autoscaler, Decision, LinearTrend, Metric, Observation, Pace, Policy, PolicyBuilder, Schedule,
    Seasonal, Select, State, Step,
};
use proptest::prelude::*;

use crate::autoscale::{
    MINUTE, MONDAY_MS, SECOND, by_cpu, by_requests, cpu, eager, job_id, total, warm,
};

/// What is seen at one moment: seconds since the last, CPU shares of the jobs that tell one, requests if told, and what
/// somebody else made of the count.
#[derive(Debug, Clone)]
struct Moment {
    seconds: u64,
    shares: Vec<f64>,
    requests: Option<f64>,
    meddling: Option<u32>,
}

fn any_moment() -> impl Strategy<Value = Moment> {
    let share = prop_oneof![
        20 => 0.0..2.0_f64,
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(-1.0),
        1 => Just(f64::MAX),
    ];
    let requests = prop_oneof![3 => (0.0..5000.0_f64).prop_map(Some), 1 => Just(None)];
    let meddling = prop_oneof![12 => Just(None), 1 => any::<u32>().prop_map(Some)];
    (
        1..120_u64,
        prop::collection::vec(share, 0..8),
        requests,
        meddling,
    )
        .prop_map(|(seconds, shares, requests, meddling)| Moment {
            seconds,
            shares,
            requests,
            meddling,
        })
}

fn any_select() -> impl Strategy<Value = Select> {
    prop_oneof![Just(Select::Max), Just(Select::Min), Just(Select::Never)]
}

fn any_pace() -> impl Strategy<Value = Pace> {
    let step = (any::<bool>(), 1..60_u32, 1..300_u64).prop_map(|(is_share, amount, seconds)| {
        let period = Duration::from_secs(seconds);
        match is_share {
            true => Step::percent(amount, period),
            false => Step::jobs(amount, period),
        }
    });
    let parts = (
        0..400_u64,
        0.0..0.3_f64,
        prop::collection::vec(step, 0..3),
        any_select(),
    );
    parts.prop_map(|(window, tolerance, steps, select)| {
        let pace = Pace::new(Duration::from_secs(window)).with_tolerance(tolerance);
        steps
            .into_iter()
            .fold(pace, Pace::with_step)
            .with_select(select)
    })
}

prop_compose! {
    fn any_policy()(
        minimum in 0..10_u32,
        range in 1..60_u32,
        up in any_pace(),
        down in any_pace(),
        floor in prop::option::of(0..60_u32),
        ceiling in prop::option::of(0..60_u32),
    ) -> PolicyBuilder {
        let maximum = minimum + range;
        let mut policy = Policy::builder(minimum, maximum)
            .with_target(by_cpu())
            .with_target(by_requests())
            .with_up(up)
            .with_down(down);
        if let Some(floor) = floor {
            let schedule = Schedule::weekly("floor", "mon 00:05-00:20 UTC").unwrap();
            policy = policy.with_schedule(schedule.with_floor(floor.clamp(minimum, maximum)));
        }
        if let Some(ceiling) = ceiling {
            let schedule = Schedule::weekly("ceiling", "mon 00:10-00:30 UTC").unwrap();
            policy = policy.with_schedule(schedule.with_ceiling(ceiling.clamp(minimum, maximum)));
        }
        policy
    }
}

fn observation(now_ms: u64, count: u32, moment: &Moment) -> Observation {
    let mut seen = Observation::at(now_ms, count);
    for (n, share) in (0..).zip(&moment.shares) {
        seen = seen.with_job(&Metric::cpu(), job_id(n), warm(*share, now_ms));
    }
    match moment.requests {
        Some(requests) => seen.with_total(&Metric::requests(), requests, now_ms),
        None => seen,
    }
}

/// With forecasts, so that their histories are part of what is checked.
fn autoscaler(policy: PolicyBuilder) -> Autoscaler {
    let minutes = |n: u64| Duration::from_secs(n * 60);
    Autoscaler::new(policy.build().unwrap())
        .with_forecast(minutes(2), LinearTrend::over(minutes(5)).unwrap())
        .and_then(|scaler| {
            scaler.with_forecast(minutes(5), Seasonal::every(minutes(10), 2).unwrap())
        })
        .unwrap()
}

/// Decides moment by moment, each decision being the next count.
fn run(
    scaler: &Autoscaler,
    state: &mut State,
    from: u32,
    moments: &[Moment],
) -> Vec<(u64, Decision)> {
    let (mut now_ms, mut count) = (MONDAY_MS, from);
    let decide = |moment: &Moment| {
        now_ms += moment.seconds * SECOND;
        count = moment.meddling.unwrap_or(count);
        let decision = scaler.decide(state, &observation(now_ms, count, moment));
        count = decision.count;
        (now_ms, decision)
    };
    moments.iter().map(decide).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Whatever is measured, forecast or done by others.
    #[test]
    fn a_decision_is_within_the_bounds_and_explains_itself(
        policy in any_policy(),
        from in any::<u32>(),
        moments in prop::collection::vec(any_moment(), 1..40),
    ) {
        let scaler = autoscaler(policy);
        for (now_ms, decision) in run(&scaler, &mut State::default(), from, &moments) {
            let bounds = scaler.policy().bounds_at(now_ms);
            prop_assert!(bounds.contains(&decision.count), "{bounds:?}: {decision}");
            prop_assert!(!decision.because.is_empty());
            let text = decision.to_string();
            prop_assert!(!text.contains('\n') && text.contains(&decision.count.to_string()));
        }
    }

    /// In any stretch shorter than the period, by the count at its beginning.
    #[test]
    fn steps_hold_over_any_stretch(
        (jobs, percent) in (1..10_u32, 1..200_u32),
        (jobs_s, percent_s) in (1..300_u64, 1..300_u64),
        moments in prop::collection::vec(any_moment(), 1..60),
        from in 0..60_u32,
    ) {
        let pace = Pace::new(Duration::ZERO)
            .with_step(Step::jobs(jobs, Duration::from_secs(jobs_s)))
            .with_step(Step::percent(percent.min(100), Duration::from_secs(percent_s)))
            .with_select(Select::Min);
        let policy = Policy::builder(0, u32::MAX)
            .with_target(by_cpu())
            .with_target(by_requests())
            .with_up(pace.clone())
            .with_down(pace);
        let moments: Vec<_> = moments.into_iter().map(|m| Moment { meddling: None, ..m }).collect();
        let decisions = run(&autoscaler(policy), &mut State::default(), from, &moments);
        for (n, (began_ms, first)) in decisions.iter().enumerate() {
            for (now_ms, last) in &decisions[n..] {
                // `first.from` was in force until `began_ms`.
                let moved = last.count.abs_diff(first.from);
                if now_ms - began_ms < jobs_s * SECOND {
                    prop_assert!(moved <= jobs, "{first} … {last}");
                }
                if now_ms - began_ms < percent_s * SECOND {
                    let share = (u64::from(first.from) * u64::from(percent.min(100))).div_ceil(100);
                    prop_assert!(u64::from(moved) <= share.max(1), "{first} … {last}");
                }
            }
        }
    }

    /// All else equal.
    #[test]
    fn more_load_never_gives_fewer_jobs(
        policy in any_policy(),
        from in 0..100_u32,
        past in prop::collection::vec(any_moment(), 0..30),
        moment in any_moment(),
        more in prop::collection::vec(0.0..2.0_f64, 8),
        more_requests in 0.0..2000.0_f64,
    ) {
        let scaler = autoscaler(policy);
        let mut state = State::default();
        let past = run(&scaler, &mut state, from, &past);
        let (now_ms, count) = past.last().map_or((MONDAY_MS, from), |(ms, last)| (*ms, last.count));
        let shares = moment.shares.iter().zip(&more);
        let loaded = Moment {
            // What makes no sense stays so.
            shares: shares.map(|(a, b)| if *a >= 0.0 { a + b } else { *a }).collect(),
            requests: moment.requests.map(|requests| requests + more_requests),
            ..moment.clone()
        };
        let decide = |moment: &Moment| {
            let seen = observation(now_ms + SECOND, count, moment);
            scaler.decide(&mut state.clone(), &seen)
        };
        let (calm, busy) = (decide(&moment), decide(&loaded));
        prop_assert!(busy.count >= calm.count, "{calm}\n{busy}");
    }

    /// A leader that takes over with the serialised state decides as the old one would have.
    #[test]
    fn a_restored_state_has_the_same_future(
        policy in any_policy(),
        from in 0..100_u32,
        past in prop::collection::vec(any_moment(), 0..30),
        future in prop::collection::vec(any_moment(), 1..30),
    ) {
        let scaler = autoscaler(policy);
        let mut state = State::default();
        run(&scaler, &mut state, from, &past);
        let json = serde_json::to_string(&state).unwrap();
        let mut restored: State = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&restored, &state);
        let old = run(&scaler, &mut state, from, &future);
        prop_assert_eq!(run(&scaler, &mut restored, from, &future), old);
    }

    /// The load is shared by the jobs there are; the defaults of Kubernetes, any tolerance.
    #[test]
    fn under_a_constant_load_it_converges_and_rests(
        load in 0.0..40.0_f64,
        from in 1..60_u32,
        tolerance in 0.0..0.3_f64,
    ) {
        let policy = Policy::builder(1, 100)
            .with_target(by_cpu())
            .with_up(Pace::up().with_tolerance(tolerance))
            .with_down(Pace::down().with_tolerance(tolerance));
        let scaler = Autoscaler::new(policy.build().unwrap());
        let (mut state, mut count, mut last_change) = (State::default(), from, 0);
        for tick in 0..200_u64 {
            let seen = cpu(MONDAY_MS + tick * 15 * SECOND, count, load / f64::from(count));
            let decision = scaler.decide(&mut state, &seen);
            if decision.is_change() {
                last_change = tick;
            }
            count = decision.count;
        }
        prop_assert!(last_change < 40, "it still moved at tick {last_change}");
        let share = load / f64::from(count);
        prop_assert!(share <= 0.5 * (1.0 + tolerance) + 1e-6, "{count} jobs at {share}");
        let fewer = load / f64::from(count - 1) ;
        prop_assert!(count == 1 || fewer > 0.5 * (1.0 - tolerance) - 1e-6 , "{count} jobs are too many");
    }

    /// Peaks that return sooner than the window down ends: the count stays up.
    #[test]
    fn a_square_wave_faster_than_the_window_down_does_not_make_it_flap(
        (low, high) in (0.0..900.0_f64, 1000.0..5000.0_f64),
        (up_s, down_s) in (15..200_u64, 15..200_u64),
    ) {
        let scaler = Autoscaler::new(eager(1, 100)
            .with_target(by_requests())
            .with_down(Pace::down())
            .build()
            .unwrap());
        let (mut state, mut count, mut changes) = (State::default(), 1, Vec::new());
        for tick in 0..400_u64 {
            let second = tick * 15;
            let load = if second % (up_s + down_s) < up_s { high } else { low };
            let decision = scaler.decide(&mut state, &total(MONDAY_MS + second * SECOND, count, load));
            if decision.is_change() {
                changes.push(decision.to_string());
            }
            count = decision.count;
        }
        prop_assert_eq!(changes.len(), 1, "{:?}", changes);
    }
}

/// A day of a shop: quiet at night, busy from eight, a peak at seven in the evening, two minutes for a job to start. The
/// loop is closed: the count decides how busy each job is, and jobs that start do not work yet.
fn a_day(scaler: &Autoscaler, days: u64) -> (Vec<u32>, f64, usize) {
    let (mut state, mut count) = (State::default(), 4_u32);
    // Since when each job is ready.
    let mut ready: Vec<u64> = vec![MONDAY_MS - 10 * MINUTE; 4];
    let (mut counts, mut overloaded, mut changes) = (Vec::new(), 0.0, 0);
    let ticks = days * 24 * 60 * 4;
    for tick in 0..ticks {
        let now_ms = MONDAY_MS + tick * 15 * SECOND;
        let hour = f64::from(u32::try_from(tick % (24 * 60 * 4)).unwrap()) / 240.0;
        let bell = |at: f64, width: f64| (-((hour - at) / width).powi(2)).exp();
        let load = 2.0 + 9.0 * bell(13.0, 4.0) + 8.0 * bell(19.0, 1.0);
        let working = ready
            .iter()
            .filter(|since| **since <= now_ms)
            .count()
            .max(1);
        let share = load / f64::from(u32::try_from(working).unwrap());
        let mut seen = Observation::at(now_ms, count);
        for (n, since) in (0..).zip(&ready) {
            let mut sample = warm(if *since <= now_ms { share } else { 0.1 }, now_ms);
            sample.ready_since_ms = (*since <= now_ms).then_some(*since);
            seen = seen.with_job(&Metric::cpu(), job_id(n), sample);
        }
        let decision = scaler.decide(&mut state, &seen);
        changes += usize::from(decision.is_change());
        count = decision.count;
        ready.resize(count as usize, now_ms + 2 * MINUTE);
        if tick >= ticks - 24 * 60 * 4 {
            counts.push(count);
            overloaded += f64::from(u8::from(share > 0.75)) / (24.0 * 240.0);
        }
    }
    (counts, overloaded, changes)
}

#[test]
fn over_a_synthetic_day_the_count_follows_the_load() {
    let policy = || {
        Policy::builder(2, 60)
            .with_target(by_cpu())
            .build()
            .unwrap()
    };
    let (counts, overloaded, changes) = a_day(&Autoscaler::new(policy()), 1);
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(
        (4..=5).contains(least),
        "at night 2.0 of load need 4 jobs, not {least}"
    );
    // The peak is 2 + 9·e^-2.25 + 8 = 10.9 at seven, 11.1 at one: at a share of 0.5 that is 23.
    assert!((21..=26).contains(most), "{most}");
    assert!(
        overloaded < 0.01,
        "{overloaded} of the day above 0.75 a job"
    );
    assert!(changes < 120, "{changes} changes in a day");

    let ahead = Autoscaler::new(policy())
        .with_forecast(
            Duration::from_secs(300),
            LinearTrend::over(Duration::from_secs(900)).unwrap(),
        )
        .unwrap();
    let reactive = mean_shortfall(&counts);
    let (counts, overloaded, _) = a_day(&ahead, 1);
    assert!(overloaded < 0.01);
    assert!(
        mean_shortfall(&counts) < reactive,
        "a trend is there before the load"
    );
}

/// By how many jobs the day's counts were short of the target on average.
fn mean_shortfall(counts: &[u32]) -> f64 {
    let short = (0_u32..).zip(counts).map(|(tick, count)| {
        let hour = f64::from(tick) / 240.0;
        let bell = |at: f64, width: f64| (-((hour - at) / width).powi(2)).exp();
        let load = 2.0 + 9.0 * bell(13.0, 4.0) + 8.0 * bell(19.0, 1.0);
        (load / 0.5 - f64::from(*count)).max(0.0)
    });
    short.sum::<f64>() / f64::from(u32::try_from(counts.len()).unwrap())
}
