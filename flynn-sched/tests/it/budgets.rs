//! How many jobs of a group the cell takes away at once.

use flynn_sched::{
    Budget, ClusterState, Eviction, Group, GroupKind, Job, JobStatus, Partition, Phase,
    Transaction, transaction::Change,
};
use proptest::prelude::*;

use crate::fixture::{group, group_id, host, host_id, job, job_id, phase};

fn preempted(by: &str, priority: u8) -> Eviction {
    Eviction::Preempted {
        by: group_id(by),
        priority,
    }
}

fn low(kind: GroupKind, max_unavailable: Option<u32>) -> Group {
    Group {
        priority: 10,
        max_unavailable,
        ..group("low", kind, 1)
    }
}

/// A cell where `low` has jobs in these phases, spread over two hosts, and `high` wants room.
fn cell(low: Group, phases: &[Phase]) -> ClusterState {
    let mut state = ClusterState::default();
    for id in ["a", "b"] {
        state = state.host_joined(host(id, 1000), 0).unwrap();
    }
    let high = Group {
        priority: 90,
        ..group("high", GroupKind::Service { count: 1 }, 1)
    };
    let mut put = Transaction::on(&state).put_group(low).put_group(high);
    let on = |n: usize| if n.is_multiple_of(2) { "a" } else { "b" };
    for n in 0..phases.len() {
        put = put.start(job(&format!("j{n}"), "low", on(n), 1));
    }
    state = state.apply(&put).unwrap().state;
    for (n, now) in phases.iter().enumerate() {
        let status: JobStatus = phase(*now);
        state = state.reported(&host_id(on(n)), vec![(job_id(&format!("j{n}")), status)]);
    }
    state
}

/// How many of all its jobs can be preempted in one transaction.
fn preemptable(state: &ClusterState) -> usize {
    let mut all = Transaction::on(state);
    for job in state.jobs() {
        all = all.evict(job.id.clone(), preempted("high", 90));
    }
    let applied = state.apply(&all).unwrap();
    let stopping = |job: &&std::sync::Arc<Job>| job.is_stopping && !job.status.phase.is_final();
    applied.state.jobs().filter(stopping).count()
}

fn service(count: u32) -> GroupKind {
    GroupKind::Service { count }
}

#[test]
fn by_default_a_service_gives_one_or_a_tenth() {
    assert_eq!(
        preemptable(&cell(low(service(3), None), &[Phase::Up; 3])),
        1
    );
    assert_eq!(
        preemptable(&cell(low(service(40), None), &[Phase::Up; 40])),
        4
    );
}

#[test]
fn a_group_gives_as_many_as_it_says() {
    let give = |max| preemptable(&cell(low(service(5), Some(max)), &[Phase::Up; 5]));
    assert_eq!(give(0), 0);
    assert_eq!(give(3), 3);
    assert_eq!(give(u32::MAX), 5);
}

#[test]
fn a_batch_gives_everything_unless_it_says_otherwise() {
    let batch = GroupKind::Batch {
        count: 5,
        retries: 0,
    };
    assert_eq!(
        preemptable(&cell(low(batch.clone(), None), &[Phase::Up; 5])),
        5
    );
    assert_eq!(preemptable(&cell(low(batch, Some(2)), &[Phase::Up; 5])), 2);
}

#[test]
fn what_is_down_by_itself_counts_but_may_be_taken() {
    use Phase::{Crashed, Pending, Restarting, Up};
    let give = |phases: &[Phase]| preemptable(&cell(low(service(4), Some(1)), phases));
    assert_eq!(give(&[Up, Up, Up, Crashed]), 0);
    assert_eq!(give(&[Up, Up, Up, Restarting]), 1, "the one that is down");
    assert_eq!(give(&[Up, Up, Up, Pending]), 1, "the one that is not up");
    assert_eq!(give(&[Up, Up, Pending, Pending]), 0, "they are needed");
    assert_eq!(give(&[Up, Up, Up]), 0, "one lacks already");
}

#[test]
fn an_omni_group_counts_the_hosts_that_are_there() {
    let omni = GroupKind::Omni { per_host: 1 };
    let state = cell(low(omni, Some(1)), &[Phase::Up; 2]);
    let of = |state: &ClusterState| Budget::of(state, state.group(&group_id("low")).unwrap());
    let both = Budget {
        wanted: 2,
        floor: 1,
        up: 2,
    };
    assert_eq!(of(&state), both);
    assert_eq!(both.left(), 1);
    let one = Budget {
        wanted: 1,
        floor: 0,
        up: 0,
    };
    assert_eq!(of(&state.host_lost(&host_id("b"), 1)), one);
}

#[test]
fn the_budget_of_one_transaction_is_counted_once() {
    let state = cell(low(service(3), Some(1)), &[Phase::Up; 3]);
    let refused = |transaction: Transaction| -> Vec<String> {
        let applied = state.apply(&transaction).unwrap();
        applied.refused.into_iter().map(|no| no.why).collect()
    };
    let evict = |id: &str| Change::Evict {
        job: job_id(id),
        why: preempted("high", 90),
    };
    let needed = "job j1 is needed: of group low 2 are up, and no less than 2 are to be";
    let two = Transaction::on(&state).with(evict("j0")).with(evict("j1"));
    assert_eq!(refused(two), [needed]);
    // A stop in between is a person's will; the cell adds nothing to it.
    let stopped = Transaction::on(&state).stop(job_id("j0")).with(evict("j1"));
    assert_eq!(refused(stopped), [needed]);
    // And a lower floor is a lower floor.
    let lowered = Transaction::on(&state)
        .with(evict("j0"))
        .put_group(low(service(3), Some(2)))
        .with(evict("j1"))
        .with(evict("j2"));
    assert_eq!(
        refused(lowered),
        ["job j2 is needed: of group low 1 are up, and no less than 1 are to be"]
    );
}

#[test]
fn the_system_gives_way_to_the_system_only() {
    let mut state = cell(low(service(3), None), &[]);
    let system = |group: Group| {
        let mut spec = (*group.spec).clone();
        spec.partition = Partition::System;
        Group {
            spec: spec.into(),
            ..group
        }
    };
    let group = system(low(service(1), None));
    let spec = std::sync::Arc::clone(&group.spec);
    let start = Job {
        spec,
        ..job("j0", "low", "a", 1)
    };
    let put = Transaction::on(&state).put_group(group).start(start);
    state = state.apply(&put).unwrap().state;
    state = state.reported(&host_id("a"), vec![(job_id("j0"), phase(Phase::Up))]);
    assert_eq!(preemptable(&state), 0);
    let high = (**state.group(&group_id("high")).unwrap()).clone();
    let put = Transaction::on(&state).put_group(system(high));
    assert_eq!(preemptable(&state.apply(&put).unwrap().state), 1);
}

#[test]
fn a_job_of_a_group_that_is_gone_is_anybodys() {
    let state = cell(low(service(3), Some(0)), &[Phase::Up; 3]);
    let remove = Transaction::on(&state).remove_group(group_id("low"));
    assert_eq!(preemptable(&state.apply(&remove).unwrap().state), 3);
}

fn any_phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        6 => Just(Phase::Up),
        1 => Just(Phase::Pending),
        1 => Just(Phase::Restarting),
        1 => Just(Phase::Crashed),
    ]
}

proptest! {
    /// However many preemptions are asked for, in whatever transactions, jobs come up and fail in between: as long as
    /// nothing fails, what is up never falls below the floor; and what is already below is left alone.
    #[test]
    fn preemption_never_goes_under_the_floor(
        phases in prop::collection::vec(any_phase(), 0..12),
        lacking in 0..3_u32,
        max_unavailable in prop::option::of(0..12_u32),
        asked in prop::collection::vec(prop::collection::vec(0..12_usize, 0..6), 0..8),
    ) {
        let wanted = u32::try_from(phases.len()).unwrap() + lacking;
        let may = max_unavailable.unwrap_or_else(|| (wanted / 10).max(1));
        let floor = wanted.saturating_sub(may) as usize;
        let up = |state: &ClusterState| {
            state.jobs().filter(|job| job.status.phase == Phase::Up && !job.is_stopping).count()
        };
        let mut state = cell(low(service(wanted), max_unavailable), &phases);
        for wave in asked {
            let before = up(&state);
            let mut transaction = Transaction::on(&state);
            for n in wave {
                transaction = transaction.evict(job_id(&format!("j{n}")), preempted("high", 90));
            }
            state = state.apply(&transaction).unwrap().state;
            prop_assert!(up(&state) >= floor.min(before), "{} of {before} are up, floor {floor}", up(&state));
            // What was preempted stops.
            let stopping: Vec<_> = state.jobs().filter(|job| job.is_stopping).cloned().collect();
            for job in stopping {
                state = state.reported(&job.host, vec![(job.id.clone(), phase(Phase::Done))]);
            }
        }
    }
}

#[test]
fn a_job_that_is_not_evicted_is_written_as_ever_and_one_that_is_can_be_read_back() {
    let plain = job("j", "g", "a", 1);
    let written = serde_json::to_value(&plain).unwrap();
    assert!(written.get("evicted").is_none());
    assert_eq!(serde_json::from_value::<Job>(written).unwrap(), plain);
    let evicted = Job {
        is_stopping: true,
        evicted: Some(preempted("high", 90)),
        ..plain
    };
    let written = serde_json::to_string(&evicted).unwrap();
    assert!(written.contains(r#""evicted":{"type":"preempted","by":"high","priority":90}"#));
    assert_eq!(serde_json::from_str::<Job>(&written).unwrap(), evicted);
}
