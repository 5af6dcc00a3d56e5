//! A judge of cells: everything is counted anew from hosts, groups, quotas and jobs alone, as slowly as it is simple. It
//! shares no code with what decides.

mod reserved;
mod spread;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use flynn_sched::{
    ClusterState, Constraint, Domain, Eviction, Group, GroupId, GroupKind, Host, Job, Jobs, Phase,
    TaintEffect,
};

pub(crate) use reserved::assert_reserved;
pub(crate) use spread::assert_even;

/// What must be true of a cell at every moment, if no host ever says that it has become smaller.
pub(crate) fn assert_sound(state: &ClusterState) {
    let live = live(state);
    no_host_is_over_committed(state, &live);
    no_constraint_is_broken(state, &live);
    sums_and_lists_are_right(state, &live);
}

/// What must be true of one commit that led from the one state to the other.
pub(crate) fn assert_step(before: &ClusterState, after: &ClusterState) {
    let is_known = |job: &&Arc<Job>| before.jobs().any(|known| known.id == job.id);
    let started: Vec<&Arc<Job>> = after.jobs().filter(|job| !is_known(job)).collect();
    for job in &started {
        job_may_start(before, after, job);
    }
    let namespaces: BTreeSet<_> = started.iter().map(|job| &job.spec.namespace).collect();
    for namespace in namespaces {
        let Some(quota) = after.quotas().find(|quota| quota.namespace == *namespace) else {
            continue;
        };
        let jobs: Vec<_> = live(after)
            .into_iter()
            .filter(|job| job.spec.namespace == *namespace)
            .collect();
        let sum = |of: fn(&Job) -> u64| jobs.iter().map(|job| u128::from(of(job))).sum::<u128>();
        let holds = |used: u128, limit: Option<u64>| limit.is_none_or(|max| used <= max.into());
        assert!(holds(jobs.len() as u128, quota.jobs), "{namespace}: jobs");
        let memory = sum(|job| job.spec.request.memory_bytes);
        assert!(holds(memory, quota.memory_bytes), "{namespace}: memory");
        let cpu = sum(|job| job.spec.request.cpu_millis);
        assert!(holds(cpu, quota.cpu_millis), "{namespace}: cpu");
        for (name, limit) in &quota.named {
            let used = jobs.iter().map(|job| u128::from(amount(job, name)));
            assert!(
                used.sum::<u128>() <= u128::from(*limit),
                "{namespace}: {name}"
            );
        }
    }
    preemption_is_fair(before, after);
}

fn live(state: &ClusterState) -> Vec<&Arc<Job>> {
    let is_live = |job: &&Arc<Job>| !is_final(job.status.phase);
    state.jobs().filter(is_live).collect()
}

fn is_final(phase: Phase) -> bool {
    phase == Phase::Done || phase == Phase::Crashed || phase == Phase::Failed
}

fn host_of<'s>(state: &'s ClusterState, job: &Job) -> &'s Host {
    let host = state.hosts().find(|host| host.host.id == job.host);
    &host
        .unwrap_or_else(|| panic!("{} is on a host that is not there", job.id))
        .host
}

fn amount(job: &Job, name: &str) -> u64 {
    let mut amounts = job.spec.named.iter();
    amounts
        .find(|(n, _)| *n == name)
        .map_or(0, |(_, amount)| amount)
}

fn no_host_is_over_committed(state: &ClusterState, live: &[&Arc<Job>]) {
    for known in state.hosts() {
        let host = &known.host;
        let here: Vec<_> = live.iter().filter(|job| job.host == host.id).collect();
        let may = |capacity: u64, reserved: u64, percent: u32| {
            u128::from(capacity.saturating_sub(reserved)) * u128::from(percent) / 100
        };
        let (has, kept, ratio) = (&host.capacity, &host.reserved, &host.overcommit);
        let sum = |of: fn(&Job) -> u64| here.iter().map(|job| u128::from(of(job))).sum::<u128>();
        let cpu = sum(|job| job.spec.request.cpu_millis);
        assert!(
            cpu <= may(has.cpu_millis, kept.cpu_millis, ratio.cpu_percent),
            "{}: cpu",
            host.id
        );
        let memory = sum(|job| job.spec.request.memory_bytes);
        let most = may(has.memory_bytes, kept.memory_bytes, ratio.memory_percent);
        assert!(
            memory <= most,
            "{}: {memory} bytes of memory of {most}",
            host.id
        );
        let disk = sum(|job| job.spec.request.disk_bytes);
        assert!(
            disk <= may(has.disk_bytes, kept.disk_bytes, ratio.disk_percent),
            "{}: disk",
            host.id
        );
        let mut named: BTreeMap<&str, u128> = BTreeMap::new();
        for (name, amount) in here.iter().flat_map(|job| job.spec.named.iter()) {
            *named.entry(name).or_default() += u128::from(amount);
        }
        for (name, used) in named {
            let has = host.named.iter().find(|(n, _)| *n == name);
            let has = has.map_or(0, |(_, amount)| amount);
            assert!(
                used <= u128::from(has),
                "{}: {used} of {name}, there is {has}",
                host.id
            );
        }
    }
}

fn is_meant(jobs: &Jobs, group: &GroupId) -> bool {
    match jobs {
        Jobs::Group(id) => id == group,
        Jobs::Prefix(prefix) => group.as_str().starts_with(prefix),
        other => panic!("the judge does not know {other}"),
    }
}

fn is_same_place(within: &Domain, one: &Host, two: &Host) -> bool {
    match within {
        Domain::Host => one.id == two.id,
        Domain::Rack => one.rack == two.rack,
        Domain::Zone => one.zone == two.zone,
        Domain::Tag(key) => one.tags.get(key) == two.tags.get(key),
        other => panic!("the judge does not know {other:?}"),
    }
}

fn no_constraint_is_broken(state: &ClusterState, live: &[&Arc<Job>]) {
    for job in live {
        let host = host_of(state, job);
        for constraint in &job.spec.constraints {
            match constraint {
                Constraint::Tag { key, value } => {
                    assert_eq!(host.tags.get(key), Some(value), "{} on {}", job.id, host.id);
                }
                Constraint::DistinctHosts => {
                    let beside = live.iter().filter(|other| {
                        other.group == job.group && other.host == job.host && other.id != job.id
                    });
                    // One that was placed before the group wanted this may be there.
                    let beside: Vec<_> = beside
                        .filter(|other| other.spec.constraints.contains(constraint))
                        .collect();
                    assert!(beside.is_empty(), "{} is beside {beside:?}", job.id);
                }
                Constraint::Apart { jobs, within } => {
                    for other in live.iter().filter(|other| is_meant(jobs, &other.group)) {
                        assert!(
                            other.id == job.id
                                || !is_same_place(within, host, host_of(state, other)),
                            "{} of {} is too near to {} of {}",
                            other.id,
                            other.group,
                            job.id,
                            job.group
                        );
                    }
                }
                // Only asked when it is placed.
                Constraint::Near { .. } => {}
                other => panic!("the judge does not know {other:?}"),
            }
        }
        for other in live
            .iter()
            .filter(|other| other.host == job.host && other.id < job.id)
        {
            for (mine, theirs) in
                (job.spec.ports.iter()).flat_map(|a| other.spec.ports.iter().map(move |b| (a, b)))
            {
                let name = |port: &flynn_sched::Port| {
                    port.service.as_ref().map(|service| service.name.clone())
                };
                let is_shared = name(mine).is_some() && name(mine) == name(theirs);
                assert!(
                    mine.port.is_none() || mine.port != theirs.port || is_shared,
                    "{} and {} have port {:?}",
                    job.id,
                    other.id,
                    mine.port
                );
            }
        }
    }
}

/// What the cell keeps because it is asked for often is what one would count.
fn sums_and_lists_are_right(state: &ClusterState, live: &[&Arc<Job>]) {
    for host in state.hosts() {
        let id = &host.host.id;
        let here: BTreeSet<_> = state
            .jobs()
            .filter(|job| job.host == *id)
            .map(|j| &j.id)
            .collect();
        let listed: BTreeSet<_> = state.jobs_on(id).map(|job| &job.id).collect();
        assert_eq!(here, listed, "jobs on {id}");
        let memory = live.iter().filter(|job| job.host == *id);
        let memory: u64 = memory.map(|job| job.spec.request.memory_bytes).sum();
        assert_eq!(host.promised.memory_bytes, memory, "promised on {id}");
    }
    let groups: BTreeSet<_> = state.jobs().map(|job| &job.group).collect();
    for group in groups {
        let there: Vec<_> = state
            .jobs()
            .filter(|job| job.group == *group)
            .map(|j| &j.id)
            .collect();
        let listed: Vec<_> = state.jobs_of(group).map(|job| &job.id).collect();
        assert_eq!(there, listed, "jobs of {group}");
    }
    let namespaces: BTreeSet<_> = live.iter().map(|job| &job.spec.namespace).collect();
    for namespace in namespaces {
        let used = live
            .iter()
            .filter(|job| job.spec.namespace == *namespace)
            .count();
        assert_eq!(
            state.usage(namespace).jobs,
            used as u64,
            "usage of {namespace}"
        );
    }
}

fn job_may_start(before: &ClusterState, after: &ClusterState, job: &Job) {
    let id = &job.id;
    let host = before.hosts().find(|host| host.host.id == job.host);
    let known = host.unwrap_or_else(|| panic!("{id} started on a host that is not there"));
    let host = &known.host;
    assert!(known.lost_since_ms.is_none(), "{id} started on a lost host");
    assert!(!host.is_draining, "{id} started on a host that drains");
    assert!(
        host.unhealthy.is_none(),
        "{id} started on an unhealthy host"
    );
    for taint in &host.taints {
        let is_tolerated = job.spec.tolerations.iter().any(|toleration| {
            toleration.key.as_ref().is_none_or(|key| *key == taint.key)
                && toleration
                    .value
                    .as_ref()
                    .is_none_or(|value| *value == taint.value)
                && toleration
                    .effect
                    .is_none_or(|effect| effect == taint.effect)
        });
        assert!(
            is_tolerated || taint.effect == TaintEffect::PreferNoSchedule,
            "{id} started on {} in spite of {taint}",
            host.id
        );
    }
    for constraint in &job.spec.constraints {
        if let Constraint::Near { jobs, within } = constraint {
            let near = live(after).into_iter().any(|other| {
                is_meant(jobs, &other.group) && is_same_place(within, host, host_of(after, other))
            });
            assert!(near, "{id} started far from all of {jobs}");
        }
    }
}

/// Only jobs of lower priority are preempted, and no group goes below its floor by that.
fn preemption_is_fair(before: &ClusterState, after: &ClusterState) {
    let is_preempted = |job: &Job| matches!(job.evicted, Some(Eviction::Preempted { .. }));
    let mut hit = BTreeSet::new();
    for job in after.jobs().filter(|job| is_preempted(job)) {
        let was = before.jobs().find(|known| known.id == job.id);
        if was.is_none_or(|was| is_preempted(was)) {
            continue;
        }
        let Some(Eviction::Preempted { by, .. }) = &job.evicted else {
            unreachable!("it is preempted");
        };
        let priority = |id: &GroupId| find(before, id).map(|group| group.priority);
        assert!(
            priority(by) > priority(&job.group),
            "{} is preempted by {by}",
            job.id
        );
        if was.is_some_and(|was| is_up(before, was)) {
            hit.insert(&job.group);
        }
    }
    for id in hit {
        let Some(group) = find(before, id) else {
            continue;
        };
        if let GroupKind::Service { count } = group.kind {
            let may = group.max_unavailable.unwrap_or_else(|| (count / 10).max(1));
            let up = after
                .jobs()
                .filter(|job| job.group == *id && is_up(after, job))
                .count();
            assert!(
                up as u64 + u64::from(may) >= u64::from(count),
                "{id} is below its floor"
            );
        }
    }
}

fn find<'s>(state: &'s ClusterState, id: &GroupId) -> Option<&'s Arc<Group>> {
    state.groups().find(|group| group.id == *id)
}

fn is_up(state: &ClusterState, job: &Job) -> bool {
    let host = state.hosts().find(|host| host.host.id == job.host);
    job.status.phase == Phase::Up
        && !job.is_stopping
        && host.is_some_and(|host| host.lost_since_ms.is_none())
}
