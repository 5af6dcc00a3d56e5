//! What operators ask of a running cell.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    Scenario,
    fixture::{Cluster, Shared, checked, pushed, says},
    platform::{load, none_failed},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "operators::what_if_tells_what_would_become_of_jobs_and_changes_nothing",
        what_if_tells_what_would_become_of_jobs_and_changes_nothing,
    ),
    (
        "operators::a_drained_host_gives_its_jobs_away_and_no_request_fails_until_it_has_jobs_again",
        a_drained_host_gives_its_jobs_away_and_no_request_fails_until_it_has_jobs_again,
    ),
    (
        "operators::the_cell_is_shown_without_secrets_and_only_to_those_with_the_token",
        the_cell_is_shown_without_secrets_and_only_to_those_with_the_token,
    ),
];

fn flynn_host(cluster: &Cluster, args: &[&str]) -> Result<Output> {
    Ok(cluster
        .command("flynn-host")
        .args(args)
        .arg("--data-dir")
        .arg(&cluster.bed.hosts()[0].data_dir)
        .output()?)
}

fn what_if_tells_what_would_become_of_jobs_and_changes_nothing(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    let wanted = |cluster: &Cluster| cluster.flynn(&["-a", "controller", "scale"]);
    let before = wanted(&cluster)?;
    let outcome = cluster.host_json(
        0,
        &["what-if", "lose host host3", "scale controller.web to 500"],
    )?;
    let fates = outcome["jobs"].as_array().context("fates are a list")?;
    let from_host3 = |fate: &&Value| fate["from"] == "host3";
    ensure!(fates.iter().any(|fate| from_host3(&fate)), "{outcome}");
    ensure!(
        fates.iter().all(|fate| fate["to"] != "host3"),
        "something would be placed on a lost host: {outcome}"
    );
    let started = |fate: &&Value| fate["group"] == "controller.web" && fate["fate"] == "started";
    ensure!(fates.iter().filter(started).count() > 10, "{outcome}");
    // Nobody tests on machines with room for so many, and the report says what is lacking.
    let unplaced = outcome["unplaced"].as_array().context("it is a list")?;
    let unplaced = unplaced.iter().find(|it| it["group"] == "controller.web");
    let why = &unplaced.context("all were placed")?["why"];
    says(&why.to_string(), &["hosts can take it", "is free"])?;

    // The same from a file, for a person.
    let snapshot = checked(flynn_host(&cluster, &["cell"])?, "flynn-host cell")?;
    let file = cluster.bed.hosts()[0].data_dir.join("cell.json");
    std::fs::write(&file, snapshot.stdout)?;
    let report = cluster
        .command("flynn-host")
        .args(["what-if", "drain host host2", "--cell"])
        .arg(&file)
        .output()?;
    std::fs::remove_file(&file)?;
    let report = checked(report, "flynn-host what-if")?;
    says(
        &String::from_utf8_lossy(&report.stdout),
        &["if drain host host2", "controller.web", "moved from host2"],
    )?;
    ensure!(wanted(&cluster)? == before, "it scaled the controller");
    let hosts = cluster.host_json(0, &["list"])?;
    let hosts = hosts.as_array().context("hosts are a list")?;
    ensure!(
        hosts.iter().all(|host| host["state"] == "up"),
        "it drained or lost a host: {hosts:?}"
    );

    let typo = flynn_host(&cluster, &["what-if", "loose zone b"])?;
    ensure!(typo.status.code() == Some(1), "{typo:?}");
    says(
        &String::from_utf8_lossy(&typo.stderr),
        &["loose zone b", "lose, drain, return, add, scale or remove"],
    )
}

fn a_drained_host_gives_its_jobs_away_and_no_request_fails_until_it_has_jobs_again(
    shared: &Shared,
) -> Result<()> {
    let cluster = shared.cluster()?;
    pushed(&cluster, "runner")?;
    cluster.flynn(&["-a", "runner", "scale", "web=3"])?;
    let host3 = || -> Result<Value> {
        let hosts = cluster.host_json(0, &["list"])?;
        let hosts = hosts.as_array().context("hosts are a list")?;
        let host = hosts.iter().find(|host| host["id"] == "host3");
        Ok(host.context("host3 is listed")?.clone())
    };
    ensure!(host3()?["jobs"] != 0, "nothing runs on host3");
    let load = load(&cluster, "runner");

    let drained = flynn_host(&cluster, &["drain", "host3"])?;
    let said = String::from_utf8_lossy(&drained.stderr).into_owned();
    ensure!(drained.status.success(), "{said}");
    says(&said, &["Host host3 drains", "has no jobs any more"])?;
    let seen = host3()?;
    ensure!(seen["state"] == "draining" && seen["jobs"] == 0, "{seen}");
    ensure!(
        cluster.flynn_json(&["-a", "runner", "scale"])?[0]["processes"]["web"] == 3,
        "the app was scaled"
    );
    // What is started now is started elsewhere.
    cluster.flynn(&["-a", "runner", "scale", "web=4"])?;
    ensure!(host3()?["jobs"] == 0, "a job was placed on it");

    checked(flynn_host(&cluster, &["undrain", "host3"])?, "undrain")?;
    cluster.eventually("host3 to have a router again", || {
        let seen = host3()?;
        ensure!(seen["state"] == "up" && seen["jobs"] != 0, "{seen}");
        Ok(())
    })?;
    cluster.flynn(&["-a", "runner", "scale", "web=1"])?;
    none_failed(&cluster, load)?;

    for command in ["drain", "undrain"] {
        let typo = flynn_host(&cluster, &[command, "host33"])?;
        ensure!(typo.status.code() == Some(1), "{typo:?}");
        says(
            &String::from_utf8_lossy(&typo.stderr),
            &["host33 is not in the cell", "flynn-host list"],
        )?;
    }
    Ok(())
}

fn the_cell_is_shown_without_secrets_and_only_to_those_with_the_token(
    shared: &Shared,
) -> Result<()> {
    let cluster = shared.cluster()?;
    let host = &cluster.bed.hosts()[0];
    let token = std::fs::read_to_string(host.data_dir.join("token"))?;
    let cell = checked(flynn_host(&cluster, &["cell"])?, "flynn-host cell")?.stdout;
    let cell = String::from_utf8(cell)?;
    ensure!(!cell.contains(token.trim()), "the token is in it");
    let list = cluster.host_json(0, &["list"])?;
    let addr = list[0]["addr"].as_str().context("hosts have addresses")?;
    let url = format!("http://{addr}:1113/cell");
    let curl = |args: &[&str]| -> Result<String> {
        let output = Command::new("curl")
            .args(["-sS", "-w", "\n%{http_code}"])
            .args(args)
            .arg(&url)
            .output()?;
        Ok(String::from_utf8(checked(output, "curl")?.stdout)?)
    };
    says(&curl(&[])?, &["401"])?;
    let shown = curl(&["-H", &format!("Auth-Key: {}", token.trim())])?;
    let (json, status) = shown.rsplit_once('\n').context("curl adds the status")?;
    ensure!(status == "200", "{shown}");
    let shown: Value = serde_json::from_str(json)?;
    let jobs = shown["jobs"].as_array().context("jobs are a list")?;
    ensure!(!jobs.is_empty() && shown["version"] == 1, "{shown}");
    let specs = shown["specs"].as_array().context("specs are a list")?;
    let is_bare = |spec: &Value| {
        let empty = |part: &Value| {
            part.is_null() || part.as_object().is_some_and(serde_json::Map::is_empty)
        };
        empty(&spec["env"])
    };
    ensure!(specs.iter().all(is_bare), "an environment is in it");
    Ok(())
}
