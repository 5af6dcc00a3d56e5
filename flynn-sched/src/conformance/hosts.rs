//! What [`HostLink`](crate::HostLink) and [`Membership`](crate::Membership) promise.

use std::sync::Arc;

use futures::{FutureExt, StreamExt};

use crate::{
    ClusterState, Error, Host, Job, Phase, Transaction,
    conformance::{Fixture, host, host_id, job, job_id, join, memory, phase, until},
    transaction::Change,
};

async fn start(cell: &Fixture, job: Job) -> Arc<ClusterState> {
    let state = cell.cluster.snapshot().await.unwrap();
    let transaction = Transaction::on(&state).start(job);
    let committed = cell.cluster.commit(transaction).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    committed.state
}

async fn until_lost(cell: &Fixture, id: &str) -> Arc<ClusterState> {
    let id = host_id(id);
    until(cell.cluster.as_ref(), |state| {
        state
            .host(&id)
            .is_some_and(|host| host.lost_since_ms.is_some())
    })
    .await
}

fn ids(jobs: &[Arc<Job>]) -> Vec<String> {
    jobs.iter().map(|job| job.id.to_string()).collect()
}

/// A host that joins is listed with what it says about itself.
pub async fn a_host_that_joins_is_listed_with_what_it_says(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let listed = state.host(&host_id("a")).unwrap();
    assert_eq!(*listed.host, host("a", 100));
    assert!(listed.is_schedulable());
    assert_eq!(state.hosts().count(), 1);
}

/// A host that leaves is lost at once, and its jobs stay listed.
pub async fn a_host_that_leaves_is_lost_and_its_jobs_stay_listed(cell: Fixture) {
    let member = join(&cell, host("a", 100)).await;
    start(&cell, job("j", "g", "a", 1)).await;
    member.leave().await.unwrap();
    let state = until_lost(&cell, "a").await;
    assert_eq!(state.jobs_on(&host_id("a")).count(), 1);
    assert!(!state.host(&host_id("a")).unwrap().is_schedulable());
    let remove = Transaction::on(&state).remove(job_id("j"));
    let committed = cell.cluster.commit(remove).await.unwrap();
    assert_eq!(
        committed.refused,
        vec![],
        "a lost host's jobs may be removed"
    );
}

/// A dropped membership loses the host, at the latest when its lease ends.
pub async fn a_dropped_membership_loses_the_host(cell: Fixture) {
    let member = join(&cell, host("a", 100)).await;
    drop(member);
    let state = until_lost(&cell, "a").await;
    let transaction = Transaction::on(&state).start(job("j", "g", "a", 1));
    let committed = cell.cluster.commit(transaction).await.unwrap();
    assert_eq!(committed.refused.len(), 1);
}

/// A lost host that joins again is alive, with its jobs.
pub async fn a_lost_host_that_joins_again_is_alive(cell: Fixture) {
    let member = join(&cell, host("a", 100)).await;
    start(&cell, job("j", "g", "a", 1)).await;
    member.leave().await.unwrap();
    until_lost(&cell, "a").await;
    let restarted = Host {
        incarnation: 2,
        ..host("a", 100)
    };
    let _member = join(&cell, restarted).await;
    let state = cell.cluster.snapshot().await.unwrap();
    assert!(state.host(&host_id("a")).unwrap().is_schedulable());
    assert_eq!(state.jobs_on(&host_id("a")).count(), 1);
}

/// A host id is not taken from a living host at another address; the error names that address.
pub async fn a_host_id_is_not_taken_from_a_living_host(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let other = Host {
        incarnation: 2,
        addr: "elsewhere".to_owned(),
        ..host("a", 100)
    };
    let error = cell.link.join(other).await.unwrap_err();
    assert!(
        matches!(&error, Error::HostTaken { addr, .. } if addr == "addr-of-a"),
        "{error}"
    );
    let state = cell.cluster.snapshot().await.unwrap();
    assert_eq!(*state.host(&host_id("a")).unwrap().host, host("a", 100));
}

/// A restarted host (same address, new incarnation) takes over at once, and the old membership is lost.
pub async fn a_restarted_host_takes_over_and_the_old_membership_is_lost(cell: Fixture) {
    let old = join(&cell, host("a", 100)).await;
    assert!(old.lost().now_or_never().is_none());
    let restarted = Host {
        incarnation: 2,
        ..host("a", 200)
    };
    let _new = join(&cell, restarted.clone()).await;
    old.lost().await;
    drop(old);
    let state = cell.cluster.snapshot().await.unwrap();
    let now = state.host(&host_id("a")).unwrap();
    assert_eq!(*now.host, restarted);
    assert!(
        now.is_schedulable(),
        "the old membership's end does not lose the new host"
    );
}

/// An updated host takes no more jobs when it drains, and keeps those it has.
pub async fn an_updated_host_takes_no_more_jobs_when_it_drains(cell: Fixture) {
    let member = join(&cell, host("a", 100)).await;
    start(&cell, job("j1", "g", "a", 1)).await;
    let draining = Host {
        is_draining: true,
        ..host("a", 100)
    };
    member.update(draining).await.unwrap();
    let state = until(cell.cluster.as_ref(), |state| {
        state.host(&host_id("a")).unwrap().host.is_draining
    })
    .await;
    assert_eq!(state.jobs_on(&host_id("a")).count(), 1);
    let transaction = Transaction::on(&state).start(job("j2", "g", "a", 1));
    let committed = cell.cluster.commit(transaction).await.unwrap();
    assert_eq!(committed.refused.len(), 1);
}

/// Assignments begin with the whole list and tell it again after each change.
pub async fn assignments_begin_with_the_whole_list_and_follow_each_change(cell: Fixture) {
    let _a = join(&cell, host("a", 100)).await;
    let _b = join(&cell, host("b", 100)).await;
    let mut assignments = cell.link.assignments(&host_id("a"));
    let none = assignments.next().await.unwrap().unwrap();
    assert!(none.is_empty());
    start(&cell, job("j1", "g", "a", 1)).await;
    let one = assignments.next().await.unwrap().unwrap();
    assert_eq!(*one[0], job("j1", "g", "a", 1));
    start(&cell, job("other", "g", "b", 1)).await;
    start(&cell, job("j2", "g", "a", 1)).await;
    let two = assignments.next().await.unwrap().unwrap();
    assert_eq!(ids(&two), ["j1", "j2"]);
    let mut late = cell.link.assignments(&host_id("a"));
    assert_eq!(ids(&late.next().await.unwrap().unwrap()), ["j1", "j2"]);
}

/// A stopping job stays assigned, marked, until it is removed.
pub async fn a_stopping_job_stays_assigned_until_it_is_removed(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = start(&cell, job("j", "g", "a", 1)).await;
    let mut assignments = cell.link.assignments(&host_id("a"));
    assert!(!assignments.next().await.unwrap().unwrap()[0].is_stopping);
    let stop = Transaction::on(&state).stop(job_id("j"));
    cell.cluster.commit(stop).await.unwrap();
    assert!(assignments.next().await.unwrap().unwrap()[0].is_stopping);
    let done = vec![(job_id("j"), phase(Phase::Done))];
    cell.link.report(&host_id("a"), done).await.unwrap();
    let state = until(cell.cluster.as_ref(), |state| {
        state.job(&job_id("j")).unwrap().status.phase == Phase::Done
    })
    .await;
    let remove = Transaction::on(&state).remove(job_id("j"));
    cell.cluster.commit(remove).await.unwrap();
    assert!(assignments.next().await.unwrap().unwrap().is_empty());
}

/// A host's own reports do not change what is assigned to it.
pub async fn reports_do_not_change_assignments(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    start(&cell, job("j1", "g", "a", 1)).await;
    let mut assignments = cell.link.assignments(&host_id("a"));
    assignments.next().await.unwrap().unwrap();
    let up = vec![(job_id("j1"), phase(Phase::Up))];
    cell.link.report(&host_id("a"), up).await.unwrap();
    start(&cell, job("j2", "g", "a", 1)).await;
    let next = assignments.next().await.unwrap().unwrap();
    assert_eq!(ids(&next), ["j1", "j2"], "the report alone told nothing");
}

/// A report is seen in the state, and the end of a job frees its room.
pub async fn a_report_is_seen_in_the_state_and_frees_room_at_the_end(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    start(&cell, job("j", "g", "a", 60)).await;
    let mut up = phase(Phase::Up);
    up.ports = vec![4711];
    cell.link
        .report(&host_id("a"), vec![(job_id("j"), up.clone())])
        .await
        .unwrap();
    let state = until(cell.cluster.as_ref(), |state| {
        state.job(&job_id("j")).unwrap().status == up
    })
    .await;
    assert!(state.is_confirmed(&job_id("j")));
    assert_eq!(state.host(&host_id("a")).unwrap().promised, memory(60));
    let crashed = vec![(job_id("j"), phase(Phase::Crashed))];
    cell.link.report(&host_id("a"), crashed).await.unwrap();
    until(cell.cluster.as_ref(), |state| {
        state.host(&host_id("a")).unwrap().promised == memory(0)
    })
    .await;
}

/// A report on a forgotten job is dropped without an error, and the others are not.
pub async fn a_report_on_a_forgotten_job_is_dropped_and_the_others_are_not(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    start(&cell, job("j", "g", "a", 1)).await;
    let statuses = vec![
        (job_id("forgotten"), phase(Phase::Up)),
        (job_id("j"), phase(Phase::Up)),
    ];
    cell.link.report(&host_id("a"), statuses).await.unwrap();
    let state = until(cell.cluster.as_ref(), |state| {
        state.job(&job_id("j")).unwrap().status.phase == Phase::Up
    })
    .await;
    assert_eq!(state.jobs().count(), 1);
}

/// What a host says of a job after the job's end is dropped.
pub async fn an_ended_job_stays_ended(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    start(&cell, job("j1", "g", "a", 60)).await;
    start(&cell, job("j2", "g", "a", 1)).await;
    for (id, phase_of) in [("j1", Phase::Crashed), ("j1", Phase::Up), ("j2", Phase::Up)] {
        let statuses = vec![(job_id(id), phase(phase_of))];
        cell.link.report(&host_id("a"), statuses).await.unwrap();
    }
    let state = until(cell.cluster.as_ref(), |state| {
        state.job(&job_id("j2")).unwrap().status.phase == Phase::Up
    })
    .await;
    let ended = state.job(&job_id("j1")).unwrap();
    assert_eq!(ended.status.phase, Phase::Crashed);
    assert_eq!(state.host(&host_id("a")).unwrap().promised, memory(1));
}

/// A lost host without jobs can be forgotten; a living one cannot.
pub async fn a_lost_host_without_jobs_can_be_forgotten(cell: Fixture) {
    let member = join(&cell, host("a", 100)).await;
    let forget = |state: &ClusterState| {
        cell.cluster
            .commit(Transaction::on(state).with(Change::ForgetHost(host_id("a"))))
    };
    let state = cell.cluster.snapshot().await.unwrap();
    assert_eq!(forget(&state).await.unwrap().refused.len(), 1);
    member.leave().await.unwrap();
    let state = until_lost(&cell, "a").await;
    let committed = forget(&state).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    assert_eq!(committed.state.hosts().count(), 0);
}
