//! git push: what goes live, and how what cannot is refused.

use std::fs;

use anyhow::{Result, ensure};

use crate::{
    Scenario,
    fixture::{Shared, make_key, says, web_app},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "push::a_push_goes_live_and_the_next_one_takes_its_place",
        a_push_goes_live_and_the_next_one_takes_its_place,
    ),
    (
        "push::a_push_with_an_unknown_key_is_refused",
        a_push_with_an_unknown_key_is_refused,
    ),
    (
        "push::a_push_to_an_unknown_app_is_refused",
        a_push_to_an_unknown_app_is_refused,
    ),
    (
        "push::a_push_to_a_deleted_app_is_refused",
        a_push_to_a_deleted_app_is_refused,
    ),
    (
        "push::a_procfile_without_a_process_type_is_refused",
        a_procfile_without_a_process_type_is_refused,
    ),
    (
        "push::a_release_that_exits_at_once_fails_and_the_old_one_serves",
        a_release_that_exits_at_once_fails_and_the_old_one_serves,
    ),
    (
        "push::a_port_that_is_never_opened_fails_the_deployment",
        a_port_that_is_never_opened_fails_the_deployment,
    ),
];

fn files<'a>(app: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    app.iter()
        .map(|(name, content)| (*name, content.as_str()))
        .collect()
}

fn a_push_goes_live_and_the_next_one_takes_its_place(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    let repository = cluster.repository("live", &files(&web_app("one")))?;
    let shown = cluster.push(&repository)?;
    says(
        &shown,
        &["Building live", "Creating release", "Application deployed"],
    )?;
    cluster.eventually("the first version to answer", || {
        let (status, body) = cluster.get("live", "/")?;
        ensure!(status == 200 && body.starts_with("one "), "{status} {body}");
        Ok(())
    })?;
    cluster.commit(&repository, &files(&web_app("two")))?;
    cluster.push(&repository)?;
    cluster.eventually("the second version to answer", || {
        let (status, body) = cluster.get("live", "/")?;
        ensure!(status == 200 && body.starts_with("two "), "{status} {body}");
        Ok(())
    })?;
    let releases = cluster.flynn_json(&["-a", "live", "release"])?;
    ensure!(releases.as_array().map(Vec::len) == Some(2), "{releases}");
    Ok(())
}

fn a_push_with_an_unknown_key_is_refused(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    let repository = cluster.repository("unknown-key", &files(&web_app("one")))?;
    let stranger = cluster.dir().join("stranger");
    make_key(&stranger)?;
    let output = cluster.git_output(&repository, &["push", "flynn", "main"], &stranger)?;
    ensure!(!output.status.success(), "a stranger could push");
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["Permission denied"],
    )
}

fn a_push_to_an_unknown_app_is_refused(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    let repository = cluster.repository("known", &files(&web_app("one")))?;
    let remotes = cluster.git_output(&repository, &["remote", "get-url", "flynn"], &cluster.key)?;
    let url = String::from_utf8(remotes.stdout)?
        .trim()
        .replace("/known.git", "/nobody.git");
    let output = cluster.git_output(&repository, &["push", &url, "main"], &cluster.key)?;
    ensure!(!output.status.success(), "an unknown app was pushed to");
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["nobody", "does not exist", "flynn create"],
    )
}

fn a_push_to_a_deleted_app_is_refused(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    let repository = cluster.repository("gone", &files(&web_app("one")))?;
    cluster.push(&repository)?;
    cluster.flynn(&["-a", "gone", "delete", "-y"])?;
    cluster.commit(&repository, &files(&web_app("two")))?;
    says(
        &cluster.push_refused(&repository)?,
        &["gone", "does not exist"],
    )?;
    cluster.eventually("the deleted app's route to be gone", || {
        let (status, body) = cluster.get("gone", "/")?;
        ensure!(status == 404, "{status} {body}");
        Ok(())
    })
}

fn a_procfile_without_a_process_type_is_refused(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    let repository = cluster.repository("empty-procfile", &[("Procfile", "# nothing here\n")])?;
    says(
        &cluster.push_refused(&repository)?,
        &["Procfile has no process type"],
    )
}

fn a_release_that_exits_at_once_fails_and_the_old_one_serves(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    let repository = cluster.repository("crasher", &files(&web_app("one")))?;
    cluster.push(&repository)?;
    let broken = "#!/bin/sh\necho 'no configuration, giving up' >&2\nexit 3\n";
    cluster.commit(&repository, &[("serve", broken)])?;
    let shown = cluster.push_refused(&repository)?;
    says(
        &shown,
        &[
            "exited with status 3",
            "no configuration, giving up",
            "old release",
        ],
    )?;
    let (status, body) = cluster.get("crasher", "/")?;
    ensure!(status == 200 && body.starts_with("one "), "{status} {body}");
    Ok(())
}

fn a_port_that_is_never_opened_fails_the_deployment(shared: &Shared) -> Result<()> {
    let cluster = shared.cluster()?;
    let repository = cluster.repository(
        "deaf",
        &[
            ("Procfile", "web: ./serve\n"),
            ("serve", "#!/bin/sh\nexec sleep 1000\n"),
        ],
    )?;
    cluster.flynn(&["-a", "deaf", "deployment", "timeout", "20"])?;
    let shown = cluster.push_refused(&repository)?;
    says(&shown, &["port"])?;
    // The whole story is in the job's own words too.
    fs::write(cluster.dir().join("deaf.txt"), shown)?;
    Ok(())
}
