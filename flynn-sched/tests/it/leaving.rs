//! Jobs that run to their end, and hosts that are to be rid of them: drained, drained by a set time, or tainted.

use std::{sync::Arc, time::Duration};

use flynn_sched::{
    Eviction, Group, GroupKind, GroupStatus, Host, Job, JobSpec, Scheduler, SimCluster, Taint,
    TaintEffect, Toleration,
    scheduler::{BatchScheduler, GangScheduler, ServiceScheduler},
    sim::Behaviour,
};
use proptest::prelude::*;

use crate::{
    checker::assert_sound,
    fixture::{group, group_id, host, host_id},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn cell(hosts: &[&str]) -> SimCluster {
    let cell = SimCluster::new(1);
    for id in hosts {
        cell.join(host(id, 100)).unwrap();
    }
    cell
}

fn batch(count: u32, retries: u32, mib: u64) -> Group {
    group("g", GroupKind::Batch { count, retries }, mib)
}

fn gang(count: u32, retries: u32, mib: u64) -> Group {
    group("g", GroupKind::Gang { count, retries }, mib)
}

fn draining(id: &str, drain_by_ms: Option<u64>) -> Host {
    Host {
        is_draining: true,
        drain_by_ms,
        ..host(id, 100)
    }
}

fn tainted(id: &str) -> Host {
    Host {
        taints: vec![Taint {
            key: "broken-fan".to_owned(),
            value: String::new(),
            effect: TaintEffect::NoExecute,
        }],
        ..host(id, 100)
    }
}

fn in_a_minute(cell: &SimCluster) -> Option<u64> {
    Some(flynn_sched::clock::Clock::now_ms(cell) + 60_000)
}

fn run(cell: &SimCluster, time: Duration) {
    let (mut batches, mut gangs) = (BatchScheduler::new(), GangScheduler::new());
    cell.run(&mut [&mut batches, &mut gangs], time);
}

fn status(cell: &SimCluster) -> Arc<GroupStatus> {
    let state = cell.state();
    state
        .group_status(&group_id("g"))
        .cloned()
        .unwrap_or_default()
}

fn left_on(cell: &SimCluster, id: &str) -> usize {
    let (state, id) = (cell.state(), host_id(id));
    let jobs = state.jobs_on(&id);
    jobs.filter(|job| !job.status.phase.is_final()).count()
}

fn is_running(job: &Job) -> bool {
    !job.is_stopping && !job.status.phase.is_final()
}

#[test]
fn a_batch_on_a_host_that_drains_runs_to_its_end_and_nothing_new_comes() {
    let cell = cell(&["a", "b"]);
    cell.put_group(batch(20, 0, 10));
    cell.behave(group_id("g"), Behaviour::Completes(MINUTE));
    run(&cell, SECOND);
    assert_eq!(left_on(&cell, "a"), 10);
    cell.join(draining("a", None)).unwrap();
    cell.put_group(batch(25, 0, 10));
    run(&cell, 30 * SECOND);
    assert_eq!(left_on(&cell, "a"), 10, "they are not disturbed");
    run(&cell, 3 * MINUTE);
    let counters = cell.counters();
    assert_eq!((counters.started, counters.evicted), (25, 0));
    assert_eq!(counters.stopped, 0);
    let on_a = cell.state().jobs_on(&host_id("a")).count();
    assert_eq!(on_a, 10, "those it had");
    assert_eq!(status(&cell).succeeded, 25);
}

#[test]
fn what_runs_when_the_time_to_drain_is_over_is_run_anew_elsewhere_and_has_not_failed() {
    let cell = cell(&["a", "b"]);
    cell.put_group(batch(6, 0, 10));
    cell.behave(group_id("g"), Behaviour::Completes(2 * MINUTE));
    run(&cell, SECOND);
    let there = left_on(&cell, "a") as u64;
    assert!(there > 0, "or this test shows nothing");
    cell.join(draining("a", in_a_minute(&cell))).unwrap();
    run(&cell, 59 * SECOND);
    assert_eq!(
        (left_on(&cell, "a") as u64, cell.counters().evicted),
        (there, 0)
    );
    run(&cell, 2 * SECOND);
    assert_eq!((left_on(&cell, "a"), cell.counters().evicted), (0, there));
    assert_eq!(left_on(&cell, "b"), 6);
    assert!(cell.state().jobs().all(|job| job.attempt == 0));
    run(&cell, 3 * MINUTE);
    let status = status(&cell);
    assert!(status.is_complete);
    assert_eq!((status.succeeded, status.failed), (6, 0), "without a retry");
    assert_eq!(cell.counters().started, 6 + there);
}

#[test]
fn a_drain_that_is_called_off_or_prolonged_evicts_nobody() {
    let cell = cell(&["a"]);
    cell.put_group(batch(1, 0, 10));
    cell.behave(group_id("g"), Behaviour::Completes(10 * MINUTE));
    run(&cell, SECOND);
    cell.join(draining("a", in_a_minute(&cell))).unwrap();
    run(&cell, 30 * SECOND);
    cell.join(draining("a", in_a_minute(&cell))).unwrap();
    run(&cell, 50 * SECOND);
    cell.join(host("a", 100)).unwrap();
    run(&cell, 10 * MINUTE);
    assert_eq!((cell.counters().started, cell.counters().evicted), (1, 0));
    assert!(status(&cell).is_complete);
}

#[test]
fn a_taint_that_evicts_empties_a_host_of_batches_at_once_but_not_of_those_that_tolerate_it() {
    let cell = cell(&["a", "b"]);
    cell.put_group(batch(6, 0, 10));
    cell.behave(group_id("g"), Behaviour::Completes(MINUTE));
    let tolerant = Group {
        spec: JobSpec {
            tolerations: vec![Toleration::default()],
            ..(*batch(1, 0, 10).spec).clone()
        }
        .into(),
        ..group(
            "hardy",
            GroupKind::Batch {
                count: 4,
                retries: 0,
            },
            10,
        )
    };
    cell.put_group(tolerant);
    cell.behave(group_id("hardy"), Behaviour::Completes(MINUTE));
    run(&cell, SECOND);
    cell.join(tainted("a")).unwrap();
    run(&cell, SECOND);
    let state = cell.state();
    let here: Vec<_> = state
        .jobs_on(&host_id("a"))
        .filter(|job| is_running(job))
        .collect();
    assert!(!here.is_empty(), "or this test shows nothing");
    assert!(here.iter().all(|job| job.group == group_id("hardy")));
    run(&cell, 2 * MINUTE);
    let status = status(&cell);
    assert_eq!((status.succeeded, status.failed), (6, 0));
    let (started, evicted) = (cell.counters().started, cell.counters().evicted);
    assert_eq!(started, 10 + evicted);
    assert!(evicted > 0);
}

#[test]
fn a_batch_with_a_floor_leaves_a_host_in_steps() {
    let cell = cell(&["a", "b"]);
    cell.join(draining("b", None)).unwrap();
    cell.put_group(Group {
        max_unavailable: Some(2),
        ..batch(6, 0, 10)
    });
    cell.behave(group_id("g"), Behaviour::Completes(10 * MINUTE));
    run(&cell, SECOND);
    assert_eq!(left_on(&cell, "a"), 6);
    cell.join(host("b", 100)).unwrap();
    cell.join(tainted("a")).unwrap();
    let mut batches = BatchScheduler::new();
    for _ in 0..300 {
        cell.run(&mut [&mut batches], Duration::from_millis(10));
        let state = cell.state();
        let going = state.jobs().filter(|job| job.is_stopping);
        let going = going.filter(|job| !job.status.phase.is_final()).count();
        assert!(going <= 2, "{}", cell.log());
    }
    assert_eq!((left_on(&cell, "a"), left_on(&cell, "b")), (0, 6));
    assert_eq!(cell.counters().evicted, 6);
}

#[test]
fn a_gang_on_a_host_that_drains_runs_to_its_end() {
    let cell = cell(&["a", "b", "c"]);
    cell.put_group(gang(6, 0, 30));
    cell.behave(group_id("g"), Behaviour::Completes(MINUTE));
    run(&cell, SECOND);
    cell.join(draining("a", in_a_minute(&cell).map(|ms| ms + 60_000)))
        .unwrap();
    run(&cell, 3 * MINUTE);
    assert!(status(&cell).is_complete);
    assert_eq!((cell.counters().started, cell.counters().evicted), (6, 0));
}

#[test]
fn when_the_time_to_drain_is_over_a_gang_goes_as_a_whole_and_starts_anew_as_a_whole() {
    let cell = cell(&["a", "b", "c"]);
    cell.put_group(gang(6, 0, 30));
    cell.behave(group_id("g"), Behaviour::Completes(2 * MINUTE));
    run(&cell, SECOND);
    assert!(left_on(&cell, "a") > 0 && left_on(&cell, "b") > 0);
    cell.join(draining("a", in_a_minute(&cell))).unwrap();
    run(&cell, MINUTE + SECOND);
    assert_eq!((cell.counters().evicted, cell.counters().stopped), (6, 0));
    let state = cell.state();
    let why = |job: &Arc<Job>| match &job.evicted {
        Some(Eviction::Emptying { why }) => why.clone(),
        _ => String::new(),
    };
    let said: Vec<String> = state
        .jobs()
        .filter(|job| job.is_stopping)
        .map(why)
        .collect();
    assert!(!said.is_empty());
    assert!(
        said.iter()
            .all(|why| why == "the time of host a to drain is over")
    );
    assert_eq!(left_on(&cell, "a"), 0);
    run(&cell, 3 * MINUTE);
    let status = status(&cell);
    assert_eq!((status.succeeded, status.failed), (6, 0), "without a retry");
    assert_eq!(cell.counters().started, 12);
}

#[test]
fn a_gang_whose_time_is_over_goes_even_where_it_does_not_fit_elsewhere_and_waits() {
    let cell = cell(&["a", "b"]);
    cell.put_group(gang(6, 0, 30));
    cell.behave(group_id("g"), Behaviour::Completes(5 * MINUTE));
    run(&cell, SECOND);
    cell.join(draining("a", in_a_minute(&cell))).unwrap();
    run(&cell, 2 * MINUTE);
    assert_eq!((left_on(&cell, "a"), left_on(&cell, "b")), (0, 0));
    let why = status(&cell).blocked.clone().unwrap();
    assert!(why.starts_with("only 3 of 6 fit at once"), "{why}");
    cell.join(host("c", 100)).unwrap();
    run(&cell, 6 * MINUTE);
    assert_eq!(status(&cell).succeeded, 6);
}

#[test]
fn a_gang_on_a_tainted_host_stays_until_all_of_it_fits_elsewhere() {
    let cell = cell(&["a", "b"]);
    cell.put_group(gang(6, 0, 30));
    cell.behave(group_id("g"), Behaviour::Completes(5 * MINUTE));
    run(&cell, SECOND);
    cell.join(tainted("a")).unwrap();
    run(&cell, MINUTE);
    assert_eq!((cell.counters().started, cell.counters().evicted), (6, 0));
    let why = status(&cell).blocked.clone().unwrap();
    let expected = "host a has the taint broken-fan, and it stays for now: only 3 of 6 fit elsewhere at once: ";
    assert!(why.starts_with(expected), "{why}");

    cell.join(host("c", 100)).unwrap();
    run(&cell, 5 * SECOND);
    assert_eq!((cell.counters().started, cell.counters().evicted), (12, 6));
    let (b, c) = (left_on(&cell, "b"), left_on(&cell, "c"));
    assert_eq!((left_on(&cell, "a"), b, c), (0, 3, 3));
    assert_eq!(status(&cell).blocked, None);
    run(&cell, 6 * MINUTE);
    assert_eq!((status(&cell).succeeded, status(&cell).failed), (6, 0));
    assert_eq!(cell.counters().livelocks, 0);
}

#[test]
fn a_gang_that_must_not_be_down_is_not_moved_and_says_why() {
    let cell = cell(&["a", "b", "c"]);
    cell.put_group(Group {
        max_unavailable: Some(5),
        ..gang(6, 0, 30)
    });
    cell.behave(group_id("g"), Behaviour::Completes(5 * MINUTE));
    run(&cell, 5 * SECOND);
    cell.join(tainted("a")).unwrap();
    run(&cell, MINUTE);
    assert_eq!(cell.counters().evicted, 0);
    let why = status(&cell).blocked.clone().unwrap();
    assert!(
        why.ends_with(
            "it moves as a whole or not at all, and no less than 1 of its jobs are to be up"
        ),
        "{why}"
    );
    cell.put_group(gang(6, 0, 30));
    run(&cell, MINUTE);
    assert_eq!((cell.counters().evicted, left_on(&cell, "a")), (6, 0));
}

#[derive(Debug, Clone)]
enum Trouble {
    Drain(usize, Option<u64>),
    Taint(usize),
    Untouch(usize),
    Batch(usize, u32, Option<u32>),
    Gang(usize, u32),
    Service(u32),
    Pass(u64),
}

const HOSTS: usize = 4;

fn any_trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        3 => (0..HOSTS, prop::option::of(0..90_000_u64)).prop_map(|(h, by)| Trouble::Drain(h, by)),
        3 => (0..HOSTS).prop_map(Trouble::Taint),
        3 => (0..HOSTS).prop_map(Trouble::Untouch),
        3 => (0..3_usize, 1..9_u32, prop::option::of(1..3_u32)).prop_map(|(g, n, max)| Trouble::Batch(g, n, max)),
        3 => (0..3_usize, 1..7_u32).prop_map(|(g, n)| Trouble::Gang(g, n)),
        1 => (1..6_u32).prop_map(Trouble::Service),
        6 => (1..40_000_u64).prop_map(Trouble::Pass),
    ]
}

/// Of no attempt of a gang runs a part: all of its jobs, or none.
fn no_gang_is_split(cell: &SimCluster) -> Result<(), TestCaseError> {
    let state = cell.state();
    for group in state.groups() {
        let GroupKind::Gang { count, .. } = group.kind else {
            continue;
        };
        let jobs: Vec<_> = state.jobs_of(&group.id).collect();
        for attempt in 0..=jobs.iter().map(|job| job.attempt).max().unwrap_or_default() {
            let of = jobs.iter().filter(|job| job.attempt == attempt);
            let going = of.clone().filter(|job| job.is_stopping).count();
            let all = of.count();
            let is_whole = going == 0 && (all == 0 || all == count as usize) || going == all;
            prop_assert!(
                is_whole,
                "{going} of {all} of {} are told to go:\n{}",
                group.id,
                cell.log()
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Hosts are drained, tainted and given back at random under batches, gangs and a service. No host is ever lost and
    /// no job fails by itself: so nothing is ever counted as failed although nothing may be tried again, no gang is ever
    /// split, each step of the cell keeps its rules, and in the end all is complete and at rest.
    #[test]
    fn leaving_a_host_costs_no_attempt_splits_no_gang_and_comes_to_an_end(
        seed in any::<u64>(),
        staleness in 0..3_usize,
        troubles in prop::collection::vec(any_trouble(), 1..16),
    ) {
        let cell = SimCluster::new(seed).with_staleness(staleness);
        for n in 0..HOSTS {
            cell.join(host(&format!("h{n}"), 100)).unwrap();
        }
        let (mut batches, mut gangs) = (BatchScheduler::new(), GangScheduler::new());
        let (mut services, mut others) = (ServiceScheduler::new(), GangScheduler::new());
        let mut ending: Vec<String> = Vec::new();
        let mut run = |cell: &SimCluster, time: Duration| {
            let mut left = time;
            while !left.is_zero() {
                let step = left.min(SECOND);
                let before = cell.state();
                let mut all: [&mut dyn Scheduler; 4] = [&mut batches, &mut gangs, &mut services, &mut others];
                cell.run(&mut all, step);
                left -= step;
                let after = cell.state();
                if before.revision() != after.revision() {
                    assert_sound(&after);
                }
                no_gang_is_split(cell)?;
            }
            Ok::<(), TestCaseError>(())
        };
        for (n, trouble) in troubles.into_iter().enumerate() {
            let now_ms = flynn_sched::clock::Clock::now_ms(&cell);
            let lasts = Duration::from_secs(20 + 10 * (n as u64 % 5));
            match trouble {
                Trouble::Drain(h, by) => {
                    let id = format!("h{h}");
                    cell.join(draining(&id, by.map(|ms| now_ms + ms))).unwrap();
                }
                Trouble::Taint(h) => cell.join(tainted(&format!("h{h}"))).unwrap(),
                Trouble::Untouch(h) => cell.join(host(&format!("h{h}"), 100)).unwrap(),
                Trouble::Batch(g, count, max_unavailable) => {
                    let id = format!("batch{g}.{n}");
                    cell.behave(group_id(&id), Behaviour::Completes(lasts));
                    let kind = GroupKind::Batch { count, retries: 0 };
                    cell.put_group(Group { max_unavailable, ..group(&id, kind, 20) });
                    ending.push(id);
                }
                Trouble::Gang(g, count) => {
                    let id = format!("gang{g}.{n}");
                    cell.behave(group_id(&id), Behaviour::Completes(lasts));
                    cell.put_group(group(&id, GroupKind::Gang { count, retries: 0 }, 30));
                    ending.push(id);
                }
                Trouble::Service(count) => cell.put_group(group("web", GroupKind::Service { count }, 10)),
                Trouble::Pass(ms) => run(&cell, Duration::from_millis(ms))?,
            }
        }
        for n in 0..HOSTS {
            cell.join(host(&format!("h{n}"), 100)).unwrap();
        }
        run(&cell, Duration::from_secs(1200))?;
        let state = cell.state();
        for id in &ending {
            let status = state.group_status(&group_id(id)).cloned().unwrap_or_default();
            prop_assert!(status.is_complete, "{} {:?}\n{}", id, status, cell.log());
            prop_assert_eq!(status.failed, 0, "{} {:?}\n{}", id, status, cell.log());
        }
        prop_assert_eq!(cell.counters().livelocks, 0, "{}", cell.log());
        let at_rest = cell.counters();
        run(&cell, Duration::from_secs(100))?;
        prop_assert_eq!(cell.counters().proposed, at_rest.proposed, "it has come to rest");
    }
}
