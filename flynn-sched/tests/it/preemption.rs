//! Who must go: the choice of victims beside a search through all of them.

use std::sync::Arc;

use flynn_sched::{
    ClusterState, Constraint, Domain, Eviction, Group, GroupKind, Host, Job, JobSpec, Jobs, Named,
    Partition, Phase, Port, Preemptor, Resources, Transaction,
    preemption::{Cost, NoPlan, Plan},
    transaction::Change,
};
use proptest::prelude::*;

use crate::fixture::{MIB, group, group_id, host, host_id, job, job_id, memory, phase};

/// A cell with these hosts, groups and jobs (by group and host), all of them up.
fn cell(hosts: Vec<Host>, groups: &[Group], jobs: &[(usize, &str)]) -> ClusterState {
    let mut state = ClusterState::default();
    for host in hosts {
        state = state.host_joined(host, 0).unwrap();
    }
    let mut put = Transaction::on(&state);
    for group in groups {
        put = put.put_group(group.clone());
    }
    for (n, (of, on)) in jobs.iter().enumerate() {
        put = put.start(a_job(&format!("j{n}"), &groups[*of], on));
    }
    let applied = state.apply(&put).unwrap();
    assert_eq!(applied.refused, vec![]);
    state = applied.state;
    let up: Vec<_> = state.jobs().cloned().collect();
    for job in up {
        state = state.reported(&job.host, vec![(job.id.clone(), phase(Phase::Up))]);
    }
    state
}

fn a_job(id: &str, of: &Group, on: &str) -> Job {
    Job {
        group: of.id.clone(),
        spec: Arc::clone(&of.spec),
        ..job(id, of.id.as_str(), on, 0)
    }
}

fn a_group(id: &str, priority: u8, spec: JobSpec) -> Group {
    Group {
        priority,
        max_unavailable: Some(100),
        spec: Arc::new(spec),
        ..group(id, GroupKind::Service { count: 100 }, 0)
    }
}

fn mib(mib: u64) -> JobSpec {
    JobSpec {
        request: memory(mib),
        ..JobSpec::default()
    }
}

fn find(state: &ClusterState, group: &Group) -> Result<Plan, NoPlan> {
    Preemptor::new().round(state, 0).find(group)
}

fn victims(state: &ClusterState, group: &Group) -> Vec<String> {
    let plan = find(state, group).unwrap_or_else(|no| panic!("{no}"));
    plan.victims.iter().map(ToString::to_string).collect()
}

#[test]
fn the_least_important_go_even_if_they_are_more() {
    let groups = [a_group("low", 10, mib(50)), a_group("mid", 20, mib(100))];
    let state = cell(
        vec![host("a", 100), host("b", 100)],
        &groups,
        &[(1, "a"), (0, "b"), (0, "b")],
    );
    assert_eq!(
        victims(&state, &a_group("high", 90, mib(100))),
        ["j1", "j2"]
    );
}

#[test]
fn of_equally_important_ones_as_few_go_as_can_be_and_no_more_than_needed() {
    let groups = [
        a_group("small", 10, mib(30)),
        a_group("fitting", 10, mib(60)),
        a_group("large", 10, mib(90)),
    ];
    let state = cell(
        vec![host("a", 90), host("b", 90), host("c", 90)],
        &groups,
        &[(2, "a"), (0, "b"), (0, "b"), (0, "b"), (1, "c"), (0, "c")],
    );
    assert_eq!(victims(&state, &a_group("high", 90, mib(60))), ["j4"]);
}

#[test]
fn what_is_stopping_already_is_waited_for_and_nobody_goes() {
    let groups = [a_group("low", 10, mib(100))];
    let state = cell(
        vec![host("a", 100), host("b", 100)],
        &groups,
        &[(0, "a"), (0, "b")],
    );
    let stop = Transaction::on(&state).stop(job_id("j1"));
    let state = state.apply(&stop).unwrap().state;
    let plan = find(&state, &a_group("high", 90, mib(100))).unwrap();
    assert_eq!((plan.host, plan.victims), (host_id("b"), vec![]));
}

#[test]
fn the_gap_keeps_one_band_of_priorities_together() {
    let groups = [a_group("low", 45, mib(100))];
    let state = cell(vec![host("a", 100)], &groups, &[(0, "a")]);
    let find = |gap, priority| {
        let preemptor = Preemptor::new().with_gap(gap);
        preemptor
            .round(&state, 0)
            .find(&a_group("high", priority, mib(100)))
            .is_ok()
    };
    assert!(find(1, 46) && !find(1, 45));
    assert!(find(10, 55) && !find(10, 54));
    assert!(!find(255, 100) && find(0, 46) && !find(0, 45));
}

#[test]
fn ports_named_resources_and_neighbours_are_freed_too() {
    let with_port = |spec: JobSpec| JobSpec {
        ports: vec![Port {
            port: Some(80),
            ..Port::default()
        }],
        ..spec
    };
    let with_gpus = |n| JobSpec {
        named: Named::from_iter([("gpu", n)]),
        ..mib(1)
    };
    let apart = |from: &str, spec: JobSpec| JobSpec {
        constraints: vec![Constraint::Apart {
            jobs: Jobs::Group(group_id(from)),
            within: Domain::Zone,
        }],
        ..spec
    };
    let groups = [
        a_group("web", 10, with_port(mib(1))),
        a_group("learner", 20, with_gpus(2)),
        a_group("noisy", 30, mib(1)),
        a_group("shy", 40, apart("high", mib(1))),
    ];
    let gpus = Host {
        named: Named::from_iter([("gpu", 4)]),
        ..host("a", 100)
    };
    let jobs = [(0, "a"), (1, "a"), (1, "a"), (2, "a")];
    let state = cell(vec![gpus.clone()], &groups, &jobs);
    let high = |spec| a_group("high", 90, spec);
    assert_eq!(victims(&state, &high(with_port(mib(1)))), ["j0"]);
    assert_eq!(victims(&state, &high(with_gpus(1))), ["j1"]);
    assert_eq!(victims(&state, &high(with_gpus(3))), ["j1", "j2"]);
    assert_eq!(victims(&state, &high(apart("noisy", mib(1)))), ["j3"]);
    let all = apart("noisy", with_port(with_gpus(4)));
    assert_eq!(victims(&state, &high(all)), ["j0", "j1", "j2", "j3"]);
    // It holds both ways, and over the whole zone.
    let both = vec![gpus, host("b", 100)];
    let state = cell(both, &groups, &[(3, "a"), (3, "b")]);
    assert_eq!(victims(&state, &high(mib(1))), ["j0", "j1"]);
}

#[test]
fn a_group_is_not_preempted_for_its_own_sake_or_beyond_what_distinct_hosts_allow() {
    let alone = JobSpec {
        constraints: vec![Constraint::DistinctHosts],
        ..mib(1)
    };
    let high = a_group("high", 90, alone);
    let state = cell(
        vec![host("a", 100)],
        std::slice::from_ref(&high),
        &[(0, "a")],
    );
    let no = find(&state, &high).unwrap_err();
    assert_eq!(
        no.to_string(),
        "preemption does not help (hosts not suitable: 1)"
    );
}

#[test]
fn it_says_why_it_does_not_help() {
    let tight = Group {
        max_unavailable: Some(0),
        kind: GroupKind::Service { count: 1 },
        ..a_group("tight", 10, mib(100))
    };
    let groups = [tight, a_group("equal", 90, mib(100))];
    let state = cell(
        vec![host("a", 100), host("b", 100), host("c", 10)],
        &groups,
        &[(0, "a"), (1, "b")],
    );
    let no = find(&state, &a_group("high", 90, mib(50))).unwrap_err();
    assert_eq!(
        no.to_string(),
        "preemption does not help (hosts not suitable: 1, with too little that is less important: 1, \
         where budgets forbid it: 1)"
    );
}

#[test]
fn the_plans_of_one_round_add_up() {
    let groups = [a_group("low", 10, mib(50))];
    let state = cell(
        vec![host("a", 100), host("b", 100)],
        &groups,
        &[(0, "a"), (0, "a"), (0, "b"), (0, "b")],
    );
    let high = a_group("high", 90, mib(50));
    let preemptor = Preemptor::new();
    let mut round = preemptor.round(&state, 0);
    let mut all: Vec<_> = (0..4)
        .flat_map(|_| round.find(&high).unwrap().victims)
        .collect();
    all.sort();
    assert_eq!(all, ["j0", "j1", "j2", "j3"].map(job_id));
    assert!(round.find(&high).is_err());
    let bounded = preemptor.with_max_victims(3);
    let mut round = bounded.round(&state, 0);
    let found = (0..4).filter(|_| round.find(&high).is_ok()).count();
    assert_eq!(found, 3);
    assert!(round.find(&high).unwrap_err().is_bounded);
}

#[test]
fn a_budget_is_shared_by_the_plans_of_one_round() {
    let low = Group {
        max_unavailable: Some(2),
        kind: GroupKind::Service { count: 4 },
        ..a_group("low", 10, mib(50))
    };
    let state = cell(
        vec![host("a", 100), host("b", 100)],
        &[low],
        &[(0, "a"), (0, "a"), (0, "b"), (0, "b")],
    );
    let high = a_group("high", 90, mib(50));
    let mut round = Preemptor::new().round(&state, 0);
    assert!(round.find(&high).is_ok() && round.find(&high).is_ok());
    let no = round.find(&high).unwrap_err();
    assert_eq!(no.budgets, 2, "{no}");
    // Two at once on one host are within it as well.
    let large = a_group("high", 90, mib(100));
    assert_eq!(find(&state, &large).unwrap().victims.len(), 2);
}

#[test]
fn many_odd_jobs_on_one_host_are_chosen_from_in_bounded_time() {
    let groups: Vec<Group> = (0..60)
        .map(|n| {
            let request = Resources {
                cpu_millis: 37 * n % 53 + 1,
                memory_bytes: 41 * n % 59 + 1,
                disk_bytes: 43 * n % 61 + 1,
            };
            let spec = JobSpec {
                request,
                ..JobSpec::default()
            };
            a_group(&format!("g{n}"), 10, spec)
        })
        .collect();
    let whole = groups.iter().fold(Resources::default(), |sum, group| {
        sum.saturating_add(&group.spec.request)
    });
    let big = Host::new(host_id("a"), whole);
    let jobs: Vec<(usize, &str)> = (0..60).map(|n| (n, "a")).collect();
    let state = cell(vec![big], &groups, &jobs);
    let half = JobSpec {
        request: Resources {
            cpu_millis: whole.cpu_millis / 2,
            memory_bytes: whole.memory_bytes / 2,
            disk_bytes: whole.disk_bytes / 2,
        },
        ..JobSpec::default()
    };
    let high = a_group("high", 90, half);
    let plan = find(&state, &high).unwrap();
    assert!(carry_out(&state, &high, &plan.host, &plan.victims));
    for spared in &plan.victims {
        let fewer: Vec<_> = plan
            .victims
            .iter()
            .filter(|id| *id != spared)
            .cloned()
            .collect();
        assert!(
            !carry_out(&state, &high, &plan.host, &fewer),
            "{spared} is needless"
        );
    }
}

/// Does the cell accept these evictions, and the job when the victims have stopped?
fn carry_out(
    state: &ClusterState,
    group: &Group,
    on: &flynn_sched::HostId,
    victims: &[flynn_sched::JobId],
) -> bool {
    let mut evict = Transaction::on(state)
        .put_group(group.clone())
        .all_or_nothing();
    for job in victims {
        evict = evict.with(Change::Evict {
            job: job.clone(),
            why: Eviction::Preempted {
                by: group.id.clone(),
                priority: group.priority,
            },
        });
    }
    let Ok(applied) = state.apply(&evict) else {
        return false;
    };
    let mut state = applied.state;
    let stopping: Vec<_> = state
        .jobs()
        .filter(|job| job.is_stopping)
        .cloned()
        .collect();
    for job in stopping {
        state = state.reported(&job.host, vec![(job.id.clone(), phase(Phase::Done))]);
    }
    let start = Transaction::on(&state).start(a_job("new", group, on.as_str()));
    state.apply(&start.all_or_nothing()).is_ok()
}

#[derive(Debug, Clone)]
struct Kind {
    priority: u8,
    memory: u64,
    cpu: u64,
    gpus: u64,
    port: Option<u16>,
    max_unavailable: u32,
    is_system: bool,
    avoids: Option<usize>,
}

fn any_kind() -> impl Strategy<Value = Kind> {
    (
        prop::sample::select(vec![10_u8, 20, 30, 60]),
        1..8_u64,
        1..8_u64,
        prop::sample::select(vec![0_u64, 0, 0, 1]),
        prop::sample::select(vec![None, None, None, Some(80_u16)]),
        0..4_u32,
        prop::sample::select(vec![false, false, false, true]),
        prop::sample::select(vec![None, None, None, Some(0_usize), Some(1)]),
    )
        .prop_map(
            |(priority, memory, cpu, gpus, port, max_unavailable, is_system, avoids)| Kind {
                priority,
                memory,
                cpu,
                gpus,
                port,
                max_unavailable,
                is_system,
                avoids,
            },
        )
}

impl Kind {
    fn group(&self, id: &str, count: u32) -> Group {
        let avoids = self.avoids.map(|other| Constraint::Apart {
            jobs: Jobs::Group(group_id(&format!("g{other}"))),
            within: Domain::Host,
        });
        let spec = JobSpec {
            request: Resources {
                cpu_millis: self.cpu,
                memory_bytes: self.memory * MIB,
                disk_bytes: 0,
            },
            named: Named::from_iter([("gpu", self.gpus)]),
            ports: self
                .port
                .map(|port| Port {
                    port: Some(port),
                    ..Port::default()
                })
                .into_iter()
                .collect(),
            partition: if self.is_system {
                Partition::System
            } else {
                Partition::User
            },
            constraints: avoids.into_iter().collect(),
            ..JobSpec::default()
        };
        Group {
            max_unavailable: Some(self.max_unavailable),
            kind: GroupKind::Service { count },
            ..a_group(id, self.priority, spec)
        }
    }
}

const HOSTS: [&str; 3] = ["a", "b", "c"];

/// The cheapest of all subsets of all jobs, for each host.
fn cheapest(state: &ClusterState, need: &Group) -> Option<Cost> {
    let jobs: Vec<&Arc<Job>> = state.jobs().filter(|job| !job.is_stopping).collect();
    let mut best: Option<Cost> = None;
    for on in HOSTS.map(host_id) {
        for subset in 0..1_usize << jobs.len() {
            let chosen: Vec<&Arc<Job>> = (0..jobs.len())
                .filter(|n| subset & (1 << n) != 0)
                .map(|n| jobs[n])
                .collect();
            let cost = cost(state, need, &on, &chosen);
            let ids: Vec<_> = chosen.iter().map(|job| job.id.clone()).collect();
            if best.is_none_or(|best| cost < best) && carry_out(state, need, &on, &ids) {
                best = Some(cost);
            }
        }
    }
    best
}

fn cost(
    state: &ClusterState,
    need: &Group,
    on: &flynn_sched::HostId,
    chosen: &[&Arc<Job>],
) -> Cost {
    let priority = |job: &&Arc<Job>| state.group(&job.group).unwrap().priority;
    let host = state.host(on).unwrap();
    let sum = |jobs: Vec<&Arc<Job>>, of: fn(&Resources) -> u64| -> u64 {
        jobs.iter().map(|job| of(&job.spec.request)).sum()
    };
    let over = |of: fn(&Resources) -> u64| {
        let running = state.jobs_on(on).filter(|job| !job.is_stopping).collect();
        let whole = of(&host.host.capacity);
        let lacking = (of(&need.spec.request) + sum(running, of)).saturating_sub(whole);
        let here = chosen
            .iter()
            .copied()
            .filter(|job| job.host == *on)
            .collect();
        sum(here, of).saturating_sub(lacking) * 1_000_000 / whole
    };
    Cost {
        most_important: chosen.iter().map(priority).max(),
        victims: chosen.len(),
        priorities: chosen.iter().map(|job| u64::from(priority(job))).sum(),
        overshoot: over(|r| r.cpu_millis).max(over(|r| r.memory_bytes)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// The victims are those that a search through all sets of jobs, each tried on the cell's own rules, finds cheapest;
    /// and there are none where that finds none.
    #[test]
    fn the_victims_are_the_cheapest_of_all(
        kinds in prop::collection::vec(any_kind(), 3),
        placed in prop::collection::vec((0..3_usize, 0..3_usize), 0..7),
        stopping in prop::option::of(0..7_usize),
        mut need in any_kind(),
    ) {
        need.avoids = need.avoids.filter(|_| need.port.is_none());
        let count = |n| u32::try_from(placed.iter().filter(|(k, _)| *k == n).count()).unwrap();
        let groups: Vec<Group> = kinds
            .iter()
            .enumerate()
            .map(|(n, kind)| kind.group(&format!("g{n}"), count(n)))
            .collect();
        let mut state = ClusterState::default();
        for id in HOSTS {
            let capacity = Resources { cpu_millis: 10, memory_bytes: 10 * MIB, disk_bytes: 0 };
            let named = Named::from_iter([("gpu", 1)]);
            state = state.host_joined(Host { named, ..Host::new(host_id(id), capacity) }, 0).unwrap();
        }
        let mut put = Transaction::on(&state);
        for group in &groups {
            put = put.put_group(group.clone());
        }
        for (n, (kind, on)) in placed.iter().enumerate() {
            put = put.start(a_job(&format!("j{n}"), &groups[*kind], HOSTS[*on]));
        }
        state = state.apply(&put).unwrap().state;
        let jobs: Vec<_> = state.jobs().cloned().collect();
        for job in jobs {
            state = state.reported(&job.host, vec![(job.id.clone(), phase(Phase::Up))]);
        }
        if let Some(n) = stopping {
            let stop = Transaction::on(&state).stop(job_id(&format!("j{n}")));
            state = state.apply(&stop).unwrap().state;
        }
        let high = Group { priority: 60, ..need.group("high", 1) };
        let put = Transaction::on(&state).put_group(high.clone());
        state = state.apply(&put).unwrap().state;
        let best = cheapest(&state, &high);
        match find(&state, &high) {
            Ok(plan) => {
                prop_assert_eq!(Some(plan.cost), best, "{:?}", plan);
                prop_assert!(carry_out(&state, &high, &plan.host, &plan.victims));
            }
            Err(no) => prop_assert_eq!(None, best, "{}", no),
        }
    }
}
