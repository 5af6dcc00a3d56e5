//! What a transaction starts is written together: that must not be seen.

use std::{collections::BTreeMap, sync::Arc};

use flynn_sched::{
    ClusterState, Constraint, Domain, GroupKind, Job, JobSpec, Jobs, Port, Reservation,
    ReservationId, Transaction, reservation::Claim, transaction::Change,
};
use proptest::prelude::*;

use crate::fixture::{group, group_id, host, host_id, job_id, memory};

const HOSTS: usize = 5;

fn cell() -> ClusterState {
    let hosts = (0..HOSTS).map(|n| flynn_sched::Host {
        zone: Some((n % 2).to_string()),
        ..host(&format!("h{n}"), 1_000)
    });
    let state = hosts.fold(ClusterState::default(), |state, host| {
        state.host_joined(host, 1).unwrap()
    });
    let put = Transaction::on(&state).put_group(group("a.1", GroupKind::Service { count: 9 }, 5));
    let reserve = Change::PutReservation(Arc::new(Reservation {
        id: ReservationId::parse("r").unwrap(),
        holder: Jobs::Group(group_id("elsewhere")),
        from_ms: 0,
        until_ms: 1_000_000,
        claims: BTreeMap::from([(
            host_id("h4"),
            Claim {
                resources: memory(600),
                ..Claim::default()
            },
        )]),
    }));
    state.apply(&put.with(reserve)).unwrap().state
}

/// What a job may ask for, beside its memory.
fn constraints() -> impl Strategy<Value = Vec<Constraint>> {
    let within = prop_oneof![Just(Domain::Host), Just(Domain::Zone)];
    let jobs = prop_oneof![
        Just(Jobs::Prefix("a.".to_owned())),
        Just(Jobs::Prefix("b".to_owned())),
        Just(Jobs::Group(group_id("a.2"))),
    ];
    prop_oneof![
        20 => Just(Vec::new()),
        2 => Just(vec![Constraint::DistinctHosts]),
        2 => (jobs.clone(), within.clone())
            .prop_map(|(jobs, within)| vec![Constraint::Apart { jobs, within }]),
        2 => (jobs, within).prop_map(|(jobs, within)| vec![Constraint::Near { jobs, within }]),
    ]
}

fn start() -> impl Strategy<Value = Change> {
    let ids = prop_oneof![
        30 => (0_u32..100_000).prop_map(|n| format!("{n:05}")),
        10 => (0_u32..100_000).prop_map(|n| format!("begins-alike-{n}")),
        3 => (0_u32..3).prop_map(|n| format!("begins-alike-{n}")),
    ];
    let ports = prop_oneof![10 => Just(None), 1 => (80_u16..83).prop_map(Some)];
    let groups = prop::sample::select(vec!["a.1", "a.2", "b.1", "b.2", "c"]);
    (ids, groups, 0..HOSTS + 1, 1_u64..9, constraints(), ports).prop_map(
        |(id, group, host, mib, constraints, port)| {
            let spec = JobSpec {
                request: memory(mib),
                constraints,
                ports: port
                    .map(|number| Port {
                        port: Some(number),
                        ..Port::default()
                    })
                    .into_iter()
                    .collect(),
                ..JobSpec::default()
            };
            Change::Start(Arc::new(Job {
                id: job_id(&id),
                group: group_id(group),
                host: host_id(&format!("h{host}")),
                spec: Arc::new(spec),
                is_stopping: false,
                placed_at_ms: 5,
                attempt: 0,
                evicted: None,
                status: flynn_sched::JobStatus::default(),
            }))
        },
    )
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let stop = (0_u32..3).prop_map(|n| Change::Stop(job_id(&format!("begins-alike-{n}"))));
    let change = prop_oneof![
        60 => start(),
        1 => stop,
        1 => Just(Change::RemoveGroup(group_id("a.1"))),
        1 => Just(Change::PutGroup(Arc::new(group("b.1", GroupKind::Service { count: 1 }, 5)))),
    ];
    prop_oneof![
        prop::collection::vec(change.clone(), 0..12),
        prop::collection::vec(change, 100..300),
    ]
}

/// All that can be seen of jobs, in words that do not depend on revisions.
fn seen(state: &ClusterState) -> String {
    let jobs: Vec<_> = state.jobs().collect();
    let hosts: Vec<_> = state
        .hosts()
        .map(|host| {
            let id = &host.host.id;
            let on: Vec<_> = state.jobs_on(id).map(|job| &job.id).collect();
            assert_eq!(on, host.jobs.iter().collect::<Vec<_>>());
            let sums = (host.promised, &host.promised_named, host.with_ports);
            (id.clone(), on, sums)
        })
        .collect();
    let groups: Vec<_> = ["a.1", "a.2", "b.1", "b.2", "c"]
        .map(|group| {
            let id = group_id(group);
            let of: Vec<_> = state.jobs_of(&id).map(|job| &job.id).collect();
            (group, state.group_version(&id) > 0, of)
        })
        .into();
    let usage = state.usage(&flynn_sched::Namespace::default());
    format!("{jobs:?} {hosts:?} {groups:?} {usage:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A transaction of many changes does what as many transactions of one do, one after the other.
    #[test]
    fn a_transaction_does_what_its_changes_do_one_by_one(changes in changes()) {
        let state = cell();
        let whole = Transaction { changes: changes.clone(), ..Transaction::on(&state) };
        let whole = state.apply(&whole).unwrap();
        let (mut single, mut refused) = (state, Vec::new());
        for change in changes {
            let applied = single.apply(&Transaction::on(&single).with(change)).unwrap();
            single = applied.state;
            refused.extend(applied.refused);
        }
        prop_assert_eq!(whole.refused, refused);
        prop_assert_eq!(seen(&whole.state), seen(&single));
    }
}
