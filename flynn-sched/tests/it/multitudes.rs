//! As much as anybody could ask for at once: the answer is clear, and costs no more than what is there.
//!
//! The whole million in one transaction is placed, applied and verified by the bench `sched`, case `place_1m_10k`; without
//! optimisation a tenth of it is what a test has time for.

use std::sync::Arc;

use flynn_sched::{
    Cluster, ClusterState, Domain, Error, Group, GroupKind, GroupStatus, HostLink, Job, JobSpec,
    LocalCluster, Scheduler, Spread, Transaction,
    clock::ManualClock,
    scheduler::{BatchScheduler, Context, GangScheduler, SeededIds, ServiceScheduler},
    transaction::Change,
};

use crate::fixture::{group, group_id, host, job, spec};

const MANY: u32 = 100_000;
const HOSTS: u32 = 100;

fn cell(hosts: u32, jobs_a_host: u32) -> ClusterState {
    (0..hosts).fold(ClusterState::default(), |state, n| {
        let host = host(&format!("h{n}"), jobs_a_host.into());
        state.host_joined(host, 0).unwrap()
    })
}

/// What a scheduler proposes for one group on a cell, and the cell after it.
fn round(scheduler: &mut dyn Scheduler, state: &ClusterState) -> (Transaction, ClusterState) {
    let mut ids = SeededIds::new(state.revision());
    let transaction = scheduler.schedule(state, &mut Context::new(120_000, &mut ids));
    let applied = state.apply(&transaction).unwrap();
    assert!(applied.refused.is_empty());
    (transaction, applied.state)
}

fn starts(transaction: &Transaction) -> usize {
    let is_start = |change: &&Change| matches!(change, Change::Start(_));
    transaction.changes.iter().filter(is_start).count()
}

fn status(state: &ClusterState) -> GroupStatus {
    let status = state.group_status(&group_id("g"));
    GroupStatus::clone(status.expect("there is something to say"))
}

fn with(state: &ClusterState, group: Group) -> ClusterState {
    let put = Transaction::on(state).put_group(group);
    state.apply(&put).unwrap().state
}

#[tokio::test]
async fn a_multitude_of_starts_in_one_call_is_taken_as_far_as_there_is_room() {
    let cell = LocalCluster::new(Arc::new(ManualClock::at(1000)));
    let mut members = Vec::new();
    for n in 0..HOSTS {
        let host = host(&format!("h{n}"), (MANY / HOSTS).into());
        members.push(cell.join(host).await.unwrap());
    }
    let description = spec(1);
    let before = cell.state();
    let start = (0..MANY + 7).fold(Transaction::on(&before), |transaction, n| {
        transaction.start(Job {
            spec: Arc::clone(&description),
            ..job(&format!("j{n}"), "g", &format!("h{}", n % HOSTS), 0)
        })
    });
    let whole = start.clone().all_or_nothing();
    let error = cell.commit(whole).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "host h0: needs 1 MiB of memory, 0 B is free"
    );
    assert_eq!(
        cell.state().revision(),
        before.revision(),
        "nothing happened"
    );
    let committed = cell.commit(start).await.unwrap();
    assert_eq!(committed.state.jobs().count(), MANY as usize);
    assert_eq!(committed.refused.len(), 7);
    for refused in &committed.refused {
        assert!(refused.host.is_some() && refused.is_conflict);
        assert_eq!(refused.why, "needs 1 MiB of memory, 0 B is free");
    }
    for host in committed.state.hosts() {
        assert_eq!(host.promised, host.host.capacity);
    }
}

#[test]
fn a_group_of_millions_on_a_cell_for_ten_gets_ten_and_is_told_what_the_rest_lacks() {
    for count in [1_000_000, u32::MAX] {
        let retries = 0;
        let cases: [(GroupKind, Box<dyn Scheduler>); 2] = [
            (
                GroupKind::Service { count },
                Box::new(ServiceScheduler::new()),
            ),
            (
                GroupKind::Batch { count, retries },
                Box::new(BatchScheduler::new()),
            ),
        ];
        for (kind, mut scheduler) in cases {
            let state = with(&cell(2, 5), group("g", kind.clone(), 1));
            let (transaction, state) = round(scheduler.as_mut(), &state);
            assert_eq!(starts(&transaction), 10, "{kind:?}");
            assert!(transaction.changes.len() < 20, "{kind:?}");
            let status = status(&state);
            assert_eq!(status.missing, count - 10, "{kind:?}");
            let blocked = status.blocked.unwrap();
            assert!(blocked.contains("none of 2 hosts can take it"), "{blocked}");
            assert!(
                blocked.contains("needs 1 MiB of memory, 0 B is free"),
                "{blocked}"
            );
            let (transaction, _) = round(scheduler.as_mut(), &state);
            assert_eq!(starts(&transaction), 0, "{kind:?}");
        }
    }
}

#[test]
fn as_many_on_every_host_as_there_are_numbers_are_as_many_as_fit() {
    let kind = GroupKind::Omni { per_host: u32::MAX };
    let state = with(&cell(2, 5), group("g", kind, 1));
    let (transaction, state) = round(&mut ServiceScheduler::new(), &state);
    assert_eq!(starts(&transaction), 10);
    assert!(status(&state).blocked.unwrap().contains("of memory"));
}

#[test]
fn a_gang_of_more_than_a_gang_may_have_is_told_so_and_one_that_cannot_fit_waits() {
    for (count, expected) in [
        (u32::MAX, "100000"),
        (1_000_000, "100000"),
        (GangScheduler::MAX_MEMBERS, "of memory"),
    ] {
        let kind = GroupKind::Gang { count, retries: 0 };
        let state = with(&cell(2, 5), group("g", kind, 1));
        let mut scheduler = GangScheduler::new();
        // What is missing is noted first, and tried then.
        let (_, state) = round(&mut scheduler, &state);
        let (transaction, state) = round(&mut scheduler, &state);
        assert_eq!(starts(&transaction), 0);
        let blocked = status(&state).blocked.unwrap();
        assert!(blocked.contains(expected), "{count}: {blocked}");
    }
}

#[test]
fn a_multitude_that_fits_is_placed_by_one_round_and_then_there_is_rest() {
    let kind = GroupKind::Service { count: MANY };
    let state = with(&cell(HOSTS, MANY / HOSTS), group("g", kind, 1));
    let mut scheduler = ServiceScheduler::new();
    let (transaction, state) = round(&mut scheduler, &state);
    assert_eq!(starts(&transaction), MANY as usize);
    for host in state.hosts() {
        assert_eq!(host.promised, host.host.capacity);
    }
    let (transaction, _) = round(&mut scheduler, &state);
    assert_eq!(starts(&transaction), 0);
}

#[test]
fn a_multitude_of_strictly_spread_starts_on_old_news_is_judged_one_by_one() {
    let old = cell(HOSTS, MANY / HOSTS);
    let first = Transaction::on(&old).start(job("first", "g", "h0", 1));
    let state = old.apply(&first).unwrap().state;
    for over in [Domain::Host, Domain::Zone] {
        let strict = Arc::new(JobSpec {
            spread: vec![Spread {
                over: over.clone(),
                weight: 50,
                max_skew: Some(1),
            }],
            ..JobSpec::clone(&spec(1))
        });
        let start = |name: &str, n: u32, on: u32| Job {
            spec: Arc::clone(&strict),
            ..job(&format!("{name}-{n}"), "g", &format!("h{on}"), 1)
        };
        // In turn, and each time once more on the first host, which is too full for that unless all are one place.
        let starts = (1..MANY / 2).fold(Transaction::on(&old), |transaction, n| {
            transaction
                .start(start("even", n, n % HOSTS))
                .start(start("odd", n, 0))
        });
        let applied = state.apply(&starts).unwrap();
        let uneven = applied
            .refused
            .iter()
            .filter(|no| no.why.starts_with("its host has"));
        let taken = applied.state.jobs().count();
        match over {
            Domain::Host => {
                assert!(uneven.count() > (MANY / 2 - HOSTS) as usize);
                let most = applied.state.hosts().map(|host| host.jobs.len()).max();
                let least = applied.state.hosts().map(|host| host.jobs.len()).min();
                assert!(
                    most.unwrap() - least.unwrap() <= 1,
                    "{most:?} and {least:?}"
                );
            }
            _ => {
                assert_eq!(uneven.count(), 0);
                assert!(taken > (MANY / 2) as usize, "no host has said where it is");
            }
        }
    }
}
