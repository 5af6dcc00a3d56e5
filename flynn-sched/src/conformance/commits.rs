//! What [`Cluster`](crate::Cluster) promises.

use std::sync::Arc;

use futures::{StreamExt, future};

use crate::{
    ClusterState, Error, Eviction, Group, GroupStatus, Membership, Phase, Transaction,
    conformance::{
        Fixture, group, group_id, host, host_id, job, job_id, join, memory, phase, until,
    },
    transaction::Change,
};

/// A commit is in the returned state and in the next snapshot.
pub async fn a_commit_is_in_the_returned_state_and_in_the_next_snapshot(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let transaction = Transaction::on(&state).start(job("j", "g", "a", 60));
    let committed = cell.cluster.commit(transaction).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    let snapshot = cell.cluster.snapshot().await.unwrap();
    for state in [committed.state, snapshot] {
        assert_eq!(**state.job(&job_id("j")).unwrap(), job("j", "g", "a", 60));
        let host = state.host(&host_id("a")).unwrap();
        assert_eq!((host.promised, host.free()), (memory(60), memory(40)));
        assert_eq!(state.jobs_of(&group_id("g")).count(), 1);
        assert_eq!(state.jobs_on(&host_id("a")).count(), 1);
    }
}

/// An incremental commit applies what fits and names the rest.
pub async fn an_incremental_commit_applies_what_fits_and_names_the_rest(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let transaction = Transaction::on(&state)
        .start(job("j1", "g", "a", 60))
        .start(job("j2", "g", "a", 60))
        .start(job("j3", "g", "nowhere", 1));
    let committed = cell.cluster.commit(transaction).await.unwrap();
    assert!(committed.state.job(&job_id("j1")).is_some());
    assert_eq!(committed.state.jobs().count(), 1);
    assert_eq!(committed.refused.len(), 2);
    assert_eq!(committed.refused[0].host, Some(host_id("a")));
    assert!(
        committed
            .refused
            .iter()
            .all(|refused| !refused.why.is_empty())
    );
}

/// An all-or-nothing commit that does not fit changes nothing, and the error names the host.
pub async fn an_all_or_nothing_commit_that_does_not_fit_changes_nothing(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let _other = join(&cell, host("b", 10)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let transaction = Transaction::on(&state)
        .start(job("j1", "g", "a", 60))
        .start(job("j2", "g", "b", 60))
        .all_or_nothing();
    let error = cell.cluster.commit(transaction).await.unwrap_err();
    assert!(
        matches!(&error, Error::Conflict { host, .. } if *host == host_id("b")),
        "{error}"
    );
    let state = cell.cluster.snapshot().await.unwrap();
    assert_eq!(state.jobs().count(), 0);
    let fits = Transaction::on(&state)
        .start(job("j1", "g", "a", 60))
        .start(job("j2", "g", "b", 10))
        .all_or_nothing();
    let committed = cell.cluster.commit(fits).await.unwrap();
    assert_eq!(committed.state.jobs().count(), 2);
}

/// A snapshot never changes.
pub async fn a_snapshot_never_changes(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let before = cell.cluster.snapshot().await.unwrap();
    let transaction = Transaction::on(&before).start(job("j", "g", "a", 1));
    let committed = cell.cluster.commit(transaction).await.unwrap();
    assert_eq!(before.jobs().count(), 0);
    assert!(committed.state.revision() > before.revision());
}

/// By sequence, a host that changed since the snapshot conflicts, and the others do not.
pub async fn by_sequence_a_host_that_changed_since_the_snapshot_conflicts(cell: Fixture) {
    let _a = join(&cell, host("a", 100)).await;
    let _b = join(&cell, host("b", 100)).await;
    let old = cell.cluster.snapshot().await.unwrap();
    let first = Transaction::on(&old).start(job("j1", "g", "a", 1));
    cell.cluster.commit(first).await.unwrap();
    let late = Transaction::on(&old)
        .start(job("j2", "g", "a", 1))
        .start(job("j3", "g", "b", 1))
        .by_sequence();
    let error = cell
        .cluster
        .commit(late.clone().all_or_nothing())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Conflict { host, .. } if *host == host_id("a")),
        "{error}"
    );
    let committed = cell.cluster.commit(late).await.unwrap();
    assert_eq!(committed.refused.len(), 1);
    assert!(committed.refused[0].is_conflict);
    assert!(committed.state.job(&job_id("j3")).is_some());
}

/// By resource fit, a transaction from an old snapshot is applied where there is room.
pub async fn by_resource_fit_an_old_snapshot_may_still_fit(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let old = cell.cluster.snapshot().await.unwrap();
    for id in ["j1", "j2", "j3"] {
        let transaction = Transaction::on(&old).start(job(id, "g", "a", 30));
        let committed = cell.cluster.commit(transaction).await.unwrap();
        assert_eq!(committed.refused, vec![], "{id} fits");
    }
    let transaction = Transaction::on(&old).start(job("j4", "g", "a", 30));
    let committed = cell.cluster.commit(transaction).await.unwrap();
    assert_eq!(committed.refused.len(), 1);
}

/// Of two concurrent commits for the same room one is refused.
pub async fn of_two_concurrent_commits_for_the_same_room_one_is_refused(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let commit = |id: &str| {
        cell.cluster
            .commit(Transaction::on(&state).start(job(id, "g", "a", 60)))
    };
    let (one, two) = future::join(commit("j1"), commit("j2")).await;
    let refused = one.unwrap().refused.len() + two.unwrap().refused.len();
    assert_eq!(refused, 1);
    let state = cell.cluster.snapshot().await.unwrap();
    assert_eq!(state.jobs().count(), 1);
}

/// Many concurrent commits never over-commit, and no room is left unused for long.
pub async fn many_concurrent_commits_never_over_commit(cell: Fixture) {
    let _a = join(&cell, host("a", 100)).await;
    let _b = join(&cell, host("b", 50)).await;
    let committers = (0..8).map(|committer| {
        let cluster = &cell.cluster;
        async move {
            for n in 0..5 {
                for on in ["a", "b"] {
                    let state = cluster.snapshot().await.unwrap();
                    let id = format!("j-{committer}-{n}-{on}");
                    let transaction = Transaction::on(&state).start(job(&id, "g", on, 10));
                    cluster.commit(transaction).await.unwrap();
                }
            }
        }
    });
    future::join_all(committers).await;
    let state = cell.cluster.snapshot().await.unwrap();
    assert_eq!(state.jobs_on(&host_id("a")).count(), 10);
    assert_eq!(state.jobs_on(&host_id("b")).count(), 5);
}

/// Of two concurrent commits that guard the same group one is refused.
pub async fn of_two_concurrent_guarded_commits_one_is_refused(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let put = Transaction::on(&state).put_group(group("g", 1));
    let state = cell.cluster.commit(put).await.unwrap().state;
    let commit = |id: &str| {
        let guarded = Transaction::on(&state)
            .with(Change::ExpectGroup {
                group: group_id("g"),
                version: state.group_version(&group_id("g")),
            })
            .start(job(id, "g", "a", 1));
        cell.cluster.commit(guarded)
    };
    let (one, two) = future::join(commit("j1"), commit("j2")).await;
    let accepted = [one.unwrap(), two.unwrap()]
        .iter()
        .filter(|committed| committed.refused.is_empty())
        .count();
    assert_eq!(accepted, 1);
    let state = cell.cluster.snapshot().await.unwrap();
    assert_eq!(state.jobs().count(), 1);
}

/// A failed guard names the group when all or nothing is asked.
pub async fn a_failed_guard_names_the_group_when_all_or_nothing(cell: Fixture) {
    let state = cell.cluster.snapshot().await.unwrap();
    let put = |count| Transaction::on(&state).put_group(group("g", count));
    let state = cell.cluster.commit(put(1)).await.unwrap().state;
    let version = state.group_version(&group_id("g"));
    cell.cluster.commit(put(2)).await.unwrap();
    let guarded = Transaction::on(&state)
        .with(Change::ExpectGroup {
            group: group_id("g"),
            version,
        })
        .put_group(group("g", 3))
        .all_or_nothing();
    let error = cell.cluster.commit(guarded).await.unwrap_err();
    assert!(matches!(error, Error::GroupChanged { .. }), "{error}");
    assert!(error.is_transient());
}

/// A thousand jobs start in one commit.
pub async fn a_thousand_jobs_start_in_one_commit(cell: Fixture) {
    let _a = join(&cell, host("a", 1000)).await;
    let _b = join(&cell, host("b", 1000)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let transaction = (0..1000).fold(Transaction::on(&state), |transaction, n| {
        let on = if n % 2 == 0 { "a" } else { "b" };
        transaction.start(job(&format!("j{n}"), "g", on, 1))
    });
    let committed = cell.cluster.commit(transaction).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    assert_eq!(committed.state.jobs().count(), 1000);
    assert_eq!(committed.state.jobs_on(&host_id("b")).count(), 500);
}

/// Stopping and removing what is gone succeeds.
pub async fn stopping_and_removing_what_is_gone_succeeds(cell: Fixture) {
    let state = cell.cluster.snapshot().await.unwrap();
    let transaction = Transaction::on(&state)
        .stop(job_id("gone"))
        .remove(job_id("gone"))
        .remove_group(group_id("gone"))
        .with(Change::ForgetHost(host_id("gone")));
    let committed = cell.cluster.commit(transaction).await.unwrap();
    assert_eq!(committed.refused, vec![]);
}

/// A job is removed only at its end; until then it keeps its room.
pub async fn a_job_is_removed_only_at_its_end(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let start = Transaction::on(&state).start(job("j", "g", "a", 60));
    let state = cell.cluster.commit(start).await.unwrap().state;
    let stop = Transaction::on(&state).stop(job_id("j"));
    let state = cell.cluster.commit(stop).await.unwrap().state;
    assert!(state.job(&job_id("j")).unwrap().is_stopping);
    assert_eq!(state.host(&host_id("a")).unwrap().promised, memory(60));
    let remove = Transaction::on(&state).remove(job_id("j"));
    let committed = cell.cluster.commit(remove.clone()).await.unwrap();
    assert_eq!(committed.refused.len(), 1);

    let done = vec![(job_id("j"), phase(Phase::Done))];
    cell.link.report(&host_id("a"), done).await.unwrap();
    until(cell.cluster.as_ref(), |state| {
        state.host(&host_id("a")).unwrap().promised == memory(0)
    })
    .await;
    let committed = cell.cluster.commit(remove).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    assert_eq!(committed.state.jobs().count(), 0);
}

/// Groups, and what is said of them, can be read back.
pub async fn groups_and_what_is_said_of_them_can_be_read_back(cell: Fixture) {
    let state = cell.cluster.snapshot().await.unwrap();
    let status = GroupStatus {
        missing: 2,
        blocked: Some("no room".to_owned()),
        since_ms: 5,
        ..GroupStatus::default()
    };
    let note = |status: GroupStatus| Change::Note {
        group: group_id("g"),
        status: status.into(),
    };
    let write = Transaction::on(&state)
        .put_group(group("g", 2))
        .with(note(status.clone()));
    let state = cell.cluster.commit(write).await.unwrap().state;
    assert_eq!(**state.group(&group_id("g")).unwrap(), group("g", 2));
    assert_eq!(**state.group_status(&group_id("g")).unwrap(), status);
    let clear = Transaction::on(&state).with(note(GroupStatus::default()));
    let state = cell.cluster.commit(clear).await.unwrap().state;
    assert!(state.group_status(&group_id("g")).is_none());
}

/// A removed group leaves its jobs as orphans for the schedulers.
pub async fn a_removed_group_leaves_its_jobs_as_orphans(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let put = Transaction::on(&state)
        .put_group(group("g", 1))
        .start(job("j", "g", "a", 1));
    let state = cell.cluster.commit(put).await.unwrap().state;
    assert_eq!(state.orphans().count(), 0);
    let remove = Transaction::on(&state).remove_group(group_id("g"));
    let state = cell.cluster.commit(remove).await.unwrap().state;
    assert!(state.group(&group_id("g")).is_none());
    assert_eq!(state.orphans().count(), 1);
}

/// A watch begins with the present state.
pub async fn a_watch_begins_with_the_present_state(cell: Fixture) {
    let state = cell.cluster.snapshot().await.unwrap();
    let put = Transaction::on(&state).put_group(group("g", 1));
    let committed = cell.cluster.commit(put).await.unwrap();
    let first = cell.cluster.watch().next().await.unwrap().unwrap();
    assert!(first.revision() >= committed.state.revision());
    assert!(first.group(&group_id("g")).is_some());
}

/// A watch reaches the last of many changes, and never goes back.
pub async fn a_watch_reaches_the_last_of_many_changes(cell: Fixture) {
    let mut states = cell.cluster.watch();
    let mut newest = cell.cluster.snapshot().await.unwrap();
    for count in 1..=50 {
        let put = Transaction::on(&newest).put_group(group("g", count));
        newest = cell.cluster.commit(put).await.unwrap().state;
    }
    let mut seen = 0;
    while let Some(state) = states.next().await {
        let state = state.unwrap();
        assert!(state.revision() >= seen, "the watch went back");
        seen = state.revision();
        if seen >= newest.revision() {
            assert_eq!(**state.group(&group_id("g")).unwrap(), group("g", 50));
            return;
        }
    }
    panic!("the watch ended before the last change");
}

fn preempted(by: &str, priority: u8) -> Eviction {
    Eviction::Preempted {
        by: group_id(by),
        priority,
    }
}

/// Two hosts, a group of low priority with two jobs that are up on the first, and a group of high priority.
async fn with_two_priorities(cell: &Fixture) -> (Vec<Box<dyn Membership>>, Arc<ClusterState>) {
    let members = vec![
        join(cell, host("a", 100)).await,
        join(cell, host("b", 100)).await,
    ];
    let low = Group {
        priority: 20,
        ..group("low", 2)
    };
    let high = Group {
        priority: 80,
        ..group("high", 1)
    };
    let state = cell.cluster.snapshot().await.unwrap();
    let put = Transaction::on(&state)
        .put_group(low)
        .put_group(high)
        .start(job("j1", "low", "a", 40))
        .start(job("j2", "low", "a", 40));
    let committed = cell.cluster.commit(put).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    let up = ["j1", "j2"].map(|id| (job_id(id), phase(Phase::Up)));
    cell.link.report(&host_id("a"), up.to_vec()).await.unwrap();
    let state = until(cell.cluster.as_ref(), |state| {
        state.jobs().all(|job| job.status.phase == Phase::Up)
    })
    .await;
    (members, state)
}

/// A preempted job is told to stop, says for whom, and holds its room until it has stopped.
pub async fn a_preempted_job_is_told_to_stop_and_says_for_whom(cell: Fixture) {
    let (_members, state) = with_two_priorities(&cell).await;
    let evict = Transaction::on(&state).evict(job_id("j1"), preempted("high", 80));
    let committed = cell.cluster.commit(evict.clone()).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    let snapshot = cell.cluster.snapshot().await.unwrap();
    for state in [committed.state, snapshot] {
        let job = state.job(&job_id("j1")).unwrap();
        assert!(job.is_stopping);
        assert_eq!(job.evicted, Some(preempted("high", 80)));
        assert_eq!(state.host(&host_id("a")).unwrap().promised, memory(80));
    }
    let mut assignments = cell.link.assignments(&host_id("a"));
    let told = assignments.next().await.unwrap().unwrap();
    assert_eq!(
        told.iter().map(|job| job.is_stopping).collect::<Vec<_>>(),
        [true, false]
    );
    let again = cell.cluster.commit(evict).await.unwrap();
    assert_eq!(again.refused, vec![], "it is told to stop already");
    let gone = Transaction::default().evict(job_id("gone"), preempted("high", 80));
    assert_eq!(cell.cluster.commit(gone).await.unwrap().refused, vec![]);
}

/// A preemption that would not serve a more important group is refused.
pub async fn a_preemption_for_no_more_important_group_is_refused(cell: Fixture) {
    let (_members, state) = with_two_priorities(&cell).await;
    for why in [
        preempted("high", 20),
        preempted("high", 100),
        preempted("low", 20),
        preempted("gone", 80),
    ] {
        let evict = Transaction::on(&state).evict(job_id("j1"), why.clone());
        let committed = cell.cluster.commit(evict).await.unwrap();
        assert_eq!(committed.refused.len(), 1, "{why:?}");
        assert!(committed.refused[0].is_conflict, "{why:?}");
        assert!(!committed.state.job(&job_id("j1")).unwrap().is_stopping);
    }
}

/// Of two concurrent preemptions for which a group's budget does not suffice one is refused.
pub async fn of_two_concurrent_preemptions_beyond_the_budget_one_is_refused(cell: Fixture) {
    let (_members, state) = with_two_priorities(&cell).await;
    let commit = |id: &str| {
        cell.cluster
            .commit(Transaction::on(&state).evict(job_id(id), preempted("high", 80)))
    };
    let (one, two) = future::join(commit("j1"), commit("j2")).await;
    let refused = one.unwrap().refused.len() + two.unwrap().refused.len();
    assert_eq!(refused, 1);
    let state = cell.cluster.snapshot().await.unwrap();
    assert_eq!(state.jobs().filter(|job| job.is_stopping).count(), 1);
}

/// A job that is to move runs on until it is stopped, and then still says why.
pub async fn a_moving_job_runs_on_until_it_is_stopped(cell: Fixture) {
    let (_members, state) = with_two_priorities(&cell).await;
    let moving = Eviction::Moving {
        why: "to make room".to_owned(),
    };
    let evict = Transaction::on(&state).evict(job_id("j1"), moving.clone());
    let committed = cell.cluster.commit(evict).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    let job = committed.state.job(&job_id("j1")).unwrap();
    assert!(job.is_moving());
    let stop = Transaction::on(&committed.state).stop(job_id("j1"));
    let state = cell.cluster.commit(stop).await.unwrap().state;
    let job = state.job(&job_id("j1")).unwrap();
    assert!(job.is_stopping);
    assert_eq!(job.evicted, Some(moving));
    let endless = Eviction::Moving {
        why: "x".repeat(Eviction::WHY_MAX + 1),
    };
    let evict = Transaction::on(&state).evict(job_id("j2"), endless);
    let committed = cell.cluster.commit(evict).await.unwrap();
    assert!(!committed.refused[0].is_conflict);
}
