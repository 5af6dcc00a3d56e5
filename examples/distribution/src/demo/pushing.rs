//! A user with an SSH key who pushes apps.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use tokio::{process::Command, time::Instant};

use super::{Options, say, seconds};
use crate::testbed::Testbed;

/// Makes an app of the sample of that name and pushes it; how many seconds the push took.
pub(super) async fn push(bed: &Testbed, options: &Options, app: &str, key: &Path) -> Result<f64> {
    let work = bed.dir().join("push").join(app);
    fs::create_dir_all(work.parent().context("it has one")?)?;
    copy_tree(&options.apps.join(app), &work)?;
    with_key("git", &work, &["init", "-q", "-b", "main"], key).await?;
    with_key("git", &work, &["add", "-A"], key).await?;
    with_key(
        "git",
        &work,
        &[
            "-c",
            "user.name=Demo",
            "-c",
            "user.email=demo@example.com",
            "commit",
            "-qm",
            "The sample app",
        ],
        key,
    )
    .await?;
    let status = bed
        .flynn()
        .current_dir(&work)
        .args(["create", app])
        .status()
        .await?;
    ensure!(status.success(), "flynn create {app} ended with {status}");
    say(&format!("git push flynn main   ({app})"));
    let started = Instant::now();
    with_key("git", &work, &["push", "flynn", "main"], key).await?;
    Ok(seconds(started))
}

/// Runs a command with our SSH key, its output on our own.
async fn with_key(program: &str, dir: &Path, args: &[&str], key: &Path) -> Result<()> {
    let status = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("GIT_SSH_COMMAND", ssh_command(key))
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("{program} cannot be started"))?;
    ensure!(
        status.success(),
        "{program} {} ended with {status}",
        args.join(" ")
    );
    Ok(())
}

/// The host keys of a cluster made a moment ago are known to nobody yet.
fn ssh_command(key: &Path) -> String {
    format!(
        "ssh -i '{}' -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
        key.display()
    )
}

pub(super) async fn make_ssh_key(bed: &Testbed) -> Result<PathBuf> {
    let key = bed.dir().join("id_ed25519");
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f"])
        .arg(&key)
        .status()
        .await
        .context("ssh-keygen cannot be started: install openssh-client")?;
    ensure!(status.success(), "ssh-keygen ended with {status}");
    Ok(key)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("{} cannot be read", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
