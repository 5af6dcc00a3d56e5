//! What is killed comes back, and nobody notices.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flynn_distribution::testbed::load::{Load, LoadOptions};
use serde_json::Value;

use crate::{
    Scenario,
    fixture::{Cluster, Shared, checked, web_app},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "recovery::a_dead_host_goes_unnoticed_and_a_power_cut_is_survived",
        a_dead_host_goes_unnoticed_and_a_power_cut_is_survived,
    ),
    (
        "recovery::a_host_joins_later_and_is_promoted_and_demoted",
        a_host_joins_later_and_is_promoted_and_demoted,
    ),
    (
        "recovery::jobs_outlive_their_daemon_and_are_found_again",
        jobs_outlive_their_daemon_and_are_found_again,
    ),
    (
        "recovery::a_daemon_that_stood_still_does_not_end_the_leases_of_others",
        a_daemon_that_stood_still_does_not_end_the_leases_of_others,
    ),
];

/// A fourth host is a learner of the store, runs jobs, and can be given a vote.
fn a_host_joins_later_and_is_promoted_and_demoted(_: &Shared) -> Result<()> {
    let cluster = Cluster::boot(3)?;
    let first = &cluster.bed.hosts()[0];
    let data_dir = cluster.dir().join("host4");
    let addr = first.addr.to_string();
    let addr = format!("{}.4", addr.rsplit_once('.').context("an IPv4 address")?.0);
    let voters: Vec<String> = cluster
        .bed
        .hosts()
        .iter()
        .map(|host| format!("{}={}", host.id, host.addr))
        .collect();
    let output = cluster
        .command("flynn-host")
        .args([
            "init",
            "--id",
            "host4",
            "--addr",
            &addr,
            "--voters",
            &voters.join(","),
            "--data-dir",
        ])
        .arg(&data_dir)
        .arg("--token-file")
        .arg(first.data_dir.join("token"))
        .output()?;
    checked(output, "flynn-host init")?;
    let _daemon = Daemon::start(&cluster, &data_dir)?;
    let role = || -> Result<String> {
        let hosts = cluster.host_json(0, &["list"])?;
        let fourth = hosts
            .as_array()
            .context("a list")?
            .iter()
            .find(|host| host["id"] == "host4")
            .context("it is not listed")?;
        ensure!(fourth["state"] == "up", "{fourth}");
        Ok(fourth["raft"].as_str().unwrap_or_default().to_owned())
    };
    cluster.eventually("the fourth host to be a learner", || {
        let role = role()?;
        ensure!(role == "learner", "{role}");
        Ok(())
    })?;
    cluster.eventually("a router on the fourth host", || {
        let jobs = up(&cluster, 0)?;
        ensure!(
            jobs.iter()
                .any(|job| job["app"] == "router" && job["host"] == "host4"),
            "{jobs:?}"
        );
        Ok(())
    })?;
    for (command, wanted) in [("promote", "follower"), ("demote", "learner")] {
        let output = cluster
            .command("flynn-host")
            .args([command, "host4", "--data-dir"])
            .arg(&first.data_dir)
            .output()?;
        checked(output, command)?;
        cluster.eventually("the role to change", || {
            let role = role()?;
            ensure!(
                role == wanted || (wanted == "follower" && role == "leader"),
                "{role}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// A daemon beside those of the testbed; it and its jobs end with the test.
struct Daemon<'a>(std::process::Child, &'a Cluster, std::path::PathBuf);

impl<'a> Daemon<'a> {
    fn start(cluster: &'a Cluster, data_dir: &std::path::Path) -> Result<Self> {
        let child = cluster
            .command("flynn-host")
            .args(["daemon", "--data-dir"])
            .arg(data_dir)
            .stderr(std::process::Stdio::null())
            .spawn()?;
        Ok(Self(child, cluster, data_dir.to_owned()))
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self
            .1
            .runtime
            .block_on(flynn_distribution::testbed::kill_all(std::slice::from_ref(
                &self.2,
            )));
        let _ = self.0.wait();
    }
}

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

fn a_daemon_that_stood_still_does_not_end_the_leases_of_others(_: &Shared) -> Result<()> {
    use flynn_distribution::testbed::processes_of;
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    /// Longer than a host's lease, which ends after five seconds.
    const STILL: Duration = Duration::from_secs(6);
    let cluster = Cluster::hosts(3)?;
    let all_are_up = || {
        cluster.eventually("all hosts to be up", || {
            let hosts = cluster.host_json(0, &["list"])?;
            let hosts = hosts.as_array().context("a list")?;
            let alive = hosts.iter().filter(|host| host["state"] == "up").count();
            ensure!(alive == 3, "{alive} hosts are up");
            Ok(())
        })
    };
    let losses = |host| cluster.daemon_log(host).matches("lease was lost").count();
    all_are_up()?;
    // One of them leads the store.
    for still in 0..3 {
        let others = [(still + 1) % 3, (still + 2) % 3];
        let before = others.map(losses);
        let daemons = processes_of(&[cluster.bed.hosts()[still].data_dir.clone()]);
        ensure!(!daemons.is_empty(), "host {still} does not run");
        for pid in &daemons {
            kill(Pid::from_raw(*pid), Signal::SIGSTOP)?;
        }
        std::thread::sleep(STILL);
        for pid in &daemons {
            kill(Pid::from_raw(*pid), Signal::SIGCONT)?;
        }
        all_are_up()?;
        // A lease that was ended wrongly is missed at its next renewal.
        std::thread::sleep(Duration::from_secs(2));
        ensure!(
            others.map(losses) == before,
            "the leases of {others:?} were lost when host {still} went on"
        );
    }
    Ok(())
}
