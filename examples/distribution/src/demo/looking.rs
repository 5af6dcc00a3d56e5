//! How the cluster is, as its own commands tell it.

use std::{collections::BTreeMap, process::Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::testbed::Testbed;

/// Everything a user would miss: apps, their releases, routes and running jobs.
pub(super) async fn inventory(bed: &Testbed) -> Result<Value> {
    let mut apps = BTreeMap::new();
    for app in flynn_json(bed, &["apps"])
        .await?
        .as_array()
        .context("apps are a list")?
    {
        let name = app["name"]
            .as_str()
            .context("an app has a name")?
            .to_owned();
        let routes: BTreeMap<String, Value> = flynn_json(bed, &["-a", &name, "route"])
            .await?
            .as_array()
            .context("routes are a list")?
            .iter()
            .map(|route| {
                (
                    route["id"].as_str().unwrap_or_default().to_owned(),
                    route["domain"].clone(),
                )
            })
            .collect();
        apps.insert(
            name,
            serde_json::json!({ "release": app["release"], "routes": routes }),
        );
    }
    let jobs: BTreeMap<String, u64> = jobs_up(bed)
        .await?
        .into_iter()
        .map(|(group, (count, _))| (group, count))
        .collect();
    Ok(serde_json::json!({ "apps": apps, "jobs": jobs }))
}

/// How many jobs of each app and type are up, and whether there is one on every host.
pub(super) async fn jobs_up(bed: &Testbed) -> Result<BTreeMap<String, (u64, bool)>> {
    let mut sums = BTreeMap::new();
    for job in host_json(bed, &["ps"])
        .await?
        .as_array()
        .context("jobs are a list")?
    {
        if job["state"] == "up" {
            let group = format!(
                "{}/{}",
                job["app"].as_str().unwrap_or("-"),
                job["type"].as_str().unwrap_or("-")
            );
            let entry = sums
                .entry(group)
                .or_insert_with(|| (0, job["omni"] == true));
            entry.0 += 1;
        }
    }
    Ok(sums)
}

pub(super) async fn on_host(bed: &Testbed, host: &str) -> Result<bool> {
    let jobs = host_json(bed, &["ps"]).await?;
    Ok(jobs
        .as_array()
        .context("jobs are a list")?
        .iter()
        .any(|job| job["host"] == host && job["state"] == "up"))
}

pub(super) async fn hosts_up(bed: &Testbed, count: usize) -> Result<()> {
    let hosts = host_json(bed, &["list"]).await?;
    let up = hosts
        .as_array()
        .context("hosts are a list")?
        .iter()
        .filter(|host| host["state"] == "up")
        .count();
    ensure!(up == count, "{up} of {count} hosts are up");
    Ok(())
}

/// The position of the host that leads the store.
pub(super) async fn leader(bed: &Testbed) -> Result<usize> {
    let hosts = host_json(bed, &["list"]).await?;
    let id = hosts
        .as_array()
        .and_then(|hosts| hosts.iter().find(|host| host["raft"] == "leader"))
        .and_then(|host| host["id"].as_str())
        .context("no host leads the store")?;
    bed.hosts()
        .iter()
        .position(|host| host.id.as_str() == id)
        .context("the leader is one of the hosts")
}

/// What `flynn` prints with `--json`.
pub(super) async fn flynn_json(bed: &Testbed, args: &[&str]) -> Result<Value> {
    json_of(bed.flynn().args(args).arg("--json")).await
}

async fn host_json(bed: &Testbed, args: &[&str]) -> Result<Value> {
    let mut last = anyhow::anyhow!("there is no host");
    // Any host can tell; one of them may be dead.
    for host in bed.hosts() {
        let mut command = Command::new(bed.bin("flynn-host"));
        command
            .args(args)
            .arg("--data-dir")
            .arg(&host.data_dir)
            .arg("--json")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        match json_of(&mut command).await {
            Ok(value) => return Ok(value),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn json_of(command: &mut Command) -> Result<Value> {
    let output = command.output().await?;
    if !output.status.success() {
        bail!(
            "{:?} ended with {}: {}",
            command.as_std().get_args().collect::<Vec<_>>(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    serde_json::from_slice(&output.stdout).context("--json prints JSON")
}
