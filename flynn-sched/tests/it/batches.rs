//! The batch scheduler on simulated cells: each test is one story.

use std::{sync::Arc, time::Duration};

use flynn_sched::{
    Cluster, Group, GroupKind, GroupStatus, Phase, SimCluster, Transaction,
    scheduler::{BatchScheduler, ServiceScheduler},
    sim::Behaviour,
};
use futures::executor::block_on;

use crate::fixture::{group, group_id, host, host_id};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn cell(seed: u64, hosts: &[&str]) -> SimCluster {
    let cell = SimCluster::new(seed);
    for id in hosts {
        cell.join(host(id, 100)).unwrap();
    }
    cell
}

fn batch(count: u32, retries: u32) -> Group {
    group("g", GroupKind::Batch { count, retries }, 10)
}

fn run(cell: &SimCluster, time: Duration) {
    cell.run(&mut [&mut BatchScheduler::new()], time);
}

fn status(cell: &SimCluster) -> Arc<GroupStatus> {
    let state = cell.state();
    state
        .group_status(&group_id("g"))
        .cloned()
        .unwrap_or_default()
}

#[test]
fn a_batch_runs_each_job_once_and_says_when_it_is_complete() {
    let cell = cell(1, &["a", "b"]);
    cell.put_group(batch(5, 3));
    run(&cell, Duration::from_millis(1));
    assert!(!status(&cell).is_complete);
    run(&cell, MINUTE);
    assert_eq!(cell.counters().started, 5);
    let status = status(&cell);
    assert!(status.is_complete);
    assert_eq!((status.succeeded, status.failed, status.missing), (5, 0, 0));
    assert_eq!(status.blocked, None);
}

#[test]
fn more_jobs_than_room_run_one_after_the_other() {
    let cell = cell(1, &["a"]);
    cell.put_group(batch(50, 0));
    run(&cell, Duration::from_millis(1));
    assert_eq!(cell.counters().started, 10, "that is the room there is");
    assert_eq!(status(&cell).missing, 40);
    assert!(status(&cell).blocked.as_ref().unwrap().contains("MiB"));
    run(&cell, 2 * MINUTE);
    assert_eq!(cell.counters().started, 50);
    assert!(status(&cell).is_complete);
    assert_eq!(status(&cell).succeeded, 50);
}

#[test]
fn a_failing_job_is_tried_again_as_often_as_allowed_and_then_given_up_with_a_reason() {
    let cell = cell(1, &["a", "b"]);
    cell.put_group(batch(1, 2));
    cell.behave(group_id("g"), Behaviour::Fails(Duration::from_millis(1)));
    run(&cell, MINUTE);
    assert_eq!(cell.counters().started, 3);
    let attempts: Vec<u32> = {
        let state = cell.state();
        let mut attempts: Vec<u32> = state.jobs().map(|job| job.attempt).collect();
        attempts.sort_unstable();
        attempts
    };
    assert_eq!(attempts, [0, 1, 2]);
    let status = status(&cell);
    assert!(status.is_complete);
    assert_eq!(
        status.blocked.as_deref().unwrap(),
        "1 given up after being tried 3 times: exit status 1"
    );
}

#[test]
fn retries_wait_for_growing_delays() {
    let cell = cell(1, &["a"]);
    cell.put_group(batch(1, 10));
    cell.behave(group_id("g"), Behaviour::Fails(Duration::from_millis(1)));
    run(&cell, 3 * SECOND);
    let early = cell.counters().started;
    assert!((2..=3).contains(&early), "{early} in three seconds");
    assert!(!status(&cell).is_complete);
    run(&cell, MINUTE);
    assert!(cell.counters().started <= 7, "{}", cell.counters().started);
}

#[test]
fn only_what_failed_is_tried_again() {
    for seed in 0..20 {
        let cell = cell(seed, &["a", "b"]);
        cell.put_group(batch(10, 20));
        let flaky = Behaviour::Flaky(Duration::from_millis(100), 0.4);
        cell.behave(group_id("g"), flaky);
        run(&cell, 60 * MINUTE);
        let status = status(&cell);
        assert!(status.is_complete, "seed {seed}:\n{}", cell.log());
        assert_eq!(status.succeeded, 10, "seed {seed}:\n{}", cell.log());
        let state = cell.state();
        let failed = state
            .jobs()
            .filter(|job| job.status.phase == Phase::Crashed)
            .count();
        assert_eq!(cell.counters().started, 10 + failed as u64);
    }
}

#[test]
fn a_lost_hosts_job_is_tried_elsewhere_and_is_not_run_twice_when_the_host_returns() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(batch(1, 1));
    cell.behave(group_id("g"), Behaviour::Completes(30 * SECOND));
    run(&cell, SECOND);
    let first = cell.state().jobs().next().unwrap().host.clone();
    cell.lose(&first);
    run(&cell, BatchScheduler::LOST_GRACE - SECOND);
    assert_eq!(cell.counters().started, 1);
    run(&cell, 2 * SECOND);
    assert_eq!(cell.counters().started, 2);
    cell.bring_back(&first);
    run(&cell, MINUTE);
    assert_eq!(cell.counters().started, 2);
    let status = status(&cell);
    assert_eq!((status.succeeded, status.failed), (1, 0));
    assert!(status.is_complete);
}

#[test]
fn a_job_that_may_run_only_once_is_given_up_with_its_host() {
    let cell = cell(1, &["a"]);
    cell.put_group(batch(1, 0));
    cell.behave(group_id("g"), Behaviour::Completes(MINUTE));
    run(&cell, SECOND);
    cell.lose(&host_id("a"));
    run(&cell, MINUTE);
    let status = status(&cell);
    assert!(status.is_complete);
    assert_eq!(
        status.blocked.as_deref().unwrap(),
        "1 given up after being tried once: its host a was lost"
    );
    assert_eq!(cell.counters().started, 1);
}

#[test]
fn a_stopped_job_is_not_tried_again() {
    let cell = cell(1, &["a"]);
    cell.put_group(batch(1, 5));
    cell.behave(group_id("g"), Behaviour::Completes(MINUTE));
    run(&cell, SECOND);
    let job = cell.state().jobs().next().unwrap().id.clone();
    block_on(cell.commit(Transaction::default().stop(job))).unwrap();
    run(&cell, MINUTE);
    assert_eq!(cell.counters().started, 1);
    let status = status(&cell);
    assert!(status.is_complete);
    assert_eq!((status.succeeded, status.failed), (0, 1));
}

#[test]
fn a_long_batch_keeps_few_jobs_and_counts_them_all() {
    let cell = cell(1, &["a", "b"]);
    cell.put_group(batch(300, 2));
    let flaky = Behaviour::Flaky(Duration::from_millis(100), 0.1);
    cell.behave(group_id("g"), flaky);
    run(&cell, 20 * MINUTE);
    let status = status(&cell);
    assert!(status.is_complete, "{status:?}");
    assert_eq!(status.succeeded + status.failed, 300);
    let kept = cell.state().jobs().count();
    assert!(kept <= BatchScheduler::HISTORY, "{kept} are kept");
    let started = cell.counters().started;
    assert!((300..400).contains(&started), "{started}");
}

#[test]
fn lowering_the_count_stops_what_is_too_much() {
    let cell = cell(1, &["a"]);
    cell.put_group(batch(5, 0));
    cell.behave(group_id("g"), Behaviour::Completes(10 * SECOND));
    run(&cell, SECOND);
    cell.put_group(batch(2, 0));
    run(&cell, MINUTE);
    assert_eq!(cell.counters().stopped, 3);
    assert_eq!(status(&cell).succeeded, 2);
    assert!(status(&cell).is_complete);
}

#[test]
fn a_removed_batch_leaves_nothing() {
    let cell = cell(1, &["a"]);
    cell.put_group(batch(5, 0));
    cell.behave(group_id("g"), Behaviour::Completes(10 * SECOND));
    run(&cell, SECOND);
    cell.remove_group(group_id("g"));
    run(&cell, MINUTE);
    assert_eq!(cell.state().jobs().count(), 0);
    assert_eq!(cell.state().group_statuses().count(), 0);
}

#[test]
fn services_and_batches_share_a_cell() {
    let cell = cell(1, &["a", "b"]);
    cell.put_group(batch(20, 0));
    cell.put_group(group("web", GroupKind::Service { count: 4 }, 10));
    let (mut services, mut batches) = (ServiceScheduler::new(), BatchScheduler::new());
    cell.run(&mut [&mut services, &mut batches], 2 * MINUTE);
    assert!(status(&cell).is_complete);
    let state = cell.state();
    let up = state
        .jobs_of(&group_id("web"))
        .filter(|job| job.status.phase == Phase::Up)
        .count();
    assert_eq!(up, 4);
    assert_eq!(cell.counters().livelocks, 0);
}
