//! The gang scheduler: each test is one story, and the last one is all of them at random.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flynn_discovery::{Backend, backend::MemoryBackend};
use flynn_sched::{
    Cluster, DiscoveryCluster, Driver, Group, GroupKind, GroupStatus, HostLink, Phase, SimCluster,
    Transaction,
    scheduler::{BatchScheduler, GangScheduler, ServiceScheduler},
    sim::Behaviour,
};
use futures::executor::block_on;
use proptest::prelude::*;

use crate::fixture::{group, group_id, host, host_id, until};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn cell(seed: u64, hosts: &[&str]) -> SimCluster {
    let cell = SimCluster::new(seed);
    for id in hosts {
        cell.join(host(id, 100)).unwrap();
    }
    cell
}

fn gang(id: &str, count: u32, retries: u32, memory_mib: u64) -> Group {
    group(id, GroupKind::Gang { count, retries }, memory_mib)
}

fn run(cell: &SimCluster, time: Duration) {
    cell.run(&mut [&mut GangScheduler::new()], time);
}

fn status(cell: &SimCluster, id: &str) -> Arc<GroupStatus> {
    let state = cell.state();
    state
        .group_status(&group_id(id))
        .cloned()
        .unwrap_or_default()
}

#[test]
fn a_gang_starts_at_once_and_is_complete_when_all_its_jobs_ended_well() {
    let cell = cell(1, &["a", "b"]);
    cell.put_group(gang("g", 6, 0, 30));
    run(&cell, Duration::from_millis(1));
    assert_eq!(cell.counters().started, 6);
    assert!(!status(&cell, "g").is_complete);
    run(&cell, MINUTE);
    let status = status(&cell, "g");
    assert!(status.is_complete && status.completed_ms.is_some());
    assert_eq!((status.succeeded, status.failed, status.missing), (6, 0, 0));
    assert_eq!(cell.counters().started, 6);
}

#[test]
fn a_gang_that_does_not_fit_starts_nothing_and_says_how_near_it_came() {
    let cell = cell(1, &["a", "b"]);
    cell.put_group(gang("g", 7, 0, 30));
    run(&cell, MINUTE);
    assert_eq!(cell.counters().started, 0);
    assert_eq!(status(&cell, "g").missing, 7);
    let why = status(&cell, "g").blocked.clone().unwrap();
    assert!(
        why.starts_with("only 6 of 7 fit at once: none of 2 hosts"),
        "{why}"
    );
    assert!(why.contains("needs 30 MiB"), "{why}");

    cell.join(host("c", 100)).unwrap();
    run(&cell, MINUTE);
    assert!(status(&cell, "g").is_complete);
}

#[test]
fn when_one_job_fails_the_others_are_stopped_and_all_are_tried_anew() {
    let cell = cell(3, &["a", "b"]);
    cell.put_group(gang("g", 4, 2, 10));
    cell.behave(group_id("g"), Behaviour::Flaky(5 * SECOND, 1.0));
    run(&cell, 10 * MINUTE);
    assert_eq!(cell.counters().started, 12, "three attempts of four");
    let status = status(&cell, "g");
    assert!(status.is_complete);
    assert_eq!((status.succeeded, status.failed), (0, 4));
    assert_eq!(
        status.blocked.as_deref().unwrap(),
        "given up after attempt 3 of 3: a job ended with exit status 1"
    );
    let state = cell.state();
    assert!(state.jobs().all(|job| job.status.phase.is_final()));
}

#[test]
fn a_lost_host_takes_the_whole_gang_with_it_and_it_is_tried_anew() {
    let cell = cell(1, &["a", "b", "c"]);
    cell.put_group(gang("g", 6, 1, 30));
    cell.behave(group_id("g"), Behaviour::Completes(MINUTE));
    run(&cell, 10 * SECOND);
    cell.lose(&host_id("b"));
    run(&cell, 5 * SECOND);
    assert_eq!(
        cell.counters().started,
        6,
        "it may be gone for a moment only"
    );
    run(&cell, 3 * MINUTE);
    assert_eq!(cell.counters().started, 12);
    assert_eq!(cell.counters().stopped, 4, "those on the other hosts");
    assert!(status(&cell, "g").is_complete);
    assert_eq!(status(&cell, "g").succeeded, 6);
}

#[test]
fn a_gang_of_which_a_job_was_stopped_starts_anew_without_using_up_a_retry() {
    let cell = cell(1, &["a"]);
    cell.put_group(gang("g", 3, 0, 10));
    cell.behave(group_id("g"), Behaviour::Completes(MINUTE));
    run(&cell, 10 * SECOND);
    let job = cell.state().jobs().next().unwrap().id.clone();
    block_on(cell.commit(Transaction::default().stop(job))).unwrap();
    run(&cell, 3 * MINUTE);
    assert_eq!(cell.counters().started, 6);
    assert_eq!(status(&cell, "g").succeeded, 3);
}

#[test]
fn a_complete_gang_is_removed_when_it_was_kept_long_enough() {
    let cell = cell(1, &["a"]);
    cell.put_group(Group {
        keep: Some(10 * MINUTE),
        ..gang("g", 3, 0, 10)
    });
    run(&cell, 10 * MINUTE);
    assert!(cell.state().group(&group_id("g")).is_some());
    run(&cell, MINUTE);
    let state = cell.state();
    assert_eq!((state.groups().count(), state.jobs().count()), (0, 0));
}

#[test]
fn gangs_that_fit_one_at_a_time_run_one_after_the_other() {
    let cell = cell(1, &["a", "b"]);
    for n in 0..8 {
        cell.put_group(gang(&format!("g{n}"), 6, 0, 30));
    }
    let (mut one, mut two) = (GangScheduler::new(), GangScheduler::new());
    cell.run(&mut [&mut one, &mut two], 10 * MINUTE);
    for n in 0..8 {
        assert!(
            status(&cell, &format!("g{n}")).is_complete,
            "{}",
            cell.log()
        );
    }
    assert_eq!(cell.counters().started, 48);
    assert_eq!(cell.counters().livelocks, 0);
}

/// Small jobs come and go for half an hour; the gang needs a whole host.
fn beside_small_jobs(hold_after: Duration) -> SimCluster {
    let cell = cell(7, &["a", "b"]);
    let small = GroupKind::Batch {
        count: 2000,
        retries: 0,
    };
    cell.put_group(group("small", small, 10));
    let mut batches = BatchScheduler::new();
    cell.run(&mut [&mut batches], 10 * SECOND);
    cell.put_group(gang("g", 2, 0, 50));
    cell.behave(group_id("g"), Behaviour::Completes(SECOND));
    let mut gangs = GangScheduler::new().with_hold_after(hold_after);
    cell.run(&mut [&mut batches, &mut gangs], 3 * MINUTE);
    cell
}

#[test]
fn small_jobs_do_not_starve_a_gang() {
    let starved = beside_small_jobs(Duration::from_secs(3600));
    assert!(
        !status(&starved, "g").is_complete,
        "or this test shows nothing"
    );
    assert!(
        !status(&starved, "small").is_complete,
        "or this test shows nothing"
    );
    let fair = beside_small_jobs(MINUTE);
    assert!(status(&fair, "g").is_complete, "{}", fair.log());
    assert!(!status(&fair, "small").is_complete);
    assert_eq!(fair.counters().livelocks, 0);
}

#[test]
fn only_as_many_hosts_are_kept_for_a_gang_as_it_needs() {
    let cell = cell(1, &["a", "b", "c", "d"]);
    let long = GroupKind::Batch {
        count: 40,
        retries: 0,
    };
    cell.put_group(group("long", long, 10));
    cell.behave(group_id("long"), Behaviour::Completes(10 * MINUTE));
    cell.put_group(gang("g", 2, 0, 100));
    let mut batches = BatchScheduler::new();
    let mut gangs = GangScheduler::new();
    cell.run(&mut [&mut batches, &mut gangs], 5 * MINUTE);
    let held = status(&cell, "g").held.clone();
    assert_eq!(held.len(), 2, "{held:?}");

    // The others are told why there is no room, and a more important one is not held back at all.
    cell.put_group(group("late", GroupKind::Service { count: 1 }, 10));
    let mut services = ServiceScheduler::new();
    cell.run(&mut [&mut batches, &mut gangs, &mut services], 8 * MINUTE);
    assert!(status(&cell, "g").is_complete, "{}", cell.log());
    assert!(status(&cell, "g").held.is_empty());
    let state = cell.state();
    let late: Vec<_> = state.jobs_of(&group_id("late")).collect();
    assert_eq!(late.len(), 1);
}

#[test]
fn a_group_of_higher_priority_goes_past_a_gang_that_waits() {
    let cell = cell(1, &["a"]);
    cell.put_group(group("svc", GroupKind::Service { count: 1 }, 10));
    let long = GroupKind::Batch {
        count: 1,
        retries: 0,
    };
    cell.put_group(group("long", long, 30));
    cell.behave(group_id("long"), Behaviour::Completes(60 * MINUTE));
    let (mut services, mut batches) = (ServiceScheduler::new(), BatchScheduler::new());
    let mut gangs = GangScheduler::new();
    cell.run(&mut [&mut services, &mut batches], SECOND);
    cell.put_group(gang("g", 7, 0, 10));
    let mut all: [&mut dyn flynn_sched::Scheduler; 3] = [&mut services, &mut batches, &mut gangs];
    cell.run(&mut all, 2 * MINUTE);
    assert_eq!(status(&cell, "g").held, [host_id("a")]);
    cell.put_group(group("same", GroupKind::Service { count: 1 }, 10));
    cell.put_group(Group {
        priority: 80,
        ..group("higher", GroupKind::Service { count: 1 }, 10)
    });
    cell.run(&mut all, MINUTE);
    let state = cell.state();
    assert_eq!(state.jobs_of(&group_id("higher")).count(), 1);
    assert_eq!(state.jobs_of(&group_id("same")).count(), 0);
    let why = status(&cell, "same").blocked.clone().unwrap();
    assert!(why.ends_with("1 of the hosts are kept for gang g"), "{why}");
}

#[tokio::test]
async fn a_gang_too_large_for_the_store_says_so() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let cell = DiscoveryCluster::new(backend);
    let _member = cell.join(host("a", 100_000)).await.unwrap();
    let driver = Driver::on_tokio(Arc::new(cell.clone())).with_scheduler(GangScheduler::new());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(driver.run(async {
        let _ = stopped.await;
    }));
    let wanted = Transaction::default()
        .put_group(gang("large", 5000, 0, 1))
        .put_group(gang("small", 20, 0, 1));
    cell.commit(wanted).await.unwrap();
    let state = until(
        &cell,
        "the large one is refused and the small one runs",
        |state| {
            let large = state.group_status(&group_id("large"));
            let says = |status: &Arc<GroupStatus>| status.blocked.is_some();
            large.is_some_and(says) && state.jobs_of(&group_id("small")).count() == 20
        },
    )
    .await;
    let why = state
        .group_status(&group_id("large"))
        .unwrap()
        .blocked
        .clone()
        .unwrap();
    assert!(
        why.starts_with("its 5000 jobs cannot be started at once:"),
        "{why}"
    );
    assert!(
        why.contains("too large to be applied all or nothing"),
        "{why}"
    );
    assert_eq!(state.jobs_of(&group_id("large")).count(), 0);
    stop.send(()).unwrap();
    task.await.unwrap();
}

#[derive(Debug, Clone)]
enum Trouble {
    Lose(usize),
    Return(usize),
    Gang(usize, u32, u32),
    Remove(usize),
    Batch(u32),
    Pass(u64),
}

const HOSTS: usize = 4;
const GANGS: usize = 3;

fn any_trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        2 => (0..HOSTS).prop_map(Trouble::Lose),
        2 => (0..HOSTS).prop_map(Trouble::Return),
        4 => (0..GANGS, 1..9_u32, 0..4_u32).prop_map(|(g, n, retries)| Trouble::Gang(g, n, retries)),
        1 => (0..GANGS).prop_map(Trouble::Remove),
        2 => (1..12_u32).prop_map(Trouble::Batch),
        6 => (1..60_000_u64).prop_map(Trouble::Pass),
    ]
}

/// How many jobs of each gang were started at each moment.
fn starts(log: &str) -> BTreeMap<(String, String), u32> {
    let mut starts = BTreeMap::new();
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let [at, "start", _, "of", group, ..] = words[..]
            && group.starts_with("gang")
        {
            *starts.entry((at.to_owned(), group.to_owned())).or_default() += 1;
        }
    }
    starts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Two gang schedulers and a batch scheduler, refusals, old snapshots, hosts lost and returned, gangs written and
    /// removed: at no moment is a part of a gang started, and when the trouble ends, every gang that fits ends as well.
    #[test]
    fn a_gang_is_all_or_nothing_and_ends(
        seed in any::<u64>(),
        refusals in prop_oneof![Just(0.0), Just(0.1)],
        staleness in 0..4_usize,
        troubles in prop::collection::vec(any_trouble(), 1..24),
    ) {
        let cell = SimCluster::new(seed).with_refusals(refusals).with_staleness(staleness);
        for n in 0..HOSTS {
            cell.join(host(&format!("h{n}"), 100)).unwrap();
        }
        let (mut one, mut two) = (GangScheduler::new(), GangScheduler::new());
        let mut batches = BatchScheduler::new();
        let mut generation = 0;
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let mut current: BTreeMap<usize, String> = BTreeMap::new();
        for trouble in troubles {
            match trouble {
                Trouble::Lose(h) => cell.lose(&host_id(&format!("h{h}"))),
                Trouble::Return(h) => cell.bring_back(&host_id(&format!("h{h}"))),
                Trouble::Gang(g, count, retries) => {
                    generation += 1;
                    let id = format!("gang{g}.{generation}");
                    let flaky = Behaviour::Flaky(Duration::from_secs(20), 0.1);
                    cell.behave(group_id(&id), flaky);
                    cell.put_group(gang(&id, count, retries, 40));
                    counts.insert(id.clone(), count);
                    if let Some(old) = current.insert(g, id) {
                        cell.remove_group(group_id(&old));
                    }
                }
                Trouble::Remove(g) => if let Some(id) = current.remove(&g) {
                    cell.remove_group(group_id(&id));
                },
                Trouble::Batch(count) => {
                    cell.put_group(group("b", GroupKind::Batch { count, retries: 0 }, 10));
                }
                Trouble::Pass(ms) => {
                    let time = Duration::from_millis(ms);
                    cell.run(&mut [&mut one, &mut batches, &mut two], time);
                }
            }
        }
        for n in 0..HOSTS {
            cell.join(host(&format!("h{n}"), 100)).unwrap();
        }
        cell.run(&mut [&mut one, &mut batches, &mut two], Duration::from_secs(3600));
        for ((at, id), started) in starts(&cell.log()) {
            prop_assert_eq!(started, counts[&id], "{} at {}:\n{}", id, at, cell.log());
        }
        let state = cell.state();
        for id in current.values() {
            let status = state.group_status(&group_id(id)).cloned().unwrap_or_default();
            prop_assert!(status.is_complete, "{} {:?}\n{}", id, status, cell.log());
            prop_assert_eq!(status.succeeded + status.failed, counts[id]);
        }
        prop_assert!(state.jobs().all(|job| job.status.phase.is_final() || job.status.phase == Phase::Done));
        prop_assert_eq!(cell.counters().livelocks, 0, "{}", cell.log());
        let at_rest = cell.counters();
        cell.run(&mut [&mut one, &mut batches, &mut two], Duration::from_secs(600));
        prop_assert_eq!(cell.counters().started, at_rest.started, "it has come to rest");
    }
}
