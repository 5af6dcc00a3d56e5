//! The cron scheduler: timetables, policies, and that each run happens exactly once whatever happens to schedulers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use flynn_sched::{
    Cluster, ClusterState, Cron, Group, GroupId, GroupKind, GroupStatus, LocalCluster, Missed,
    Overlap, Scheduler, SimCluster, Transaction,
    clock::ManualClock,
    scheduler::{BatchScheduler, Context, CronScheduler, SeededIds, Timetable},
    sim::Behaviour,
};
use futures::executor::block_on;
use proptest::prelude::*;

use crate::fixture::{group, group_id, host};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn ms(time: &str) -> u64 {
    let time: jiff::Timestamp = time.parse().unwrap();
    u64::try_from(time.as_millisecond()).unwrap()
}

fn text(ms: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap();
    time.to_string()
}

fn next(expression: &str, zone: &str, after: &str, n: usize) -> Vec<String> {
    let timetable = Timetable::parse(expression, zone).unwrap();
    let mut at = ms(after);
    let mut times = Vec::new();
    for _ in 0..n {
        at = timetable.next_after(at).unwrap();
        times.push(text(at));
    }
    times
}

#[test]
fn an_expression_means_times_in_its_zone() {
    assert_eq!(
        next(
            "30 9 * * MON-FRI",
            "Europe/Zurich",
            "2026-11-20T12:00:00Z",
            2
        ),
        ["2026-11-23T08:30:00Z", "2026-11-24T08:30:00Z"]
    );
    assert_eq!(
        next("@monthly", "UTC", "2026-11-20T12:00:00Z", 2),
        ["2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"]
    );
    assert_eq!(
        next("*/20 * * * * *", "UTC", "2026-11-20T12:00:00Z", 2),
        ["2026-11-20T12:00:20Z", "2026-11-20T12:00:40Z"]
    );
}

#[test]
fn a_fixed_time_in_the_hour_that_clocks_skip_runs_right_after_it() {
    // On 29 March 2026 in Zurich, 02:00 CET was followed by 03:00 CEST (01:00 UTC).
    assert_eq!(
        next("30 2 * * *", "Europe/Zurich", "2026-03-28T00:00:00Z", 3),
        [
            "2026-03-28T01:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:30:00Z"
        ]
    );
}

#[test]
fn a_fixed_time_in_the_hour_that_clocks_repeat_runs_once_and_first() {
    // On 25 October 2026 in Zurich, 03:00 CEST was followed by 02:00 CET: 02:30 was at 00:30 UTC and at 01:30 UTC.
    assert_eq!(
        next("30 2 * * *", "Europe/Zurich", "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
}

#[test]
fn an_interval_leaves_out_what_does_not_exist_and_repeats_what_exists_twice() {
    let zone = "Europe/Zurich";
    assert_eq!(
        next("*/30 * * * *", zone, "2026-03-29T00:15:00Z", 3),
        [
            "2026-03-29T00:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-29T01:30:00Z"
        ]
    );
    assert_eq!(
        next("*/30 * * * *", zone, "2026-10-25T00:15:00Z", 4),
        [
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-25T02:00:00Z"
        ]
    );
}

#[test]
fn what_is_wrong_with_an_expression_is_said_with_its_position() {
    let fault = |expression: &str| Timetable::parse(expression, "UTC").unwrap_err().to_string();
    let wrong = fault("0 9 * 13 *");
    assert!(wrong.contains("position 7: \"13\" is no month"), "{wrong}");
    let wrong = fault("0,15,61 9 * * *");
    assert!(wrong.contains("position 6: \"61\" is no minute"), "{wrong}");
    let wrong = fault("0 9 *");
    assert!(wrong.contains("has 3 fields: use 5"), "{wrong}");
    assert!(fault("").contains("has 0 fields"));
    assert!(fault("0 9 ü * *").contains("position 5: \"ü\""));
    assert!(fault("* * * * * * *").contains("has 7 fields"));
    assert!(fault("0 0 31 2 *").contains("means a time that never comes"));
    assert!(
        Timetable::parse("@daily", "Mars/Olympus")
            .unwrap_err()
            .to_string()
            .contains("IANA")
    );
}

fn cron(expression: &str, change: impl FnOnce(&mut Cron)) -> Group {
    let mut cron = Cron::new(expression);
    change(&mut cron);
    group("c", GroupKind::Cron(Box::new(cron)), 10)
}

fn status(state: &ClusterState) -> GroupStatus {
    let status = state.group_status(&group_id("c"));
    status.map_or_else(GroupStatus::default, |status| (**status).clone())
}

fn run(cell: &SimCluster, time: Duration) {
    let (mut crons, mut batches) = (CronScheduler::new(), BatchScheduler::new());
    cell.run(&mut [&mut crons, &mut batches], time);
}

fn a_cell() -> SimCluster {
    let cell = SimCluster::new(1);
    cell.join(host("a", 1000)).unwrap();
    cell
}

/// The runs that a cell ever had, from its log.
fn runs(cell: &SimCluster) -> Vec<String> {
    let log = cell.log();
    let written = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once(" group c.")?;
        rest.split_once(" is ").map(|(stamp, _)| stamp.to_owned())
    });
    written.collect()
}

#[test]
fn each_run_is_a_batch_and_only_the_last_few_are_kept() {
    let cell = a_cell(); // It is 22:13:20 UTC on 14 November 2023.
    cell.put_group(cron("*/10 * * * *", |cron| cron.count = 2));
    run(&cell, HOUR);
    assert_eq!(cell.counters().started, 12);
    let expected = ["20231114T222000Z", "20231114T223000Z", "20231114T224000Z"];
    assert_eq!(runs(&cell)[..3], expected);
    let state = cell.state();
    assert_eq!(state.groups().count(), 4, "the cron group and three runs");
    let status = status(&state);
    assert_eq!(status.last_run_ms, Some(ms("2023-11-14T23:10:00Z")));
    assert_eq!(status.next_run_ms, Some(ms("2023-11-14T23:20:00Z")));
    assert_eq!(cell.counters().livelocks, 0);
    cell.remove_group(group_id("c"));
    run(&cell, MINUTE);
    assert_eq!(
        (cell.state().groups().count(), cell.state().jobs().count()),
        (0, 0)
    );
}

#[test]
fn a_run_that_failed_is_kept_beside_those_that_succeeded() {
    let cell = a_cell();
    cell.put_group(cron("*/10 * * * *", |_| ()));
    let first = "c.20231114T222000Z";
    cell.behave(group_id(first), Behaviour::Fails(Duration::from_secs(1)));
    run(&cell, 2 * HOUR);
    let state = cell.state();
    assert!(state.group(&group_id(first)).is_some());
    assert_eq!(state.groups().count(), 1 + 3 + 1);
}

#[test]
fn a_suspended_group_runs_nothing_and_has_missed_nothing_afterwards() {
    let cell = a_cell();
    let all = Missed::RunAll { limit: 100 };
    cell.put_group(cron("*/10 * * * *", |cron| cron.missed = all));
    run(&cell, 10 * MINUTE);
    assert_eq!(runs(&cell).len(), 1);
    cell.put_group(cron("*/10 * * * *", |cron| {
        cron.missed = all;
        cron.is_suspended = true;
    }));
    run(&cell, HOUR);
    assert_eq!(runs(&cell).len(), 1);
    assert_eq!(status(&cell.state()).blocked.as_deref(), Some("suspended"));
    cell.put_group(cron("*/10 * * * *", |cron| cron.missed = all));
    run(&cell, 10 * MINUTE);
    assert_eq!(runs(&cell).len(), 2);
}

/// What is started of the runs at 22:20, 22:30, …, 23:10 by a scheduler that comes back at 23:13:20.
fn after_an_outage(change: impl FnOnce(&mut Cron)) -> Vec<String> {
    let cell = a_cell();
    cell.put_group(cron("*/10 * * * *", change));
    run(&cell, Duration::from_millis(1));
    cell.advance(HOUR);
    run(&cell, 5 * MINUTE);
    let stamps = runs(&cell).into_iter();
    stamps.map(|stamp| stamp[9..13].to_owned()).collect()
}

#[test]
fn missed_runs_are_skipped_run_once_or_all_made_up_for_as_the_group_says() {
    assert!(after_an_outage(|_| ()).is_empty());
    assert_eq!(
        after_an_outage(|cron| cron.missed = Missed::RunOnce),
        ["2310"]
    );
    let all = |cron: &mut Cron| cron.missed = Missed::RunAll { limit: 4 };
    assert_eq!(after_an_outage(all), ["2240", "2250", "2300", "2310"]);
    let parallel = |cron: &mut Cron| {
        cron.missed = Missed::RunAll { limit: 100 };
        cron.overlap = Overlap::Allow;
    };
    assert_eq!(
        after_an_outage(parallel),
        ["2220", "2230", "2240", "2250", "2300", "2310"]
    );
    let in_time = |cron: &mut Cron| {
        cron.missed = Missed::RunAll { limit: 100 };
        cron.start_deadline = Some(15 * MINUTE);
    };
    assert_eq!(after_an_outage(in_time), ["2300", "2310"]);
    let late = |cron: &mut Cron| cron.start_deadline = Some(5 * MINUTE);
    assert_eq!(after_an_outage(late), ["2310"], "late, but in time");
}

/// What is started in half an hour when each run takes fifteen minutes, and how many run at the end.
fn with_long_runs(overlap: Overlap, missed: Missed) -> (Vec<String>, usize) {
    let cell = a_cell();
    for minute in ["222000", "223000", "224000", "225000"] {
        let id = group_id(&format!("c.20231114T{minute}Z"));
        cell.behave(id, Behaviour::Completes(15 * MINUTE));
    }
    cell.put_group(cron("*/10 * * * *", |cron| {
        cron.overlap = overlap;
        cron.missed = missed;
    }));
    run(&cell, 28 * MINUTE);
    let state = cell.state();
    let running = state.jobs().filter(|job| !job.status.phase.is_final());
    let stamps = runs(&cell).into_iter();
    (
        stamps.map(|stamp| stamp[9..13].to_owned()).collect(),
        running.count(),
    )
}

#[test]
fn runs_that_would_overlap_are_left_out_delayed_allowed_or_replace_the_earlier_one() {
    let (started, running) = with_long_runs(Overlap::Forbid, Missed::Skip);
    assert_eq!(
        (started, running),
        (vec!["2220".to_owned(), "2240".to_owned()], 1)
    );
    let in_order = with_long_runs(Overlap::Forbid, Missed::RunAll { limit: 9 });
    assert_eq!(in_order, (vec!["2220".to_owned(), "2230".to_owned()], 1));
    let (started, running) = with_long_runs(Overlap::Allow, Missed::Skip);
    assert_eq!((started.len(), running), (3, 2));
    let (started, running) = with_long_runs(Overlap::Replace, Missed::Skip);
    assert_eq!((started.len(), running), (3, 1));
}

#[test]
fn a_group_whose_expression_is_wrong_says_so_and_others_go_on() {
    let cell = a_cell();
    cell.put_group(cron("*/10 * * * *", |_| ()));
    let wrong = GroupKind::Cron(Box::new(Cron::new("99 * * * *")));
    cell.put_group(group("w", wrong, 10));
    let long = "l".repeat(190);
    let fine = GroupKind::Cron(Box::new(Cron::new("*/10 * * * *")));
    cell.put_group(group(&long, fine, 10));
    run(&cell, 15 * MINUTE);
    let state = cell.state();
    let why = |id: &str| {
        state
            .group_status(&group_id(id))
            .unwrap()
            .blocked
            .clone()
            .unwrap()
    };
    assert!(
        why("w").contains("position 1: \"99\" is no minute"),
        "{}",
        why("w")
    );
    assert!(
        why(&long).contains("use at most 183 bytes"),
        "{}",
        why(&long)
    );
    assert_eq!(runs(&cell).len(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    /// Time passes by this much, in seconds.
    Pass(u64),
    /// The clock of one of the two schedulers is set forward or back by this much, in seconds.
    Jump(usize, i64),
    /// One of them looks at the cell and proposes; what it proposes is committed later.
    Look(usize),
    /// It commits what it proposed.
    Commit(usize),
    /// It crashes with whatever it had in hand, and is started again.
    Crash(usize),
    /// All runs end, and the batch scheduler forgets them.
    End,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..1500_u64).prop_map(Step::Pass),
        1 => (0..2_usize, -4000..4000_i64).prop_map(|(n, s)| Step::Jump(n, s)),
        8 => (0..2_usize).prop_map(Step::Look),
        8 => (0..2_usize).prop_map(Step::Commit),
        1 => (0..2_usize).prop_map(Step::Crash),
        2 => Just(Step::End),
    ]
}

struct Copy {
    scheduler: CronScheduler,
    skew_s: i64,
    in_hand: Option<Transaction>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Two copies of the scheduler that look, wait, commit old news, crash and have their clocks set: no run is ever
    /// written twice, and none that was due is left out.
    #[test]
    fn every_run_happens_exactly_once(steps in prop::collection::vec(any_step(), 1..120), keep in 0..2_u32) {
        let cell = LocalCluster::new(Arc::new(ManualClock::at(1)));
        let begin = ms("2026-10-24T12:02:00Z");
        block_on(cell.commit(Transaction::default().put_group(cron("*/10 * * * *", |cron| {
            cron.zone = "Europe/Zurich".to_owned();
            cron.missed = Missed::RunAll { limit: Cron::MAX_MADE_UP };
            cron.overlap = Overlap::Allow;
            cron.keep_succeeded = keep;
        })))).unwrap();
        let copy = || Copy { scheduler: CronScheduler::new(), skew_s: 0, in_hand: None };
        let mut copies = [copy(), copy()];
        let mut now_ms = begin;
        let mut latest_ms = 0;
        let mut written: BTreeMap<GroupId, u32> = BTreeMap::new();
        let mut known: BTreeSet<GroupId> = BTreeSet::new();
        let mut first_decided = None;
        let mut ids = SeededIds::new(1);
        let mut look = |copy: &mut Copy, now_ms: u64, state: &ClusterState| {
            let shown = now_ms.saturating_add_signed(copy.skew_s * 1000);
            let mut context = Context::new(shown, &mut ids);
            copy.in_hand = Some(copy.scheduler.schedule(state, &mut context));
        };
        let commit = |copy: &mut Copy| {
            if let Some(transaction) = copy.in_hand.take().filter(|transaction| !transaction.is_empty()) {
                let _ = block_on(cell.commit(transaction));
            }
        };
        let end = || {
            let state = cell.state();
            let runs = state.groups().filter(|group| group.owner == "cron-scheduler");
            let ended = runs.fold(Transaction::default(), |ended, run| {
                let status = GroupStatus { is_complete: true, succeeded: 1, ..GroupStatus::default() };
                ended.with(flynn_sched::transaction::Change::Note { group: run.id.clone(), status: Arc::new(status) })
            });
            block_on(cell.commit(ended)).unwrap();
        };
        // At the end both clocks are right and both do what there is to do.
        let last: Vec<Step> = (0..400).map(|n| match n % 4 {
            0 => Step::Look(n / 4 % 2),
            1 => Step::Commit(n / 4 % 2),
            2 => Step::End,
            _ => Step::Look(1 - n / 4 % 2),
        }).collect();
        let settle = std::iter::once(Step::Crash(0)).chain([Step::Crash(1), Step::Pass(8000)]).chain(last);
        for step in steps.into_iter().chain(settle) {
            match step {
                Step::Pass(seconds) => now_ms += seconds * 1000,
                Step::Jump(n, seconds) => copies[n].skew_s = seconds,
                Step::Look(n) => look(&mut copies[n], now_ms, &cell.state()),
                Step::Commit(n) => {
                    commit(&mut copies[n]);
                    latest_ms = latest_ms.max(status(&cell.state()).decided_ms.unwrap_or_default());
                }
                Step::Crash(n) => copies[n] = copy(),
                Step::End => end(),
            }
            let state = cell.state();
            first_decided = first_decided.or_else(|| status(&state).decided_ms);
            let there: BTreeSet<GroupId> = state
                .groups()
                .filter(|group| group.owner == "cron-scheduler")
                .map(|group| group.id.clone())
                .collect();
            for new in there.difference(&known) {
                *written.entry(new.clone()).or_default() += 1;
            }
            known = there;
        }
        prop_assert!(written.values().all(|times| *times == 1), "{written:?}");
        let timetable = Timetable::parse("*/10 * * * *", "Europe/Zurich").unwrap();
        let from = first_decided.unwrap();
        // A clock that ran ahead has decided further than the true time.
        let until = latest_ms.max(now_ms);
        let due = timetable.latest(from, until, 10_000);
        let due: Vec<String> = due.iter().map(|ms| text(*ms).replace(['-', ':'], "")).collect();
        let had: Vec<String> = written.keys().map(|id| id.as_str()[2..].to_owned()).collect();
        prop_assert_eq!(had, due);
    }

    /// Searching forwards and backwards finds the same times, over the nights on which clocks change as well.
    #[test]
    fn the_latest_times_are_those_that_came(
        expression in prop::sample::select(vec![
            "30 2 * * *", "*/10 * * * *", "0 */2 * * *", "15,45 1-3 * * *", "5 3 * * SUN", "0 0 1 * *", "30 2 29 3 *",
        ]),
        zone in prop::sample::select(vec!["UTC", "Europe/Zurich", "America/New_York", "Australia/Lord_Howe"]),
        month in prop::sample::select(vec!["2026-03-01", "2026-03-28", "2026-04-03", "2026-10-03", "2026-10-24", "2026-11-01"]),
        hours in 1..72_u64,
    ) {
        let timetable = Timetable::parse(expression, zone).unwrap();
        let from = ms(&format!("{month}T00:00:00Z"));
        let until = from + hours * 3_600_000;
        let mut forwards = Vec::new();
        let mut at = from;
        while let Some(next) = timetable.next_after(at).filter(|next| *next <= until) {
            prop_assert!(next > at);
            forwards.push(next);
            at = next;
        }
        prop_assert_eq!(timetable.latest(from, until, usize::MAX), forwards);
    }
}
