//! From placed to done, and all that can be in between.

use std::time::Duration;

use flynn_host::log::FileLogs;
use flynn_sched::{Artifact, Check, CheckKind, JobSpec, Phase, Port, RestartPolicy, Volume};

use crate::fixture::{Cell, eventually, sh, web};

fn quick_check() -> Check {
    Check {
        kind: CheckKind::Http {
            path: "/".to_owned(),
            status: 200,
        },
        interval: Duration::from_millis(100),
        threshold: 1,
        ..Check::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_starts_is_registered_and_stops() {
    let cell = Cell::start().await;
    let id = cell.place(web(Some(quick_check()))).await;
    let status = cell.until_phase(&id, Phase::Up).await;
    let instances = cell.until_instances("web", |i| i.len() == 1).await;
    let instance = &instances[0];
    assert_eq!(instance.addr, format!("127.0.0.1:{}", status.ports[0]));
    assert_eq!(instance.proto, "http");
    assert_eq!(instance.attributes["FLYNN_APP_ID"], "app-1");
    assert_eq!(instance.attributes["FLYNN_PROCESS_TYPE"], "web");
    assert_eq!(instance.attributes["FLYNN_JOB_ID"], format!("h1-{id}"));

    cell.stop(&id).await;
    cell.until_phase(&id, Phase::Done).await;
    cell.until_instances("web", <[_]>::is_empty).await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_runs_to_completion_is_done_with_its_output_kept() {
    let cell = Cell::start().await;
    let spec = JobSpec {
        restart: RestartPolicy::Never,
        ..sh("echo out; echo err >&2; printf partial")
    };
    let id = cell.place(spec).await;
    let status = cell.until_phase(&id, Phase::Done).await;
    assert_eq!((status.exit_status, status.error), (Some(0), None));
    let lines = cell.log(&id).await;
    for line in ["out", "err", "partial"] {
        assert!(
            lines.iter().any(|l| l == line),
            "{line} is not in {lines:?}"
        );
    }
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_keeps_crashing_is_seen_to_and_says_why() {
    let cell = Cell::start().await;
    let id = cell.place(sh("echo broken >&2; exit 3")).await;
    let status = cell
        .until(&id, "in a crash loop", |s| {
            s.restarts >= 2 && s.phase == Phase::Restarting
        })
        .await;
    assert_eq!(status.exit_status, Some(3));
    let error = status.error.unwrap();
    assert!(
        error.starts_with("exited with status 3 after 0."),
        "{error}"
    );
    cell.until_logged(&id, "started again in").await;
    // It can be stopped between two runs.
    cell.stop(&id).await;
    cell.until_phase(&id, Phase::Done).await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_does_not_exist_is_named() {
    let cell = Cell::start().await;
    let spec = JobSpec {
        args: vec!["no-such-command".to_owned()],
        restart: RestartPolicy::Never,
        ..JobSpec::default()
    };
    let id = cell.place(spec).await;
    let status = cell.until_phase(&id, Phase::Crashed).await;
    assert_eq!(
        status.error.unwrap(),
        "could not start \"no-such-command\": no such file or directory"
    );
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_never_opened_ends_the_start() {
    let cell = Cell::start().await;
    let check = Check {
        start_timeout: Duration::from_millis(700),
        ..Check::default()
    };
    let spec = JobSpec {
        args: sh("exec sleep 1000").args,
        ..web(Some(check))
    };
    let id = cell.place(spec).await;
    let status = cell.until_phase(&id, Phase::Restarting).await;
    let port = status.ports[0];
    assert_eq!(
        status.error.unwrap(),
        format!("never opened port {port} within 0.7 s")
    );
    cell.until_instances("web", <[_]>::is_empty).await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_stops_answering_is_started_again_on_the_same_port() {
    let cell = Cell::start().await;
    let id = cell.place(web(Some(quick_check()))).await;
    let before = cell.until_phase(&id, Phase::Up).await;
    // It holds its port and says nothing.
    let pid = cell.pid(&id);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).unwrap();
    let after = cell
        .until(&id, "up again", |s| s.restarts == 1 && s.phase == Phase::Up)
        .await;
    assert_eq!(before.ports, after.ports);
    assert_ne!(cell.pid(&id), pid);
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_given_its_grace() {
    let cell = Cell::start().await;
    let script =
        "trap 'sleep 0.5; echo tidied up; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let id = cell.place(sh(script)).await;
    cell.until_logged(&id, "ready").await;
    cell.stop(&id).await;
    let status = cell.until_phase(&id, Phase::Done).await;
    assert_eq!(status.exit_status, Some(0));
    cell.until_logged(&id, "tidied up").await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_ignores_its_grace_is_killed_with_all_its_processes() {
    let cell = Cell::start().await;
    let spec = JobSpec {
        stop_grace: Some(Duration::from_millis(300)),
        ..sh("trap '' TERM; \
              setsid sh -c 'trap \"\" TERM; echo child $$; while :; do sleep 0.05; done' & \
              echo ready; while :; do sleep 0.05; done")
    };
    let id = cell.place(spec).await;
    let child = cell.until_logged(&id, "child").await;
    let child: u32 = child.split(' ').next_back().unwrap().parse().unwrap();
    cell.until_logged(&id, "ready").await;
    cell.stop(&id).await;
    let status = cell.until_phase(&id, Phase::Done).await;
    assert_eq!(status.exit_status, Some(137));
    cell.until_logged(&id, "did not end within 0.3 s of SIGTERM: killed")
        .await;
    assert!(!std::path::Path::new(&format!("/proc/{child}")).exists());
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chatty_jobs_log_is_rotated_and_its_newest_lines_stay() {
    let cell = Cell::without_host();
    let logs = FileLogs::new(cell.dir.path().join("logs")).with_limits(3, 10_000);
    let mut cell = cell;
    cell.start_host(|builder| builder.with_logs(logs)).await;
    let spec = JobSpec {
        restart: RestartPolicy::Never,
        ..sh("i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done")
    };
    let id = cell.place(spec).await;
    cell.until_phase(&id, Phase::Done).await;
    let lines = cell.log(&id).await;
    assert!(lines.iter().any(|l| l == "line 4999"));
    assert!(!lines.iter().any(|l| l == "line 0"));
    let dir = cell.dir.path().join("logs").join(id.as_str());
    let size: u64 = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!((10_000..31_000).contains(&size), "{size}");
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_a_log_leaves_none() {
    let cell = Cell::start().await;
    let mut spec = JobSpec {
        restart: RestartPolicy::Never,
        ..sh("echo secret")
    };
    spec.metadata
        .insert("flynn-host.disable_log".to_owned(), "true".to_owned());
    let id = cell.place(spec).await;
    cell.until_phase(&id, Phase::Done).await;
    let lines = cell.log(&id).await;
    assert!(!lines.iter().any(|l| l.contains("secret")), "{lines:?}");
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_what_its_artifact_holds_and_anew_each_time() {
    let cell = Cell::start().await;
    let slug = cell.dir.path().join("slug.tgz");
    let gzip = flate2::write::GzEncoder::new(
        std::fs::File::create(&slug).unwrap(),
        flate2::Compression::fast(),
    );
    let mut tar = tar::Builder::new(gzip);
    let script = b"#!/bin/sh\nls; touch left-over; exit 1\n";
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(script.len() as u64);
    tar.append_data(&mut header, "bin/run", &script[..])
        .unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    let spec = JobSpec {
        args: vec!["bin/run".to_owned()],
        artifacts: vec![Artifact {
            uri: format!("file://{}", slug.display()),
            sha256: None,
            size: None,
        }],
        ..JobSpec::default()
    };
    let id = cell.place(spec).await;
    cell.until(&id, "started again", |s| s.restarts >= 2).await;
    let lines = cell.log(&id).await;
    assert!(lines.iter().any(|l| l == "bin"), "{lines:?}");
    assert!(!lines.iter().any(|l| l == "left-over"), "{lines:?}");
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_that_is_missing_is_named() {
    let cell = Cell::start().await;
    let spec = JobSpec {
        artifacts: vec![Artifact {
            uri: "file:///no/such/slug.tgz".to_owned(),
            sha256: None,
            size: None,
        }],
        ..sh("exit 0")
    };
    let id = cell.place(spec).await;
    let status = cell.until_phase(&id, Phase::Failed).await;
    let error = status.error.unwrap();
    assert!(
        error.starts_with("artifact file:///no/such/slug.tgz: "),
        "{error}"
    );
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_outlives_its_job() {
    let cell = Cell::start().await;
    let spec = |script: &str| JobSpec {
        restart: RestartPolicy::Never,
        volumes: vec![Volume {
            name: "my-data".to_owned(),
            owner: "app-1".to_owned(),
        }],
        ..sh(script)
    };
    let id = cell
        .place(spec("echo kept > $FLYNN_VOLUME_MY_DATA/file"))
        .await;
    cell.until_phase(&id, Phase::Done).await;
    let id = cell.place(spec("cat $FLYNN_VOLUME_MY_DATA/file")).await;
    cell.until_phase(&id, Phase::Done).await;
    cell.until_logged(&id, "kept").await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fixed_port_that_is_taken_is_named_and_waited_for() {
    let cell = Cell::start().await;
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let spec = JobSpec {
        ports: vec![Port {
            port: Some(port),
            ..Port::default()
        }],
        ..sh("exec sleep 1000")
    };
    let id = cell.place(spec).await;
    let status = cell.until_phase(&id, Phase::Restarting).await;
    assert_eq!(
        status.error.unwrap(),
        format!("port {port} is in use on 127.0.0.1")
    );
    drop(other);
    let status = cell.until_phase(&id, Phase::Up).await;
    assert_eq!(status.ports, [port]);
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_limit_holds_where_the_system_lets_us() {
    let cell = Cell::start().await;
    let mut spec = JobSpec {
        restart: RestartPolicy::Never,
        ..sh("exec python3 -c 'x = bytearray(200 * 1024 * 1024); print(len(x))'")
    };
    spec.limit.memory_bytes = 64 << 20;
    let id = cell.place(spec).await;
    let status = cell.until_phase(&id, Phase::Crashed).await;
    assert_ne!(status.exit_status, Some(0));
    // In a cgroup the kernel kills the process; without one Python is refused the memory and says so.
    let error = status.error.unwrap();
    let is_killed = error.contains("it used more memory than its limit");
    let is_refused = cell.log(&id).await.iter().any(|line| line == "MemoryError");
    assert!(is_killed || is_refused, "{error}");
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_job_that_is_over_stays_but_its_log() {
    let cell = Cell::start().await;
    let id = cell.place(sh("exec sleep 1000")).await;
    cell.until_phase(&id, Phase::Up).await;
    cell.stop(&id).await;
    cell.until_phase(&id, Phase::Done).await;
    for dir in ["jobs", "run"] {
        let path = cell.dir.path().join(dir).join(id.as_str());
        eventually("its directories are gone", async || {
            (!path.exists()).then_some(())
        })
        .await;
    }
    assert!(!cell.log(&id).await.is_empty());
    cell.end().await;
}
