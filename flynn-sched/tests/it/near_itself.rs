//! Groups whose jobs are to be near each other: the first goes anywhere, and the rest follow it.

use std::{collections::BTreeSet, time::Duration};

use flynn_sched::{
    ClusterState, Constraint, Domain, Group, GroupKind, Host, JobSpec, Jobs, Phase, SimCluster,
    placement::{Board, LeastLoaded, Need, Placer, Search},
    scheduler::{BatchScheduler, GangScheduler, ServiceScheduler},
    sim::Behaviour,
};

use crate::fixture::{group, group_id, host, host_id, memory};

fn in_zone(id: &str, zone: &str, mib: u64) -> Host {
    Host {
        zone: Some(zone.to_owned()),
        ..host(id, mib)
    }
}

fn near_itself(group: &Group, within: Domain) -> JobSpec {
    JobSpec {
        constraints: vec![Constraint::Near {
            jobs: Jobs::Group(group.id.clone()),
            within,
        }],
        ..(*group.spec).clone()
    }
}

fn together(id: &str, kind: GroupKind, mib: u64) -> Group {
    let plain = group(id, kind, mib);
    Group {
        spec: near_itself(&plain, Domain::Zone).into(),
        ..plain
    }
}

fn zones_of(state: &ClusterState, id: &str) -> BTreeSet<String> {
    let jobs = state.jobs_of(&group_id(id)).cloned().collect::<Vec<_>>();
    let live = jobs.iter().filter(|job| !job.status.phase.is_final());
    live.map(|job| state.host(&job.host).unwrap().host.zone.clone().unwrap())
        .collect()
}

#[test]
fn every_kind_of_group_that_is_near_itself_is_placed_in_one_zone() {
    let cell = SimCluster::new(1);
    for (id, zone) in [("a", "x"), ("b", "y"), ("c", "y"), ("d", "z"), ("e", "z")] {
        cell.join(in_zone(id, zone, 100)).unwrap();
    }
    let batch = GroupKind::Batch {
        count: 3,
        retries: 0,
    };
    let gang = GroupKind::Gang {
        count: 3,
        retries: 0,
    };
    let groups = [
        ("web", GroupKind::Service { count: 3 }),
        ("work", batch),
        ("gang", gang),
    ];
    for (id, kind) in groups.clone() {
        cell.put_group(together(id, kind, 10));
        cell.behave(group_id(id), Behaviour::Runs);
    }
    let (mut services, mut batches) = (ServiceScheduler::new(), BatchScheduler::new());
    let mut gangs = GangScheduler::new();
    cell.run(
        &mut [&mut services, &mut batches, &mut gangs],
        Duration::from_secs(60),
    );
    let state = cell.state();
    for (id, _) in groups {
        assert_eq!(zones_of(&state, id).len(), 1, "{id}: {}", cell.log());
        let up = state
            .jobs_of(&group_id(id))
            .filter(|job| job.status.phase == Phase::Up)
            .count();
        assert_eq!(up, 3, "{id}: {}", cell.log());
    }
    assert_eq!(cell.counters().conflicts, 0);
}

#[test]
fn a_gang_near_itself_waits_for_a_zone_that_takes_all_of_it() {
    let cell = SimCluster::new(1);
    for (id, zone) in [("a", "x"), ("b", "y"), ("c", "y")] {
        cell.join(in_zone(id, zone, 20)).unwrap();
    }
    let gang = GroupKind::Gang {
        count: 5,
        retries: 0,
    };
    cell.put_group(together("g", gang, 10));
    let mut gangs = GangScheduler::new();
    cell.run(&mut [&mut gangs], Duration::from_secs(30));
    assert_eq!(cell.counters().started, 0);
    cell.join(in_zone("a", "x", 60)).unwrap();
    cell.run(&mut [&mut gangs], Duration::from_secs(1));
    assert_eq!(
        zones_of(&cell.state(), "g"),
        BTreeSet::from(["x".to_owned()])
    );
}

/// Forty hosts in four zones, of different room.
fn many() -> ClusterState {
    (0..40).fold(ClusterState::default(), |state, n| {
        let zone = format!("z{}", n % 4);
        let host = in_zone(&format!("h{n:02}"), &zone, 40 + (n * 7) % 30);
        state.host_joined(host, 0).unwrap()
    })
}

#[test]
fn the_index_follows_the_first_one_as_a_scan_does() {
    for within in [Domain::Host, Domain::Zone] {
        let state = many();
        let found = [Search::Exact, Search::Scan].map(|search| {
            let placer = Placer::new()
                .with_score(LeastLoaded, 1.0)
                .with_search(search);
            let mut board = Board::of(&state);
            let mut all = Vec::new();
            for id in ["g0", "g1", "g2", "g0", "g1"] {
                let group = group(id, GroupKind::Service { count: 3 }, 5);
                let spec = near_itself(&group, within.clone());
                let need = Need::new(&group.id, &spec);
                let mut tally = board.tally(&state, &group.id);
                let hosts = placer.place_many(&need, 3, &mut board, &mut tally);
                assert_eq!(hosts.len(), 3, "{id} {within:?} {search:?}");
                all.extend(hosts);
            }
            all
        });
        assert_eq!(found[0], found[1], "{within:?}");
        let places = |from: usize| -> BTreeSet<String> {
            let of = found[0].iter().skip(from * 3).take(3);
            of.map(|id| within.of(&state.host(id).unwrap().host).unwrap().to_owned())
                .collect()
        };
        for n in 0..5 {
            assert_eq!(places(n).len(), 1, "{within:?}");
        }
        assert_eq!(places(0), places(3));
        assert_eq!(places(1), places(4));
    }
}

#[test]
fn when_a_claim_is_given_back_the_next_is_the_first_again() {
    let state = many();
    let group = group("g", GroupKind::Service { count: 3 }, 5);
    let spec = near_itself(&group, Domain::Host);
    let need = Need::new(&group.id, &spec);
    let placer = Placer::new().with_score(LeastLoaded, 1.0);
    let mut board = Board::of(&state);
    let mut tally = board.tally(&state, &group.id);
    let first = placer.place(&need, &mut board, &mut tally).unwrap();
    let other = host_id("h39");
    assert_ne!(first, other);
    let (filter, _) = placer
        .place_on(&other, &need, &mut board, &mut tally)
        .unwrap_err();
    assert_eq!(filter, "near and apart on the host");
    board.release(&first, &spec, &mut tally);
    placer
        .place_on(&other, &need, &mut board, &mut tally)
        .unwrap();
    assert_eq!(state.host(&other).unwrap().promised, memory(0));
}
