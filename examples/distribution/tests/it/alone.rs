//! Hosts without a platform, and the first steps of one.

use anyhow::{Result, ensure};

use crate::{
    Scenario,
    fixture::{Cluster, Shared, says},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "alone::a_bootstrap_can_be_repeated",
        a_bootstrap_can_be_repeated,
    ),
    (
        "alone::without_a_cluster_the_cli_says_what_to_do",
        without_a_cluster_the_cli_says_what_to_do,
    ),
    (
        "alone::a_second_daemon_in_one_directory_is_refused",
        a_second_daemon_in_one_directory_is_refused,
    ),
];

fn a_bootstrap_can_be_repeated(_: &Shared) -> Result<()> {
    let cluster = Cluster::boot(1)?;
    let apps = cluster.flynn_json(&["apps"])?;
    cluster.bootstrap(&[])?;
    ensure!(
        cluster.flynn_json(&["apps"])? == apps,
        "the second bootstrap changed the apps"
    );
    // Two hosts cannot outvote a failure of one.
    let output = cluster
        .command("flynn-host")
        .args([
            "bootstrap",
            "--min-hosts",
            "2",
            "--domain",
            "x.localhost",
            "--data-dir",
        ])
        .arg(&cluster.bed.hosts()[0].data_dir)
        .output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["cannot outvote"],
    )
}

fn without_a_cluster_the_cli_says_what_to_do(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    let output = cluster
        .command("flynn")
        .env("FLYNNRC", cluster.dir().join("nothing"))
        .arg("apps")
        .output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["no clusters configured", "flynn cluster add"],
    )
}

fn a_second_daemon_in_one_directory_is_refused(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    let output = cluster
        .command("flynn-host")
        .args(["daemon", "--data-dir"])
        .arg(&cluster.bed.hosts()[0].data_dir)
        .output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["another daemon"],
    )
}
