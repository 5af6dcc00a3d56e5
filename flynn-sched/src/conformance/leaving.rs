//! When jobs that run to their end may be taken from a host, whoever asks and on whatever old news.

use std::sync::Arc;

use futures::future;

use super::{Fixture, group, group_id, host, host_id, job, job_id, join, phase, until};
use crate::{
    ClusterState, Eviction, Group, GroupKind, Host, Membership, Phase, Taint, TaintEffect,
    Transaction,
};

fn emptying() -> Eviction {
    Eviction::Emptying {
        why: "host a is being emptied".to_owned(),
    }
}

fn draining(id: &str, drain_by_ms: Option<u64>) -> Host {
    Host {
        is_draining: true,
        drain_by_ms,
        ..host(id, 100)
    }
}

fn tainted(id: &str) -> Host {
    Host {
        taints: vec![Taint {
            key: "broken-fan".to_owned(),
            value: String::new(),
            effect: TaintEffect::NoExecute,
        }],
        ..host(id, 100)
    }
}

/// Two hosts, and a group with two jobs that are up: `j1` on host a and `j2` on host b.
async fn with_jobs_of(
    cell: &Fixture,
    kind: GroupKind,
    max_unavailable: Option<u32>,
) -> (Vec<Box<dyn Membership>>, Arc<ClusterState>) {
    let members = vec![
        join(cell, host("a", 100)).await,
        join(cell, host("b", 100)).await,
    ];
    let wanted = Group {
        kind,
        max_unavailable,
        ..group("work", 2)
    };
    let state = cell.cluster.snapshot().await.unwrap();
    let put = Transaction::on(&state)
        .put_group(wanted)
        .start(job("j1", "work", "a", 10))
        .start(job("j2", "work", "b", 10));
    let committed = cell.cluster.commit(put).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    for (job, on) in [("j1", "a"), ("j2", "b")] {
        let up = vec![(job_id(job), phase(Phase::Up))];
        cell.link.report(&host_id(on), up).await.unwrap();
    }
    let all_up = |state: &ClusterState| state.jobs().all(|job| job.status.phase == Phase::Up);
    let state = until(cell.cluster.as_ref(), all_up).await;
    (members, state)
}

async fn says(cell: &Fixture, member: &dyn Membership, says: Host) -> Arc<ClusterState> {
    member.update(says.clone()).await.unwrap();
    until(cell.cluster.as_ref(), |state| {
        *state.host(&says.id).unwrap().host == says
    })
    .await
}

async fn is_refused(cell: &Fixture, basis: &ClusterState, id: &str, why: Eviction) -> bool {
    let evict = Transaction::on(basis).evict(job_id(id), why.clone());
    let committed = cell.cluster.commit(evict).await.unwrap();
    let job = committed.state.job(&job_id(id)).unwrap();
    let is_refused = !committed.refused.is_empty();
    assert_eq!(is_refused, !job.is_stopping);
    assert_eq!(is_refused, job.evicted.is_none());
    is_refused
}

const BATCH: GroupKind = GroupKind::Batch {
    count: 2,
    retries: 0,
};
const GANG: GroupKind = GroupKind::Gang {
    count: 2,
    retries: 0,
};

/// A job of a batch is evicted from a host that drains by a set time, and not from one that drains until it ends.
pub async fn a_host_is_emptied_of_a_batch_only_by_a_set_time(cell: Fixture) {
    let (members, state) = with_jobs_of(&cell, BATCH, None).await;
    assert!(is_refused(&cell, &state, "j1", emptying()).await);
    let state = says(&cell, &*members[0], draining("a", None)).await;
    assert!(is_refused(&cell, &state, "j1", emptying()).await);
    let state = says(&cell, &*members[0], draining("a", Some(1))).await;
    assert!(is_refused(&cell, &state, "j2", emptying()).await);
    assert!(!is_refused(&cell, &state, "j1", emptying()).await);
}

/// A job of a batch is evicted for a taint that it does not tolerate, and not on old news when the taint is gone.
pub async fn a_taint_that_is_gone_evicts_nobody(cell: Fixture) {
    let (members, _) = with_jobs_of(&cell, BATCH, None).await;
    let tainted = says(&cell, &*members[0], tainted("a")).await;
    says(&cell, &*members[0], host("a", 100)).await;
    assert!(is_refused(&cell, &tainted, "j1", emptying()).await);
}

/// Of a gang of which one job's host is being emptied, all jobs may go.
pub async fn a_gang_may_leave_all_its_hosts_when_one_is_being_emptied(cell: Fixture) {
    let (members, state) = with_jobs_of(&cell, GANG, None).await;
    assert!(is_refused(&cell, &state, "j2", emptying()).await);
    let state = says(&cell, &*members[0], tainted("a")).await;
    let whole = Transaction::on(&state)
        .evict(job_id("j1"), emptying())
        .evict(job_id("j2"), emptying())
        .all_or_nothing();
    let state = cell.cluster.commit(whole).await.unwrap().state;
    let is_going = |id| state.job(&job_id(id)).unwrap().evicted == Some(emptying());
    assert!(is_going("j1") && is_going("j2"));
}

/// Of two concurrent evictions beyond the budget of their group one is refused.
pub async fn of_two_concurrent_evictions_beyond_the_budget_one_is_refused(cell: Fixture) {
    let (members, _) = with_jobs_of(&cell, BATCH, Some(1)).await;
    says(&cell, &*members[0], tainted("a")).await;
    let state = says(&cell, &*members[1], tainted("b")).await;
    let commit = |id| {
        let evict = Transaction::on(&state).evict(job_id(id), emptying());
        cell.cluster.commit(evict)
    };
    let (one, two) = future::join(commit("j1"), commit("j2")).await;
    let refused = one.unwrap().refused.len() + two.unwrap().refused.len();
    assert_eq!(refused, 1);
}

/// A job of a batch or of a gang is not moved: the one in its place would do the same work beside it.
pub async fn a_job_that_runs_to_its_end_is_not_moved(cell: Fixture) {
    let (_members, state) = with_jobs_of(&cell, BATCH, None).await;
    let moving = || Eviction::Moving {
        why: "to see".to_owned(),
    };
    assert!(is_refused(&cell, &state, "j1", moving()).await);
    let gang = Group {
        kind: GANG,
        ..Group::clone(state.group(&group_id("work")).unwrap())
    };
    let put = Transaction::on(&state).put_group(gang);
    let state = cell.cluster.commit(put).await.unwrap().state;
    let evict = Transaction::on(&state).evict(job_id("j1"), moving());
    let committed = cell.cluster.commit(evict).await.unwrap();
    assert!(
        !committed.refused[0].is_conflict,
        "it can never be accepted"
    );
}
