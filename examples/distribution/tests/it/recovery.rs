//! What is killed comes back, and nobody notices.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flynn_distribution::testbed::load::{Load, LoadOptions};
use serde_json::Value;

use crate::{
    Scenario,
    fixture::{Cluster, Shared, web_app},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "recovery::a_dead_host_goes_unnoticed_and_a_power_cut_is_survived",
        a_dead_host_goes_unnoticed_and_a_power_cut_is_survived,
    ),
    (
        "recovery::jobs_outlive_their_daemon_and_are_found_again",
        jobs_outlive_their_daemon_and_are_found_again,
    ),
];

fn up(cluster: &Cluster, host: usize) -> Result<Vec<Value>> {
    let jobs = cluster.host_json(host, &["ps"])?;
    Ok(jobs
        .as_array()
        .context("jobs are a list")?
        .iter()
        .filter(|job| job["state"] == "up")
        .cloned()
        .collect())
}

fn deploy(cluster: &Cluster, app: &str, copies: u32) -> Result<()> {
    let content = web_app("one");
    let files: Vec<_> = content
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let repository = cluster.repository(app, &files)?;
    cluster.push(&repository)?;
    cluster.flynn(&["-a", app, "scale", &format!("web={copies}")])?;
    Ok(())
}

fn a_dead_host_goes_unnoticed_and_a_power_cut_is_survived(_: &Shared) -> Result<()> {
    let mut cluster = Cluster::boot(3)?;
    deploy(&cluster, "steady", 3)?;
    let releases = cluster.flynn_json(&["-a", "steady", "release"])?;

    let load = {
        let _context = cluster.runtime.enter();
        Load::start(&LoadOptions {
            addrs: cluster.bed.router_addrs(),
            host: format!("steady.{}", cluster.bed.domain()),
            path: "/".to_owned(),
            clients: 8,
            pause: Duration::from_millis(10),
        })
    };
    let dead = 2;
    let id = cluster.bed.hosts()[dead].id.to_string();
    cluster.runtime.block_on(cluster.bed.cut_power(&[dead]))?;
    cluster.eventually("three copies on the hosts that are left", || {
        let jobs = up(&cluster, 0)?;
        let copies = jobs
            .iter()
            .filter(|job| job["app"] == "steady" && job["host"] != id.as_str())
            .count();
        ensure!(copies == 3, "{copies} copies");
        Ok(())
    })?;
    let report = cluster.runtime.block_on(load.finish());
    ensure!(report.requests > 0 && report.failed == 0, "{report:?}");

    // The host comes back, and then the power goes for all.
    cluster.bed.start_host(dead)?;
    cluster.eventually("the host to be back", || {
        let hosts = cluster.host_json(0, &["list"])?;
        let alive = hosts
            .as_array()
            .context("a list")?
            .iter()
            .filter(|host| host["state"] == "up")
            .count();
        ensure!(alive == 3, "{alive} hosts are up");
        Ok(())
    })?;
    cluster
        .runtime
        .block_on(cluster.bed.cut_power(&[0, 1, 2]))?;
    cluster.bed.start_all()?;
    cluster.eventually("the app to answer after the power cut", || {
        let (status, body) = cluster.get("steady", "/")?;
        ensure!(status == 200 && body.starts_with("one "), "{status} {body}");
        let jobs = up(&cluster, 0)?;
        ensure!(
            jobs.iter().filter(|job| job["app"] == "steady").count() == 3,
            "{jobs:?}"
        );
        Ok(())
    })?;
    ensure!(
        cluster.flynn_json(&["-a", "steady", "release"])? == releases,
        "the releases are others"
    );
    Ok(())
}

fn jobs_outlive_their_daemon_and_are_found_again(_: &Shared) -> Result<()> {
    let mut cluster = Cluster::boot(1)?;
    deploy(&cluster, "survivor", 1)?;
    let (_, before) = cluster.get("survivor", "/")?;
    cluster.bed.kill_daemon(0)?;
    // Without a daemon the job and the router go on.
    let (status, during) = cluster.get("survivor", "/")?;
    ensure!(status == 200 && during == before, "{status} {during}");
    cluster.bed.start_host(0)?;
    cluster.eventually("the daemon to know its jobs again", || {
        let jobs = up(&cluster, 0)?;
        ensure!(
            jobs.iter()
                .any(|job| job["app"] == "survivor" && job["restarts"] == 0),
            "{jobs:?}"
        );
        Ok(())
    })?;
    let (_, after) = cluster.get("survivor", "/")?;
    ensure!(
        after == before,
        "another job answers: {after}, not {before}"
    );
    Ok(())
}
