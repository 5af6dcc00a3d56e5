use std::fs;

use flynn_discovery::{Instance, RegisterOptions, Registration, ServiceName};
use nix::sys::signal::Signal;

use crate::fixture::{Discovery, file, within};

async fn register(discovery: &Discovery, service: &str, id: &str) -> Registration {
    let service = ServiceName::parse(service).unwrap();
    let instance = Instance::new(id, format!("{id}:80"), "tcp").unwrap();
    let options = RegisterOptions::default();
    discovery
        .registry
        .register(&service, instance, options)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_program_runs_while_all_it_needs_has_a_leader() {
    let discovery = Discovery::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (started, stopped) = (dir.path().join("started"), dir.path().join("stopped"));
    let script = format!(
        "trap 'echo > {}; exit 0' TERM; echo $A $db > {}; while :; do sleep 0.05; done",
        stopped.display(),
        started.display()
    );
    let sdutil = discovery.sdutil(&["expose", "-d", "A:www", "-d", "db", "sh", "-c", &script]);
    let first = register(&discovery, "www", "w1").await;
    assert!(!started.exists(), "db has no leader yet");
    let db = register(&discovery, "db", "d1").await;
    assert_eq!(file(&started).await, "w1:80 d1:80\n");

    // Another leader alone changes nothing.
    let second = register(&discovery, "www", "w2").await;
    first.deregister().await.unwrap();
    fs::remove_file(&started).unwrap();
    // No leader does: it is asked to end, and started again with the new addresses.
    db.deregister().await.unwrap();
    file(&stopped).await;
    assert!(!started.exists());
    let db = register(&discovery, "db", "d2").await;
    assert_eq!(file(&started).await, "w2:80 d2:80\n");

    sdutil.signal(Signal::SIGTERM);
    assert_eq!(sdutil.outcome().await.status, 0, "the trap's status");
    drop((second, db));
}

#[tokio::test]
async fn a_program_that_does_not_end_is_killed() {
    let discovery = Discovery::start().await;
    let dir = tempfile::tempdir().unwrap();
    let started = dir.path().join("started");
    let script = format!(
        "trap '' TERM; echo $$ > {}; while :; do sleep 0.05; done",
        started.display()
    );
    let sdutil = discovery.sdutil(&["expose", "-d", "www", "sh", "-c", &script]);
    let www = register(&discovery, "www", "w1").await;
    let pid = file(&started).await;
    www.deregister().await.unwrap();
    let proc = format!("/proc/{}", pid.trim());
    within("the program to be killed", async {
        while std::path::Path::new(&proc).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    // It waits for a leader again; ended there, it says by which signal.
    sdutil.signal(Signal::SIGTERM);
    assert_eq!(sdutil.outcome().await.status, 143);
}

#[tokio::test]
async fn a_program_that_ends_by_itself_ends_expose_with_its_status() {
    let discovery = Discovery::start().await;
    let _www = register(&discovery, "www", "w1").await;
    let outcome = discovery
        .sdutil(&["expose", "-d", "www", "sh", "-c", "echo $www; exit 5"])
        .outcome()
        .await;
    assert_eq!(
        (outcome.status, &*outcome.stdout),
        (5, "w1:80\n"),
        "{outcome:?}"
    );
}
