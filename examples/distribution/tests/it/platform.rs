//! The platform's own parts are apps: what `flynn scale` does to them while requests go on.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use flynn_distribution::testbed::load::{Load, LoadOptions};

use crate::{
    Scenario,
    fixture::{Cluster, Shared, pushed, says},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "platform::its_parts_are_scaled_up_and_down_and_no_request_fails",
        its_parts_are_scaled_up_and_down_and_no_request_fails,
    ),
    (
        "platform::a_new_release_of_the_router_takes_over_without_a_gap",
        a_new_release_of_the_router_takes_over_without_a_gap,
    ),
    (
        "platform::a_part_that_nobody_can_do_without_is_not_scaled_to_nothing",
        a_part_that_nobody_can_do_without_is_not_scaled_to_nothing,
    ),
];

/// How many jobs of an app are up on each host, as the hosts' own command tells it.
fn on_hosts(cluster: &Cluster, app: &str) -> Result<BTreeMap<String, usize>> {
    let jobs = cluster.host_json(0, &["ps"])?;
    let mut hosts = BTreeMap::new();
    for job in jobs.as_array().context("jobs are a list")? {
        if job["app"] == app {
            ensure!(job["state"] == "up", "{job}");
            *hosts.entry(job["host"].to_string()).or_default() += 1;
        }
    }
    Ok(hosts)
}

pub(crate) fn load(cluster: &Cluster, app: &str) -> Load {
    let _in_runtime = cluster.runtime.enter();
    Load::start(&LoadOptions {
        addrs: cluster.bed.router_addrs(),
        host: format!("{app}.{}", cluster.bed.domain()),
        path: "/".to_owned(),
        clients: 4,
        pause: Duration::from_millis(2),
    })
}

pub(crate) fn none_failed(cluster: &Cluster, load: Load) -> Result<()> {
    let report = cluster.runtime.block_on(load.finish());
    ensure!(report.requests > 0 && report.failed == 0, "{report:?}");
    Ok(())
}

fn its_parts_are_scaled_up_and_down_and_no_request_fails(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    pushed(&cluster, "runner")?;
    let hosts = cluster.bed.hosts().len();
    let load = load(&cluster, "runner");
    // The router runs its count on every host: two of them share the host's port.
    for (app, process, is_omni, counts) in [
        ("controller", "web", false, [3, 1, 2]),
        ("scheduler", "scheduler", false, [1, 3, 2]),
        ("router", "edge", true, [2, 3, 1]),
    ] {
        for count in counts {
            let context = || format!("scaling {app} to {process}={count}");
            let wish = format!("{process}={count}");
            let output = cluster
                .flynn_output(&["-a", app, "scale", &wish])
                .with_context(context)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "{}: {said}", context());
            says(&said, &["scaling ", &format!("=>{count}")])?;
            let each = if is_omni { hosts } else { 1 };
            cluster
                .eventually("the hosts' ps to show the new count", || {
                    let seen = on_hosts(&cluster, app)?;
                    ensure!(seen.values().sum::<usize>() == count * each, "{seen:?}");
                    ensure!(!is_omni || seen.values().all(|n| *n == count), "{seen:?}");
                    Ok(())
                })
                .with_context(context)?;
            let shown = cluster.flynn_json(&["-a", app, "scale"])?;
            ensure!(shown[0]["processes"][process] == count, "{shown}");
        }
    }
    none_failed(&cluster, load)
}

fn a_new_release_of_the_router_takes_over_without_a_gap(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    pushed(&cluster, "runner")?;
    let jobs = || -> Result<Vec<String>> {
        let jobs = cluster.flynn_json(&["-a", "router", "ps"])?;
        let up = jobs.as_array().context("jobs are a list")?.iter();
        let up = up.filter(|job| job["state"] == "up");
        Ok(up.map(|job| job["id"].to_string()).collect())
    };
    let before = jobs()?;
    let load = load(&cluster, "runner");
    cluster.flynn(&["-a", "router", "env", "set", "SOME=thing"])?;
    cluster.eventually("the old routers to be gone", || {
        let now = jobs()?;
        ensure!(
            now.len() == before.len() && now.iter().all(|job| !before.contains(job)),
            "{now:?}"
        );
        Ok(())
    })?;
    none_failed(&cluster, load)
}

/// Without a router nobody could undo it.
fn a_part_that_nobody_can_do_without_is_not_scaled_to_nothing(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    for (app, wish) in [
        ("router", "edge=0"),
        ("controller", "web=0"),
        ("scheduler", "scheduler=0"),
    ] {
        let before = cluster.flynn_json(&["-a", app, "scale"])?;
        let refused = cluster.flynn_output(&["-a", app, "scale", wish])?;
        ensure!(refused.status.code() == Some(1), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(said.trim().lines().count() == 1, "{said}");
        says(
            &said,
            &[app, "cannot be scaled to nothing", "1 is the least"],
        )?;
        let after = cluster.flynn_json(&["-a", app, "scale"])?;
        ensure!(after == before, "{app}: {before} became {after}");
    }
    Ok(())
}
