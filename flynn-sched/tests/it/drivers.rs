//! The loop around schedulers, with hosts that carry out what they are told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flynn_discovery::{Backend, backend::MemoryBackend};
use flynn_sched::{
    Cluster, ClusterState, DiscoveryCluster, Driver, Error, GroupKind, HostId, HostLink,
    LocalCluster, Phase, Scheduler, Transaction,
    clock::ManualClock,
    remote::SystemClock,
    scheduler::{BatchScheduler, Context, SeededIds, ServiceScheduler},
    transaction::Committed,
};
use futures::{StreamExt, stream::BoxStream};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::fixture::{group, group_id, host, host_id, job, phase, until};

/// Does what a host does: what is assigned is up, what stops is done, batch jobs end.
fn carry_out(link: Arc<dyn HostLink>, id: HostId, phase_of_new: Phase) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut assignments = link.assignments(&id);
        while let Some(jobs) = assignments.next().await {
            let statuses = jobs
                .unwrap()
                .iter()
                .map(|job| {
                    let is_at = if job.is_stopping {
                        Phase::Done
                    } else {
                        phase_of_new
                    };
                    (job.id.clone(), phase(is_at))
                })
                .collect();
            link.report(&id, statuses).await.unwrap();
        }
    })
}

/// A driver that runs until it is told not to.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(driver: Driver) -> Self {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(driver.run(shutdown));
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(30), self.task)
            .await
            .expect("the driver ends when it is told to")
            .unwrap();
    }
}

fn count(state: &ClusterState, at: Phase) -> usize {
    state
        .jobs_of(&group_id("g"))
        .filter(|job| job.status.phase == at && !job.is_stopping)
        .count()
}

async fn put(cluster: &dyn Cluster, kind: GroupKind) {
    let transaction = Transaction::default().put_group(group("g", kind, 1));
    cluster.commit(transaction).await.unwrap();
}

#[tokio::test]
async fn a_driver_brings_a_local_cell_to_its_counts_and_keeps_it_there() {
    let cell = LocalCluster::new(Arc::new(SystemClock));
    let _a = cell.join(host("a", 100)).await.unwrap();
    let b = cell.join(host("b", 100)).await.unwrap();
    for id in ["a", "b"] {
        carry_out(Arc::new(cell.clone()), host_id(id), Phase::Up);
    }
    let grace = Duration::from_millis(20);
    let driver = Driver::on_tokio(Arc::new(cell.clone()))
        .with_scheduler(ServiceScheduler::new().with_lost_grace(grace));
    let counters = driver.counters();
    let running = Running::start(driver);
    put(&cell, GroupKind::Service { count: 4 }).await;
    until(&cell, "four are up", |state| count(state, Phase::Up) == 4).await;
    assert_eq!(cell.state().jobs_on(&host_id("b")).count(), 2);

    drop(b);
    until(&cell, "the lost two are replaced", |state| {
        state.jobs_on(&host_id("a")).count() == 4
    })
    .await;
    put(&cell, GroupKind::Service { count: 1 }).await;
    until(&cell, "one is left", |state| {
        let a = host_id("a");
        let on_a = state.jobs_on(&a);
        on_a.filter(|job| !job.status.phase.is_final()).count() == 1
    })
    .await;
    running.end().await;
    assert!(counters.commits() >= 3);
    assert!(counters.rounds() >= counters.commits());
    assert_eq!(counters.errors(), 0);
}

#[tokio::test]
async fn several_drivers_on_a_stored_cell_do_not_start_a_job_twice() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let handle = || DiscoveryCluster::new(Arc::clone(&backend));
    let cell = handle();
    let mut members = Vec::new();
    for id in ["a", "b", "c"] {
        let link = handle();
        members.push(link.join(host(id, 100)).await.unwrap());
        carry_out(Arc::new(link), host_id(id), Phase::Up);
    }
    let running: Vec<Running> = (0..3)
        .map(|_| {
            let driver = Driver::on_tokio(Arc::new(handle()))
                .with_scheduler(ServiceScheduler::new())
                .with_scheduler(BatchScheduler::new());
            Running::start(driver)
        })
        .collect();
    for wanted in [1, 12, 30, 5, 20] {
        put(&cell, GroupKind::Service { count: wanted }).await;
        let state = until(&cell, "the count is reached", |state| {
            count(state, Phase::Up) == wanted as usize
        })
        .await;
        let there = state
            .jobs_of(&group_id("g"))
            .filter(|job| !job.is_stopping && !job.status.phase.is_final())
            .count();
        assert_eq!(there, wanted as usize, "not one more than wanted");
    }
    for running in running {
        running.end().await;
    }
}

#[tokio::test]
async fn a_batch_runs_on_a_stored_cell() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let cell = DiscoveryCluster::new(backend);
    let _member = cell.join(host("a", 5)).await.unwrap();
    carry_out(Arc::new(cell.clone()), host_id("a"), Phase::Done);
    let driver = Driver::on_tokio(Arc::new(cell.clone()))
        .with_scheduler(BatchScheduler::new().with_history(3));
    let running = Running::start(driver);
    put(
        &cell,
        GroupKind::Batch {
            count: 20,
            retries: 0,
        },
    )
    .await;
    let state = until(&cell, "the batch is complete", |state| {
        state
            .group_status(&group_id("g"))
            .is_some_and(|status| status.is_complete)
    })
    .await;
    assert_eq!(state.group_status(&group_id("g")).unwrap().succeeded, 20);
    until(&cell, "few are kept", |state| state.jobs().count() <= 3).await;
    running.end().await;
}

/// A cell that fails or is contended as it is told.
#[derive(Debug)]
struct Troubled {
    cell: LocalCluster,
    is_down: AtomicBool,
}

#[async_trait::async_trait]
impl Cluster for Troubled {
    async fn snapshot(&self) -> Result<Arc<ClusterState>, Error> {
        self.cell.snapshot().await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Committed, Error> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(Error::Store {
                operation: "committing",
                is_transient: true,
                source: "no quorum".into(),
            });
        }
        self.cell.commit(transaction).await
    }

    fn watch(&self) -> BoxStream<'static, Result<Arc<ClusterState>, Error>> {
        self.cell.watch()
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_outlives_a_store_that_fails() {
    let cell = LocalCluster::new(Arc::new(ManualClock::at(1)));
    let _member = cell.join(host("a", 100)).await.unwrap();
    let troubled = Arc::new(Troubled {
        cell: cell.clone(),
        is_down: AtomicBool::new(true),
    });
    let driver = Driver::on_tokio(Arc::clone(&troubled) as Arc<dyn Cluster>)
        .with_scheduler(ServiceScheduler::new());
    let counters = driver.counters();
    let running = Running::start(driver);
    put(&cell, GroupKind::Service { count: 1 }).await;
    let failing = async {
        while counters.errors() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), failing)
        .await
        .expect("it fails again and again");
    assert!(cell.state().jobs().next().is_none());
    troubled.is_down.store(false, Ordering::SeqCst);
    until(&cell, "the job is placed", |state| {
        state.jobs().count() == 1
    })
    .await;
    running.end().await;
}

/// Proposes one job more than there is room for, again and again.
#[derive(Debug)]
struct Stubborn;

impl Scheduler for Stubborn {
    fn name(&self) -> &'static str {
        "stubborn"
    }

    fn schedule(&mut self, state: &ClusterState, context: &mut Context<'_>) -> Transaction {
        let id = context.new_job_id().to_string();
        Transaction::on(state).start(job(&id, "g", "a", 1000))
    }
}

#[tokio::test]
async fn attempts_against_a_conflict_are_bounded() {
    let cell = LocalCluster::new(Arc::new(ManualClock::at(1)));
    let _member = cell.join(host("a", 100)).await.unwrap();
    let mut driver = Driver::new(
        Arc::new(cell.clone()),
        Arc::new(ManualClock::at(1)),
        Arc::new(flynn_sched::remote::TokioTimer),
        SeededIds::new(1),
    )
    .with_scheduler(Stubborn);
    let counters = driver.counters();
    let rounded = driver.round(cell.state()).await.unwrap();
    assert!(rounded.is_contended);
    assert_eq!(counters.conflicts(), u64::from(Driver::MAX_ATTEMPTS));
    assert_eq!(counters.refused(), counters.conflicts());
    assert_eq!(counters.commits(), 0);
}

#[tokio::test]
async fn a_burst_of_changes_is_one_round() {
    let cell = LocalCluster::new(Arc::new(ManualClock::at(1)));
    let _member = cell.join(host("a", 100)).await.unwrap();
    let driver = Driver::on_tokio(Arc::new(cell.clone()))
        .with_scheduler(ServiceScheduler::new())
        .with_debounce(Duration::from_millis(200));
    let counters = driver.counters();
    let running = Running::start(driver);
    for count in 1..=50 {
        put(&cell, GroupKind::Service { count }).await;
    }
    until(&cell, "fifty are placed", |state| {
        state.jobs().count() == 50
    })
    .await;
    running.end().await;
    assert!(counters.commits() <= 3, "{counters:?}");
}
