//! What a stored cell keeps under which key.

use std::sync::Arc;

use flynn_discovery::{
    Backend,
    backend::{Condition, Key, MemoryBackend, Prefix, list_all},
};
use flynn_sched::{Cluster, DiscoveryCluster, HostLink, Phase, Transaction};
use futures::StreamExt;

use crate::fixture::{host, host_id, job, job_id, phase, until};

async fn keys(backend: &dyn Backend, prefix: &str) -> usize {
    let prefix = Prefix::parse(prefix).unwrap();
    list_all(backend, &prefix).await.unwrap().len()
}

#[tokio::test]
async fn jobs_written_whole_by_an_earlier_version_are_read_and_stopped() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let cell = DiscoveryCluster::new(Arc::clone(&backend));
    let _member = cell.join(host("a", 100)).await.unwrap();
    let old = job("j", "g", "a", 60);
    let value = serde_json::to_vec(&old).unwrap();
    let key = Key::parse("cell/jobs/a/j").unwrap();
    let written = backend.put(&key, value.into(), Condition::Absent).await;
    written.unwrap();
    let state = until(&cell, "it is there", |state| state.jobs().count() == 1).await;
    assert_eq!(**state.job(&job_id("j")).unwrap(), old);
    assert_eq!(
        state.host(&host_id("a")).unwrap().promised,
        old.spec.request
    );
    let mut assignments = cell.assignments(&host_id("a"));
    assert_eq!(*assignments.next().await.unwrap().unwrap()[0], old);
    let stop = Transaction::on(&state).stop(job_id("j"));
    let state = cell.commit(stop).await.unwrap().state;
    let stopping = state.job(&job_id("j")).unwrap();
    assert!(stopping.is_stopping);
    assert_eq!(stopping.spec, old.spec);
    let assigned = assignments.next().await.unwrap().unwrap();
    assert!(assigned[0].is_stopping);
    assert_eq!(assigned[0].spec, old.spec);
}

#[tokio::test]
async fn a_description_is_kept_once_and_as_long_as_a_job_needs_it() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let cell = DiscoveryCluster::new(Arc::clone(&backend));
    let _member = cell.join(host("a", 100)).await.unwrap();
    until(&cell, "it is alive", |state| state.hosts().count() == 1).await;
    let start = (0..10).fold(Transaction::default(), |transaction, n| {
        transaction.start(job(&format!("j{n}"), &format!("g{}", n % 2), "a", 1))
    });
    cell.commit(start).await.unwrap();
    assert_eq!(
        keys(backend.as_ref(), "cell/specs/").await,
        1,
        "all are alike"
    );
    let mut assignments = cell.assignments(&host_id("a"));
    assert_eq!(assignments.next().await.unwrap().unwrap().len(), 10);
    let ended = (0..10).map(|n| (job_id(&format!("j{n}")), phase(Phase::Done)));
    cell.report(&host_id("a"), ended.collect()).await.unwrap();
    until(&cell, "all have ended", |state| {
        state.jobs().all(|job| job.status.phase.is_final())
    })
    .await;
    let remove = |range: std::ops::Range<usize>| {
        range.fold(Transaction::default(), |transaction, n| {
            transaction.remove(job_id(&format!("j{n}")))
        })
    };
    cell.commit(remove(0..9)).await.unwrap();
    assert_eq!(
        keys(backend.as_ref(), "cell/specs/").await,
        1,
        "one needs it"
    );
    let again = remove(9..10).start(job("k", "g0", "a", 1));
    cell.commit(again).await.unwrap();
    assert_eq!(
        keys(backend.as_ref(), "cell/specs/").await,
        1,
        "a new one needs it"
    );
    let ended = vec![(job_id("k"), phase(Phase::Done))];
    cell.report(&host_id("a"), ended).await.unwrap();
    until(&cell, "it has ended", |state| {
        state.jobs().all(|job| job.status.phase.is_final())
    })
    .await;
    let state = cell
        .commit(Transaction::default().remove(job_id("k")))
        .await
        .unwrap()
        .state;
    assert_eq!(state.jobs().count(), 0);
    assert_eq!(
        keys(backend.as_ref(), "cell/specs/").await,
        0,
        "none needs it"
    );
}

#[tokio::test]
async fn a_description_that_is_needed_again_meanwhile_is_not_swept() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let cell = DiscoveryCluster::new(Arc::clone(&backend));
    let _member = cell.join(host("a", 100)).await.unwrap();
    until(&cell, "it is alive", |state| state.hosts().count() == 1).await;
    for n in 0..20 {
        let (old, new) = (format!("old{n}"), format!("new{n}"));
        cell.commit(Transaction::default().start(job(&old, "g", "a", 1)))
            .await
            .unwrap();
        let ended = vec![(job_id(&old), phase(Phase::Done))];
        cell.report(&host_id("a"), ended).await.unwrap();
        until(&cell, "it has ended", |state| {
            state.job(&job_id(&old)).unwrap().status.phase.is_final()
        })
        .await;
        // Both are decided on one view of the cell; whichever is first, the new job has its description.
        let remove = cell.commit(Transaction::default().remove(job_id(&old)));
        let start = cell.commit(Transaction::default().start(job(&new, "h", "a", 1)));
        let (removed, started) = futures::future::join(remove, start).await;
        removed.unwrap();
        assert_eq!(started.unwrap().refused, vec![]);
        let late = DiscoveryCluster::new(Arc::clone(&backend));
        let state = late.snapshot().await.unwrap();
        assert!(state.job(&job_id(&new)).is_some(), "round {n}");
        let ended = vec![(job_id(&new), phase(Phase::Done))];
        cell.report(&host_id("a"), ended).await.unwrap();
        until(&cell, "it has ended", |state| {
            state.job(&job_id(&new)).unwrap().status.phase.is_final()
        })
        .await;
        cell.commit(Transaction::default().remove(job_id(&new)))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_job_that_is_removed_twice_at_once_takes_no_other_jobs_description_with_it() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let cell = DiscoveryCluster::new(Arc::clone(&backend));
    let _member = cell.join(host("a", 100)).await.unwrap();
    until(&cell, "it is alive", |state| state.hosts().count() == 1).await;
    let start = Transaction::default()
        .start(job("j1", "g", "a", 1))
        .start(job("j2", "g", "a", 1));
    cell.commit(start).await.unwrap();
    let done = vec![(job_id("j1"), phase(Phase::Done))];
    cell.report(&host_id("a"), done).await.unwrap();
    until(&cell, "it has ended", |state| {
        let job = state.job(&job_id("j1"));
        job.is_some_and(|job| job.status.phase.is_final())
    })
    .await;
    let twice = Transaction::default()
        .remove(job_id("j1"))
        .remove(job_id("j1"));
    cell.commit(twice).await.unwrap();
    let late = DiscoveryCluster::new(backend).snapshot().await.unwrap();
    assert!(late.job(&job_id("j2")).is_some());
}

#[tokio::test]
async fn a_stop_and_a_start_on_one_host_see_who_took_the_room_meanwhile() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (one, two) = (
        DiscoveryCluster::new(Arc::clone(&backend)),
        DiscoveryCluster::new(Arc::clone(&backend)),
    );
    let _member = one.join(host("a", 100)).await.unwrap();
    until(&one, "it is alive", |state| state.hosts().count() == 1).await;
    let start = Transaction::default().start(job("old", "g", "a", 10));
    one.commit(start).await.unwrap();
    for cell in [&one, &two] {
        until(cell, "the job is there", |state| state.jobs().count() == 1).await;
    }
    // Both decide on the same snapshot; only one of them can have the room.
    let theirs = Transaction::default().start(job("theirs", "h", "a", 60));
    let mine = Transaction::default()
        .stop(job_id("old"))
        .start(job("mine", "g", "a", 60));
    let (theirs, mine) = futures::future::join(one.commit(theirs), two.commit(mine)).await;
    let refused = theirs.unwrap().refused.len() + mine.unwrap().refused.len();
    assert_eq!(refused, 1);
    let late = DiscoveryCluster::new(backend).snapshot().await.unwrap();
    let host = late.host(&host_id("a")).unwrap();
    assert!(host.host.capacity.fits(&host.promised), "{host:?}");
}
