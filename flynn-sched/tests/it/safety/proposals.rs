//! What is proposed: of every kind that there are rules about, sensible or not.

use std::{sync::Arc, time::Duration};

use flynn_sched::{
    Claim, ClusterState, Constraint, Domain, Eviction, Job, JobSpec, Jobs, Named, Namespace, Port,
    Reservation, ReservationId, Resources, Toleration, Transaction, transaction::Change,
};
use proptest::prelude::*;

use super::{GROUPS, HOSTS, group_name};
use crate::fixture::{MIB, group_id, host_id, job};

#[derive(Debug, Clone)]
pub(super) struct Proposal {
    /// How many steps old the news are that it rests on.
    pub(super) age: usize,
    drafts: Vec<Draft>,
    pub(super) is_whole: bool,
    is_by_sequence: bool,
}

#[derive(Debug, Clone)]
enum Draft {
    Start {
        group: usize,
        host: usize,
        kind: usize,
    },
    Stop(usize),
    Remove(usize),
    Preempt(usize, usize),
    Guard(usize),
    Reserve {
        id: usize,
        group: usize,
        host: usize,
        mib: u64,
        from_ms: u64,
        lasts_ms: u64,
    },
    Unreserve {
        id: usize,
        by_ms: Option<u64>,
    },
}

/// Jobs of every kind that there are rules about.
fn a_spec(kind: usize) -> JobSpec {
    let plain = JobSpec {
        request: Resources {
            memory_bytes: 30 * MIB,
            cpu_millis: 100,
            disk_bytes: 0,
        },
        ..JobSpec::default()
    };
    let constrained = |constraint| JobSpec {
        constraints: vec![constraint],
        ..plain.clone()
    };
    let apart = |jobs, within| constrained(Constraint::Apart { jobs, within });
    match kind {
        0 => JobSpec {
            named: Named::from_iter([("gpu", 1)]),
            ..plain
        },
        1 => apart(Jobs::Group(group_id("g1")), Domain::Zone),
        2 => apart(Jobs::Prefix("g".to_owned()), Domain::Host),
        3 => constrained(Constraint::Near {
            jobs: Jobs::Group(group_id("g0")),
            within: Domain::Zone,
        }),
        4 => constrained(Constraint::DistinctHosts),
        5 => constrained(Constraint::Tag {
            key: "disk".to_owned(),
            value: "d1".to_owned(),
        }),
        6 => JobSpec {
            ports: vec![Port {
                port: Some(80),
                ..Port::default()
            }],
            ..plain
        },
        7 => JobSpec {
            tolerations: vec![Toleration::default()],
            ..plain
        },
        8 => JobSpec {
            request: Resources {
                memory_bytes: u64::MAX,
                cpu_millis: u64::MAX,
                disk_bytes: u64::MAX,
            },
            ..plain
        },
        9 => JobSpec {
            namespace: Namespace::parse("small").unwrap(),
            ..plain
        },
        10 => JobSpec {
            expected: Some(Duration::from_millis(30)),
            ..plain
        },
        _ => plain,
    }
}

fn any_draft() -> impl Strategy<Value = Draft> {
    prop_oneof![
        8 => (0..GROUPS, 0..HOSTS + 1, 0..16_usize)
            .prop_map(|(group, host, kind)| Draft::Start { group, host, kind }),
        2 => any::<usize>().prop_map(Draft::Stop),
        2 => any::<usize>().prop_map(Draft::Remove),
        1 => (any::<usize>(), 0..GROUPS).prop_map(|(job, by)| Draft::Preempt(job, by)),
        1 => (0..GROUPS).prop_map(Draft::Guard),
        2 => (0..6_usize, 0..GROUPS, 0..HOSTS, 0..120_u64, 0..300_u64, 0..200_u64).prop_map(
            |(id, group, host, mib, from_ms, lasts_ms)| Draft::Reserve {
                id, group, host, mib, from_ms, lasts_ms,
            }
        ),
        1 => (0..6_usize, prop::option::of(0..400_u64))
            .prop_map(|(id, by_ms)| Draft::Unreserve { id, by_ms }),
    ]
}

pub(super) fn any_proposal() -> impl Strategy<Value = Proposal> {
    let drafts = prop::collection::vec(any_draft(), 1..8);
    (0..5_usize, drafts, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(age, drafts, is_whole, is_by_sequence)| Proposal {
            age,
            drafts,
            is_whole,
            is_by_sequence,
        },
    )
}

pub(super) fn nth(state: &ClusterState, n: usize) -> Option<&Arc<Job>> {
    let count = state.jobs().count();
    state.jobs().nth(n.checked_rem(count)?)
}

impl Proposal {
    /// As a transaction on a snapshot, made at this time. Ids are new for each `serial`.
    pub(super) fn on(&self, snapshot: &ClusterState, serial: &str, now_ms: u64) -> Transaction {
        let mut transaction = Transaction::on(snapshot);
        for (n, draft) in self.drafts.iter().enumerate() {
            transaction = match draft {
                Draft::Start { group, host, kind } => transaction.start(Job {
                    spec: a_spec(*kind).into(),
                    placed_at_ms: now_ms,
                    ..job(
                        &format!("j{serial}-{n}"),
                        &group_name(*group),
                        &format!("h{host}"),
                        1,
                    )
                }),
                Draft::Guard(group) => transaction.with(Change::ExpectGroup {
                    group: group_id(&group_name(*group)),
                    version: snapshot.group_version(&group_id(&group_name(*group))),
                }),
                Draft::Reserve {
                    id,
                    group,
                    host,
                    mib,
                    from_ms,
                    lasts_ms,
                } => {
                    let claim = Claim {
                        resources: Resources {
                            memory_bytes: mib * MIB,
                            ..Resources::default()
                        },
                        named: Named::from_iter([("gpu", mib % 2)]),
                    };
                    let id = reservation_id(*id);
                    // Rivals share jobs with each other.
                    let holder = match group {
                        0 => Jobs::Prefix("g".to_owned()),
                        n => Jobs::Group(group_id(&group_name(*n))),
                    };
                    let from_ms = now_ms + from_ms;
                    transaction.with(Change::PutReservation(Arc::new(Reservation {
                        id,
                        holder,
                        claims: [(host_id(&format!("h{host}")), claim)].into(),
                        from_ms,
                        until_ms: from_ms + lasts_ms,
                    })))
                }
                Draft::Unreserve { id, by_ms } => transaction.with(Change::RemoveReservation {
                    id: reservation_id(*id),
                    ending_by_ms: by_ms.map_or(u64::MAX, |by_ms| now_ms + by_ms),
                }),
                Draft::Stop(j) | Draft::Remove(j) | Draft::Preempt(j, _) => {
                    let Some(job) = nth(snapshot, *j) else {
                        continue;
                    };
                    let id = job.id.clone();
                    match draft {
                        Draft::Stop(_) => transaction.stop(id),
                        Draft::Preempt(_, by) => {
                            let by = group_id(&group_name(*by));
                            let priority = snapshot.group(&by).map_or(0, |group| group.priority);
                            transaction.evict(id, Eviction::Preempted { by, priority })
                        }
                        _ => transaction.remove(id),
                    }
                }
            };
        }
        if self.is_by_sequence {
            transaction = transaction.by_sequence();
        }
        if self.is_whole {
            transaction = transaction.all_or_nothing();
        }
        transaction
    }
}

fn reservation_id(n: usize) -> ReservationId {
    ReservationId::parse(format!("r{n}")).unwrap()
}
