//! Preemption by schedulers on simulated cells: each test is one story, the last is all of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flynn_sched::{
    Budget, ClusterState, Constraint, Error, Group, GroupKind, Host, Phase, Preemptor, SimCluster,
    Transaction,
    scheduler::{BatchScheduler, ServiceScheduler},
    sim::Behaviour,
};
use proptest::prelude::*;

use crate::fixture::{group, group_id, host, host_id, job, spec};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn cell(seed: u64, hosts: &[(&str, u64)]) -> SimCluster {
    let cell = SimCluster::new(seed);
    for (id, mib) in hosts {
        cell.join(host(id, *mib)).unwrap();
    }
    cell
}

fn service(id: &str, priority: u8, count: u32, mib: u64) -> Group {
    Group {
        priority,
        max_unavailable: Some(count),
        ..group(id, GroupKind::Service { count }, mib)
    }
}

fn run(cell: &SimCluster, time: Duration) {
    cell.run(&mut [&mut ServiceScheduler::new()], time);
}

fn up(state: &ClusterState, id: &str) -> usize {
    let id = group_id(id);
    let jobs = state.jobs_of(&id);
    jobs.filter(|job| job.status.phase == Phase::Up && !job.is_stopping)
        .count()
}

fn blocked(cell: &SimCluster, id: &str) -> String {
    let state = cell.state();
    let status = state.group_status(&group_id(id)).unwrap();
    status.blocked.clone().unwrap()
}

fn is_making_room(state: &ClusterState) -> bool {
    state.nominated_groups().next().is_some()
}

#[test]
fn what_is_more_important_gets_room_and_what_went_comes_back() {
    let cell = cell(1, &[("a", 100), ("b", 100)]);
    cell.put_group(service("low", 10, 4, 50));
    run(&cell, SECOND);
    assert_eq!(up(&cell.state(), "low"), 4);
    cell.put_group(service("high", 90, 1, 100));
    run(&cell, 5 * SECOND);
    let state = cell.state();
    assert_eq!(
        (up(&state, "high"), up(&state, "low")),
        (1, 2),
        "{}",
        cell.log()
    );
    assert_eq!(cell.counters().preempted, 2);
    assert!(!is_making_room(&state));
    assert!(blocked(&cell, "low").starts_with("none of 2 hosts can take it"));
    cell.put_group(service("high", 90, 0, 100));
    run(&cell, 5 * SECOND);
    let state = cell.state();
    assert_eq!(up(&state, "low"), 4);
    let kept = state.jobs_of(&group_id("low")).count();
    assert_eq!(
        kept, 4,
        "those that went are forgotten when they are replaced"
    );
    assert_eq!(cell.counters().livelocks, 0);
}

#[test]
fn what_is_not_more_important_than_by_default_waits() {
    let cell = cell(1, &[("a", 100)]);
    cell.put_group(service("low", 10, 1, 100));
    run(&cell, SECOND);
    cell.put_group(service("g", 50, 1, 100));
    run(&cell, MINUTE);
    assert_eq!(cell.counters().preempted, 0);
    let mut scheduler =
        ServiceScheduler::new().with_preemption(Preemptor::new().with_least_priority(0));
    cell.run(&mut [&mut scheduler], MINUTE);
    assert_eq!((up(&cell.state(), "g"), up(&cell.state(), "low")), (1, 0));
}

#[test]
fn a_scheduler_told_not_to_preempts_nothing() {
    let cell = cell(1, &[("a", 100)]);
    cell.put_group(service("low", 10, 1, 100));
    cell.put_group(service("high", 90, 1, 100));
    cell.put_group(service("high", 90, 0, 100));
    run(&cell, SECOND);
    cell.put_group(service("high", 90, 1, 100));
    let mut scheduler = ServiceScheduler::new().without_preemption();
    cell.run(&mut [&mut scheduler], MINUTE);
    assert_eq!(cell.counters().preempted, 0);
    assert_eq!(up(&cell.state(), "low"), 1);
}

#[test]
fn the_note_says_that_room_is_being_made_or_why_it_cannot_be() {
    let cell = cell(1, &[("a", 100)]);
    cell.put_group(service("low", 10, 2, 50));
    run(&cell, SECOND);
    cell.put_group(service("high", 90, 1, 100));
    run(&cell, Duration::ZERO);
    assert_eq!(
        blocked(&cell, "high"),
        "room is being made for 1 of its jobs: 2 that are less important are to stop"
    );
    cell.put_group(service("higher", 90, 1, 100));
    run(&cell, MINUTE);
    assert_eq!(
        blocked(&cell, "higher"),
        "the one host cannot take it (resources: 1); the nearest is a: needs 100 MiB of memory, \
         0 B is free; preemption does not help (hosts with too little that is less important: 1)"
    );
}

#[test]
fn the_room_is_not_given_to_anything_less_important_meanwhile() {
    let cell = cell(1, &[("a", 100)]);
    cell.put_group(service("low", 10, 2, 50));
    run(&cell, SECOND);
    cell.put_group(service("high", 90, 1, 100));
    run(&cell, Duration::ZERO);
    // Both have stopped, and nobody has scheduled since.
    cell.advance(SECOND);
    let state = cell.state();
    assert_eq!(
        state.host(&host_id("a")).unwrap().promised,
        crate::fixture::memory(0)
    );
    let start = |of: &str| {
        let start = Transaction::on(&state).start(job("x", of, "a", 10));
        state.apply(&start.all_or_nothing()).map(|_| ())
    };
    assert!(matches!(start("low"), Err(Error::Conflict { why, .. })
            if why == "needs 10 MiB of memory, 0 B is free beside the room that is being made for high"));
    start("high").unwrap();
    // A scheduler that sees only the other groups does not even propose it.
    let refused = cell.counters().conflicts;
    run(&cell, MINUTE);
    assert_eq!(cell.counters().conflicts, refused);
    assert_eq!(up(&cell.state(), "high"), 1);
}

#[test]
fn a_budget_is_kept_and_the_rest_waits() {
    let cell = cell(1, &[("a", 100), ("b", 100), ("c", 100)]);
    let low = Group {
        max_unavailable: Some(1),
        ..service("low", 10, 3, 100)
    };
    cell.put_group(low.clone());
    run(&cell, SECOND);
    cell.put_group(service("high", 90, 3, 100));
    let mut scheduler = ServiceScheduler::new();
    for _ in 0..200 {
        cell.run(&mut [&mut scheduler], Duration::from_millis(50));
        assert!(up(&cell.state(), "low") >= 2, "{}", cell.log());
    }
    assert_eq!(
        (up(&cell.state(), "high"), up(&cell.state(), "low")),
        (1, 2)
    );
    assert!(blocked(&cell, "high").ends_with("where budgets forbid it: 2)"));
    cell.put_group(Group {
        max_unavailable: Some(2),
        ..low
    });
    run(&cell, MINUTE);
    assert_eq!(
        (up(&cell.state(), "high"), up(&cell.state(), "low")),
        (2, 1)
    );
}

#[test]
fn there_is_no_cascade_over_three_priorities() {
    // Only a is large enough for `high`, and there is nothing there but `mid`, which would fit where `low` is.
    let cell = cell(1, &[("a", 200), ("b", 100)]);
    cell.put_group(service("low", 10, 1, 100));
    cell.put_group(service("mid", 70, 1, 100));
    cell.put_group(service("filler", 95, 1, 100));
    run(&cell, SECOND);
    let on = |id: &str| {
        let state = cell.state();
        let id = group_id(id);
        let mut jobs = state.jobs_of(&id);
        jobs.find(|job| job.status.phase == Phase::Up && !job.is_stopping)
            .map(|job| job.host.to_string())
    };
    let (low_on, mid_on) = (on("low").unwrap(), on("mid").unwrap());
    assert_ne!(low_on, mid_on, "{}", cell.log());
    let tag = |id: &str, mib| Host {
        tags: BTreeMap::from([("here".to_owned(), (id == mid_on).to_string())]),
        ..host(id, mib)
    };
    cell.join(tag("a", 200)).unwrap();
    cell.join(tag("b", 100)).unwrap();
    let mut picky = (*spec(100)).clone();
    picky.constraints = vec![Constraint::Tag {
        key: "here".to_owned(),
        value: "true".to_owned(),
    }];
    cell.put_group(Group {
        spec: Arc::new(picky),
        ..service("high", 90, 1, 100)
    });
    run(&cell, MINUTE);
    assert_eq!(on("high"), Some(mid_on));
    assert_eq!(on("mid"), None, "it waits");
    assert_eq!(on("low"), Some(low_on), "and does not pass it on");
    assert_eq!(cell.counters().preempted, 1);
    // More of it than went is another matter.
    cell.put_group(service("mid", 70, 2, 100));
    run(&cell, MINUTE);
    assert_eq!((on("low"), cell.counters().preempted), (None, 2));
}

#[test]
fn an_omni_group_makes_room_on_each_of_its_hosts() {
    let cell = cell(1, &[("a", 100), ("b", 100)]);
    cell.put_group(service("low", 10, 4, 40));
    run(&cell, SECOND);
    cell.put_group(Group {
        priority: 90,
        ..group("agent", GroupKind::Omni { per_host: 1 }, 30)
    });
    run(&cell, 5 * SECOND);
    assert_eq!(
        (up(&cell.state(), "agent"), up(&cell.state(), "low")),
        (2, 2)
    );
    assert_eq!(cell.counters().preempted, 2);
    assert!(!is_making_room(&cell.state()));
}

#[test]
fn when_the_nominated_host_is_lost_room_is_made_elsewhere() {
    let cell = cell(1, &[("a", 100), ("b", 100), ("c", 10), ("d", 10)]);
    cell.put_group(service("low", 10, 2, 100));
    run(&cell, SECOND);
    cell.put_group(service("high", 90, 1, 100));
    run(&cell, Duration::ZERO);
    let state = cell.state();
    let status = state.group_status(&group_id("high")).unwrap();
    let first = status.nominated[0].host.clone();
    cell.lose(&first);
    run(&cell, 10 * SECOND);
    assert_eq!(up(&cell.state(), "high"), 1, "{}", cell.log());
    assert_eq!(cell.counters().preempted, 2);
    assert!(!is_making_room(&cell.state()));
}

#[test]
fn two_groups_of_one_priority_do_not_take_turns() {
    let cell = cell(1, &[("a", 100)]);
    cell.put_group(service("low", 10, 1, 100));
    run(&cell, SECOND);
    cell.put_group(service("x", 80, 1, 100));
    cell.put_group(service("y", 80, 1, 100));
    run(&cell, 10 * MINUTE);
    let state = cell.state();
    assert_eq!(up(&state, "x") + up(&state, "y"), 1);
    assert_eq!(cell.counters().preempted, 1);
    assert_eq!(cell.counters().started, 2);
}

#[test]
fn two_schedulers_preempt_no_more_than_one_would() {
    for seed in 0..20 {
        let cell = cell(seed, &[("a", 100), ("b", 100), ("c", 100)]);
        cell.put_group(service("low", 10, 6, 50));
        run(&cell, SECOND);
        cell.put_group(service("high", 90, 2, 50));
        cell.put_group(service("higher", 95, 2, 50));
        let (mut one, mut two) = (ServiceScheduler::new(), ServiceScheduler::new());
        cell.run(&mut [&mut one, &mut two], MINUTE);
        let state = cell.state();
        let ups = ["low", "high", "higher"].map(|id| up(&state, id));
        assert_eq!(ups, [2, 2, 2], "seed {seed}:\n{}", cell.log());
        assert_eq!(cell.counters().preempted, 4, "seed {seed}:\n{}", cell.log());
        assert_eq!(cell.counters().livelocks, 0);
    }
}

#[test]
fn a_wave_beyond_the_bounds_of_one_round_is_served_in_the_end() {
    let hosts: Vec<String> = (0..40).map(|n| format!("h{n}")).collect();
    let hosts: Vec<(&str, u64)> = hosts.iter().map(|id| (id.as_str(), 100)).collect();
    let cell = cell(1, &hosts);
    cell.put_group(service("low", 10, 80, 50));
    run(&cell, SECOND);
    cell.put_group(service("high", 90, 60, 50));
    let few = Preemptor::new().with_max_victims(7);
    let mut scheduler = ServiceScheduler::new().with_preemption(few);
    cell.run(&mut [&mut scheduler], MINUTE);
    assert_eq!(
        (up(&cell.state(), "high"), up(&cell.state(), "low")),
        (60, 20)
    );
    assert_eq!(cell.counters().preempted, 60);
}

#[test]
fn a_preempted_batch_job_runs_again_as_the_same_attempt() {
    let cell = cell(1, &[("a", 100)]);
    let batch = GroupKind::Batch {
        count: 2,
        retries: 0,
    };
    cell.put_group(Group {
        priority: 10,
        ..group("b", batch, 50)
    });
    cell.behave(group_id("b"), Behaviour::Completes(20 * SECOND));
    let (mut services, mut batches) = (ServiceScheduler::new(), BatchScheduler::new());
    cell.run(&mut [&mut services, &mut batches], SECOND);
    cell.put_group(service("high", 90, 1, 100));
    cell.run(&mut [&mut services, &mut batches], 5 * SECOND);
    assert_eq!(up(&cell.state(), "high"), 1);
    assert_eq!(cell.counters().preempted, 2);
    let state = cell.state();
    let status = state.group_status(&group_id("b")).unwrap();
    assert_eq!(
        (status.missing, status.failed, status.is_complete),
        (2, 0, false)
    );
    cell.put_group(service("high", 90, 0, 100));
    cell.run(&mut [&mut services, &mut batches], MINUTE);
    let state = cell.state();
    let status = state.group_status(&group_id("b")).unwrap();
    assert_eq!(
        (status.succeeded, status.failed, status.is_complete),
        (2, 0, true)
    );
    assert!(state.jobs_of(&group_id("b")).all(|job| job.attempt == 0));
}

#[test]
fn a_batch_preempts_only_if_its_scheduler_is_told_to() {
    let cell = cell(1, &[("a", 100)]);
    cell.put_group(service("low", 10, 1, 100));
    cell.run(&mut [&mut ServiceScheduler::new()], SECOND);
    let batch = GroupKind::Batch {
        count: 1,
        retries: 0,
    };
    cell.put_group(Group {
        priority: 90,
        ..group("b", batch, 100)
    });
    let mut services = ServiceScheduler::new();
    cell.run(&mut [&mut services, &mut BatchScheduler::new()], MINUTE);
    assert_eq!(cell.counters().preempted, 0);
    let mut told = BatchScheduler::new().with_preemption(Preemptor::new());
    cell.run(&mut [&mut services, &mut told], MINUTE);
    let state = cell.state();
    assert_eq!(state.group_status(&group_id("b")).unwrap().succeeded, 1);
    assert_eq!(cell.counters().preempted, 1);
    assert_eq!(up(&state, "low"), 1, "it is back");
}

const GROUPS: [(&str, u8); 4] = [("g0", 10), ("g1", 30), ("g2", 60), ("g3", 90)];

#[derive(Debug, Clone)]
enum Trouble {
    Scale(usize, u32),
    Lose(usize),
    Return(usize),
    Pass(u64),
}

fn any_trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        4 => (0..GROUPS.len(), 0..7_u32).prop_map(|(g, n)| Trouble::Scale(g, n)),
        1 => (0..4_usize).prop_map(Trouble::Lose),
        2 => (0..4_usize).prop_map(Trouble::Return),
        4 => (1..5_000_u64).prop_map(Trouble::Pass),
    ]
}

/// In one commit of the cell: whoever is newly preempted was less important, and its group keeps its floor.
fn assert_fair(before: &ClusterState, after: &ClusterState) {
    for job in after.jobs() {
        let is_new = before
            .job(&job.id)
            .is_some_and(|before| before.evicted.is_none());
        if let (true, Some(flynn_sched::Eviction::Preempted { priority, .. })) =
            (is_new, &job.evicted)
            && let Some(group) = after.group(&job.group)
        {
            assert!(group.priority < *priority);
            let (was, is) = (Budget::of(before, group), Budget::of(after, group));
            assert!(
                is.up >= is.floor.min(was.up),
                "{}: {was:?}, {is:?}",
                group.id
            );
        }
    }
    for host in after.hosts() {
        assert!(host.host.capacity.fits(&host.promised));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Four priorities, two schedulers, refusals, old news, hosts lost and returned: only what is less important goes,
    /// and no group below its floor by the cell's will; when the trouble ends the cell comes to rest, and nothing waits
    /// for room that preemption could give it.
    #[test]
    fn preemption_is_fair_and_comes_to_rest(
        seed in any::<u64>(),
        refusals in prop_oneof![Just(0.0), Just(0.2)],
        staleness in 0..3_usize,
        budgets in prop::collection::vec(0..5_u32, GROUPS.len()),
        sizes in prop::collection::vec(2..6_u64, GROUPS.len()),
        troubles in prop::collection::vec(any_trouble(), 1..20),
    ) {
        let cell = SimCluster::new(seed).with_refusals(refusals).with_staleness(staleness);
        let id = |n: usize| format!("h{n}");
        for n in 0..4 {
            cell.join(host(&id(n), 100)).unwrap();
        }
        let scaled = |g: usize, count: u32| Group {
            max_unavailable: Some(budgets[g]),
            ..service(GROUPS[g].0, GROUPS[g].1, count, sizes[g] * 10)
        };
        let (mut one, mut two) = (ServiceScheduler::new(), ServiceScheduler::new());
        let mut watch = cell.state();
        for trouble in troubles {
            match trouble {
                Trouble::Scale(g, count) => cell.put_group(scaled(g, count)),
                Trouble::Lose(n) => cell.lose(&host_id(&id(n))),
                Trouble::Return(n) => cell.bring_back(&host_id(&id(n))),
                Trouble::Pass(ms) => {
                    for _ in 0..ms.div_ceil(100) {
                        cell.run(&mut [&mut one, &mut two], Duration::from_millis(100));
                        let now = cell.state();
                        assert_fair(&watch, &now);
                        watch = now;
                    }
                }
            }
            watch = cell.state();
        }
        for n in 0..4 {
            cell.join(host(&id(n), 100)).unwrap();
        }
        cell.run(&mut [&mut one, &mut two], 20 * MINUTE);
        let state = cell.state();
        prop_assert_eq!(cell.counters().livelocks, 0, "{}", cell.log());
        prop_assert!(!is_making_room(&state), "{}", cell.log());
        let at_rest = (cell.counters().started, cell.counters().preempted);
        cell.run(&mut [&mut one, &mut two], 20 * MINUTE);
        prop_assert_eq!((cell.counters().started, cell.counters().preempted), at_rest);
        // Nothing that is missing could have what is less important, but for those that went themselves.
        for group in state.groups() {
            let missing = state.group_status(&group.id).map_or(0, |status| status.missing);
            let went = state.jobs_of(&group.id).filter(|job| job.evicted.is_some()).count();
            if missing as usize > went && group.priority > Group::PRIORITY {
                let plan = Preemptor::new().round(&state, 0).find(group);
                prop_assert!(plan.is_err(), "{}: {:?}\n{}", group.id, plan, cell.log());
            }
        }
    }
}
