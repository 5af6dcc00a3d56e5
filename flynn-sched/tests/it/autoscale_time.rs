//! Windows, steps, schedules, cooldowns and forecasts: what the autoscaler makes of time.

use std::time::Duration;

use flynn_sched::autoscale::{
    Autoscaler, Cooldown, LinearTrend, Pace, Policy, Schedule, Seasonal, Select, State, Step,
    Weekly, When,
};

use crate::autoscale::{
    HOUR, MINUTE, MONDAY_MS, SECOND, by_cpu, by_requests, cpu, decide, eager, total, why,
};

#[test]
fn the_count_goes_down_only_to_the_highest_recommendation_of_the_window() {
    let policy = Policy::builder(1, 100).with_target(by_requests());
    let autoscaler = Autoscaler::new(policy.with_up(Pace::new(Duration::ZERO)).build().unwrap());
    let mut state = State::default();
    let mut at = |second: u64, count: u32, value: f64| {
        let seen = total(MONDAY_MS + second * SECOND, count, value);
        autoscaler.decide(&mut state, &seen)
    };
    assert_eq!(at(0, 1, 1000.0).count, 10);
    assert_eq!(at(60, 10, 700.0).count, 10);
    let held = at(120, 10, 200.0);
    assert_eq!(held.count, 10);
    assert!(
        held.to_string()
            .ends_with("the last 5 min asked for up to 10"),
        "{held}"
    );
    assert_eq!(
        at(300, 10, 200.0).count,
        7,
        "what was asked at 0 s is forgotten"
    );
    assert_eq!(at(359, 7, 200.0).count, 7);
    assert_eq!(at(360, 7, 200.0).count, 2);
}

#[test]
fn the_count_goes_up_only_to_the_lowest_recommendation_of_the_window() {
    let up = Pace::new(Duration::from_secs(60));
    let policy = Policy::builder(1, 100)
        .with_target(by_requests())
        .with_up(up);
    let autoscaler = Autoscaler::new(policy.build().unwrap());
    let mut state = State::default();
    let mut at = |second: u64, value: f64| {
        let seen = total(MONDAY_MS + second * SECOND, 2, value);
        autoscaler.decide(&mut state, &seen).count
    };
    assert_eq!(
        at(0, 1000.0),
        2,
        "the first decision takes the present count for the past"
    );
    assert_eq!(at(30, 500.0), 2);
    assert_eq!(at(60, 1000.0), 5);
    assert_eq!(at(90, 1000.0), 10);
}

#[test]
fn steps_limit_how_far_a_count_moves_and_say_so() {
    let run = |select: Select| {
        let up = Pace::new(Duration::ZERO)
            .with_step(Step::jobs(4, Duration::from_secs(15)))
            .with_step(Step::percent(100, Duration::from_secs(15)))
            .with_select(select);
        let policy = Policy::builder(1, 100)
            .with_target(by_requests())
            .with_up(up);
        let autoscaler = Autoscaler::new(policy.build().unwrap());
        let (mut state, mut count, mut counts) = (State::default(), 3, Vec::new());
        for second in [0, 5, 15, 30] {
            let seen = total(MONDAY_MS + second * SECOND, count, 9000.0);
            let decision = autoscaler.decide(&mut state, &seen);
            assert_eq!(decision.is_change(), count != decision.count);
            count = decision.count;
            counts.push(count);
        }
        counts
    };
    assert_eq!(run(Select::Max), [7, 7, 14, 28]);
    assert_eq!(run(Select::Min), [6, 6, 10, 14]);
    assert_eq!(run(Select::Never), [3, 3, 3, 3]);
}

#[test]
fn schedules_raise_the_floor_and_lower_the_ceiling_while_they_hold() {
    let office = Schedule::weekly("office", "mon-fri 08:00-18:00 Europe/Berlin").unwrap();
    let night = Schedule::weekly("night", "daily 22:00-06:00 UTC").unwrap();
    let policy = eager(1, 50)
        .with_target(by_requests())
        .with_schedule(office.with_floor(10))
        .with_schedule(night.with_ceiling(4));
    // Berlin is an hour ahead in November.
    let at =
        |hour: u64, value: f64| decide(policy.clone(), &total(MONDAY_MS + hour * HOUR, 2, value));
    assert_eq!(at(6, 100.0).count, 1);
    let raised = at(7, 100.0);
    assert_eq!(raised.count, 10);
    assert!(
        raised
            .to_string()
            .ends_with("schedule office wants at least 10"),
        "{raised}"
    );
    assert_eq!(at(17, 2000.0).count, 20);
    assert_eq!(at(23, 2000.0).count, 4);
    assert_eq!(at(5 * 24 + 12, 100.0).count, 1, "not on a Saturday");
}

#[test]
fn a_weekly_window_knows_days_midnight_and_changes_of_the_clock() {
    let covers = |text: &str, hour: u64| {
        text.parse::<Weekly>()
            .unwrap()
            .covers(MONDAY_MS + hour * HOUR)
    };
    // It begins on Sunday and goes on into Monday.
    assert!(covers("sun 22:00-06:00 UTC", 5) && !covers("sun 22:00-06:00 UTC", 6));
    assert!(!covers("mon 22:00-06:00 UTC", 5) && covers("mon 22:00-06:00 UTC", 29));
    assert!(covers("sat-mon 00:00-24:00 UTC", 0) && !covers("sat-mon 00:00-24:00 UTC", 24));
    assert!(covers("mon 09:00-10:00 +09:00", 0) && covers("sun 19:00-20:00 -05:00", 0));
    // 2024-07-01 is a Monday too, in summer.
    let summer = 1_719_792_000_000;
    let office: Weekly = "mon 08:00-18:00 Europe/Berlin".parse().unwrap();
    assert!(office.covers(summer + 6 * HOUR) && !office.covers(summer + 6 * HOUR - 1));
    assert_eq!(office.to_string(), "mon 08:00-18:00 Europe/Berlin");
    let json = serde_json::to_string(&office).unwrap();
    assert_eq!(serde_json::from_str::<Weekly>(&json).unwrap(), office);
    assert!(!office.covers(u64::MAX));
    assert!(
        When::Once {
            from_ms: 5,
            to_ms: 7
        }
        .covers(6)
            && !When::Once {
                from_ms: 5,
                to_ms: 7
            }
            .covers(7)
    );
}

#[test]
fn a_weekly_window_that_cannot_be_read_names_the_position() {
    for (text, position) in [
        ("mon-fry 08:00-18:00 UTC", "position 1:"),
        ("mon,tue,xyz 08:00-18:00 UTC", "position 9:"),
        ("mon 8-18 UTC", "position 5:"),
        ("mon 24:00-06:00 UTC", "position 5:"),
        ("mon 08:00-18:00 Europe/Atlantis", "position 17:"),
        ("mon 08:00-18:00 UTC please", "position 21:"),
        ("mon 08:00-18:00", "position 16:"),
    ] {
        let why = why(text.parse::<Weekly>());
        assert!(why.contains(position), "{text}: {why}");
    }
}

#[test]
fn a_deployment_holds_the_count_for_a_while() {
    for (what, on_idle, on_load) in [(Cooldown::Down, 4, 8), (Cooldown::Both, 4, 4)] {
        let policy = eager(1, 100)
            .with_target(by_cpu())
            .with_cooldown(Duration::from_secs(60), what);
        let autoscaler = Autoscaler::new(policy.build().unwrap());
        let at = |second: u64, value: f64| {
            let mut state = State::default();
            let first = cpu(MONDAY_MS, 4, 0.5).deployed_at(MONDAY_MS);
            assert_eq!(autoscaler.decide(&mut state, &first).count, 4);
            autoscaler.decide(&mut state, &cpu(MONDAY_MS + second * SECOND, 4, value))
        };
        assert_eq!((at(59, 0.1).count, at(59, 1.0).count), (on_idle, on_load));
        assert_eq!((at(60, 0.1).count, at(60, 1.0).count), (1, 8));
        assert!(
            at(59, 0.1)
                .to_string()
                .contains("a deployment 59 s ago holds back")
        );
    }
}

#[test]
fn a_trend_raises_the_count_before_the_load_is_there() {
    let policy = eager(1, 100).with_target(by_requests());
    let autoscaler = Autoscaler::new(policy.build().unwrap())
        .with_forecast(
            Duration::from_secs(600),
            LinearTrend::over(Duration::from_secs(900)).unwrap(),
        )
        .unwrap();
    let (mut state, mut count, mut last) = (State::default(), 1, None);
    for minute in 0..=15_u32 {
        // 20 requests a second more every minute.
        let load = 100.0 + 20.0 * f64::from(minute);
        let now = MONDAY_MS + u64::from(minute) * MINUTE;
        let decision = autoscaler.decide(&mut state, &total(now, count, load));
        count = decision.count;
        last = Some(decision);
    }
    // At minute 15 it is 400; in ten minutes it will be 600 (600.0 plus half a step of rounding).
    let last = last.unwrap();
    assert!((6..=7).contains(&count), "{last}");
    assert!(
        last.because
            .iter()
            .any(|reason| reason.to_string().contains("linear trend")),
        "{last}"
    );
}

#[test]
fn yesterday_raises_the_count_before_the_load_is_there() {
    let policy = eager(1, 100)
        .with_target(by_requests())
        .with_history_step(Duration::from_secs(300));
    let autoscaler = Autoscaler::new(policy.build().unwrap())
        .with_forecast(Duration::from_secs(1800), Seasonal::daily())
        .unwrap();
    let mut state = State::default();
    let mut count = 1;
    let mut at_half_past_seven = Vec::new();
    for step in 0..3 * 288_u64 {
        let minute_of_day = step % 288 * 5;
        let load = if (480..1080).contains(&minute_of_day) {
            1000.0
        } else {
            100.0
        };
        let seen = total(MONDAY_MS + step * 5 * MINUTE, count, load);
        count = autoscaler.decide(&mut state, &seen).count;
        if minute_of_day == 7 * 60 + 40 {
            at_half_past_seven.push(count);
        }
    }
    assert_eq!(
        at_half_past_seven,
        [1, 10, 10],
        "the first day it cannot know"
    );
}

#[test]
fn a_clock_that_steps_back_loses_no_window() {
    let policy = Policy::builder(1, 100).with_target(by_requests());
    let autoscaler = Autoscaler::new(policy.build().unwrap());
    let mut state = State::default();
    assert_eq!(
        autoscaler
            .decide(&mut state, &total(MONDAY_MS, 10, 1000.0))
            .count,
        10
    );
    let earlier = MONDAY_MS - 24 * HOUR;
    assert_eq!(
        autoscaler
            .decide(&mut state, &total(earlier, 10, 100.0))
            .count,
        10
    );
    let later = earlier + 299 * SECOND;
    assert_eq!(
        autoscaler
            .decide(&mut state, &total(later, 10, 100.0))
            .count,
        10
    );
    let later = earlier + 300 * SECOND;
    assert_eq!(
        autoscaler
            .decide(&mut state, &total(later, 10, 100.0))
            .count,
        1
    );
}
