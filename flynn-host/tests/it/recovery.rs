//! The daemon goes and comes back; jobs do not care.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use flynn_host::{
    Error, Host,
    host::{Drain, Shutdown},
    runtime::recording::RecordingRuntime,
};
use flynn_sched::{
    Cluster as _, ClusterState, HostId, HostLink, Job, JobId, JobSpec, JobStatus, LocalCluster,
    Membership, Phase, Resources, RestartPolicy,
};
use futures::stream::BoxStream;
use tokio::time::timeout;

use crate::fixture::{Cell, DEADLINE, eventually, sh, web};

const TICKS: &str = "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done";

fn ticks(lines: &[String]) -> Vec<u64> {
    lines
        .iter()
        .filter_map(|line| line.strip_prefix("tick ")?.parse().ok())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_stay_up_and_registered_while_the_daemon_restarts() {
    let mut cell = Cell::start().await;
    let id = cell.place(web(None)).await;
    cell.until_phase(&id, Phase::Up).await;
    let before = cell.until_instances("web", |i| i.len() == 1).await;
    let pid = cell.pid(&id);

    let host = cell.host.take().unwrap();
    timeout(DEADLINE, host.shutdown(Shutdown::LeaveJobs))
        .await
        .unwrap();
    assert_eq!(cell.pid(&id), pid, "it runs without a daemon");
    let between = cell.until_instances("web", |i| i.len() == 1).await;
    assert_eq!(between, before, "and its lease still holds");

    cell.start_host(|builder| builder).await;
    let handle = cell.host().handle().clone();
    let up = handle.wait_for(&id, |view| view.status.phase == Phase::Up);
    let view = timeout(DEADLINE, up).await.unwrap().unwrap();
    assert_eq!(view.status.restarts, 0);
    assert_eq!(cell.pid(&id), pid);
    // It is under the new daemon's care: it can be stopped, and is taken out of discovery.
    cell.stop(&id).await;
    cell.until_phase(&id, Phase::Done).await;
    cell.until_instances("web", <[_]>::is_empty).await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_drains_until_it_is_told_otherwise_whatever_becomes_of_its_daemon() {
    let mut cell = Cell::start().await;
    let id = HostId::parse("h1").unwrap();
    let handle = cell.host().handle().clone();
    assert_eq!(handle.drain(), None);
    let drain = Drain { by_ms: Some(7) };
    handle.set_drain(Some(drain)).await.unwrap();
    let drains = |state: &ClusterState| {
        let host = &state.host(&id).unwrap().host;
        host.is_draining && host.drain_by_ms == Some(7)
    };
    cell.until_state("the cell to know", drains).await;

    let host = cell.host.take().unwrap();
    timeout(DEADLINE, host.shutdown(Shutdown::LeaveJobs))
        .await
        .unwrap();
    cell.start_host(|builder| builder).await;
    let handle = cell.host().handle().clone();
    assert_eq!(handle.drain(), Some(drain));
    assert!(drains(&cell.cluster.snapshot().await.unwrap()));

    // Ended twice, as by two operators.
    for _ in 0..2 {
        handle.set_drain(None).await.unwrap();
    }
    cell.until_state("the cell to know", |state| {
        let host = &state.host(&id).unwrap().host;
        !host.is_draining && host.drain_by_ms.is_none()
    })
    .await;
    drop(cell.host.take());
    cell.start_host(|builder| builder).await;
    assert_eq!(cell.host().handle().drain(), None);
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_while_the_daemon_is_away_is_known_afterwards() {
    let mut cell = Cell::start().await;
    let go = cell.dir.path().join("go");
    let script = format!(
        "echo ready; while ! [ -e {} ]; do sleep 0.02; done; echo last words; exit 6",
        go.display()
    );
    let once = JobSpec {
        restart: RestartPolicy::Never,
        ..sh(&script)
    };
    let once = cell.place(once).await;
    let always = cell.place(sh(&script)).await;
    cell.until_logged(&once, "ready").await;
    cell.until_logged(&always, "ready").await;
    drop(cell.host.take());
    std::fs::write(&go, "").unwrap();
    for id in [&once, &always] {
        let exit = cell
            .dir
            .path()
            .join("run")
            .join(id.as_str())
            .join("exit.json");
        eventually("it has ended", async || exit.exists().then_some(())).await;
    }
    cell.start_host(|builder| builder).await;
    let status = cell.until_phase(&once, Phase::Crashed).await;
    assert_eq!(status.exit_status, Some(6));
    cell.until_logged(&once, "last words").await;
    cell.until(&always, "started again", |s| s.restarts >= 1)
        .await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_longer_wanted_when_the_daemon_is_back_is_stopped() {
    let mut cell = Cell::start().await;
    let id = cell.place(sh("exec sleep 1000")).await;
    cell.until_phase(&id, Phase::Up).await;
    drop(cell.host.take());
    cell.stop(&id).await;
    cell.start_host(|builder| builder).await;
    cell.until_phase(&id, Phase::Done).await;
    cell.end().await;
}

/// Not a test by itself: the daemon that [`a_daemon_killed_with_9_leaves_its_jobs_running`] kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_to_be_killed() {
    let Ok(dir) = std::env::var("FLYNN_TEST_DAEMON_DIR") else {
        return;
    };
    let mut cell = Cell::without_host();
    let host = cell.builder_in(dir.as_ref()).start().await.unwrap();
    host.joined().await.unwrap();
    cell.host = Some(host);
    let id = cell.place(sh(TICKS)).await;
    cell.until_phase(&id, Phase::Up).await;
    println!("\nup {id}");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_with_9_leaves_its_jobs_running() {
    let mut cell = Cell::without_host();
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "recovery::daemon_to_be_killed", "--nocapture"])
        .env("FLYNN_TEST_DAEMON_DIR", cell.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(daemon.stdout.take().unwrap());
    let id = tokio::task::spawn_blocking(move || {
        stdout
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("up ").map(str::to_owned))
    })
    .await
    .unwrap();
    let id = JobId::parse(id.expect("the daemon says that the job is up")).unwrap();
    let pid = cell.pid(&id);
    daemon.kill().unwrap(); // SIGKILL
    daemon.wait().unwrap();

    let at_death = ticks(&cell.log(&id).await).len();
    eventually("the log goes on without a daemon", async || {
        (ticks(&cell.log(&id).await).len() > at_death + 5).then_some(())
    })
    .await;
    // The cell of the daemon died with it; in this one the job is placed as it was.
    cell.place_as(&id, sh(TICKS)).await;
    cell.start_host(|builder| builder).await;
    let status = cell.until_phase(&id, Phase::Up).await;
    assert_eq!(status.restarts, 0);
    assert_eq!(cell.pid(&id), pid, "it is the same process");
    let seen = ticks(&cell.log(&id).await);
    let expected: Vec<u64> = (0..seen.len() as u64).collect();
    assert_eq!(seen, expected, "no line is missing or there twice");
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_shim_is_killed_is_killed_too_and_started_again() {
    let cell = Cell::start().await;
    let mut spec = sh("echo ready; exec sleep 1000");
    spec.limit.memory_bytes = 256 << 20;
    let id = cell.place(spec).await;
    cell.until_logged(&id, "ready").await;
    cell.until_phase(&id, Phase::Up).await;
    let pid = cell.pid(&id);
    let cgroup = cell.cgroup(&id);
    nix::sys::signal::kill(cell.shim_pid(&id), nix::sys::signal::SIGKILL).unwrap();
    cell.until(&id, "started again", |s| {
        s.restarts == 1 && s.phase == Phase::Up
    })
    .await;
    assert_ne!(cell.pid(&id), pid);
    let old = format!("/proc/{pid}/cmdline");
    let is_alive = std::fs::read(old).is_ok_and(|cmdline| cmdline.starts_with(b"sleep"));
    assert!(!is_alive, "there are two copies");
    if let Some(cgroup) = cgroup {
        assert!(!cgroup.exists(), "{} is left", cgroup.display());
    }
    let cgroup = cell.cgroup(&id);
    cell.end().await;
    assert!(cgroup.is_none_or(|cgroup| !cgroup.exists()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_daemon_works_in_a_directory_at_a_time() {
    let cell = Cell::start().await;
    let error = cell.builder().start().await.unwrap_err();
    assert!(matches!(error, Error::DirTaken { .. }), "{error}");
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_host_with_the_same_id_is_refused_in_one_sentence() {
    let cell = Cell::start().await;
    let dir = tempfile::tempdir().unwrap();
    let second = Host::builder(RecordingRuntime::new())
        .id("h1")
        .link(cell.cluster.clone())
        .data_dir(dir.path())
        .with_addr([127, 0, 0, 2].into())
        .start()
        .await
        .unwrap();
    let error = timeout(DEADLINE, second.joined())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("host id h1 is taken by the host at 127.0.0.1"),
        "{error}"
    );
    let error = timeout(DEADLINE, second.run_until(std::future::pending()))
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, Error::Ended { .. }), "{error}");
    // The first is not disturbed.
    let id = cell.place(sh("exec sleep 1000")).await;
    cell.until_phase(&id, Phase::Up).await;
    cell.end().await;
}

/// A link that can be cut.
#[derive(Debug, Clone)]
struct Cut {
    inner: LocalCluster,
    is_cut: Arc<AtomicBool>,
}

#[async_trait]
impl HostLink for Cut {
    async fn join(&self, host: flynn_sched::Host) -> flynn_sched::Result<Box<dyn Membership>> {
        self.inner.join(host).await
    }

    fn assignments(&self, host: &HostId) -> BoxStream<'static, flynn_sched::Result<Vec<Arc<Job>>>> {
        self.inner.assignments(host)
    }

    async fn report(
        &self,
        host: &HostId,
        statuses: Vec<(JobId, JobStatus)>,
    ) -> flynn_sched::Result<()> {
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(flynn_sched::Error::Store {
                operation: "reporting",
                is_transient: true,
                source: "cut".into(),
            });
        }
        self.inner.report(host, statuses).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_on_without_the_store_and_their_last_status_is_told_when_it_is_back() {
    let mut cell = Cell::without_host();
    let is_cut = Arc::new(AtomicBool::new(false));
    let link = Cut {
        inner: cell.cluster.clone(),
        is_cut: Arc::clone(&is_cut),
    };
    cell.start_host(|builder| builder.link(link)).await;
    let id = cell.place(sh("echo ready; exec sleep 1000")).await;
    cell.until_phase(&id, Phase::Up).await;
    is_cut.store(true, Ordering::SeqCst);
    nix::sys::signal::kill(cell.pid(&id), nix::sys::signal::SIGTERM).unwrap();
    let handle = cell.host().handle().clone();
    let again = handle.wait_for(&id, |view| {
        view.status.restarts == 1 && view.status.phase == Phase::Up
    });
    timeout(DEADLINE, again).await.unwrap().unwrap();
    let known = cell.cluster.state();
    assert_eq!(known.job(&id).unwrap().status.restarts, 0);
    is_cut.store(false, Ordering::SeqCst);
    cell.until(&id, "known as started again", |s| {
        s.restarts == 1 && s.phase == Phase::Up
    })
    .await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_the_job_and_not_the_daemon() {
    let mut cell = Cell::without_host();
    let disk = cell.dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(&disk)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no small file system could be mounted (this needs root)");
        return;
    }
    let unmount = Unmount(disk.clone());
    let host = cell
        .builder_in(&disk)
        .with_capacity(Resources::default())
        .start()
        .await
        .unwrap();
    timeout(DEADLINE, host.joined()).await.unwrap().unwrap();
    cell.host = Some(host);
    let early = cell.place(sh("echo ready; exec sleep 1000")).await;
    cell.until_phase(&early, Phase::Up).await;

    let ballast = disk.join("ballast");
    let filled = std::fs::write(&ballast, vec![0; 8 << 20]);
    assert!(filled.is_err(), "the disk is full");
    let id = cell.place(sh("exec sleep 1000")).await;
    let status = cell.until_phase(&id, Phase::Failed).await;
    let error = status.error.unwrap();
    let named = format!("no space is left under {}", disk.display());
    assert!(error.starts_with(&named), "{error}");

    // What runs goes on; with space, so does the rest.
    assert_eq!(
        cell.cluster.state().job(&early).unwrap().status.phase,
        Phase::Up
    );
    std::fs::remove_file(ballast).unwrap();
    let id = cell.place(sh("exec sleep 1000")).await;
    cell.until_phase(&id, Phase::Up).await;
    let host = cell.host.take().unwrap();
    timeout(DEADLINE, host.shutdown(Shutdown::StopJobs))
        .await
        .unwrap();
    drop(unmount);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
