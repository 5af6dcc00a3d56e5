//! The users' command line on a running cluster.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{
    Scenario,
    fixture::{Cluster, Shared, pushed, says},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "users::variables_are_set_shown_and_reach_the_app",
        variables_are_set_shown_and_reach_the_app,
    ),
    (
        "users::an_app_is_scaled_and_its_jobs_are_listed",
        an_app_is_scaled_and_its_jobs_are_listed,
    ),
    (
        "users::a_command_runs_attached_and_its_exit_status_is_ours",
        a_command_runs_attached_and_its_exit_status_is_ours,
    ),
    (
        "users::a_log_shows_what_the_jobs_wrote",
        a_log_shows_what_the_jobs_wrote,
    ),
    ("users::a_killed_job_is_replaced", a_killed_job_is_replaced),
    ("users::a_release_is_rolled_back", a_release_is_rolled_back),
    (
        "users::routes_are_added_and_removed",
        routes_are_added_and_removed,
    ),
    (
        "users::bad_usage_and_failure_have_different_exit_codes",
        bad_usage_and_failure_have_different_exit_codes,
    ),
    (
        "users::a_wrong_key_is_told_in_one_sentence",
        a_wrong_key_is_told_in_one_sentence,
    ),
];

fn jobs(cluster: &Cluster, app: &str) -> Result<Vec<serde_json::Value>> {
    Ok(cluster
        .flynn_json(&["-a", app, "ps"])?
        .as_array()
        .context("jobs are a list")?
        .clone())
}

fn variables_are_set_shown_and_reach_the_app(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    pushed(&cluster, "vars")?;
    cluster.flynn(&[
        "-a",
        "vars",
        "env",
        "set",
        "GREETING=good morning",
        "OTHER=1",
    ])?;
    ensure!(
        cluster.flynn(&["-a", "vars", "env", "get", "GREETING"])? == "good morning\n",
        "get"
    );
    cluster.eventually("the variable to reach the app", || {
        let (_, body) = cluster.get("vars", "/")?;
        ensure!(body.contains("good morning"), "{body}");
        Ok(())
    })?;
    cluster.flynn(&["-a", "vars", "env", "unset", "OTHER"])?;
    let env = cluster.flynn(&["-a", "vars", "env"])?;
    ensure!(
        env.contains("GREETING=") && !env.contains("OTHER="),
        "{env}"
    );
    Ok(())
}

fn an_app_is_scaled_and_its_jobs_are_listed(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    pushed(&cluster, "scaled")?;
    let shown = cluster.flynn_output(&["-a", "scaled", "scale", "web=3"])?;
    ensure!(
        shown.status.success(),
        "{}",
        String::from_utf8_lossy(&shown.stderr)
    );
    says(
        &String::from_utf8_lossy(&shown.stderr),
        &["scaling web: 1=>3"],
    )?;
    let listed = jobs(&cluster, "scaled")?;
    ensure!(
        listed.iter().filter(|job| job["state"] == "up").count() == 3,
        "{listed:?}"
    );
    let hosts: std::collections::BTreeSet<_> = listed
        .iter()
        .map(|job| job["host_id"].to_string())
        .collect();
    ensure!(hosts.len() == 3, "three jobs are on {hosts:?}");
    cluster.flynn(&["-a", "scaled", "scale", "web=1"])?;
    cluster.eventually("one job to be left", || {
        let listed = jobs(&cluster, "scaled")?;
        ensure!(listed.len() == 1, "{listed:?}");
        Ok(())
    })?;
    let unknown = cluster.flynn_output(&["-a", "scaled", "scale", "worker=1"])?;
    ensure!(unknown.status.code() == Some(1), "{:?}", unknown.status);
    says(
        &String::from_utf8_lossy(&unknown.stderr),
        &["unknown process types: \"worker\""],
    )
}

fn a_command_runs_attached_and_its_exit_status_is_ours(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    pushed(&cluster, "runner")?;
    let output = cluster.flynn_output(&[
        "-a",
        "runner",
        "run",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; test -f Procfile && exit 7",
    ])?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    ensure!(
        output.stdout == b"out\n" && output.stderr == b"err\n",
        "{output:?}"
    );
    // Standard input reaches it, and its end too.
    let mut command: Command = cluster.command("flynn");
    let mut child = command
        .args(["-a", "runner", "run", "--", "sort"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("it is piped")?, b"b\na\n")?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success() && output.stdout == b"a\nb\n",
        "{output:?}"
    );
    Ok(())
}

fn a_log_shows_what_the_jobs_wrote(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    pushed(&cluster, "runner")?;
    cluster.eventually("the job's line in the log", || {
        let log = cluster.flynn(&["-a", "runner", "log", "-t", "web"])?;
        ensure!(
            log.contains("serving one") && log.contains("app[web."),
            "{log}"
        );
        Ok(())
    })
}

fn a_killed_job_is_replaced(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    pushed(&cluster, "runner")?;
    let before = jobs(&cluster, "runner")?;
    let victim = before[0]["id"]
        .as_str()
        .context("a job has an id")?
        .to_owned();
    cluster.flynn(&["-a", "runner", "kill", &victim])?;
    cluster.eventually("another job in its place", || {
        let now = jobs(&cluster, "runner")?;
        ensure!(
            now.iter()
                .any(|job| job["state"] == "up" && job["id"] != victim.as_str()),
            "{now:?}"
        );
        Ok(())
    })
}

fn a_release_is_rolled_back(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    pushed(&cluster, "back")?;
    cluster.flynn(&["-a", "back", "env", "set", "GREETING=second"])?;
    cluster.flynn(&["-a", "back", "release", "rollback", "-y"])?;
    cluster.eventually("the first release to answer", || {
        let (status, body) = cluster.get("back", "/")?;
        ensure!(status == 200 && !body.contains("second"), "{body}");
        Ok(())
    })
}

fn routes_are_added_and_removed(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    pushed(&cluster, "runner")?;
    let domain = format!("other.{}", cluster.bed.domain());
    let id = cluster
        .flynn(&["-a", "runner", "route", "add", "http", &domain])?
        .trim()
        .to_owned();
    ensure!(id.starts_with("http/"), "{id}");
    cluster.eventually("the new domain to answer", || {
        let (status, body) = cluster.get("other", "/")?;
        ensure!(status == 200, "{status} {body}");
        Ok(())
    })?;
    let duplicate = cluster.flynn_output(&["-a", "runner", "route", "add", "http", &domain])?;
    ensure!(duplicate.status.code() == Some(1), "{duplicate:?}");
    says(
        &String::from_utf8_lossy(&duplicate.stderr),
        &["Duplicate route"],
    )?;
    cluster.flynn(&["-a", "runner", "route", "remove", &id])?;
    cluster.eventually("the domain to be gone", || {
        let (status, body) = cluster.get("other", "/")?;
        ensure!(status == 404, "{status} {body}");
        Ok(())
    })
}

fn bad_usage_and_failure_have_different_exit_codes(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    ensure!(
        cluster
            .flynn_output(&["scale", "--nonsense"])?
            .status
            .code()
            == Some(2),
        "bad usage"
    );
    let unknown = cluster.flynn_output(&["-a", "no-such-app", "ps"])?;
    ensure!(unknown.status.code() == Some(1), "{unknown:?}");
    says(
        &String::from_utf8_lossy(&unknown.stderr),
        &["no-such-app does not exist", "flynn create"],
    )
}

fn a_wrong_key_is_told_in_one_sentence(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    let rc = cluster.dir().join("wrong-key");
    let text = std::fs::read_to_string(cluster.bed.flynnrc())?;
    let text: Vec<String> = text
        .lines()
        .map(|line| {
            if line.starts_with("Key = ") {
                "Key = \"wrong\"".to_owned()
            } else {
                line.to_owned()
            }
        })
        .collect();
    std::fs::write(&rc, text.join("\n"))?;
    let output = cluster
        .command("flynn")
        .env("FLYNNRC", &rc)
        .arg("apps")
        .output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.trim().lines().count() == 1, "{said}");
    says(&said, &["key"])
}
