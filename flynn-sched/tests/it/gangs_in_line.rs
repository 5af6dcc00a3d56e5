//! Gangs that wait: for their quota, for their turn, and for room that is made for them.

use std::{sync::Arc, time::Duration};

use flynn_sched::{
    Cluster, Constraint, Group, GroupKind, GroupStatus, JobSpec, Namespace, Preemptor, Quota,
    SimCluster, Transaction,
    scheduler::{BatchScheduler, GangScheduler, ServiceScheduler},
    sim::Behaviour,
    transaction::Change,
};
use futures::executor::block_on;
use proptest::prelude::*;

use crate::{
    checker::assert_sound,
    fixture::{group, group_id, host},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn cell(hosts: &[&str]) -> SimCluster {
    let cell = SimCluster::new(1);
    for id in hosts {
        cell.join(host(id, 100)).unwrap();
    }
    cell
}

fn gang(id: &str, count: u32, mib: u64, priority: u8) -> Group {
    Group {
        priority,
        ..group(id, GroupKind::Gang { count, retries: 0 }, mib)
    }
}

fn service(id: &str, count: u32, mib: u64, max_unavailable: Option<u32>) -> Group {
    Group {
        priority: 20,
        max_unavailable,
        ..group(id, GroupKind::Service { count }, mib)
    }
}

fn run(cell: &SimCluster, time: Duration) {
    let (mut services, mut batches) = (ServiceScheduler::new(), BatchScheduler::new());
    let mut gangs = GangScheduler::new().with_preemption(Preemptor::new());
    cell.run(&mut [&mut services, &mut batches, &mut gangs], time);
}

fn status(cell: &SimCluster, id: &str) -> Arc<GroupStatus> {
    let state = cell.state();
    let status = state.group_status(&group_id(id)).cloned();
    status.unwrap_or_default()
}

fn quota(cell: &SimCluster, jobs: u64) {
    let quota = Quota {
        jobs: Some(jobs),
        ..Quota::of(Namespace::default())
    };
    let put = Transaction::default().with(Change::PutQuota(Arc::new(quota)));
    block_on(cell.commit(put)).unwrap();
}

#[test]
fn a_gang_asks_its_quota_for_all_of_its_jobs_and_holds_no_hosts_while_that_is_too_little() {
    let cell = cell(&["a", "b"]);
    quota(&cell, 7);
    cell.put_group(group("web", GroupKind::Service { count: 2 }, 10));
    run(&cell, SECOND);
    cell.put_group(gang("g", 6, 10, 50));
    run(&cell, 3 * MINUTE);
    assert_eq!(cell.counters().started, 2);
    let said = status(&cell, "g");
    let why = "the quota of namespace default is 7 jobs, 2 is used and 6 jobs at once need more: raise it or stop \
               something";
    assert_eq!(said.blocked.as_deref(), Some(why));
    assert_eq!((said.missing, said.held.len()), (6, 0));
    quota(&cell, 8);
    run(&cell, SECOND);
    assert_eq!(cell.counters().started, 8);
    assert_eq!(cell.counters().livelocks, 0);
}

#[test]
fn gangs_are_tried_by_priority_and_then_by_how_long_they_have_waited() {
    let cell = cell(&["a"]);
    cell.put_group(group(
        "now",
        GroupKind::Batch {
            count: 1,
            retries: 0,
        },
        100,
    ));
    cell.behave(group_id("now"), Behaviour::Completes(30 * SECOND));
    let mut all = (BatchScheduler::new(), GangScheduler::new());
    let mut run = |time| cell.run(&mut [&mut all.0, &mut all.1], time);
    run(SECOND);
    for (id, priority) in [("z-old", 50), ("m-less", 40), ("a-new", 50), ("n-more", 60)] {
        cell.put_group(gang(id, 2, 50, priority));
        cell.behave(group_id(id), Behaviour::Completes(10 * SECOND));
        run(5 * SECOND);
    }
    run(2 * MINUTE);
    let mut order: Vec<String> = cell
        .log()
        .lines()
        .filter(|line| line.contains(" start ") && !line.contains("of now"))
        .map(|line| line.split(' ').nth(4).unwrap().to_owned())
        .collect();
    order.dedup();
    assert_eq!(
        order,
        ["n-more", "z-old", "a-new", "m-less"],
        "{}",
        cell.log()
    );
}

#[test]
fn all_who_must_go_for_a_gang_go_at_once_and_then_it_starts() {
    let cell = cell(&["a", "b"]);
    cell.put_group(service("low", 8, 25, Some(8)));
    run(&cell, SECOND);
    cell.put_group(gang("g", 3, 50, 80));
    cell.behave(group_id("g"), Behaviour::Completes(MINUTE));
    run(&cell, Duration::from_millis(1));
    assert_eq!((cell.counters().preempted, cell.counters().started), (6, 8));
    let said = status(&cell, "g");
    assert_eq!(said.nominated.len(), 3);
    assert_eq!(
        said.blocked.as_deref(),
        Some("room is being made for 3 of its jobs: 6 that are less important are to stop")
    );
    run(&cell, 5 * SECOND);
    assert_eq!(
        (cell.counters().preempted, cell.counters().started),
        (6, 11)
    );
    assert_eq!(status(&cell, "g").nominated, []);
    run(&cell, 2 * MINUTE);
    assert!(status(&cell, "g").is_complete);
    assert_eq!(status(&cell, "low").missing, 0, "they came back");
    assert_eq!(cell.counters().livelocks, 0);
}

#[test]
fn nobody_goes_for_a_part_of_a_gang() {
    let cell = cell(&["a", "b"]);
    cell.put_group(service("low", 4, 50, Some(4)));
    run(&cell, SECOND);
    cell.put_group(gang("g", 5, 50, 80));
    run(&cell, MINUTE);
    assert_eq!(cell.counters().preempted, 0);
    let why = status(&cell, "g").blocked.clone().unwrap();
    assert!(why.starts_with("only 0 of 5 fit at once"), "{why}");
    assert!(why.contains("; preemption does not help"), "{why}");

    // Nor where budgets keep one of them.
    cell.put_group(service("low", 4, 50, Some(3)));
    cell.put_group(gang("g", 4, 50, 80));
    run(&cell, MINUTE);
    assert_eq!(cell.counters().preempted, 0);
    cell.put_group(service("low", 4, 50, Some(4)));
    run(&cell, MINUTE);
    assert_eq!(cell.counters().preempted, 4);
}

#[test]
fn nobody_goes_for_a_gang_by_default_or_for_one_that_is_not_more_important() {
    let cell = cell(&["a"]);
    cell.put_group(service("low", 4, 25, Some(4)));
    run(&cell, SECOND);
    cell.put_group(gang("g", 2, 50, 80));
    cell.run(&mut [&mut GangScheduler::new()], MINUTE);
    assert_eq!(cell.counters().preempted, 0);
    cell.remove_group(group_id("g"));
    cell.put_group(gang("same", 2, 50, 20));
    let mut gangs = GangScheduler::new().with_preemption(Preemptor::new().with_least_priority(0));
    cell.run(&mut [&mut gangs], MINUTE);
    assert_eq!(cell.counters().preempted, 0);
}

#[test]
fn room_is_made_on_as_many_hosts_as_a_gang_must_have() {
    let cell = cell(&["a", "b", "c"]);
    cell.put_group(service("low", 6, 50, Some(6)));
    run(&cell, SECOND);
    let plain = gang("g", 3, 40, 80);
    let spec = JobSpec {
        constraints: vec![Constraint::DistinctHosts],
        ..(*plain.spec).clone()
    };
    cell.put_group(Group {
        spec: spec.into(),
        ..plain
    });
    run(&cell, 5 * SECOND);
    assert_eq!(cell.counters().preempted, 3);
    let state = cell.state();
    assert_eq!(state.jobs_of(&group_id("g")).count(), 3, "{}", cell.log());
}

#[test]
fn a_gang_that_went_takes_no_room_in_turn() {
    let cell = cell(&["a", "b"]);
    cell.put_group(service("low", 2, 50, Some(2)));
    cell.put_group(gang("middle", 2, 50, 60));
    cell.behave(group_id("middle"), Behaviour::Completes(60 * MINUTE));
    run(&cell, SECOND);
    cell.put_group(gang("high", 2, 50, 80));
    cell.behave(group_id("high"), Behaviour::Completes(60 * MINUTE));
    run(&cell, SECOND);
    let gone = cell.counters().preempted;
    run(&cell, 5 * MINUTE);
    // Two of the low ones, or of the middle ones, went for the high ones; and nobody for those.
    assert_eq!((gone, cell.counters().preempted), (2, 2), "{}", cell.log());
}

#[derive(Debug, Clone)]
struct Load {
    priority: u8,
    count: u32,
    mib: u64,
    max_unavailable: Option<u32>,
    is_batch: bool,
}

fn any_load() -> impl Strategy<Value = Load> {
    (
        0..9_u8,
        1..7_u32,
        1..8_u64,
        prop::option::of(0..8_u32),
        any::<bool>(),
    )
        .prop_map(|(priority, count, mib, max_unavailable, is_batch)| Load {
            priority: priority * 10,
            count,
            mib: mib * 10,
            max_unavailable,
            is_batch,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Under any load: nobody goes unless the gang starts; then nobody who is as important; no floor is broken; and where
    /// all that is less important may go and that is enough, the gang starts.
    #[test]
    fn who_goes_for_a_gang_does_not_go_in_vain(
        seed in any::<u64>(),
        loads in prop::collection::vec(any_load(), 1..5),
        count in 1..6_u32,
        mib in 1..8_u64,
        priority in 51..85_u8,
    ) {
        let cell = SimCluster::new(seed);
        let hosts = ["a", "b", "c"];
        for id in hosts {
            cell.join(host(id, 100)).unwrap();
        }
        for (n, load) in loads.iter().enumerate() {
            let id = format!("load{n}");
            let kind = if load.is_batch {
                GroupKind::Batch { count: load.count, retries: 0 }
            } else {
                GroupKind::Service { count: load.count }
            };
            cell.behave(group_id(&id), Behaviour::Runs);
            cell.put_group(Group {
                priority: load.priority,
                max_unavailable: load.max_unavailable,
                ..group(&id, kind, load.mib)
            });
        }
        let mut others = (ServiceScheduler::new().without_preemption(), BatchScheduler::new());
        cell.run(&mut [&mut others.0, &mut others.1], MINUTE);
        let before = cell.state();
        let mib = mib * 10;
        cell.put_group(gang("g", count, mib, priority));
        cell.behave(group_id("g"), Behaviour::Runs);
        let mut gangs = GangScheduler::new().with_preemption(Preemptor::new());
        let mut least = loads.iter().map(|_| u32::MAX).collect::<Vec<u32>>();
        for _ in 0..100 {
            cell.run(&mut [&mut others.0, &mut others.1, &mut gangs], Duration::from_millis(50));
            let state = cell.state();
            assert_sound(&state);
            for (n, least) in least.iter_mut().enumerate() {
                let id = group_id(&format!("load{n}"));
                let up = state.jobs_of(&id).filter(|job| !job.is_stopping && !job.status.phase.is_final());
                *least = (*least).min(u32::try_from(up.count()).unwrap());
            }
        }
        let state = cell.state();
        let started = state.jobs_of(&group_id("g")).count();
        prop_assert!(started == 0 || started == count as usize);
        // Who is as important and waits for room itself may take what is freed.
        let is_calm = loads.iter().enumerate().all(|(n, load)| {
            let status = before.group_status(&group_id(&format!("load{n}")));
            load.priority < priority || status.is_none_or(|status| status.missing == 0)
        });
        prop_assert!(started > 0 || cell.counters().preempted == 0 || !is_calm, "in vain:\n{}", cell.log());
        let mut is_free_to_take = true;
        for (n, load) in loads.iter().enumerate() {
            let id = group_id(&format!("load{n}"));
            let had = u32::try_from(before.jobs_of(&id).count()).unwrap();
            if load.priority >= priority {
                prop_assert!(least[n] >= had, "load{} is as important:\n{}", n, cell.log());
            } else if let (false, Some(max)) = (load.is_batch, load.max_unavailable) {
                prop_assert!(least[n] >= load.count.saturating_sub(max).min(had), "load{}:\n{}", n, cell.log());
            }
            let has_floor = match load.max_unavailable {
                Some(max) => max < load.count,
                None => !load.is_batch,
            };
            is_free_to_take &= !has_floor;
        }
        let fits: u64 = hosts.iter().map(|id| {
            let on = crate::fixture::host_id(id);
            let stays = before.jobs_on(&on).filter(|job| {
                let n: usize = job.group.as_str()[4..].parse().unwrap();
                loads[n].priority >= priority
            });
            let used: u64 = stays.map(|job| job.spec.request.memory_bytes >> 20).sum();
            (100 - used) / mib
        }).sum();
        if is_calm && is_free_to_take && fits >= u64::from(count) {
            prop_assert_eq!(started, count as usize, "it would fit:\n{}", cell.log());
        }
        prop_assert_eq!(cell.counters().livelocks, 0);
    }
}
