//! Several drivers that want the same room: they all get on, and each gets its share.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use flynn_sched::{
    Cluster, ClusterState, Driver, Error, GroupId, GroupKind, HostLink, LocalCluster, Scheduler,
    Transaction,
    clock::Clock,
    driver::CounterSnapshot,
    remote::TokioTimer,
    scheduler::{Context, SeededIds, ServiceScheduler},
    transaction::Committed,
};
use futures::stream::BoxStream;

use crate::fixture::{group, group_id, host, host_id, until};

/// Tokio's time, which stands still while anybody works.
#[derive(Debug)]
struct TokioClock(tokio::time::Instant);

impl Clock for TokioClock {
    fn now_ms(&self) -> u64 {
        let passed = tokio::time::Instant::now() - self.0;
        1 + u64::try_from(passed.as_millis()).unwrap()
    }
}

/// A cell that takes a while to commit, so that others get in between.
#[derive(Debug)]
struct Slow(LocalCluster);

#[async_trait]
impl Cluster for Slow {
    async fn snapshot(&self) -> Result<Arc<ClusterState>, Error> {
        self.0.snapshot().await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Committed, Error> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.0.commit(transaction).await
    }

    fn watch(&self) -> BoxStream<'static, Result<Arc<ClusterState>, Error>> {
        self.0.watch()
    }
}

/// Places the jobs of one group a few at a time, and conflicts with whatever else happens to the same host.
#[derive(Debug)]
struct Touchy(GroupId);

impl Scheduler for Touchy {
    fn name(&self) -> &'static str {
        "touchy"
    }

    fn schedule(&mut self, state: &ClusterState, context: &mut Context<'_>) -> Transaction {
        let transaction = Transaction::on(state).by_sequence().all_or_nothing();
        let Some(group) = state.group(&self.0) else {
            return transaction;
        };
        let GroupKind::Service { count } = group.kind else {
            return transaction;
        };
        let missing = (count as usize).saturating_sub(state.jobs_of(&self.0).count());
        (0..missing.min(2)).fold(transaction, |transaction, _| {
            transaction.start(context.new_job(group, host_id("a")))
        })
    }
}

const JOBS: u32 = 400;

/// Lets as many drivers as that place all their jobs, all on one host; what each of them counted when the first half
/// was placed, and at the end.
async fn race(drivers: usize) -> (Vec<usize>, Vec<CounterSnapshot>) {
    let clock = Arc::new(TokioClock(tokio::time::Instant::now()));
    let cell = LocalCluster::new(Arc::clone(&clock) as Arc<dyn Clock>);
    let _member = cell.join(host("a", 10_000)).await.unwrap();
    let mut wanted = Transaction::default();
    for n in 0..drivers {
        wanted = wanted.put_group(group(
            &format!("g{n}"),
            GroupKind::Service { count: JOBS },
            1,
        ));
    }
    cell.commit(wanted).await.unwrap();
    let mut running = Vec::new();
    for n in 0..drivers {
        let driver = Driver::new(
            Arc::new(Slow(cell.clone())),
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::new(TokioTimer),
            SeededIds::new(n as u64 + 1),
        )
        .with_scheduler(Touchy(group_id(&format!("g{n}"))));
        let counters = driver.counters();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(driver.run(async {
            let _ = stopped.await;
        }));
        running.push((stop, task, counters));
    }
    let half = until(&cell, "half of it is placed", |state| {
        state.jobs().count() * 2 >= drivers * JOBS as usize
    })
    .await;
    let shares = (0..drivers).map(|n| half.jobs_of(&group_id(&format!("g{n}"))).count());
    let shares = shares.collect();
    until(&cell, "all is placed", |state| {
        state.jobs().count() == drivers * JOBS as usize
    })
    .await;
    let mut counted = Vec::new();
    for (stop, task, counters) in running {
        stop.send(()).unwrap();
        task.await.unwrap();
        counted.push(counters.snapshot());
    }
    (shares, counted)
}

/// Jain's index: 1 when all have the same, 1/n when one has it all.
fn fairness(shares: &[usize]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

#[tokio::test(start_paused = true)]
async fn two_drivers_that_meet_at_every_step_both_get_on() {
    let (shares, counted) = race(2).await;
    assert!(fairness(&shares) > 0.9, "{shares:?}");
    assert!(
        counted.iter().any(|counters| counters.conflicts > 0),
        "or this test shows nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn eight_drivers_that_meet_at_every_step_all_get_on() {
    let (shares, counted) = race(8).await;
    assert!(fairness(&shares) > 0.7, "{shares:?}");
    for counters in &counted {
        let touchy = &counters.schedulers["touchy"];
        assert_eq!(touchy.placements, u64::from(JOBS));
        assert!(touchy.conflicts.total > 0, "{touchy:?}");
        assert_eq!(touchy.conflicts.host, touchy.conflicts.total);
        assert_eq!(touchy.refused_changes, 2 * touchy.conflicts.total);
        assert_eq!(
            touchy.attempts,
            u64::from(JOBS) / 2 + touchy.conflicts.total
        );
        assert!(touchy.conflict_fraction() < 0.95, "{touchy:?}");
        assert_eq!(
            touchy.busy_ms,
            2 * touchy.attempts,
            "each commit takes that long"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_of_a_group_is_counted_from_when_it_was_blocked_until_it_is_placed() {
    let clock = Arc::new(TokioClock(tokio::time::Instant::now()));
    let cell = LocalCluster::new(Arc::clone(&clock) as Arc<dyn Clock>);
    let mut driver = Driver::new(
        Arc::new(cell.clone()),
        Arc::clone(&clock) as Arc<dyn Clock>,
        Arc::new(TokioTimer),
        SeededIds::new(1),
    )
    .with_scheduler(ServiceScheduler::new());
    let counters = driver.counters();
    let mut members = Vec::new();
    for id in ["at-once", "later", "never"] {
        let wanted =
            Transaction::default().put_group(group(id, GroupKind::Service { count: 2 }, 40));
        cell.commit(wanted).await.unwrap();
        if id == "at-once" {
            let member = cell.join(host("a", 100)).await.unwrap();
            members.push(member);
        }
        driver.round(cell.state()).await.unwrap();
    }
    let waits = counters.snapshot().schedulers["service"].waits;
    assert_eq!((waits.count, waits.waiting), (0, 2));
    tokio::time::sleep(Duration::from_secs(7)).await;
    let _b = cell.join(host("b", 100)).await.unwrap();
    cell.commit(Transaction::default().remove_group(group_id("never")))
        .await
        .unwrap();
    driver.round(cell.state()).await.unwrap();
    let counted = counters.snapshot();
    let waits = counted.schedulers["service"].waits;
    assert_eq!((waits.count, waits.waiting), (1, 0), "{counted:?}");
    assert_eq!((waits.mean_ms(), waits.max_ms), (7000, 7000));
    let text = serde_json::to_string(&counted).unwrap();
    assert_eq!(
        serde_json::from_str::<CounterSnapshot>(&text).unwrap(),
        counted
    );
}
