//! Hosts that are emptied: by draining, by a taint that evicts, or one job at a time.

use std::time::Duration;

use flynn_sched::{
    ClusterState, Eviction, Group, GroupKind, Host, JobSpec, Phase, SimCluster, Taint, TaintEffect,
    Toleration, Transaction, scheduler::ServiceScheduler,
};
use futures::executor::block_on;

use crate::fixture::{group, group_id, host, host_id, job_id, memory};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn cell(hosts: &[&str], mib: u64) -> SimCluster {
    let cell = SimCluster::new(1);
    for id in hosts {
        cell.join(host(id, mib)).unwrap();
    }
    cell
}

fn run(cell: &SimCluster, time: Duration) {
    cell.run(&mut [&mut ServiceScheduler::new()], time);
}

fn draining(id: &str, mib: u64) -> Host {
    Host {
        is_draining: true,
        ..host(id, mib)
    }
}

fn tainted(id: &str, mib: u64) -> Host {
    Host {
        taints: vec![Taint {
            key: "broken-fan".to_owned(),
            value: String::new(),
            effect: TaintEffect::NoExecute,
        }],
        ..host(id, mib)
    }
}

fn service(count: u32, max_unavailable: Option<u32>, mib: u64) -> Group {
    Group {
        max_unavailable,
        ..group("g", GroupKind::Service { count }, mib)
    }
}

fn up(state: &ClusterState) -> usize {
    let up =
        |job: &&std::sync::Arc<flynn_sched::Job>| job.status.phase == Phase::Up && !job.is_stopping;
    state.jobs().filter(up).count()
}

fn left_on(cell: &SimCluster, id: &str) -> usize {
    let (state, id) = (cell.state(), host_id(id));
    let jobs = state.jobs_on(&id);
    jobs.filter(|job| !job.status.phase.is_final()).count()
}

/// Runs, and looks all the time whether enough jobs are up.
fn run_never_under(cell: &SimCluster, floor: usize) {
    let mut scheduler = ServiceScheduler::new();
    for _ in 0..200 {
        cell.run(&mut [&mut scheduler], Duration::from_millis(20));
        assert!(up(&cell.state()) >= floor, "{}", cell.log());
    }
}

#[test]
fn a_group_that_can_do_without_some_lets_a_host_be_emptied_that_far() {
    let cell = cell(&["a", "b"], 20);
    cell.put_group(service(4, Some(1), 10));
    run(&cell, SECOND);
    cell.join(draining("b", 20)).unwrap();
    run_never_under(&cell, 3);
    assert_eq!(left_on(&cell, "b"), 1, "there is no room elsewhere");
    cell.put_group(service(4, Some(2), 10));
    run_never_under(&cell, 2);
    assert_eq!(left_on(&cell, "b"), 0);
    let state = cell.state();
    assert_eq!(state.group_status(&group_id("g")).unwrap().missing, 2);
    cell.join(host("c", 20)).unwrap();
    run(&cell, MINUTE);
    assert_eq!(up(&cell.state()), 4);
}

#[test]
fn many_hosts_that_drain_at_once_are_emptied_without_a_gap_where_there_is_room() {
    let cell = cell(&["a", "b", "c", "d"], 100);
    cell.put_group(service(8, None, 10));
    run(&cell, SECOND);
    for id in ["b", "c", "d"] {
        cell.join(draining(id, 100)).unwrap();
    }
    run_never_under(&cell, 8);
    assert_eq!(left_on(&cell, "a"), 8);
}

#[test]
fn a_job_that_is_to_move_moves_and_another_may_take_its_place() {
    let cell = cell(&["a", "b"], 10);
    cell.put_group(service(1, None, 10));
    run(&cell, SECOND);
    let job = flynn_sched::Job::clone(cell.state().jobs().next().unwrap());
    let evict = Transaction::default().evict(
        job.id.clone(),
        Eviction::Moving {
            why: "to see".to_owned(),
        },
    );
    block_on(flynn_sched::Cluster::commit(&cell, evict)).unwrap();
    run_never_under(&cell, 1);
    let state = cell.state();
    assert!(
        state
            .job(&job.id)
            .is_none_or(|job| job.status.phase.is_final())
    );
    assert!(state.host(&job.host).unwrap().promised == memory(0));
    assert_eq!((cell.counters().started, cell.counters().stopped), (2, 1));
}

#[test]
fn nobody_is_preempted_for_a_job_that_can_stay_where_it_is() {
    let cell = cell(&["a", "b"], 10);
    cell.put_group(Group {
        priority: 90,
        ..service(1, None, 10)
    });
    run(&cell, SECOND);
    let job = flynn_sched::Job::clone(cell.state().jobs().next().unwrap());
    cell.put_group(Group {
        priority: 10,
        ..group("low", GroupKind::Service { count: 1 }, 10)
    });
    run(&cell, SECOND);
    let moving = |why: &str| Eviction::Moving {
        why: why.to_owned(),
    };
    let evict = Transaction::default().evict(job.id.clone(), moving("for balance"));
    block_on(flynn_sched::Cluster::commit(&cell, evict)).unwrap();
    run(&cell, MINUTE);
    assert_eq!(cell.counters().preempted, 0);
    assert!(cell.state().job(&job.id).unwrap().is_moving());
    assert!(cell.state().job(&job_id("none")).is_none());
    // Its host is to be emptied: now it must go.
    cell.join(draining(job.host.as_str(), 10)).unwrap();
    run(&cell, MINUTE);
    assert_eq!(cell.counters().preempted, 1, "{}", cell.log());
    assert_eq!(left_on(&cell, job.host.as_str()), 0);
}

#[test]
fn a_taint_that_evicts_moves_what_does_not_bear_it_without_a_gap() {
    let cell = cell(&["a", "b", "c"], 100);
    cell.put_group(service(6, None, 10));
    let hardy = JobSpec {
        tolerations: vec![Toleration::default()],
        ..JobSpec::default()
    };
    cell.put_group(Group::new(
        group_id("hardy"),
        GroupKind::Omni { per_host: 1 },
        hardy,
    ));
    cell.put_group(Group::new(
        group_id("soft"),
        GroupKind::Omni { per_host: 1 },
        JobSpec::default(),
    ));
    run(&cell, SECOND);
    assert_eq!(up(&cell.state()), 12);
    let started = cell.counters().started;
    cell.join(tainted("b", 100)).unwrap();
    // Six of the service, three that bear it, and two on the other hosts.
    run_never_under(&cell, 11);
    let state = cell.state();
    let b = host_id("b");
    let left: Vec<_> = state
        .jobs_on(&b)
        .filter(|job| !job.status.phase.is_final())
        .collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].group, group_id("hardy"));
    assert_eq!(
        cell.counters().started,
        started + 2,
        "only those of the service"
    );
    cell.join(host("b", 100)).unwrap();
    run(&cell, SECOND);
    assert_eq!(up(&cell.state()), 12, "it is as before");
}

#[test]
fn a_taint_that_only_keeps_new_jobs_away_moves_nothing() {
    let cell = cell(&["a", "b"], 100);
    cell.put_group(service(2, None, 10));
    cell.put_group(group("omni", GroupKind::Omni { per_host: 1 }, 10));
    run(&cell, SECOND);
    let mut kept = tainted("b", 100);
    kept.taints[0].effect = TaintEffect::NoSchedule;
    cell.join(kept).unwrap();
    run(&cell, MINUTE);
    let counters = cell.counters();
    assert_eq!(
        (counters.started, counters.stopped, counters.livelocks),
        (4, 0, 0)
    );
    cell.put_group(service(4, None, 10));
    cell.put_group(group("omni", GroupKind::Omni { per_host: 2 }, 10));
    run(&cell, MINUTE);
    assert_eq!((left_on(&cell, "a"), left_on(&cell, "b")), (5, 2));
    assert_eq!(cell.counters().conflicts, 0);
}
