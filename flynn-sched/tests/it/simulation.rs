//! Schedulers through arbitrary troubles: always safe, and at the end alive.

use std::{sync::Arc, time::Duration};

use flynn_sched::{
    Claim, Cluster, ClusterState, Constraint, Group, GroupKind, Host, JobSpec, Jobs, Named,
    Namespace, Phase, Quota, Reservation, ReservationId, Resources, SimCluster, Taint, TaintEffect,
    Transaction,
    scheduler::{BatchScheduler, ServiceScheduler},
    transaction::Change,
};
use futures::FutureExt;
use proptest::prelude::*;

use crate::checker::{assert_reserved, assert_sound};
use crate::fixture::{MIB, group, group_id, host, host_id, memory};

const HOSTS: usize = 5;
const SERVICES: usize = 3;

#[derive(Debug, Clone)]
enum Trouble {
    Lose(usize),
    Return(usize),
    Drain(usize, bool),
    Scale(usize, u32),
    Remove(usize),
    Batch(u32, u32),
    Taint(usize, TaintEffect),
    Quota(Option<u64>),
    /// Memory on a host for a group, from so many milliseconds on and for so long.
    Reserve {
        host: usize,
        group: usize,
        mib: u64,
        from_ms: u64,
        lasts_ms: u64,
    },
    Pass(u64),
}

fn any_trouble() -> impl Strategy<Value = Trouble> {
    let effects = prop_oneof![
        Just(TaintEffect::NoSchedule),
        Just(TaintEffect::NoExecute),
        Just(TaintEffect::PreferNoSchedule)
    ];
    prop_oneof![
        3 => (0..HOSTS).prop_map(Trouble::Lose),
        3 => (0..HOSTS).prop_map(Trouble::Return),
        1 => (0..HOSTS, any::<bool>()).prop_map(|(h, drains)| Trouble::Drain(h, drains)),
        3 => (0..SERVICES, 0..8_u32).prop_map(|(g, count)| Trouble::Scale(g, count)),
        1 => (0..SERVICES).prop_map(Trouble::Remove),
        1 => (0..6_u32, 0..3_u32).prop_map(|(count, retries)| Trouble::Batch(count, retries)),
        1 => (0..HOSTS, effects).prop_map(|(h, effect)| Trouble::Taint(h, effect)),
        1 => prop::option::of(0..6_u64).prop_map(Trouble::Quota),
        2 => (0..HOSTS, 0..=SERVICES, 1..200_u64, 0..40_000_u64, 1..40_000_u64).prop_map(
            |(host, group, mib, from_ms, lasts_ms)| Trouble::Reserve {
                host, group, mib, from_ms, lasts_ms,
            }
        ),
        6 => (1..20_000_u64).prop_map(Trouble::Pass),
    ]
}

fn a_host(n: usize) -> Host {
    Host {
        zone: Some(format!("zone{}", n % 2)),
        named: Named::from_iter([("gpu", 2)]),
        ..host(&format!("h{n}"), 300)
    }
}

/// The namespace of the second service.
fn small() -> Namespace {
    Namespace::parse("small").unwrap()
}

fn write_quota(cell: &SimCluster, jobs: Option<u64>) {
    let change = match jobs {
        None => Change::RemoveQuota(small()),
        jobs => Change::PutQuota(Arc::new(Quota {
            jobs,
            ..Quota::of(small())
        })),
    };
    let committed = cell.commit(Transaction::default().with(change));
    committed.now_or_never().unwrap().unwrap();
}

/// Reserves room for one of the services, or for a group that there is not; refused where it does not fit.
fn reserve(cell: &SimCluster, host: usize, group: usize, mib: u64, from_ms: u64, lasts_ms: u64) {
    let reservation = Reservation {
        id: ReservationId::parse(format!("r{host}{group}")).unwrap(),
        holder: Jobs::Group(group_id(&format!("s{group}"))),
        claims: [(
            host_id(&format!("h{host}")),
            Claim {
                resources: memory(mib),
                named: Named::from_iter([("gpu", mib % 2)]),
            },
        )]
        .into(),
        from_ms,
        until_ms: from_ms + lasts_ms,
    };
    let put = Change::PutReservation(Arc::new(reservation));
    let committed = cell.commit(Transaction::default().with(put));
    committed.now_or_never().unwrap().unwrap();
}

fn give_back(cell: &SimCluster) {
    let state = cell.state();
    let remove = state.reservations().map(|known| Change::RemoveReservation {
        id: known.id.clone(),
        ending_by_ms: u64::MAX,
    });
    let remove = remove.fold(Transaction::default(), Transaction::with);
    cell.commit(remove).now_or_never().unwrap().unwrap();
}

/// The first service keeps its jobs on distinct hosts, the second is bound by a quota, the third needs what is rare.
fn a_service(n: usize, count: u32) -> Group {
    let constraints = if n == 0 {
        vec![Constraint::DistinctHosts]
    } else {
        Vec::new()
    };
    Group {
        spec: Arc::new(JobSpec {
            constraints,
            namespace: if n == 1 {
                small()
            } else {
                Namespace::default()
            },
            named: Named::from_iter([("gpu", u64::from(n == 2))]),
            request: Resources {
                memory_bytes: 20 * MIB,
                ..Resources::default()
            },
            ..JobSpec::default()
        }),
        ..group(&format!("s{n}"), GroupKind::Service { count }, 0)
    }
}

fn assert_safe(state: &ClusterState) {
    assert_sound(state);
    for host in state.hosts() {
        let id = &host.host.id;
        assert!(
            host.host.capacity.fits(&host.promised),
            "{id} is over-committed"
        );
        let distinct = state
            .jobs_on(id)
            .filter(|job| job.group == group_id("s0") && !job.status.phase.is_final())
            .count();
        assert!(distinct <= 1, "{id} has {distinct} jobs of s0");
    }
    for group in state.groups() {
        if let GroupKind::Service { count } = group.kind {
            // A lost host's jobs, those that leave and those that were surplus come on top, but of one wave each.
            let there = state
                .jobs_of(&group.id)
                .filter(|job| !job.status.phase.is_final() && !job.is_stopping)
                .filter(|job| {
                    let host = state.host(&job.host).unwrap();
                    host.is_schedulable() && job.placed_at_ms > host.joined_ms
                })
                .count();
            let ended = state
                .jobs_of(&group.id)
                .filter(|job| job.status.phase.is_final())
                .count();
            assert!(
                there <= count.max(8) as usize,
                "{} has {there} jobs, wants {count}",
                group.id
            );
            assert!(ended <= ServiceScheduler::HISTORY + 16, "{ended} ended");
        }
    }
}

fn assert_converged(cell: &SimCluster, wanted: &[u32; SERVICES]) {
    let state = cell.state();
    for (n, wanted) in wanted.iter().enumerate() {
        let id = group_id(&format!("s{n}"));
        let running: Vec<_> = state
            .jobs_of(&id)
            .filter(|job| !job.status.phase.is_final())
            .collect();
        // Five hosts keep at most five jobs apart.
        let possible = if n == 0 { (*wanted).min(5) } else { *wanted };
        assert_eq!(running.len(), possible as usize, "{id}:\n{}", cell.log());
        assert!(running.iter().all(|job| job.status.phase == Phase::Up));
        let missing = state.group_status(&id).map_or(0, |status| status.missing);
        assert_eq!(missing, wanted - possible, "{id}");
    }
    assert_eq!(cell.counters().livelocks, 0, "{}", cell.log());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Two service schedulers and a batch scheduler, refusals, old snapshots, hosts lost and returned, drained, groups
    /// scaled and removed in any order: never unsafe; and when the trouble ends, every group reaches its count and
    /// everything comes to rest.
    #[test]
    fn schedulers_stay_safe_and_converge(
        seed in any::<u64>(),
        refusals in prop_oneof![Just(0.0), Just(0.3)],
        staleness in 0..4_usize,
        troubles in prop::collection::vec(any_trouble(), 1..30),
    ) {
        let cell = SimCluster::new(seed).with_refusals(refusals).with_staleness(staleness);
        for n in 0..HOSTS {
            cell.join(a_host(n)).unwrap();
        }
        let (mut one, mut two) = (ServiceScheduler::new(), ServiceScheduler::new());
        let mut batches = BatchScheduler::new();
        let mut wanted = [0; SERVICES];
        let mut now_ms = SimCluster::EPOCH_MS;
        let mut is_drained = [false; HOSTS];
        for trouble in troubles {
            match trouble {
                Trouble::Lose(h) => cell.lose(&host_id(&format!("h{h}"))),
                Trouble::Return(h) => cell.bring_back(&host_id(&format!("h{h}"))),
                Trouble::Drain(h, drains) => {
                    is_drained[h] = drains;
                    let is_lost = cell.state().host(&host_id(&format!("h{h}")))
                        .is_none_or(|host| host.lost_since_ms.is_some());
                    if !is_lost {
                        cell.join(Host { is_draining: drains, ..a_host(h) }).unwrap();
                    }
                }
                Trouble::Scale(g, count) => {
                    wanted[g] = count;
                    cell.put_group(a_service(g, count));
                }
                Trouble::Remove(g) => {
                    wanted[g] = 0;
                    cell.remove_group(group_id(&format!("s{g}")));
                }
                Trouble::Batch(count, retries) => {
                    cell.put_group(group("b", GroupKind::Batch { count, retries }, 10));
                }
                Trouble::Taint(h, effect) => {
                    let is_lost = cell.state().host(&host_id(&format!("h{h}")))
                        .is_none_or(|host| host.lost_since_ms.is_some());
                    if !is_lost {
                        let taint = Taint { key: "t".to_owned(), value: String::new(), effect };
                        cell.join(Host { taints: vec![taint], ..a_host(h) }).unwrap();
                    }
                }
                Trouble::Reserve { host, group, mib, from_ms, lasts_ms } => {
                    let from_ms = now_ms + from_ms;
                    reserve(&cell, host, group, mib, from_ms, lasts_ms);
                }
                Trouble::Quota(jobs) => write_quota(&cell, jobs),
                Trouble::Pass(ms) => {
                    let time = Duration::from_millis(ms);
                    now_ms += ms;
                    cell.run(&mut [&mut one, &mut batches, &mut two], time);
                }
            }
            assert_safe(&cell.state());
            assert_reserved(&cell.state(), now_ms);
        }
        for n in 0..HOSTS {
            cell.join(a_host(n)).unwrap();
        }
        write_quota(&cell, None);
        give_back(&cell);
        cell.run(&mut [&mut one, &mut batches, &mut two], Duration::from_secs(600));
        assert_safe(&cell.state());
        assert_converged(&cell, &wanted);
        let at_rest = cell.counters();
        cell.run(&mut [&mut one, &mut batches, &mut two], Duration::from_secs(600));
        prop_assert_eq!(cell.counters().started, at_rest.started, "it has come to rest");
        prop_assert_eq!(cell.counters().stopped, at_rest.stopped, "it has come to rest");
    }
}
