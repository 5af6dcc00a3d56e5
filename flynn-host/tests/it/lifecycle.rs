//! From placed to done.

use flynn_sched::{Check, CheckKind, JobSpec, Phase, RestartPolicy};

use crate::fixture::{Cell, sh, web};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_starts_is_registered_and_stops() {
    let cell = Cell::start().await;
    let check = Check {
        kind: CheckKind::Http {
            path: "/".to_owned(),
            status: 200,
        },
        ..Check::default()
    };
    let id = cell.place(web(Some(check))).await;
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
