//! Moving what stands badly: worth it, a few at a time, to an end.

mod properties;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flynn_sched::{
    Affinity, Claim, ClusterState, Constraint, Domain, Group, GroupKind, Host, Job, JobSpec, Jobs,
    Phase, Reservation, ReservationId, Spread, Taint, TaintEffect, Transaction,
    rebalance::{Imbalance, Moves, Rebalancer},
    transaction::Change,
};
use flynn_sched::{Volume, scheduler::RebalanceScheduler};

use crate::fixture::{group_id, host, host_id, job, job_id, memory, phase};

/// Long after everything that the tests place.
const LATER_MS: u64 = 10_000_000;

fn cell(hosts: impl IntoIterator<Item = Host>) -> ClusterState {
    hosts
        .into_iter()
        .fold(ClusterState::default(), |state, host| {
            state.host_joined(host, 0).unwrap()
        })
}

fn needs(mib: u64) -> JobSpec {
    JobSpec {
        request: memory(mib),
        ..JobSpec::default()
    }
}

/// A service whose jobs are up on these hosts.
fn service<'h>(
    state: &ClusterState,
    id: &str,
    spec: JobSpec,
    on: impl IntoIterator<Item = &'h str>,
) -> ClusterState {
    let on: Vec<&str> = on.into_iter().collect();
    let kind = GroupKind::Service {
        count: on.len().try_into().unwrap(),
    };
    let group = Arc::new(Group::new(group_id(id), kind, spec));
    let mut transaction = Transaction::on(state)
        .all_or_nothing()
        .put_group(Arc::clone(&group));
    let mut reports = Vec::new();
    for (n, on) in on.iter().enumerate() {
        let name = format!("{id}-{n}");
        reports.push((on, vec![(job_id(&name), phase(Phase::Up))]));
        transaction = transaction.start(Job {
            spec: Arc::clone(&group.spec),
            ..job(&name, id, on, 0)
        });
    }
    let state = state.apply(&transaction).unwrap().state;
    reports.into_iter().fold(state, |state, (on, report)| {
        state.reported(&host_id(on), report)
    })
}

fn plan(state: &ClusterState) -> Moves {
    Rebalancer::new().plan(state, LATER_MS)
}

/// Which group goes from where to where.
fn ways(moves: &Moves) -> Vec<String> {
    let way = |m: &flynn_sched::rebalance::Move| format!("{} {}>{}", m.group, m.from, m.to);
    moves.moves.iter().map(way).collect()
}

fn three_hosts() -> ClusterState {
    cell([host("a", 1000), host("b", 1000), host("c", 1000)])
}

#[test]
fn all_copies_on_two_of_three_hosts_move_apart() {
    let state = service(&three_hosts(), "web", needs(10), ["a", "a", "b", "b"]);
    let moves = plan(&state);
    assert_eq!(ways(&moves), ["web a>c"]);
    let text = moves.moves[0].to_string();
    assert!(
        text.starts_with(
            "job web-1 of group web moves from host a to host c: host a has 2 jobs of the group and c has 0 (gain 0.5"
        ),
        "{text}"
    );
    let even = service(&three_hosts(), "web", needs(10), ["a", "b", "b", "c"]);
    assert_eq!(plan(&even), Moves::default());
    assert!(Imbalance::of(&even).total() < Imbalance::of(&state).total());
}

#[test]
fn zones_and_wished_places_count() {
    let at = |id: &str, zone: &str, rack: &str| Host {
        zone: Some(zone.to_owned()),
        rack: Some(rack.to_owned()),
        ..host(id, 1000)
    };
    let hosts = || {
        cell([
            at("a", "x", "1"),
            at("b", "x", "2"),
            at("c", "y", "3"),
            at("d", "x", "1"),
        ])
    };
    let state = service(&hosts(), "web", needs(10), ["a", "b"]);
    // Either does: both have been up for as long.
    assert_eq!(ways(&plan(&state)), ["web a>c"]);
    // Of one zone, over racks.
    let racks = JobSpec {
        spread: vec![Spread {
            over: Domain::Rack,
            weight: 50,
            max_skew: None,
        }],
        constraints: vec![Constraint::Tag {
            key: "x".to_owned(),
            value: "y".to_owned(),
        }],
        ..needs(10)
    };
    let tagged = |host: Host| Host {
        tags: BTreeMap::from([("x".to_owned(), "y".to_owned())]),
        ..host
    };
    let hosts = cell([
        tagged(at("a", "x", "1")),
        tagged(at("b", "x", "2")),
        tagged(at("d", "x", "1")),
        at("c", "y", "3"),
    ]);
    let state = service(&hosts, "web", racks, ["a", "d"]);
    assert_eq!(ways(&plan(&state)), ["web a>b"]);
}

#[test]
fn a_full_host_beside_an_empty_one_is_relieved_a_few_jobs_at_a_time() {
    let mut state = cell([host("a", 1000), host("b", 1000)]);
    for n in 0..9 {
        state = service(&state, &format!("g{n}"), needs(100), ["a"]);
    }
    let moves = plan(&state);
    assert_eq!(moves.moves.len(), 4, "as many as may be on the move");
    assert_eq!(moves.moves[0].why, "host a is 90 % full and b 0 %");
    assert!(
        moves
            .moves
            .windows(2)
            .all(|pair| pair[0].gain > pair[1].gain)
    );
    let one = Rebalancer::new().with_most(1).plan(&state, LATER_MS);
    assert_eq!(one.moves.len(), 1);
    let none = Rebalancer::new().with_most(0).plan(&state, LATER_MS);
    assert_eq!(none, Moves::default());
    // At five to four it is even enough.
    let mut even = cell([host("a", 1000), host("b", 1000)]);
    for n in 0..9 {
        let on = if n % 2 == 0 { "a" } else { "b" };
        even = service(&even, &format!("g{n}"), needs(100), [on]);
    }
    assert_eq!(plan(&even), Moves::default());
}

#[test]
fn load_never_spreads_a_group_less_evenly() {
    let state = service(
        &cell([host("a", 1000), host("b", 1000)]),
        "big",
        needs(700),
        ["a"],
    );
    let state = service(&state, "web", needs(200), ["a", "b"]);
    assert_eq!(plan(&state), Moves::default());
}

#[test]
fn of_equal_gains_the_less_important_the_smaller_and_the_younger_move() {
    let hosts = || cell([host("a", 1000), host("b", 1000)]);
    let with_priority = |state: &ClusterState, id: &str, priority| {
        let group = Group::clone(state.group(&group_id(id)).unwrap());
        let put = Transaction::on(state).put_group(Group { priority, ..group });
        state.apply(&put).unwrap().state
    };
    let state = service(&hosts(), "first", needs(10), ["a", "a"]);
    let state = service(&state, "last", needs(10), ["a", "a"]);
    let state = with_priority(&state, "first", 90);
    let state = with_priority(&state, "last", 10);
    assert_eq!(plan(&state).moves[0].group, group_id("last"));
    let cost = |n: usize| plan(&state).moves[n].cost;
    assert!(cost(0) < cost(1));

    let state = service(&hosts(), "large", needs(400), ["a", "a"]);
    let state = service(&state, "small", needs(10), ["a", "a"]);
    let moves = plan(&state);
    let cost_of = |id: &str| {
        let found = moves.moves.iter().find(|m| m.group == group_id(id));
        found.unwrap().cost
    };
    assert!(cost_of("small") < cost_of("large"));
}

#[test]
fn jobs_with_volumes_stay_unless_their_loss_has_a_price() {
    let spec = JobSpec {
        volumes: vec![Volume {
            name: "data".to_owned(),
            owner: "app".to_owned(),
        }],
        ..needs(10)
    };
    let state = service(&three_hosts(), "db", spec, ["a", "a"]);
    assert_eq!(plan(&state), Moves::default());
    let with = |cost| {
        Rebalancer::new()
            .with_volume_cost(cost)
            .plan(&state, LATER_MS)
    };
    assert_eq!(ways(&with(0.1)), ["db a>b"]);
    assert_eq!(with(10.0), Moves::default());
    assert_eq!(with(f64::NAN), Moves::default());
}

#[test]
fn the_weight_of_costs_decides_what_is_worth_it() {
    let mut state = cell([host("a", 1000), host("b", 1000)]);
    for n in 0..3 {
        state = service(&state, &format!("g{n}"), needs(100), ["a"]);
    }
    let with = |weight| {
        Rebalancer::new()
            .with_cost_weight(weight)
            .plan(&state, LATER_MS)
    };
    assert_eq!(with(1.0).moves.len(), 1);
    assert_eq!(with(100.0), Moves::default());
    assert_eq!(with(f64::INFINITY), Moves::default());
    assert_eq!(with(f64::NAN), with(1.0));
    // Not even without cost is something moved that makes nothing more even.
    assert_eq!(with(-1.0).moves.len(), 1);
}

#[test]
fn a_group_rests_after_a_placement_and_the_cell_after_a_host_came_or_went() {
    let state = service(&three_hosts(), "web", needs(10), ["a", "a"]);
    let pause = 60_000;
    let rebalancer = Rebalancer::new().with_pause(Duration::from_millis(pause));
    let at = |state: &ClusterState, now_ms| {
        let moves = rebalancer.plan(state, now_ms);
        (moves.moves.len(), moves.wake_at_ms)
    };
    assert_eq!(at(&state, pause - 1), (0, Some(pause)));
    assert_eq!(at(&state, pause), (1, None));
    let lost = state.host_lost(&host_id("c"), 100_000);
    assert_eq!(at(&lost, 100_001), (0, Some(160_000)));
    assert_eq!(at(&lost, 160_000), (1, None));
    let back = lost.host_joined(host("c", 1000), 170_000).unwrap();
    assert_eq!(at(&back, 229_999), (0, Some(230_000)));
    let young = Job {
        placed_at_ms: 300_000,
        ..Job::clone(state.job(&job_id("web-0")).unwrap())
    };
    let again = Transaction::on(&state)
        .with(Change::Stop(job_id("web-0")))
        .start(Job {
            id: job_id("young"),
            ..young
        });
    let state = state.apply(&again).unwrap().state;
    let state = state.reported(
        &host_id("a"),
        vec![
            (job_id("web-0"), phase(Phase::Done)),
            (job_id("young"), phase(Phase::Up)),
        ],
    );
    assert_eq!(at(&state, 300_001), (0, Some(360_000)));
    assert_eq!(at(&state, 360_000), (1, None));
    // Where nothing would move anyway, nobody is woken.
    let even = service(&three_hosts(), "web", needs(10), ["a", "b"]);
    assert_eq!(at(&even, pause), (0, None));
}

#[test]
fn a_group_that_is_not_whole_up_and_at_rest_is_left_alone() {
    let state = service(&three_hosts(), "web", needs(10), ["a", "a", "a"]);
    assert_eq!(plan(&state).moves.len(), 1);
    let restarting = vec![(job_id("web-1"), phase(Phase::Restarting))];
    assert_eq!(
        plan(&state.reported(&host_id("a"), restarting)),
        Moves::default()
    );
    let commit = |change| {
        let transaction = Transaction::on(&state).with(change);
        state.apply(&transaction).unwrap().state
    };
    let group = Group::clone(state.group(&group_id("web")).unwrap());
    for other in [
        Group {
            kind: GroupKind::Service { count: 4 },
            ..group.clone()
        },
        Group {
            spec: Arc::new(needs(11)),
            ..group.clone()
        },
        Group {
            max_unavailable: Some(0),
            ..group.clone()
        },
        Group {
            kind: GroupKind::Batch {
                count: 3,
                retries: 1,
            },
            ..group
        },
    ] {
        assert_eq!(
            plan(&commit(Change::PutGroup(Arc::new(other)))),
            Moves::default()
        );
    }
    assert_eq!(
        plan(&commit(Change::Stop(job_id("web-1")))),
        Moves::default()
    );
    // What is on the move counts as moved, and nothing more of its group goes with it.
    let moving = Transaction::on(&state)
        .start(Job {
            placed_at_ms: 0,
            ..job("new", "web", "b", 10)
        })
        .evict(
            job_id("web-1"),
            flynn_sched::Eviction::Moving {
                why: "test".to_owned(),
            },
        );
    let moving = state.apply(&moving).unwrap().state;
    assert_eq!(plan(&moving), Moves::default());
    assert!(Imbalance::of(&moving).spread < Imbalance::of(&state).spread);
}

#[test]
fn nothing_moves_where_a_commit_or_a_wish_would_not_have_it() {
    let tag = Constraint::Tag {
        key: "disk".to_owned(),
        value: "ssd".to_owned(),
    };
    let only_a = || {
        let ssd = Host {
            tags: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
            ..host("a", 1000)
        };
        cell([ssd, host("b", 1000)])
    };
    let bound = JobSpec {
        constraints: vec![tag],
        ..needs(10)
    };
    assert_eq!(
        plan(&service(&only_a(), "web", bound, ["a", "a"])),
        Moves::default()
    );

    let with_b = |b: Host| {
        let state = cell([host("a", 1000), b]);
        plan(&service(&state, "web", needs(10), ["a", "a"]))
    };
    assert_eq!(with_b(host("b", 1000)).moves.len(), 1);
    assert_eq!(with_b(host("b", 9)), Moves::default());
    for effect in [TaintEffect::NoSchedule, TaintEffect::PreferNoSchedule] {
        let taint = Taint {
            key: "dedicated".to_owned(),
            value: String::new(),
            effect,
        };
        let taints = vec![taint];
        assert_eq!(
            with_b(Host {
                taints,
                ..host("b", 1000)
            }),
            Moves::default()
        );
    }
    assert_eq!(
        with_b(Host {
            is_draining: true,
            ..host("b", 1000)
        }),
        Moves::default()
    );
    let sick = Some("its disk is full".to_owned());
    assert_eq!(
        with_b(Host {
            unhealthy: sick,
            ..host("b", 1000)
        }),
        Moves::default()
    );

    // Reserved for others.
    let state = service(
        &cell([host("a", 1000), host("b", 1000)]),
        "web",
        needs(10),
        ["a", "a"],
    );
    let claim = Claim {
        resources: memory(991),
        ..Claim::default()
    };
    let reservation = Reservation {
        id: ReservationId::parse("r").unwrap(),
        holder: Jobs::Group(group_id("other")),
        claims: BTreeMap::from([(host_id("b"), claim)]),
        from_ms: 0,
        until_ms: 2 * LATER_MS,
    };
    let put = Transaction::on(&state).with(Change::PutReservation(Arc::new(reservation)));
    assert_eq!(plan(&state.apply(&put).unwrap().state), Moves::default());
}

#[test]
fn neighbours_who_want_each_other_near_are_not_parted() {
    let hosts = || cell([host("a", 1000), host("b", 1000)]);
    let beside = |to: &str, weight| JobSpec {
        affinities: vec![Affinity {
            to: Jobs::Group(group_id(to)),
            within: Domain::Host,
            weight,
        }],
        ..needs(10)
    };
    // A cache that wants to be near web keeps both.
    let state = service(&hosts(), "web", needs(10), ["a", "a"]);
    let state = service(&state, "cache", beside("web", 50), ["a", "a"]);
    assert_eq!(plan(&state), Moves::default());
    // One that wants to be away from web does not go to it.
    let state = service(&hosts(), "web", needs(10), ["b"]);
    let shy = service(&state, "cache", beside("web", -50), ["a", "a"]);
    assert_eq!(plan(&shy), Moves::default());
    // Who wants to be away from its own kind moves as all do.
    let state = service(&hosts(), "web", beside("web", -50), ["a", "a"]);
    assert_eq!(ways(&plan(&state)), ["web a>b"]);
    // A condition of another group holds as well.
    let near = JobSpec {
        constraints: vec![Constraint::Near {
            jobs: Jobs::Group(group_id("web")),
            within: Domain::Host,
        }],
        ..needs(10)
    };
    let state = service(&hosts(), "web", needs(10), ["a", "a"]);
    let state = service(&state, "proxy", near, ["a"]);
    assert_eq!(plan(&state), Moves::default());
}

#[test]
fn a_host_where_jobs_of_the_group_failed_is_not_gone_to() {
    let state = service(
        &cell([host("a", 1000), host("b", 1000)]),
        "web",
        needs(10),
        ["a", "a"],
    );
    let spec = Arc::clone(&state.group(&group_id("web")).unwrap().spec);
    let start = Transaction::on(&state).start(Job {
        spec,
        ..job("bad", "web", "b", 0)
    });
    let state = state.apply(&start).unwrap().state;
    let state = state.reported(&host_id("b"), vec![(job_id("bad"), phase(Phase::Crashed))]);
    assert_eq!(plan(&state), Moves::default());
}

#[test]
fn a_strict_limit_of_spread_is_not_broken_for_the_sake_of_balance() {
    let at = |id: &str, rack: &str| Host {
        rack: Some(rack.to_owned()),
        ..host(id, 1000)
    };
    // Racks 1 and 2 have two hosts together; three jobs on the two hosts of rack 1, one in rack 2.
    let hosts = || {
        cell([
            at("a", "1"),
            at("b", "1"),
            at("c", "2"),
            at("d", "2"),
            at("e", "2"),
        ])
    };
    let spec = |max_skew| JobSpec {
        spread: vec![Spread {
            over: Domain::Rack,
            weight: 0,
            max_skew,
        }],
        ..needs(10)
    };
    let state = |max_skew| service(&hosts(), "web", spec(max_skew), ["a", "b", "b", "c", "d"]);
    assert_eq!(ways(&plan(&state(None))), ["web b>e"]);
    // Rack 2 would have three and rack 1 two, which is no more than rack 1 has now.
    assert_eq!(ways(&plan(&state(Some(1)))), ["web b>e"]);
    let full = |max_skew| {
        service(
            &hosts(),
            "web",
            spec(max_skew),
            ["a", "b", "b", "c", "d", "d"],
        )
    };
    assert_eq!(ways(&plan(&full(None))), ["web b>e"]);
    let moves = plan(&full(Some(1)));
    assert_eq!(ways(&moves), ["web d>e"], "within the rack");
}

#[test]
fn the_scheduler_looks_at_the_cell_only_so_often() {
    use flynn_sched::{
        Scheduler,
        scheduler::{Context, SeededIds},
    };
    let state = service(&three_hosts(), "web", needs(10), ["a", "a"]);
    let even = service(&three_hosts(), "web", needs(10), ["a", "b"]);
    let mut scheduler = RebalanceScheduler::new().with_every(Duration::from_secs(7));
    let mut ids = SeededIds::new(1);
    let mut at = |state: &ClusterState, now_ms| {
        let mut context = Context::new(now_ms, &mut ids);
        let changes = scheduler.schedule(state, &mut context).changes.len();
        (changes, context.wakes_at())
    };
    assert_eq!(at(&even, LATER_MS), (0, None));
    assert_eq!(at(&state, LATER_MS + 1), (0, Some(LATER_MS + 7_000)));
    assert_eq!(at(&state, LATER_MS + 7_000), (3, None));
}
