//! What an operator can get wrong, and what a disk can do.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use flynn_distribution::settings;

use crate::{
    Scenario,
    fixture::{Cluster, PATIENCE, Shared, checked, says, web_app},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "faults::a_host_with_the_wrong_token_is_refused",
        a_host_with_the_wrong_token_is_refused,
    ),
    (
        "faults::a_second_host_with_a_known_id_is_refused",
        a_second_host_with_a_known_id_is_refused,
    ),
    (
        "faults::a_truncated_raft_log_is_told_and_the_member_joins_anew",
        a_truncated_raft_log_is_told_and_the_member_joins_anew,
    ),
    (
        "faults::a_full_disk_is_told_and_nothing_acknowledged_is_lost",
        a_full_disk_is_told_and_nothing_acknowledged_is_lost,
    ),
    (
        "faults::a_job_that_finds_no_room_is_told_so_and_the_others_go_on",
        a_job_that_finds_no_room_is_told_so_and_the_others_go_on,
    ),
    (
        "faults::without_a_majority_it_is_said_who_answers_and_what_to_do",
        without_a_majority_it_is_said_who_answers_and_what_to_do,
    ),
    (
        "faults::oversized_headers_and_smuggled_requests_are_refused_at_the_edge",
        oversized_headers_and_smuggled_requests_are_refused_at_the_edge,
    ),
];

fn a_host_with_the_wrong_token_is_refused(_: &Shared) -> Result<()> {
    let mut cluster = Cluster::hosts(3)?;
    cluster.runtime.block_on(cluster.bed.cut_power(&[2]))?;
    let stranger = &cluster.bed.hosts()[2];
    fs::write(settings::token_path(&stranger.data_dir), "not the token\n")?;
    cluster.bed.start_host(2)?;
    cluster.eventually("the stranger to say why it is kept out", || {
        says(&cluster.daemon_log(2), &["token"])
    })?;
    let hosts = cluster.host_json(0, &["list"])?;
    let stranger = cluster.bed.hosts()[2].id.to_string();
    ensure!(
        !hosts
            .as_array()
            .context("a list")?
            .iter()
            .any(|host| host["id"] == stranger.as_str() && host["state"] == "up"),
        "{hosts}"
    );
    Ok(())
}

/// Whatever still stands on the last host says so: a controller or, if the two were elsewhere, none.
fn without_a_majority_it_is_said_who_answers_and_what_to_do(_: &Shared) -> Result<()> {
    let mut cluster = Cluster::boot(3)?;
    // One on each host, so that it is the store that fails and not the way to it.
    cluster.flynn(&["-a", "controller", "scale", "web=3"])?;
    cluster.flynn(&["apps"])?;
    cluster.runtime.block_on(cluster.bed.cut_power(&[0, 1]))?;
    let last = cluster.bed.hosts()[2].addr.to_string();
    for args in [&["apps"][..], &["create", "anything"]] {
        let output = cluster.flynn_output(args)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "{:?} {said}",
            output.status
        );
        ensure!(said.trim().lines().count() == 1, "{said}");
        says(
            &said,
            &[
                "no majority",
                "2 of its 3 voters are needed",
                &format!("only 1 ({last}:"),
                &format!("start {}:", cluster.bed.hosts()[0].addr),
            ],
        )?;
    }
    // The operator's command, on the host itself.
    let output = cluster
        .command("flynn-host")
        .args(["ps", "--data-dir"])
        .arg(&cluster.bed.hosts()[2].data_dir)
        .output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    says(&String::from_utf8_lossy(&output.stderr), &["no majority"])?;
    // With the second back there is a majority, and nobody has to do more.
    cluster.bed.start_host(1)?;
    cluster.eventually("the platform to be back", || cluster.flynn(&["apps"]))?;
    Ok(())
}

fn a_second_host_with_a_known_id_is_refused(_: &Shared) -> Result<()> {
    let cluster = Cluster::hosts(1)?;
    let first = &cluster.bed.hosts()[0];
    cluster.eventually("the first host to be in the cell", || {
        let hosts = cluster.host_json(0, &["list"])?;
        ensure!(hosts.as_array().map(Vec::len) == Some(1), "{hosts}");
        Ok(())
    })?;
    let data_dir = cluster.dir().join("twin");
    let token = settings::token_path(&first.data_dir);
    let voters = format!("other={}", first.addr);
    let octets = first.addr.to_string();
    let twin_addr = format!(
        "{}.77",
        octets.rsplit_once('.').context("an IPv4 address")?.0
    );
    let output = cluster
        .command("flynn-host")
        .args([
            "init",
            "--id",
            first.id.as_str(),
            "--addr",
            &twin_addr,
            "--voters",
            &voters,
            "--data-dir",
        ])
        .arg(&data_dir)
        .arg("--token-file")
        .arg(token)
        .output()?;
    checked(output, "flynn-host init")?;
    let output = cluster
        .command("flynn-host")
        .args(["daemon", "--data-dir"])
        .arg(&data_dir)
        .output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["is taken", first.id.as_str()],
    )
}

fn a_truncated_raft_log_is_told_and_the_member_joins_anew(_: &Shared) -> Result<()> {
    let mut cluster = Cluster::boot(3)?;
    cluster.runtime.block_on(cluster.bed.cut_power(&[2]))?;
    let store = cluster.bed.hosts()[2].data_dir.join("store/db");
    let mut cut = 0;
    for entry in fs::read_dir(&store)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let file = fs::OpenOptions::new().write(true).open(&path)?;
            file.set_len(file.metadata()?.len() / 2)?;
            cut += 1;
        }
    }
    ensure!(cut > 0, "there is no log in {}", store.display());
    cluster.bed.start_host(2)?;
    let Cluster { bed, runtime, .. } = &mut cluster;
    let ended = async {
        loop {
            if let Some(status) = bed.daemon_exit(2)? {
                return Ok::<_, anyhow::Error>(status);
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let status = runtime.block_on(async { tokio::time::timeout(PATIENCE, ended).await })??;
    ensure!(status.code() == Some(1), "{status:?}");
    says(&cluster.daemon_log(2), &["damaged", "remove"])?;
    // What it said to do next works.
    fs::remove_dir_all(cluster.bed.hosts()[2].data_dir.join("store"))?;
    cluster.bed.forget_daemon(2);
    cluster.bed.start_host(2)?;
    cluster.eventually("the member to be back", || {
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
    // The two others still have everything.
    ensure!(
        cluster
            .flynn_json(&["apps"])?
            .as_array()
            .is_some_and(|apps| apps.len() == 4),
        "apps are missing"
    );
    Ok(())
}

fn a_job_that_finds_no_room_is_told_so_and_the_others_go_on(_: &Shared) -> Result<()> {
    // A small file system of our own under the whole testbed; mounting needs root.
    if !nix_is_root() {
        ensure!(std::env::var_os("CI").is_none(), "CI runs as root");
        eprintln!("skipped: mounting a small file system needs root");
        return Ok(());
    }
    let cluster = Cluster::boot(1)?;
    let content = web_app("one");
    let files: Vec<_> = content
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let repository = cluster.repository("kept", &files)?;
    cluster.push(&repository)?;
    // The disk "fills" for new jobs: the directory they are made in is on a file system without room.
    let jobs = cluster.bed.hosts()[0].data_dir.join("jobs");
    let full = Mounted::full(&jobs)?;
    let output = cluster.flynn_output(&["-a", "kept", "run", "--", "true"])?;
    ensure!(
        !output.status.success(),
        "a job ran on a full disk: {output:?} {}",
        cluster.daemon_log(0)
    );
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["no space is left under", "free some"],
    )?;
    let (status, body) = cluster.get("kept", "/")?;
    ensure!(status == 200 && body.starts_with("one "), "{status} {body}");
    drop(full);
    let output = cluster.flynn_output(&["-a", "kept", "run", "--", "true"])?;
    checked(output, "a job after the disk has room again").map(drop)
}

/// The whole data directory is full: the store takes no write it could not keep, and goes on when there is room.
fn a_full_disk_is_told_and_nothing_acknowledged_is_lost(_: &Shared) -> Result<()> {
    if !nix_is_root() {
        ensure!(std::env::var_os("CI").is_none(), "CI runs as root");
        eprintln!("skipped: mounting a small file system needs root");
        return Ok(());
    }
    let mut mounted = None;
    let cluster = Cluster::hosts_in(1, |place| {
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256m", "tmpfs"])
            .arg(place)
            .output()?;
        checked(output, "mount")?;
        mounted = Some(Mounted(place.to_owned()));
        Ok(())
    })?
    .with_platform()?;
    let _mounted = mounted;
    cluster.flynn(&["create", "kept"])?;
    let filler = cluster.bed.dir().join("filler");
    let mut file = fs::File::create(&filler)?;
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}

    // Logs are written into room that was taken before, so some writes still succeed; each of them counts.
    let value = "x".repeat(100_000);
    let mut acknowledged = None;
    let mut refusal = None;
    for n in 0..400 {
        let output = cluster.flynn_output(&[
            "-a",
            "kept",
            "env",
            "set",
            &format!("N={n}"),
            &format!("V={value}{n}"),
        ])?;
        if !output.status.success() {
            refusal = Some(String::from_utf8_lossy(&output.stderr).into_owned());
            break;
        }
        acknowledged = Some(n);
    }
    let refusal = refusal.context("a full disk took 40 MB")?;
    ensure!(refusal.trim().lines().count() == 1, "{refusal}");

    drop(file);
    fs::remove_file(&filler)?;
    cluster.eventually("the store to take writes again", || {
        cluster
            .flynn(&["-a", "kept", "env", "set", "AFTER=1"])
            .map(drop)
    })?;
    let env = cluster.flynn_json(&["-a", "kept", "env"])?;
    ensure!(env["AFTER"] == "1", "the write after the full disk is gone");
    if let Some(n) = acknowledged {
        // The one that was refused may have been carried out all the same: its answer was lost, not its effect.
        let kept: i32 = env["N"].as_str().context("N is there")?.parse()?;
        ensure!(
            kept == n || kept == n + 1,
            "N is {kept}, though {n} was acknowledged"
        );
        ensure!(
            env["V"] == format!("{value}{kept}"),
            "V does not belong to N"
        );
    }
    Ok(())
}

/// A tiny tmpfs that is full, over a directory, until it is dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn full(over: &std::path::Path) -> Result<Self> {
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,nr_inodes=8", "tmpfs"])
            .arg(over)
            .output()?;
        checked(output, "mount")?;
        let mounted = Self(over.to_owned());
        // Every block and every inode.
        let _ = fs::write(over.join("filler"), vec![0_u8; 128 * 1024]);
        for n in 0..8 {
            let _ = fs::File::create(over.join(format!("filler{n}")));
        }
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn nix_is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n")
}

fn oversized_headers_and_smuggled_requests_are_refused_at_the_edge(shared: &Shared) -> Result<()> {
    use std::io::{Read as _, Write as _};
    let cluster = shared.cluster()?;
    let router = &cluster.bed.router_addrs()[0];
    let host = format!("controller.{}", cluster.bed.domain());
    let ask = |request: &str| -> Result<String> {
        let mut stream = std::net::TcpStream::connect(router)?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
        // The router may answer and close before it has read everything.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let huge = format!(
        "GET /ping HTTP/1.1\r\nHost: {host}\r\nX-Huge: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    says(&ask(&huge)?, &["HTTP/1.1 431"])?;
    let both = format!(
        "POST /ping HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    );
    says(&ask(&both)?, &["HTTP/1.1 400"])?;
    let chunk = format!(
        "POST /ping HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"
    );
    let answer = ask(&chunk)?;
    ensure!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}
