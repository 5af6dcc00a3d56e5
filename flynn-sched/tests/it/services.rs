//! The service scheduler on simulated cells: each test is one story.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flynn_sched::{
    ClusterState, Constraint, Group, GroupKind, Host, JobSpec, Phase, SimCluster, Transaction,
    clock::Clock,
    scheduler::{RestartBackoff, Scheduler, ServiceScheduler},
    sim::Behaviour,
    transaction::Change,
};
use futures::executor::block_on;

use crate::fixture::{group, group_id, host, host_id, memory};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn cell(seed: u64, hosts: &[&str]) -> SimCluster {
    let cell = SimCluster::new(seed);
    for id in hosts {
        cell.join(host(id, 1000)).unwrap();
    }
    cell
}

fn service(id: &str, count: u32) -> Group {
    group(id, GroupKind::Service { count }, 10)
}

fn run(cell: &SimCluster, time: Duration) {
    cell.run(&mut [&mut ServiceScheduler::new()], time);
}

/// The jobs of `g` that are up and meant to stay, by host.
fn up(state: &ClusterState) -> BTreeMap<String, usize> {
    let mut by_host = BTreeMap::new();
    for job in state.jobs_of(&group_id("g")) {
        let is_alive = state.host(&job.host).unwrap().lost_since_ms.is_none();
        if job.status.phase == Phase::Up && !job.is_stopping && is_alive {
            *by_host.entry(job.host.to_string()).or_default() += 1;
        }
    }
    by_host
}

fn up_count(state: &ClusterState) -> usize {
    up(state).values().sum()
}

fn blocked(cell: &SimCluster) -> Option<String> {
    let state = cell.state();
    state
        .group_status(&group_id("g"))
        .and_then(|status| status.blocked.clone())
}

fn spread<const N: usize>(counts: [(&str, usize); N]) -> BTreeMap<String, usize> {
    counts.map(|(id, n)| (id.to_owned(), n)).into()
}

#[test]
fn a_service_is_spread_evenly_over_hosts() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(service("g", 6));
    run(&cell, SECOND);
    assert_eq!(up(&cell.state()), spread([("a", 2), ("b", 2), ("c", 2)]));
    assert_eq!(cell.counters().started, 6);
}

#[test]
fn a_service_is_spread_over_zones_where_hosts_are_equal() {
    let cell = SimCluster::new(1);
    for (id, zone) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")] {
        let zone = Some(zone.to_owned());
        cell.join(Host {
            zone,
            ..host(id, 1000)
        })
        .unwrap();
    }
    cell.put_group(service("g", 2));
    run(&cell, SECOND);
    assert_eq!(up(&cell.state()), spread([("a1", 1), ("b1", 1)]));
}

#[test]
fn different_services_share_out_the_hosts() {
    let cell = cell(1, &["a", "b", "c"]);
    for id in ["g1", "g2", "g3"] {
        cell.put_group(group(id, GroupKind::Service { count: 1 }, 0));
    }
    run(&cell, SECOND);
    for id in ["a", "b", "c"] {
        assert_eq!(cell.state().jobs_on(&host_id(id)).count(), 1, "on {id}");
    }
}

#[test]
fn scaling_down_stops_as_many_as_needed_and_keeps_the_spread() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(service("g", 9));
    run(&cell, SECOND);
    cell.put_group(service("g", 3));
    run(&cell, SECOND);
    assert_eq!(up(&cell.state()), spread([("a", 1), ("b", 1), ("c", 1)]));
    assert_eq!(cell.counters().stopped, 6);
    let history = cell.state().jobs_of(&group_id("g")).count() - 3;
    assert!(history <= ServiceScheduler::HISTORY, "{history} are kept");
    cell.put_group(service("g", 0));
    run(&cell, SECOND);
    assert_eq!(up_count(&cell.state()), 0);
}

#[test]
fn jobs_of_a_lost_host_are_replaced_after_the_grace_and_not_before() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(service("g", 3));
    run(&cell, SECOND);
    cell.lose(&host_id("c"));
    run(
        &cell,
        ServiceScheduler::LOST_GRACE - Duration::from_millis(1),
    );
    assert_eq!(cell.counters().started, 3, "it may come back");
    run(&cell, SECOND);
    assert_eq!(up(&cell.state()).values().sum::<usize>(), 3);
    assert_eq!(cell.counters().started, 4);
    assert_eq!(cell.counters().stopped, 0);
}

#[test]
fn a_host_that_returns_within_the_grace_changes_nothing() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(service("g", 3));
    run(&cell, SECOND);
    cell.lose(&host_id("c"));
    run(&cell, SECOND);
    cell.bring_back(&host_id("c"));
    run(&cell, MINUTE);
    let counters = cell.counters();
    assert_eq!((counters.started, counters.stopped), (3, 0));
}

#[test]
fn when_a_host_returns_with_its_jobs_one_is_stopped_and_none_is_missed() {
    for seed in 0..20 {
        let cell = cell(seed, &["a", "b", "c"]);
        cell.put_group(service("g", 3));
        run(&cell, SECOND);
        cell.lose(&host_id("c"));
        run(&cell, MINUTE);
        assert_eq!(cell.counters().started, 4);
        cell.bring_back(&host_id("c"));
        let mut scheduler = ServiceScheduler::new();
        for _ in 0..200 {
            cell.run(&mut [&mut scheduler], Duration::from_millis(50));
            assert!(up_count(&cell.state()) >= 3, "seed {seed}:\n{}", cell.log());
        }
        assert_eq!(up(&cell.state()), spread([("a", 1), ("b", 1), ("c", 1)]));
        let counters = cell.counters();
        assert_eq!((counters.started, counters.stopped), (4, 1), "seed {seed}");
    }
}

#[test]
fn a_drained_hosts_jobs_start_elsewhere_before_they_stop() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(service("g", 3));
    run(&cell, SECOND);
    cell.join(Host {
        is_draining: true,
        ..host("c", 1000)
    })
    .unwrap();
    let mut scheduler = ServiceScheduler::new();
    for _ in 0..100 {
        cell.run(&mut [&mut scheduler], Duration::from_millis(10));
        assert!(up_count(&cell.state()) >= 3, "{}", cell.log());
    }
    assert_eq!(up_count(&cell.state()), 3);
    assert!(!up(&cell.state()).contains_key("c"));
}

#[test]
fn a_drained_hosts_jobs_stay_while_there_is_no_room_elsewhere() {
    let cell = SimCluster::new(1);
    cell.join(host("a", 10)).unwrap();
    cell.join(host("b", 10)).unwrap();
    cell.put_group(service("g", 2));
    run(&cell, SECOND);
    let drained = Host {
        is_draining: true,
        ..host("b", 10)
    };
    cell.join(drained).unwrap();
    run(&cell, MINUTE);
    assert_eq!(up(&cell.state()), spread([("a", 1), ("b", 1)]));
    assert_eq!(
        blocked(&cell).unwrap(),
        "none of 2 hosts can take it (schedulable: 1, resources: 1); the nearest is a: \
         needs 10 MiB of memory, 0 B is free"
    );
    cell.join(host("c", 10)).unwrap();
    run(&cell, SECOND);
    assert_eq!(up(&cell.state()), spread([("a", 1), ("c", 1)]));
    assert_eq!(blocked(&cell), None, "the note is cleared");
}

#[test]
fn when_most_hosts_vanish_at_once_nothing_is_done_until_they_return() {
    let cell = cell(1, &["a", "b", "c", "d", "e"]);
    cell.put_group(service("g", 5));
    run(&cell, SECOND);
    for id in ["a", "b", "c"] {
        cell.lose(&host_id(id));
        run(&cell, SECOND / 2);
    }
    run(&cell, 10 * SECOND);
    assert_eq!(cell.counters().started, 5);
    for id in ["a", "b", "c"] {
        cell.bring_back(&host_id(id));
    }
    run(&cell, MINUTE);
    assert_eq!(up_count(&cell.state()), 5);
    let counters = cell.counters();
    assert_eq!((counters.started, counters.stopped), (5, 0));
}

#[test]
fn a_host_that_is_lost_after_another_has_returned_is_replaced_without_the_longer_grace() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(service("g", 3));
    run(&cell, SECOND);
    cell.lose(&host_id("a"));
    run(&cell, 3 * SECOND);
    cell.bring_back(&host_id("a"));
    run(&cell, SECOND);
    cell.lose(&host_id("b"));
    run(&cell, ServiceScheduler::LOST_GRACE + SECOND);
    let up = up(&cell.state());
    assert_eq!(up.get("b"), None, "{up:?}");
    assert_eq!(up.values().sum::<usize>(), 3, "{up:?}");
}

#[test]
fn when_most_hosts_do_not_return_their_jobs_are_replaced_after_the_longer_grace() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(service("g", 3));
    run(&cell, SECOND);
    cell.lose(&host_id("a"));
    cell.lose(&host_id("b"));
    run(&cell, ServiceScheduler::SUSPENSION_GRACE - SECOND);
    assert_eq!(cell.counters().started, 3);
    run(&cell, 3 * SECOND);
    assert_eq!(up(&cell.state()), spread([("c", 3)]));
}

#[test]
fn after_a_power_cut_everything_is_as_before() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(service("g", 6));
    run(&cell, SECOND);
    for id in ["a", "b", "c"] {
        cell.lose(&host_id(id));
    }
    run(&cell, 5 * SECOND);
    for id in ["b", "a", "c"] {
        cell.bring_back(&host_id(id));
        run(&cell, 3 * SECOND);
    }
    run(&cell, MINUTE);
    assert_eq!(up(&cell.state()), spread([("a", 2), ("b", 2), ("c", 2)]));
    let counters = cell.counters();
    assert_eq!((counters.started, counters.stopped), (6, 0));
}

#[test]
fn a_host_that_does_not_return_is_forgotten_with_its_jobs() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(service("g", 3));
    run(&cell, SECOND);
    cell.lose(&host_id("c"));
    run(&cell, ServiceScheduler::FORGET_AFTER - SECOND);
    assert!(cell.state().host(&host_id("c")).is_some());
    run(&cell, 3 * SECOND);
    assert!(cell.state().host(&host_id("c")).is_none());
    assert_eq!(cell.state().jobs().count(), 3);
}

#[test]
fn jobs_that_fail_are_replaced_with_growing_delays() {
    let cell = cell(1, &["a", "b"]);
    cell.put_group(service("g", 1));
    cell.behave(group_id("g"), Behaviour::Fails(Duration::from_millis(1)));
    run(&cell, MINUTE);
    let started = cell.counters().started;
    // 1 + 2 + 4 + 8 + 16 + 32 s of delays fit into a minute, but for the last.
    assert!((5..=7).contains(&started), "{started} were started");
    assert_eq!(
        blocked(&cell).unwrap(),
        format!(
            "{started} of its jobs ended by themselves lately, the last with: exit status 1; \
             the next is started after a delay"
        )
    );
    run(&cell, 20 * MINUTE);
    let history = cell.state().jobs_of(&group_id("g")).count();
    assert!(history <= ServiceScheduler::HISTORY + 1, "{history}");
    assert!(cell.counters().started <= 40, "at most one a minute");
    cell.behave(group_id("g"), Behaviour::Runs);
    run(&cell, 2 * MINUTE);
    assert_eq!(up_count(&cell.state()), 1, "it is never given up");
    assert_eq!(blocked(&cell), None);
}

#[test]
fn one_failing_job_does_not_hold_back_the_others() {
    let cell = cell(1, &["a", "b"]);
    cell.put_group(service("g", 1));
    cell.behave(group_id("g"), Behaviour::Fails(Duration::from_millis(1)));
    run(&cell, 10 * SECOND);
    cell.behave(group_id("g"), Behaviour::Runs);
    cell.put_group(service("g", 4));
    run(&cell, SECOND);
    assert!(up_count(&cell.state()) >= 3);
}

#[test]
fn a_failed_job_is_replaced_on_another_host() {
    let cell = cell(1, &["a", "b"]);
    cell.put_group(service("g", 1));
    cell.behave(group_id("g"), Behaviour::Fails(Duration::from_millis(1)));
    run(&cell, SECOND);
    let first = cell.state().jobs().next().unwrap().host.clone();
    cell.behave(group_id("g"), Behaviour::Runs);
    run(&cell, 5 * SECOND);
    assert!(!up(&cell.state()).contains_key(first.as_str()));
}

#[test]
fn a_removed_groups_jobs_are_stopped_and_forgotten() {
    let cell = cell(1, &["a", "b"]);
    cell.put_group(service("g", 4));
    run(&cell, SECOND);
    cell.remove_group(group_id("g"));
    run(&cell, SECOND);
    assert_eq!(cell.state().jobs().count(), 0);
    assert_eq!(cell.state().group_version(&group_id("g")), 0);
}

#[test]
fn a_removed_groups_jobs_on_a_lost_host_are_forgotten_and_the_host_stops_them() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(service("g", 3));
    run(&cell, SECOND);
    cell.lose(&host_id("a"));
    cell.remove_group(group_id("g"));
    run(&cell, SECOND);
    assert_eq!(cell.state().jobs().count(), 0);
}

#[test]
fn a_killed_job_is_replaced_at_once() {
    let cell = cell(1, &["a"]);
    cell.put_group(service("g", 1));
    run(&cell, SECOND);
    let job = cell.state().jobs().next().unwrap().id.clone();
    kill(&cell, Transaction::default().stop(job));
    run(&cell, SECOND);
    assert_eq!(up_count(&cell.state()), 1);
    assert_eq!(cell.counters().started, 2);
}

fn kill(cell: &SimCluster, transaction: Transaction) {
    let committed = block_on(flynn_sched::Cluster::commit(cell, transaction)).unwrap();
    assert_eq!(committed.refused, vec![]);
}

#[test]
fn jobs_of_an_earlier_description_are_replaced_one_for_one() {
    let cell = cell(1, &["a", "b"]);
    cell.put_group(service("g", 2));
    run(&cell, SECOND);
    let newer = Arc::new(JobSpec {
        args: vec!["newer".to_owned()],
        ..JobSpec::default()
    });
    cell.put_group(Group {
        spec: Arc::clone(&newer),
        ..service("g", 2)
    });
    let mut scheduler = ServiceScheduler::new();
    for _ in 0..100 {
        cell.run(&mut [&mut scheduler], Duration::from_millis(10));
        assert!(up_count(&cell.state()) >= 2, "{}", cell.log());
    }
    let state = cell.state();
    let running: Vec<_> = state
        .jobs_of(&group_id("g"))
        .filter(|job| !job.is_stopping)
        .collect();
    assert_eq!(running.len(), 2);
    assert!(running.iter().all(|job| job.spec == newer));
}

#[test]
fn an_omni_group_has_a_job_on_each_matching_host_and_on_new_ones() {
    let cell = SimCluster::new(1);
    let tagged = |id: &str| {
        let mut host = host(id, 1000);
        host.tags.insert("edge".to_owned(), "yes".to_owned());
        host
    };
    cell.join(tagged("a")).unwrap();
    cell.join(host("b", 1000)).unwrap();
    let mut omni = group("g", GroupKind::Omni { per_host: 2 }, 10);
    omni.spec = Arc::new(JobSpec {
        constraints: vec![Constraint::Tag {
            key: "edge".to_owned(),
            value: "yes".to_owned(),
        }],
        ..JobSpec::default()
    });
    cell.put_group(omni.clone());
    run(&cell, SECOND);
    assert_eq!(up(&cell.state()), spread([("a", 2)]));
    cell.join(tagged("c")).unwrap();
    run(&cell, SECOND);
    assert_eq!(up(&cell.state()), spread([("a", 2), ("c", 2)]));
    omni.kind = GroupKind::Omni { per_host: 1 };
    cell.put_group(omni);
    cell.join(Host {
        is_draining: true,
        ..tagged("a")
    })
    .unwrap();
    run(&cell, SECOND);
    assert_eq!(up(&cell.state()), spread([("c", 1)]));
    cell.lose(&host_id("c"));
    run(&cell, MINUTE);
    cell.bring_back(&host_id("c"));
    run(&cell, MINUTE);
    assert_eq!(up(&cell.state()), spread([("c", 1)]));
    assert_eq!(cell.counters().started, 4, "nothing was started anew");
}

#[test]
fn an_omni_group_says_which_host_lacks_room() {
    let cell = SimCluster::new(1);
    cell.join(host("a", 100)).unwrap();
    cell.join(host("b", 5)).unwrap();
    cell.put_group(group("g", GroupKind::Omni { per_host: 1 }, 10));
    run(&cell, SECOND);
    assert_eq!(up(&cell.state()), spread([("a", 1)]));
    let state = cell.state();
    let status = state.group_status(&group_id("g")).unwrap();
    assert_eq!(status.missing, 1);
    assert_eq!(
        status.blocked.as_deref().unwrap(),
        "host b: needs 10 MiB of memory, 5 MiB is free"
    );
}

#[test]
fn groups_of_higher_priority_are_placed_first() {
    let cell = SimCluster::new(1);
    cell.join(host("a", 10)).unwrap();
    cell.put_group(service("g", 1));
    cell.put_group(Group {
        priority: 90,
        ..service("z", 1)
    });
    run(&cell, SECOND);
    assert_eq!(cell.state().jobs_of(&group_id("z")).count(), 1);
    assert_eq!(cell.state().jobs_of(&group_id("g")).count(), 0);
}

#[test]
fn distinct_hosts_are_kept_apart_even_if_some_must_wait() {
    let cell = cell(1, &["a", "b"]);
    let spec = Arc::new(JobSpec {
        constraints: vec![Constraint::DistinctHosts],
        ..JobSpec::default()
    });
    cell.put_group(Group {
        spec,
        ..service("g", 3)
    });
    run(&cell, MINUTE);
    assert_eq!(up(&cell.state()), spread([("a", 1), ("b", 1)]));
    assert!(blocked(&cell).unwrap().contains("distinct hosts: 2"));
}

#[test]
fn schedulers_of_the_same_groups_never_start_a_job_twice() {
    for seed in 0..20 {
        let cell = cell(seed, &["a", "b", "c"]);
        cell.put_group(service("g", 5));
        cell.put_group(service("h", 2));
        let (mut one, mut two, mut three) = (
            ServiceScheduler::new(),
            ServiceScheduler::new(),
            ServiceScheduler::new(),
        );
        cell.run(&mut [&mut one, &mut two, &mut three], SECOND);
        let counters = cell.counters();
        assert_eq!(counters.started, 7, "seed {seed}:\n{}", cell.log());
        assert_eq!((counters.stopped, counters.livelocks), (0, 0));
    }
}

#[test]
fn a_scheduler_at_rest_proposes_nothing() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(service("g", 5));
    cell.put_group(service("too-large", 200));
    run(&cell, MINUTE);
    let revision = cell.state().revision();
    let proposed = cell.counters().proposed;
    cell.run(&mut [&mut ServiceScheduler::new()], MINUTE);
    assert_eq!(cell.counters().proposed, proposed);
    assert_eq!(cell.state().revision(), revision);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let story = |seed| {
        let cell = cell(seed, &["a", "b", "c"])
            .with_refusals(0.2)
            .with_staleness(2);
        cell.put_group(service("g", 20));
        let (mut one, mut two) = (ServiceScheduler::new(), ServiceScheduler::new());
        cell.run(&mut [&mut one, &mut two], 5 * SECOND);
        cell.lose(&host_id("b"));
        cell.run(&mut [&mut one, &mut two], MINUTE);
        cell.log()
    };
    assert_eq!(story(7), story(7));
    assert_ne!(story(7), story(8));
}

#[test]
fn proposals_are_guarded_and_the_defaults_can_be_changed() {
    let cell = cell(1, &["a"]);
    cell.put_group(service("g", 1));
    let mut scheduler = ServiceScheduler::new()
        .with_history(1)
        .with_lost_grace(SECOND)
        .with_backoff(RestartBackoff {
            base: SECOND,
            max: SECOND,
            window: MINUTE,
        });
    let mut ids = flynn_sched::scheduler::SeededIds::new(3);
    let mut context = flynn_sched::scheduler::Context::new(cell.now_ms(), &mut ids);
    let transaction = scheduler.schedule(&cell.state(), &mut context);
    assert!(matches!(transaction.changes[0], Change::ExpectGroup { .. }));
    let Change::Start(job) = &transaction.changes[1] else {
        panic!("{transaction:?}");
    };
    assert_eq!(job.placed_at_ms, cell.now_ms());
    assert_eq!(job.spec.request, memory(10));
    cell.behave(group_id("g"), Behaviour::Fails(Duration::from_millis(1)));
    cell.run(&mut [&mut scheduler], 10 * SECOND);
    let kept = cell.state().jobs_of(&group_id("g")).count();
    assert!(kept <= 2, "one that failed and one that is about to");
    assert!(cell.counters().started >= 5, "every second");
}
