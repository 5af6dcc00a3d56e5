//! Random cells: moves come to an end, each makes the cell more even, and no group is ever short of jobs for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flynn_sched::{
    Budget, ClusterState, Constraint, Eviction, Group, GroupKind, Host, Job, JobSpec, Phase,
    Resources, SimCluster, Transaction,
    clock::Clock,
    rebalance::{Imbalance, Move, Rebalancer},
    scheduler::{RebalanceScheduler, ServiceScheduler},
};
use proptest::prelude::*;

use crate::fixture::{group_id, host_id, job_id, phase};

use super::cell;

#[derive(Debug, Clone)]
struct Plan {
    hosts: Vec<Host>,
    services: Vec<(Group, Vec<usize>)>,
}

fn any_host() -> impl Strategy<Value = (u64, u64, usize, bool)> {
    (1..5_u64, 1..5_u64, 0..3_usize, prop::bool::weighted(0.5))
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let service = (
        0..3_u64,
        0..4_u64,
        0..=100_u8,
        prop::collection::vec(0..64_usize, 1..6),
        0..4_u8,
    );
    let services = prop::collection::vec(service, 1..8);
    (prop::collection::vec(any_host(), 2..6), services).prop_map(|(hosts, services)| {
        let hosts: Vec<Host> = hosts
            .into_iter()
            .enumerate()
            .map(|(n, (cpu, memory, zone, is_fast))| {
                let capacity = Resources {
                    cpu_millis: cpu * 1000,
                    memory_bytes: memory * 10,
                    disk_bytes: 0,
                };
                let disk = if is_fast { "ssd" } else { "hdd" };
                Host {
                    zone: (zone > 0).then(|| format!("z{zone}")),
                    tags: BTreeMap::from([("disk".to_owned(), disk.to_owned())]),
                    ..Host::new(host_id(&format!("h{n}")), capacity)
                }
            })
            .collect();
        let services = services
            .into_iter()
            .enumerate()
            .map(|(n, (cpu, memory, priority, on, rule))| {
                let constraints = match rule {
                    0 => vec![Constraint::DistinctHosts],
                    1 => vec![Constraint::Tag {
                        key: "disk".to_owned(),
                        value: "ssd".to_owned(),
                    }],
                    _ => vec![],
                };
                let spec = JobSpec {
                    request: Resources {
                        cpu_millis: cpu * 300,
                        memory_bytes: memory,
                        disk_bytes: 0,
                    },
                    constraints,
                    ..JobSpec::default()
                };
                let kind = GroupKind::Service { count: 0 };
                let group = Group {
                    priority,
                    ..Group::new(group_id(&format!("g{n}")), kind, spec)
                };
                (group, on)
            })
            .collect();
        Plan { hosts, services }
    })
}

/// Jobs are up where the plan has them, as far as they fit; each service wants as many as that is.
fn placed(plan: &Plan) -> ClusterState {
    let mut state = cell(plan.hosts.clone());
    for (group, on) in &plan.services {
        let mut count = 0;
        for (n, on) in on.iter().enumerate() {
            let host = &plan.hosts[on % plan.hosts.len()].id;
            let id = job_id(&format!("{}-{n}", group.id));
            let start =
                Transaction::on(&state).start(new_job(group, id.as_str(), host.as_str(), 0));
            let applied = state.apply(&start).unwrap();
            if applied.refused.is_empty() {
                count += 1;
                state = applied.state.reported(host, vec![(id, phase(Phase::Up))]);
            }
        }
        let kind = GroupKind::Service { count };
        let put = Transaction::on(&state).put_group(Group {
            kind,
            ..group.clone()
        });
        state = state.apply(&put).unwrap().state;
    }
    state
}

fn new_job(group: &Group, id: &str, on: &str, placed_at_ms: u64) -> Job {
    Job {
        spec: Arc::clone(&group.spec),
        placed_at_ms,
        ..crate::fixture::job(id, group.id.as_str(), on, 0)
    }
}

/// The move from its beginning to its end. Refused: nothing.
fn moved(state: &ClusterState, planned: &Move, n: usize, now_ms: u64) -> Option<ClusterState> {
    let group = state.group(&planned.group)?;
    let id = format!("successor-of-{n}");
    let why = planned.why.clone();
    let transaction = Transaction::on(state)
        .all_or_nothing()
        .start(new_job(group, &id, planned.to.as_str(), now_ms))
        .evict(planned.job.clone(), Eviction::Moving { why });
    let state = state.apply(&transaction).ok()?.state;
    let state = state.reported(&planned.to, vec![(job_id(&id), phase(Phase::Up))]);
    let stop = Transaction::on(&state).stop(planned.job.clone());
    let state = state.apply(&stop).ok()?.state;
    let state = state.reported(
        &planned.from,
        vec![(planned.job.clone(), phase(Phase::Done))],
    );
    let remove = Transaction::on(&state).remove(planned.job.clone());
    Some(state.apply(&remove).ok()?.state)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Every move is accepted by a commit, makes the cell more even by what it says and more than it costs, and no group
    /// less evenly spread; and there is an end of moves.
    #[test]
    fn every_move_makes_the_cell_more_even_and_there_is_a_last_one(plan in any_plan(), most in 1..5_u32) {
        let mut state = placed(&plan);
        let rebalancer = Rebalancer::new().with_most(most);
        let pause_ms = 1 + u64::try_from(Rebalancer::PAUSE.as_millis()).unwrap();
        let mut now_ms = pause_ms;
        let mut moves = 0;
        loop {
            let planned = rebalancer.plan(&state, now_ms);
            if planned.moves.is_empty() {
                prop_assert_eq!(planned.wake_at_ms, None, "it rests for good");
                break;
            }
            prop_assert!(planned.moves.len() <= usize::try_from(most).unwrap());
            for planned in &planned.moves {
                let before = Imbalance::of(&state);
                let next = moved(&state, planned, moves, now_ms);
                prop_assert!(next.is_some(), "{planned} was refused");
                state = next.unwrap();
                let after = Imbalance::of(&state);
                let fell = before.total() - after.total();
                prop_assert!((fell - planned.gain).abs() < 1e-9, "{planned}: fell by {fell}");
                prop_assert!(planned.gain > planned.cost, "{planned}");
                prop_assert!(after.spread <= before.spread + 1e-9, "{planned}");
                moves += 1;
            }
            // By what every move must gain at least, there cannot be more.
            prop_assert!(moves < 1_000, "no end of moves");
            now_ms += pause_ms;
        }
    }
}

/// Of every service that was whole once, as many are up as its budget demands; says which is not.
fn short(state: &ClusterState) -> Option<String> {
    let short = state.groups().find(|group| {
        let budget = Budget::of(state, group);
        budget.up < budget.floor
    });
    short.map(|group| group.id.to_string())
}

fn up(state: &ClusterState) -> usize {
    let jobs = state.jobs();
    jobs.filter(|job| job.status.phase == Phase::Up && !job.is_stopping)
        .count()
}

fn is_whole(state: &ClusterState) -> bool {
    state.groups().all(|group| {
        let GroupKind::Service { count } = group.kind else {
            return true;
        };
        let up = state
            .jobs_of(&group.id)
            .filter(|job| job.status.phase == Phase::Up && !job.is_stopping);
        up.count() == usize::try_from(count).unwrap() && state.group_status(&group.id).is_none()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// With the service scheduler, after a host was lost and came back: a cell that lacks nothing becomes no less even, no group goes under
    /// its floor, nothing is left on the move, and at last nothing happens any more.
    #[test]
    fn a_simulated_cell_comes_to_rest_more_even_than_before(plan in any_plan(), seed in 0..1000_u64, lost in 0..6_usize) {
        let sim = SimCluster::new(seed);
        for host in &plan.hosts {
            sim.join(host.clone()).unwrap();
        }
        for (group, on) in &plan.services {
            let kind = GroupKind::Service { count: u32::try_from(on.len()).unwrap() };
            sim.put_group(Group { kind, ..group.clone() });
        }
        let mut services = ServiceScheduler::new();
        sim.run(&mut [&mut services], Duration::from_secs(10));
        let lost = &plan.hosts[lost % plan.hosts.len()].id;
        sim.lose(lost);
        sim.run(&mut [&mut services], Duration::from_secs(60));
        sim.bring_back(lost);
        sim.run(&mut [&mut services], Duration::from_secs(60));
        let was_whole = is_whole(&sim.state());
        let (before, up_before) = (Imbalance::of(&sim.state()), up(&sim.state()));
        let mut rebalance = RebalanceScheduler::new()
            .with_rebalancer(Rebalancer::new().with_pause(Duration::from_secs(20)));
        let end_ms = sim.now_ms() + 1_200_000;
        while sim.now_ms() < end_ms {
            sim.run(&mut [&mut services, &mut rebalance], Duration::from_millis(500));
            if was_whole {
                prop_assert_eq!(short(&sim.state()), None, "at {}\n{}", sim.now_ms(), sim.log());
            }
        }
        if was_whole {
            let after = Imbalance::of(&sim.state());
            prop_assert!(after.total() <= before.total() + 1e-9, "{before:?} {after:?}\n{}", sim.log());
            prop_assert!(after.spread <= before.spread + 1e-9, "{before:?} {after:?}\n{}", sim.log());
        }
        // A move may have made room for a job that there was none for: the cell is another one then.
        prop_assert!(up(&sim.state()) >= up_before, "{}", sim.log());
        prop_assert!(sim.state().jobs().all(|job| !job.is_moving()), "{}", sim.log());
        let (log, counters) = (sim.log(), sim.counters());
        prop_assert_eq!(counters.livelocks, 0);
        sim.run(&mut [&mut services, &mut rebalance], Duration::from_secs(3_600));
        prop_assert_eq!(sim.counters().started, counters.started, "it rests\n{}", log);
        prop_assert!(is_whole(&sim.state()) || !was_whole);
    }
}

#[test]
fn jobs_return_to_a_host_that_came_back() {
    let sim = SimCluster::new(7);
    let capacity = Resources {
        cpu_millis: 4_000,
        memory_bytes: 1_000,
        disk_bytes: 0,
    };
    for id in ["a", "b", "c"] {
        sim.join(Host::new(host_id(id), capacity)).unwrap();
    }
    let spec = JobSpec {
        request: Resources {
            cpu_millis: 100,
            ..Resources::default()
        },
        ..JobSpec::default()
    };
    for id in ["web", "api"] {
        sim.put_group(Group::new(
            group_id(id),
            GroupKind::Service { count: 3 },
            spec.clone(),
        ));
    }
    let mut services = ServiceScheduler::new();
    sim.run(&mut [&mut services], Duration::from_secs(10));
    sim.lose(&host_id("b"));
    sim.run(&mut [&mut services], Duration::from_secs(700));
    sim.join(Host::new(host_id("b"), capacity)).unwrap();
    sim.run(&mut [&mut services], Duration::from_secs(60));
    let on_b = |sim: &SimCluster| {
        let state = sim.state();
        state
            .jobs_on(&host_id("b"))
            .filter(|job| job.status.phase == Phase::Up)
            .count()
    };
    assert_eq!(on_b(&sim), 0, "no other scheduler moves what runs");
    let mut rebalance = RebalanceScheduler::new();
    sim.run(
        &mut [&mut services, &mut rebalance],
        Duration::from_secs(3_600),
    );
    assert_eq!(on_b(&sim), 2);
    for id in ["web", "api"] {
        let state = sim.state();
        let mut hosts: Vec<String> = state
            .jobs_of(&group_id(id))
            .filter(|job| job.status.phase == Phase::Up)
            .map(|job| job.host.to_string())
            .collect();
        hosts.sort();
        assert_eq!(hosts, ["a", "b", "c"], "{id}");
    }
}
