//! Checks a cell from the beginning, with nothing of the scheduler's code but its data.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, ensure};
use flynn_sched::{ClusterState, Constraint, Host, Job, Jobs};

use crate::cell::Wanted;

/// Every wanted job is placed, and every host, constraint and skew is as it must be.
pub(crate) fn verify(state: &ClusterState, work: &[Wanted]) -> Result<()> {
    let hosts: HashMap<&str, &Host> = state
        .hosts()
        .map(|host| (host.host.id.as_str(), &*host.host))
        .collect();
    let mut on_host: HashMap<&str, Vec<&Job>> = HashMap::new();
    let mut of_group: HashMap<&str, Vec<&Job>> = HashMap::new();
    for job in state.jobs() {
        on_host.entry(job.host.as_str()).or_default().push(job);
        of_group.entry(job.group.as_str()).or_default().push(job);
    }
    for (id, jobs) in &on_host {
        fits(hosts[id], jobs)?;
        keeps_apart(jobs)?;
    }
    for wanted in work {
        let jobs = of_group
            .get(wanted.id.as_str())
            .map_or(&[][..], |jobs| jobs);
        ensure!(
            jobs.len() == wanted.count,
            "{} has {} of {} jobs",
            wanted.id,
            jobs.len(),
            wanted.count
        );
        for job in jobs {
            let host = hosts[job.host.as_str()];
            for constraint in &job.spec.constraints {
                ensure!(
                    is_met(constraint, host),
                    "{} on {}: {constraint:?}",
                    job.id,
                    host.id
                );
            }
        }
        if wanted
            .spec
            .spread
            .iter()
            .any(|spread| spread.max_skew == Some(1))
        {
            even(&hosts, jobs)?;
        }
    }
    Ok(())
}

fn fits(host: &Host, jobs: &[&Job]) -> Result<()> {
    let cpu: u64 = jobs.iter().map(|job| job.spec.request.cpu_millis).sum();
    let memory: u64 = jobs.iter().map(|job| job.spec.request.memory_bytes).sum();
    let gpus: u64 = jobs.iter().map(|job| job.spec.named.amount("gpu")).sum();
    ensure!(
        cpu <= host.capacity.cpu_millis
            && memory <= host.capacity.memory_bytes
            && gpus <= host.named.amount("gpu"),
        "host {} is promised {cpu} m, {memory} B and {gpus} GPUs",
        host.id
    );
    ensure!(host.taints.is_empty(), "host {} is tainted", host.id);
    Ok(())
}

fn keeps_apart(jobs: &[&Job]) -> Result<()> {
    for (n, job) in jobs.iter().enumerate() {
        for constraint in &job.spec.constraints {
            let others = jobs.iter().enumerate().filter(|(m, _)| *m != n);
            let clash = others
                .map(|(_, other)| other)
                .find(|other| match constraint {
                    Constraint::DistinctHosts => other.group == job.group,
                    Constraint::Apart {
                        jobs: Jobs::Prefix(prefix),
                        ..
                    } => other.group.as_str().starts_with(prefix.as_str()),
                    _ => false,
                });
            ensure!(clash.is_none(), "{} is beside {clash:?}", job.id);
        }
    }
    Ok(())
}

/// The two expressions of the work, and what they mean.
fn is_met(constraint: &Constraint, host: &Host) -> bool {
    let Constraint::Expression(expression) = constraint else {
        return true;
    };
    let tag = |key: &str| host.tags.get(key).map_or("", String::as_str);
    match expression.to_string().as_str() {
        "tag.ssd = true" => tag("ssd") == "true",
        "tag.kernel >= 5.10 and not rack = r1" => {
            matches!(tag("kernel"), "5.10.8" | "6.1.2") && host.rack.as_deref() != Some("r1")
        }
        _ => false,
    }
}

/// All zones have room to the end, so none may be ahead of another by more than one.
fn even(hosts: &HashMap<&str, &Host>, jobs: &[&Job]) -> Result<()> {
    let mut zones = BTreeMap::from([("a", 0_usize), ("b", 0), ("c", 0)]);
    for job in jobs {
        let zone = hosts[job.host.as_str()].zone.as_deref().unwrap_or_default();
        *zones.entry(zone).or_default() += 1;
    }
    let (least, most) = (zones.values().min(), zones.values().max());
    ensure!(
        most.zip(least)
            .is_some_and(|(most, least)| most - least <= 1),
        "{zones:?} is not even"
    );
    Ok(())
}
