//! What commits insist on beside room: taints, health, named resources, over-commit, affinity between jobs, quotas.

use std::sync::Arc;

use flynn_sched::{
    ClusterState, Constraint, Domain, Error, Host, Job, JobSpec, Jobs, Named, Namespace,
    Overcommit, Phase, Quota, Resources, Taint, TaintEffect, Toleration, Transaction,
    transaction::Change,
};

use crate::fixture::{MIB, group_id, host, host_id, job, job_id, memory, phase};

fn cell(hosts: impl IntoIterator<Item = Host>) -> ClusterState {
    hosts
        .into_iter()
        .fold(ClusterState::default(), |state, host| {
            state.host_joined(host, 1000).unwrap()
        })
}

fn a_job(id: &str, group: &str, on: &str, spec: JobSpec) -> Job {
    Job {
        spec: Arc::new(spec),
        ..job(id, group, on, 0)
    }
}

fn start(state: &ClusterState, job: Job) -> Result<ClusterState, Error> {
    let applied = state.apply(&Transaction::on(state).all_or_nothing().start(job))?;
    Ok(applied.state)
}

fn refusal(state: &ClusterState, job: Job) -> String {
    start(state, job).unwrap_err().to_string()
}

fn ended(state: &ClusterState, on: &str, job: &str) -> ClusterState {
    state.reported(&host_id(on), vec![(job_id(job), phase(Phase::Done))])
}

fn in_zone(id: &str, zone: &str) -> Host {
    Host {
        zone: Some(zone.to_owned()),
        ..host(id, 1000)
    }
}

#[test]
fn a_taint_keeps_away_what_does_not_tolerate_it() {
    let taint = |effect| Taint {
        key: "dedicated".to_owned(),
        value: "db".to_owned(),
        effect,
    };
    for effect in [TaintEffect::NoSchedule, TaintEffect::NoExecute] {
        let state = cell([Host {
            taints: vec![taint(effect)],
            ..host("a", 100)
        }]);
        assert_eq!(
            refusal(&state, a_job("j", "g", "a", JobSpec::default())),
            "host a: has the taint dedicated=db, which the job does not tolerate"
        );
        let tolerant = JobSpec {
            tolerations: vec![Toleration {
                key: Some("dedicated".to_owned()),
                ..Toleration::default()
            }],
            ..JobSpec::default()
        };
        start(&state, a_job("j", "g", "a", tolerant)).unwrap();
    }
    let state = cell([Host {
        taints: vec![taint(TaintEffect::PreferNoSchedule)],
        ..host("a", 100)
    }]);
    start(&state, a_job("j", "g", "a", JobSpec::default())).unwrap();
}

#[test]
fn an_unhealthy_host_takes_no_new_jobs() {
    let state = cell([Host {
        unhealthy: Some("its disk is full".to_owned()),
        ..host("a", 100)
    }]);
    assert_eq!(
        refusal(&state, a_job("j", "g", "a", JobSpec::default())),
        "host a: is unhealthy: its disk is full"
    );
}

#[test]
fn named_resources_are_promised_once_and_freed_at_the_end() {
    let state = cell([Host {
        named: Named::from_iter([("gpu", 3), ("volume/db", 1)]),
        ..host("a", 100)
    }]);
    let needs = |named: &[(&str, u64)]| JobSpec {
        named: named.iter().map(|(name, n)| (*name, *n)).collect(),
        ..JobSpec::default()
    };
    let state = start(
        &state,
        a_job("j1", "g", "a", needs(&[("gpu", 2), ("volume/db", 1)])),
    )
    .unwrap();
    assert_eq!(
        refusal(&state, a_job("j2", "g", "a", needs(&[("gpu", 2)]))),
        "host a: needs 2 of gpu, 1 is free"
    );
    assert_eq!(
        refusal(&state, a_job("j2", "g", "a", needs(&[("volume/db", 1)]))),
        "host a: needs 1 of volume/db, 0 is free"
    );
    assert_eq!(
        refusal(&state, a_job("j2", "g", "a", needs(&[("tape", 1)]))),
        "host a: needs 1 of tape, 0 is free"
    );
    let state = ended(&state, "a", "j1");
    assert!(state.host(&host_id("a")).unwrap().promised_named.is_empty());
    start(&state, a_job("j2", "g", "a", needs(&[("gpu", 3)]))).unwrap();
}

#[test]
fn what_may_be_promised_follows_the_reservation_and_the_ratio() {
    let state = cell([Host {
        reserved: memory(20),
        overcommit: Overcommit {
            memory_percent: 150,
            ..Overcommit::default()
        },
        ..host("a", 100)
    }]);
    let state = start(&state, job("j1", "g", "a", 120)).unwrap();
    assert_eq!(
        refusal(&state, job("j2", "g", "a", 1)),
        "host a: needs 1 MiB of memory, 0 B is free"
    );
}

#[test]
fn a_job_that_wants_to_be_near_others_goes_where_one_is() {
    let state = cell([in_zone("a", "x"), in_zone("b", "x"), in_zone("c", "y")]);
    let near = |within| JobSpec {
        constraints: vec![Constraint::Near {
            jobs: Jobs::Group(group_id("db")),
            within,
        }],
        ..JobSpec::default()
    };
    let state = start(&state, job("db1", "db", "a", 1)).unwrap();
    start(&state, a_job("j", "g", "b", near(Domain::Zone))).unwrap();
    assert_eq!(
        refusal(&state, a_job("j", "g", "b", near(Domain::Host))),
        "host b: has no job of group db in its host"
    );
    assert_eq!(
        refusal(&state, a_job("j", "g", "c", near(Domain::Zone))),
        "host c: has no job of group db in its zone"
    );
    let state = ended(&state, "a", "db1");
    assert!(start(&state, a_job("j", "g", "b", near(Domain::Zone))).is_err());
}

#[test]
fn anti_affinity_holds_both_ways_until_the_job_ends() {
    let state = cell([in_zone("a", "x"), in_zone("b", "x"), in_zone("c", "y")]);
    let apart = JobSpec {
        constraints: vec![Constraint::Apart {
            jobs: Jobs::Prefix("noisy.".to_owned()),
            within: Domain::Zone,
        }],
        ..JobSpec::default()
    };
    let state = start(&state, a_job("q", "quiet", "a", apart.clone())).unwrap();
    assert_eq!(
        refusal(&state, job("n", "noisy.1", "b", 1)),
        "host b: has a job of group quiet near, which keeps it apart"
    );
    let state = start(&state, job("n", "noisy.1", "c", 1)).unwrap();
    assert_eq!(
        refusal(&state, a_job("q2", "quiet", "c", apart)),
        "host c: has a job of groups noisy.* in its zone"
    );
    start(&ended(&state, "a", "q"), job("n2", "noisy.2", "b", 1)).unwrap();
}

#[test]
fn a_quota_bounds_what_a_namespace_asks_for_together() {
    let team = Namespace::parse("team").unwrap();
    let quota = Quota {
        jobs: Some(2),
        memory_bytes: Some(100 * MIB),
        ..Quota::of(team.clone())
    };
    let state = cell([host("a", 1000), host("b", 1000)]);
    let put = Transaction::on(&state).with(Change::PutQuota(Arc::new(quota)));
    let state = state.apply(&put).unwrap().state;
    let of_team = |mib| JobSpec {
        request: Resources {
            memory_bytes: mib * MIB,
            ..Resources::default()
        },
        namespace: team.clone(),
        ..JobSpec::default()
    };
    let state = start(&state, a_job("j1", "g", "a", of_team(60))).unwrap();
    let error = start(&state, a_job("j2", "g", "b", of_team(60))).unwrap_err();
    assert!(matches!(error, Error::QuotaExceeded { .. }), "{error}");
    let state = start(&state, a_job("j2", "g", "b", of_team(40))).unwrap();
    assert_eq!(
        refusal(&state, a_job("j3", "g", "b", of_team(0))),
        "the quota of namespace team is 2 jobs, 2 is used: raise it or stop something"
    );
    // Others are not bound by it, and what has ended does not count.
    start(&state, job("j3", "g", "b", 500)).unwrap();
    let state = ended(&state, "a", "j1");
    assert_eq!(state.usage(&team).resources.memory_bytes, 40 * MIB);
    start(&state, a_job("j3", "g", "a", of_team(60))).unwrap();
}
