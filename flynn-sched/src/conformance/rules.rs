//! What must hold between jobs on different hosts, whoever decides on whatever old news.

use futures::future;

use super::{Fixture, group_id, host, job, job_id, join, memory};
use crate::{
    Constraint, Domain, Host, Job, JobSpec, Jobs, Named, Namespace, Quota, Spread, Taint,
    TaintEffect, Transaction, transaction::Change,
};

fn in_zone(id: &str, zone: &str) -> Host {
    Host {
        zone: Some(zone.to_owned()),
        ..host(id, 1000)
    }
}

fn constrained(id: &str, group: &str, on: &str, constraint: Constraint) -> Job {
    let job = job(id, group, on, 10);
    Job {
        spec: JobSpec {
            constraints: vec![constraint],
            ..(*job.spec).clone()
        }
        .into(),
        ..job
    }
}

fn apart_from(jobs: Jobs) -> Constraint {
    Constraint::Apart {
        jobs,
        within: Domain::Zone,
    }
}

/// Commits both at once, each from the same snapshot; how many of the two were accepted.
async fn race(cell: &Fixture, one: Job, two: Job) -> usize {
    let state = cell.cluster.snapshot().await.unwrap();
    let commit = |job: Job| cell.cluster.commit(Transaction::on(&state).start(job));
    let (one, two) = future::join(commit(one), commit(two)).await;
    [one.unwrap(), two.unwrap()]
        .iter()
        .filter(|committed| committed.refused.is_empty())
        .count()
}

/// Of two concurrent placements that must be apart one is refused, though they are on different hosts.
pub async fn of_two_concurrent_placements_that_must_be_apart_one_is_refused(cell: Fixture) {
    let _a = join(&cell, in_zone("a", "z")).await;
    let _b = join(&cell, in_zone("b", "z")).await;
    for n in 0..8 {
        let (mine, theirs) = (format!("mine{n}"), format!("theirs{n}"));
        let (one, two) = (format!("one{n}"), format!("two{n}"));
        let keeps_apart = apart_from(if n % 2 == 0 {
            Jobs::Group(group_id(&theirs))
        } else {
            Jobs::Prefix(theirs.clone())
        });
        let one = constrained(&one, &mine, "a", keeps_apart);
        let two = job(&two, &theirs, "b", 10);
        let accepted = if n % 4 < 2 {
            race(&cell, one, two).await
        } else {
            race(&cell, two, one).await
        };
        assert_eq!(accepted, 1, "round {n}");
    }
}

/// Of two concurrent placements of one group that keeps its jobs apart one is refused.
pub async fn of_two_concurrent_placements_of_a_group_apart_from_itself_one_is_refused(
    cell: Fixture,
) {
    let _a = join(&cell, in_zone("a", "z")).await;
    let _b = join(&cell, in_zone("b", "z")).await;
    let apart = || apart_from(Jobs::Group(group_id("g")));
    let one = constrained("one", "g", "a", apart());
    let two = constrained("two", "g", "b", apart());
    assert_eq!(race(&cell, one, two).await, 1);
}

/// Placements that must be apart and are in different zones both succeed.
pub async fn placements_apart_in_different_zones_both_succeed(cell: Fixture) {
    let _a = join(&cell, in_zone("a", "z1")).await;
    let _b = join(&cell, in_zone("b", "z2")).await;
    let one = constrained("one", "g", "a", apart_from(Jobs::Prefix("h".to_owned())));
    let two = job("two", "h", "b", 10);
    assert_eq!(race(&cell, one, two).await, 2);
}

/// A job that wants to be near another is placed while that one is there, and not after.
pub async fn a_job_is_placed_near_another_only_while_that_one_is_there(cell: Fixture) {
    let _a = join(&cell, in_zone("a", "z1")).await;
    let _b = join(&cell, in_zone("b", "z1")).await;
    let _c = join(&cell, in_zone("c", "z2")).await;
    let near = || Constraint::Near {
        jobs: Jobs::Group(group_id("db")),
        within: Domain::Zone,
    };
    let state = cell.cluster.snapshot().await.unwrap();
    let start = Transaction::on(&state)
        .start(job("db", "db", "b", 10))
        .start(constrained("near", "web", "a", near()))
        .start(constrained("far", "web", "c", near()));
    let committed = cell.cluster.commit(start).await.unwrap();
    assert_eq!(committed.refused.len(), 1);
    assert_eq!(committed.refused[0].host, Some(super::host_id("c")));
    let done = vec![(job_id("db"), super::phase(crate::Phase::Done))];
    cell.link.report(&super::host_id("b"), done).await.unwrap();
    let state = super::until(cell.cluster.as_ref(), |state| {
        state.job(&job_id("db")).unwrap().status.phase.is_final()
    })
    .await;
    let late = Transaction::on(&state).start(constrained("late", "web", "a", near()));
    let committed = cell.cluster.commit(late).await.unwrap();
    assert_eq!(committed.refused.len(), 1);
}

fn evenly_spread(id: &str, on: &str) -> Job {
    let job = job(id, "g", on, 10);
    Job {
        spec: JobSpec {
            spread: vec![Spread {
                over: Domain::Zone,
                weight: 50,
                max_skew: Some(1),
            }],
            ..(*job.spec).clone()
        }
        .into(),
        ..job
    }
}

/// Of two concurrent placements into a zone that may have one job more than the other, one is refused.
pub async fn of_two_concurrent_placements_in_the_fuller_place_one_is_refused(cell: Fixture) {
    let _a = join(&cell, in_zone("a", "z1")).await;
    let _b = join(&cell, in_zone("b", "z1")).await;
    let _c = join(&cell, in_zone("c", "z2")).await;
    let (one, two) = (evenly_spread("one", "a"), evenly_spread("two", "b"));
    assert_eq!(race(&cell, one, two).await, 1);
    let state = cell.cluster.snapshot().await.unwrap();
    assert_eq!(state.jobs().count(), 1);
}

/// Concurrent placements into two zones leave them even, and both succeed.
pub async fn concurrent_placements_in_places_that_stay_even_both_succeed(cell: Fixture) {
    let _a = join(&cell, in_zone("a", "z1")).await;
    let _b = join(&cell, in_zone("b", "z2")).await;
    let (one, two) = (evenly_spread("one", "a"), evenly_spread("two", "b"));
    assert_eq!(race(&cell, one, two).await, 2);
}

/// Of two concurrent starts that chose the same id on different hosts one is refused, and told where the other is.
pub async fn of_two_concurrent_starts_with_one_id_on_different_hosts_one_is_refused(cell: Fixture) {
    let _a = join(&cell, host("a", 1000)).await;
    let _b = join(&cell, host("b", 1000)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    for n in 0..8 {
        let id = format!("web-{n}");
        let commit = |group: &str, on: &str| {
            let start = Transaction::on(&state).start(job(&id, group, on, 10));
            cell.cluster.commit(start)
        };
        let (one, two) = future::join(commit("g", "a"), commit("h", "b")).await;
        let refused = [one.unwrap().refused, two.unwrap().refused].concat();
        assert_eq!(refused.len(), 1, "round {n}: {refused:?}");
        let state = cell.cluster.snapshot().await.unwrap();
        let there = &state.job(&job_id(&id)).unwrap().host;
        assert_eq!(
            refused[0].why,
            format!("a job with this id exists already on host {there}")
        );
        assert_eq!(state.jobs().count(), n + 1);
    }
}

/// An id may be chosen again when its job has ended and was removed, also by the same transaction.
pub async fn an_id_is_free_again_when_its_job_is_removed(cell: Fixture) {
    let _a = join(&cell, host("a", 1000)).await;
    let _b = join(&cell, host("b", 1000)).await;
    for (on, other) in [("a", "b"), ("b", "a")] {
        let state = cell.cluster.snapshot().await.unwrap();
        let start = Transaction::on(&state).start(job("web-1", "g", on, 10));
        let committed = cell.cluster.commit(start).await.unwrap();
        assert_eq!(committed.refused, vec![]);
        end(&cell, "web-1", on).await;
        let state = cell.cluster.snapshot().await.unwrap();
        let again = Transaction::on(&state)
            .remove(job_id("web-1"))
            .start(job("web-1", "g", other, 10));
        let committed = cell.cluster.commit(again).await.unwrap();
        assert_eq!(committed.refused, vec![]);
        end(&cell, "web-1", other).await;
        let remove = Transaction::default().remove(job_id("web-1"));
        let committed = cell.cluster.commit(remove).await.unwrap();
        assert_eq!(committed.refused, vec![]);
        assert_eq!(committed.state.jobs().count(), 0);
    }
}

async fn end(cell: &Fixture, id: &str, on: &str) {
    let done = vec![(job_id(id), super::phase(crate::Phase::Done))];
    cell.link.report(&super::host_id(on), done).await.unwrap();
    super::until(cell.cluster.as_ref(), |state| {
        let job = state.job(&job_id(id)).unwrap();
        job.status.phase.is_final()
    })
    .await;
}

/// Concurrent commits never exceed a quota, and use it up.
pub async fn concurrent_commits_never_exceed_a_quota(cell: Fixture) {
    let mut members = Vec::new();
    for n in 0..8 {
        members.push(join(&cell, host(&format!("h{n}"), 1000)).await);
    }
    let state = cell.cluster.snapshot().await.unwrap();
    let quota = Quota {
        jobs: Some(5),
        memory_bytes: Some(1000),
        ..Quota::of(Namespace::default())
    };
    let put = Transaction::on(&state).with(Change::PutQuota(quota.into()));
    let state = cell.cluster.commit(put).await.unwrap().state;
    // Each on a host of its own: nothing but the quota stands between them.
    let commits = (0..8).map(|n| {
        let start = job(&format!("j{n}"), &format!("g{n}"), &format!("h{n}"), 10);
        let transaction = Transaction::on(&state).start(start);
        async { cell.cluster.commit(transaction).await.unwrap() }
    });
    future::join_all(commits).await;
    let state = cell.cluster.snapshot().await.unwrap();
    assert_eq!(state.jobs().count(), 5);
    assert_eq!(state.usage(&Namespace::default()).jobs, 5);
    assert_eq!(
        state.usage(&Namespace::default()).resources,
        memory(50),
        "usage is what the jobs ask for"
    );
}

/// A quota counts from the moment it is written, and no longer once it is removed.
pub async fn a_quota_counts_until_it_is_removed(cell: Fixture) {
    let _a = join(&cell, host("a", 1000)).await;
    let old = cell.cluster.snapshot().await.unwrap();
    let quota = Quota {
        jobs: Some(0),
        ..Quota::of(Namespace::default())
    };
    let put = Transaction::on(&old).with(Change::PutQuota(quota.into()));
    cell.cluster.commit(put).await.unwrap();
    let start = Transaction::on(&old).start(job("j", "g", "a", 1));
    let committed = cell.cluster.commit(start.clone()).await.unwrap();
    assert_eq!(committed.refused.len(), 1);
    assert!(committed.refused[0].why.contains("quota of namespace"));
    let remove = Transaction::on(&old).with(Change::RemoveQuota(Namespace::default()));
    cell.cluster.commit(remove).await.unwrap();
    let committed = cell.cluster.commit(start).await.unwrap();
    assert_eq!(committed.refused, vec![]);
}

/// A named resource is given once, however many ask at the same time.
pub async fn a_named_resource_is_given_once(cell: Fixture) {
    let with_gpu = Host {
        named: Named::from_iter([("gpu", 1)]),
        ..host("a", 1000)
    };
    let _a = join(&cell, with_gpu).await;
    let wants = |id: &str| {
        let job = job(id, id, "a", 10);
        let spec = JobSpec {
            named: Named::from_iter([("gpu", 1)]),
            ..(*job.spec).clone()
        };
        Job {
            spec: spec.into(),
            ..job
        }
    };
    assert_eq!(race(&cell, wants("one"), wants("two")).await, 1);
    let state = cell.cluster.snapshot().await.unwrap();
    let host = state.hosts().next().unwrap();
    assert_eq!(host.promised_named.amount("gpu"), 1);
}

/// A host that is tainted meanwhile takes no job that does not tolerate it.
pub async fn a_host_that_is_tainted_meanwhile_takes_no_more_jobs(cell: Fixture) {
    let member = join(&cell, host("a", 1000)).await;
    let old = cell.cluster.snapshot().await.unwrap();
    let tainted = Host {
        taints: vec![Taint {
            key: "gpu".to_owned(),
            value: String::new(),
            effect: TaintEffect::NoSchedule,
        }],
        ..host("a", 1000)
    };
    member.update(tainted.clone()).await.unwrap();
    super::until(cell.cluster.as_ref(), |state| {
        state.hosts().any(|host| *host.host == tainted)
    })
    .await;
    let start = Transaction::on(&old).start(job("j", "g", "a", 1));
    let committed = cell.cluster.commit(start).await.unwrap();
    assert_eq!(committed.refused.len(), 1);
    assert!(committed.refused[0].why.contains("taint"));
}

fn near(jobs: Jobs) -> Constraint {
    Constraint::Near {
        jobs,
        within: Domain::Zone,
    }
}

/// The first of jobs that are to be near each other may be anywhere, and the next is near it; when none is left, the next
/// is a first one again.
pub async fn the_first_of_those_near_each_other_may_be_anywhere_and_the_next_is_near(
    cell: Fixture,
) {
    let _a = join(&cell, in_zone("a", "y")).await;
    let _b = join(&cell, in_zone("b", "z")).await;
    let itself = || near(Jobs::Group(group_id("g")));
    let state = cell.cluster.snapshot().await.unwrap();
    let both = Transaction::on(&state)
        .start(constrained("first", "g", "b", itself()))
        .start(constrained("second", "g", "b", itself()))
        .start(constrained("far", "g", "a", itself()));
    let committed = cell.cluster.commit(both).await.unwrap();
    let refused: Vec<_> = committed.refused.iter().map(|r| r.host.clone()).collect();
    assert_eq!(refused, [Some(super::host_id("a"))]);
    let far = Transaction::on(&committed.state).start(constrained("far", "g", "a", itself()));
    let committed = cell.cluster.commit(far).await.unwrap();
    assert_eq!(committed.refused.len(), 1);
    let done = ["first", "second"].map(|id| (job_id(id), super::phase(crate::Phase::Done)));
    cell.link
        .report(&super::host_id("b"), done.to_vec())
        .await
        .unwrap();
    let ended = |state: &crate::ClusterState| state.jobs().all(|job| job.status.phase.is_final());
    let state = super::until(cell.cluster.as_ref(), ended).await;
    let far = Transaction::on(&state).start(constrained("far", "g", "a", itself()));
    let committed = cell.cluster.commit(far).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    // Who is not meant itself is nobody's first.
    let other = constrained("other", "h", "b", near(Jobs::Group(group_id("none"))));
    let other = Transaction::on(&committed.state).start(other);
    let committed = cell.cluster.commit(other).await.unwrap();
    assert_eq!(committed.refused.len(), 1);
}

/// Of two concurrent first ones that must be near each other, and are in different zones, one is refused.
pub async fn of_two_concurrent_first_ones_that_must_be_near_one_is_refused(cell: Fixture) {
    let _a = join(&cell, in_zone("a", "y")).await;
    let _b = join(&cell, in_zone("b", "z")).await;
    for n in 0..8 {
        let (app, one, two) = (format!("app{n}."), format!("one{n}"), format!("two{n}"));
        let (mine, theirs, jobs) = if n % 2 == 0 {
            let group = format!("{app}web");
            (group.clone(), group.clone(), Jobs::Group(group_id(&group)))
        } else {
            let prefix = Jobs::Prefix(app.clone());
            (format!("{app}web"), format!("{app}db"), prefix)
        };
        let one = constrained(&one, &mine, "a", near(jobs.clone()));
        let two = constrained(&two, &theirs, "b", near(jobs));
        assert_eq!(race(&cell, one, two).await, 1, "round {n}");
    }
}
