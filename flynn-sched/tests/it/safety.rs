//! Whatever is proposed, from however old news, by however many: what is carried out is safe. A judge that shares no code
//! with the cell looks at every step.

mod proposals;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flynn_discovery::{Backend, backend::MemoryBackend};
use flynn_sched::{
    Cluster, ClusterState, DiscoveryCluster, Group, GroupKind, Host, HostLink, JobId, JobSpec,
    Named, Namespace, Phase, Quota, Resources, Taint, TaintEffect, Transaction,
    transaction::Change,
};
use proptest::prelude::*;

use crate::{
    checker::{assert_reserved, assert_sound, assert_step},
    fixture::{MIB, group_id, host, host_id, job_id, phase, until},
};
use proposals::{Proposal, any_proposal, nth};

const HOSTS: usize = 4;
const GROUPS: usize = 5;
/// How long it is from one step to the next.
const STEP_MS: u64 = 20;

#[derive(Debug, Clone)]
enum Step {
    Commit(Proposal),
    Join(usize),
    Lose(usize),
    Drain(usize),
    Taint(usize, TaintEffect),
    Report(usize, Phase),
    Put(usize, u32, u8),
    Quota(Option<u64>),
}

/// Hosts differ in zone, tags and what they have.
fn a_host(n: usize) -> Host {
    let mut host = Host {
        zone: Some(format!("z{}", n % 2)),
        named: Named::from_iter([("gpu", (n % 2) as u64)]),
        reserved: Resources {
            memory_bytes: 10 * MIB,
            ..Resources::default()
        },
        ..host(&format!("h{n}"), 110)
    };
    host.overcommit.memory_percent = if n == 3 { 150 } else { 100 };
    host.capacity.cpu_millis = 1000;
    host.tags.insert("disk".to_owned(), format!("d{}", n % 2));
    host
}

fn group_name(n: usize) -> String {
    format!("g{n}")
}

fn any_step() -> impl Strategy<Value = Step> {
    let effects = prop_oneof![
        Just(TaintEffect::NoSchedule),
        Just(TaintEffect::NoExecute),
        Just(TaintEffect::PreferNoSchedule)
    ];
    let phases =
        prop_oneof![3 => Just(Phase::Up), 1 => Just(Phase::Done), 1 => Just(Phase::Crashed)];
    prop_oneof![
        12 => any_proposal().prop_map(Step::Commit),
        2 => (0..HOSTS).prop_map(Step::Join),
        1 => (0..HOSTS).prop_map(Step::Lose),
        1 => (0..HOSTS).prop_map(Step::Drain),
        1 => (0..HOSTS, effects).prop_map(|(h, effect)| Step::Taint(h, effect)),
        6 => (any::<usize>(), phases).prop_map(|(j, phase)| Step::Report(j, phase)),
        2 => (0..GROUPS, 0..4_u32, 0..100_u8).prop_map(|(g, count, p)| Step::Put(g, count, p)),
        1 => prop::option::of(0..4_u64).prop_map(Step::Quota),
    ]
}

fn starts(changes: &[Change]) -> BTreeSet<JobId> {
    let started = changes.iter().filter_map(|change| match change {
        Change::Start(job) => Some(job.id.clone()),
        _ => None,
    });
    started.collect()
}

fn quota(jobs: Option<u64>) -> Change {
    let namespace = Namespace::parse("small").unwrap();
    match jobs {
        None => Change::RemoveQuota(namespace),
        jobs => Change::PutQuota(Arc::new(Quota {
            jobs,
            ..Quota::of(namespace)
        })),
    }
}

fn a_group(n: usize, count: u32, priority: u8) -> Group {
    let kind = GroupKind::Service { count };
    Group {
        priority,
        ..Group::new(group_id(&group_name(n)), kind, JobSpec::default())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Transactions of every kind, from news up to four steps old, while hosts come, go, drain and are tainted: no step
    /// breaks a rule, what is asked whole is done whole or not at all, and no claim is lost.
    #[test]
    fn no_step_of_a_cell_breaks_a_rule(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut now = ClusterState::default();
        for n in 0..HOSTS {
            now = now.host_joined(a_host(n), 0).unwrap();
        }
        let mut past = vec![now.clone()];
        let mut claims: BTreeSet<JobId> = BTreeSet::new();
        for (at, step) in steps.into_iter().enumerate() {
            let before = now.clone();
            let now_ms = at as u64 * STEP_MS;
            match step {
                Step::Commit(proposal) => {
                    let snapshot = &past[past.len() - 1 - proposal.age.min(past.len() - 1)];
                    let transaction = proposal.on(snapshot, &at.to_string(), now_ms);
                    let Ok(applied) = now.apply(&transaction) else {
                        prop_assert!(proposal.is_whole, "an incremental transaction does not fail");
                        continue;
                    };
                    if proposal.is_whole {
                        prop_assert_eq!(&applied.refused, &vec![]);
                        let asked = starts(&transaction.changes);
                        prop_assert!(asked.iter().all(|id| applied.state.job(id).is_some()
                            || transaction.changes.contains(&Change::Remove(id.clone()))));
                    }
                    let refused: Vec<_> = applied.refused.iter().map(|r| r.change.clone()).collect();
                    for id in starts(&refused).difference(&starts(&applied.accepted)) {
                        prop_assert!(applied.state.job(id).is_none(), "{} was refused", id);
                    }
                    claims.extend(starts(&applied.accepted));
                    for change in &applied.accepted {
                        if let Change::Remove(id) = change {
                            claims.remove(id);
                        }
                    }
                    now = applied.state;
                    assert_step(&before, &now);
                }
                Step::Join(h) => {
                    if let Ok(next) = now.host_joined(a_host(h), 1) {
                        now = next;
                    }
                }
                Step::Lose(h) => now = now.host_lost(&host_id(&format!("h{h}")), 1),
                Step::Drain(h) => {
                    let draining = Host { is_draining: true, ..a_host(h) };
                    if let Ok(next) = now.host_joined(draining, 1) {
                        now = next;
                    }
                }
                Step::Taint(h, effect) => {
                    let taint = Taint { key: "t".to_owned(), value: String::new(), effect };
                    let tainted = Host { taints: vec![taint], ..a_host(h) };
                    if let Ok(next) = now.host_joined(tainted, 1) {
                        now = next;
                    }
                }
                Step::Report(j, reached) => {
                    if let Some(job) = nth(&before, j) {
                        now = now.reported(&job.host, vec![(job.id.clone(), phase(reached))]);
                    }
                }
                Step::Put(g, count, priority) => {
                    let put = Transaction::on(&now).put_group(a_group(g, count, priority));
                    now = now.apply(&put).unwrap().state;
                }
                Step::Quota(jobs) => {
                    let put = Transaction::on(&now).with(quota(jobs));
                    now = now.apply(&put).unwrap().state;
                }
            }
            assert_sound(&now);
            assert_reserved(&now, now_ms);
            past.push(now.clone());
        }
        for id in claims {
            prop_assert!(now.job(&id).is_some(), "the claim {} is lost", id);
        }
    }
}

/// Two handles on one store propose at the same time, again and again.
async fn race(rounds: Vec<(Proposal, Proposal)>) {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let handle =
        || DiscoveryCluster::new(Arc::clone(&backend)).with_lease_ttl(Duration::from_secs(600));
    let (one, two) = (handle(), handle());
    let mut members = Vec::new();
    for n in 0..HOSTS {
        members.push(one.join(a_host(n)).await.unwrap());
    }
    let groups = (0..GROUPS).map(|n| a_group(n, 2, u8::try_from(n * 20).unwrap()));
    let put = groups.fold(
        Transaction::default().with(quota(Some(2))),
        Transaction::put_group,
    );
    one.commit(put).await.unwrap();
    for cell in [&one, &two] {
        until(cell, "all is there", |state| {
            state.hosts().count() == HOSTS && state.groups().count() == GROUPS
        })
        .await;
    }
    let mut claims = BTreeSet::new();
    let mut removed = BTreeSet::new();
    for (at, (mine, theirs)) in rounds.iter().enumerate() {
        let now_ms = at as u64 * STEP_MS;
        // Each from what it happens to know.
        let mine = mine.on(&one.snapshot().await.unwrap(), &format!("1-{at}"), now_ms);
        let theirs = theirs.on(&two.snapshot().await.unwrap(), &format!("2-{at}"), now_ms);
        let (mine_done, theirs_done) =
            futures::future::join(one.commit(mine.clone()), two.commit(theirs.clone())).await;
        for (asked, done) in [(mine, mine_done), (theirs, theirs_done)] {
            let Ok(committed) = done else { continue };
            for change in asked.changes {
                let is_refused = committed
                    .refused
                    .iter()
                    .any(|refused| refused.change == change);
                match change {
                    Change::Start(job) if !is_refused => drop(claims.insert(job.id.clone())),
                    Change::Remove(id) if !is_refused => drop(removed.insert(id)),
                    _ => {}
                }
            }
        }
        // One who comes late sees what is really there.
        let state = handle().snapshot().await.unwrap();
        assert_sound(&state);
        assert_reserved(&state, now_ms);
        let small = state.usage(&Namespace::parse("small").unwrap()).jobs;
        assert!(small <= 2, "the quota is exceeded: {small}");
        for id in claims.difference(&removed) {
            assert!(state.job(id).is_some(), "the claim {id} is lost");
        }
        let running: Vec<_> = state.jobs().cloned().collect();
        for job in running.into_iter().step_by(3) {
            let reached = if job.is_stopping {
                Phase::Done
            } else {
                Phase::Up
            };
            one.report(&job.host, vec![(job_id(job.id.as_str()), phase(reached))])
                .await
                .unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// The same of a stored cell: two handles, each with a mirror of its own, commit at the same time.
    #[test]
    fn commits_that_race_for_a_stored_cell_break_no_rule(
        rounds in prop::collection::vec((any_proposal(), any_proposal()), 1..12)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(race(rounds));
    }
}
