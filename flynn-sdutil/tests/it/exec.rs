use std::{fs, path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Uid,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Discovery, Sdutil, file, free_port, within};

/// Arguments that run redis on `port`, gated by a check, with nothing on disk.
fn redis<'a>(port: &'a str, target: &'a str, dir: &'a Path) -> Vec<&'a str> {
    vec![
        "exec",
        "-s",
        target,
        "-h",
        "127.0.0.1",
        "--check",
        "tcp",
        "-a",
        "kind=redis",
        "redis-server",
        "--port",
        port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        dir.to_str().unwrap(),
    ]
}

async fn running_redis(discovery: &Discovery, dir: &Path) -> (Sdutil, u16) {
    let port = free_port();
    let (text, target) = (port.to_string(), format!("redis:{port}"));
    let sdutil = discovery.sdutil(&redis(&text, &target, dir));
    let instances = discovery.wait_for("redis", 1).await;
    assert_eq!(instances[0].addr, format!("127.0.0.1:{port}"));
    assert_eq!(instances[0].attributes["kind"], "redis");
    (sdutil, port)
}

#[tokio::test]
async fn redis_is_found_when_it_answers_and_gone_when_it_is_killed() {
    let discovery = Discovery::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (sdutil, port) = running_redis(&discovery, dir.path()).await;

    let found = discovery
        .sdutil(&["services", "-1", "redis"])
        .outcome()
        .await;
    assert_eq!(
        (found.status, found.stdout),
        (0, format!("127.0.0.1:{port}\n"))
    );
    // What was found is redis indeed.
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    stream.write_all(b"PING\r\n").await.unwrap();
    let mut answer = [0; 7];
    within("redis to answer", stream.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"+PONG\r\n");

    kill(sdutil.child().await, Signal::SIGKILL).unwrap();
    assert_eq!(sdutil.outcome().await.status, 137);
    // Not after the lease's ten seconds: it was out before sdutil ended.
    assert!(discovery.instances("redis").await.is_empty());
}

#[tokio::test]
async fn redis_gets_the_signal_to_end_and_its_status_is_ours() {
    let discovery = Discovery::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (sdutil, _) = running_redis(&discovery, dir.path()).await;
    sdutil.signal(Signal::SIGTERM);
    let outcome = sdutil.outcome().await;
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(outcome.stdout.contains("Received SIGTERM"), "{outcome:?}");
    assert!(discovery.instances("redis").await.is_empty());
}

/// A configuration for nginx that needs no rights and writes only below `dir`.
fn nginx_conf(dir: &Path, port: u16) -> String {
    let path = dir.join("nginx.conf");
    // As root it would change to a user who may not read the directory.
    let user = if Uid::effective().is_root() {
        "user root;"
    } else {
        ""
    };
    let conf = format!(
        "daemon off; {user} worker_processes 1; pid {d}/nginx.pid; error_log stderr;\n\
         events {{}}\n\
         http {{\n\
           access_log {d}/access.log;\n\
           client_body_temp_path {d}/a; proxy_temp_path {d}/b; fastcgi_temp_path {d}/c;\n\
           uwsgi_temp_path {d}/e; scgi_temp_path {d}/f;\n\
           server {{ listen 127.0.0.1:{port}; root {d}/www; }}\n\
         }}\n",
        d = dir.display()
    );
    fs::create_dir(dir.join("www")).unwrap();
    fs::write(&path, conf).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn nginx_is_registered_only_while_its_page_is_there() {
    let discovery = Discovery::start().await;
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let conf = nginx_conf(dir.path(), port);
    let (www, tls) = (format!("www:{port}"), format!("www-too:{port}"));
    let sdutil = discovery.sdutil(&[
        "exec",
        "-s",
        &www,
        "-s",
        &tls,
        "-i",
        "lo",
        "--check",
        "http:/health",
        "nginx",
        "-c",
        &conf,
    ]);
    // It answers, but not as it should: both services have been checked, and more than once.
    let log = dir.path().join("access.log");
    within("some checks", async {
        while fs::read_to_string(&log).unwrap_or_default().lines().count() < 6 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(discovery.instances("www").await.is_empty());

    let page = dir.path().join("www/health");
    fs::write(&page, "ok").unwrap();
    discovery.wait_for("www", 1).await;
    discovery.wait_for("www-too", 1).await;
    fs::remove_file(&page).unwrap();
    discovery.wait_for("www", 0).await;
    discovery.wait_for("www-too", 0).await;
    fs::write(&page, "ok").unwrap();
    discovery.wait_for("www", 1).await;

    sdutil.signal(Signal::SIGQUIT); // nginx: end when all requests are answered
    let outcome = sdutil.outcome().await;
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(discovery.instances("www").await.is_empty());
}

#[tokio::test]
async fn both_forms_of_exec_pass_all_arguments_and_the_exit_status() {
    let discovery = Discovery::start().await;
    for form in [&["exec", "-s", "www:8080"][..], &["exec", "www:8080"]] {
        // One argument after the command was lost by the original.
        let one = [form, &["echo", "one"]].concat();
        let outcome = discovery.sdutil(&one).outcome().await;
        assert_eq!(
            (outcome.status, &*outcome.stdout),
            (0, "one\n"),
            "{outcome:?}"
        );
        let flags = [form, &["sh", "-c", "echo $0 $1; exit 7", "-s", "-h"]].concat();
        let outcome = discovery.sdutil(&flags).outcome().await;
        assert_eq!(
            (outcome.status, &*outcome.stdout),
            (7, "-s -h\n"),
            "{outcome:?}"
        );
    }
    assert!(discovery.instances("www").await.is_empty());
}

#[tokio::test]
async fn every_signal_is_passed_on() {
    let discovery = Discovery::start().await;
    let dir = tempfile::tempdir().unwrap();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGQUIT,
    ] {
        let name = &signal.as_str()[3..];
        let ready = dir.path().join(name);
        let script = format!(
            "trap 'exit 42' {name}; echo > {}; while :; do sleep 0.05; done",
            ready.display()
        );
        let sdutil = discovery.sdutil(&["exec", "www:8080", "sh", "-c", &script]);
        file(&ready).await;
        sdutil.signal(signal);
        assert_eq!(sdutil.outcome().await.status, 42, "{signal}");
    }
}

#[tokio::test]
async fn a_shell_check_decides_too() {
    let discovery = Discovery::start().await;
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("fit");
    let check = format!("exec:test -e {}", flag.display());
    let sdutil = discovery.sdutil(&["exec", "--check", &check, "www:8080", "sleep", "60"]);
    sdutil.child().await;
    assert!(discovery.instances("www").await.is_empty());
    fs::write(&flag, "").unwrap();
    discovery.wait_for("www", 1).await;
    sdutil.signal(Signal::SIGTERM);
    assert_eq!(sdutil.outcome().await.status, 143);
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_one_sentence() {
    let discovery = Discovery::start().await;
    let outcome = discovery
        .sdutil(&["exec", "www:8080", "no-such-program"])
        .outcome()
        .await;
    assert_eq!(outcome.status, 127);
    assert_eq!(
        outcome.stderr,
        "sdutil: cannot start no-such-program: No such file or directory (os error 2)\n"
    );
    assert!(discovery.instances("www").await.is_empty());
}

#[tokio::test]
async fn a_refused_token_stops_the_program() {
    let discovery = Discovery::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "wrong\n").unwrap();
    let token = token.to_str().unwrap();
    let outcome = discovery
        .sdutil(&["exec", "--token-file", token, "www:8080", "sleep", "60"])
        .outcome()
        .await;
    assert_eq!(outcome.status, 1);
    assert!(outcome.stderr.contains("refused the key"), "{outcome:?}");
    assert!(!outcome.stderr.contains("wrong"), "the key is not repeated");
}

#[tokio::test]
async fn a_server_outlives_a_discovery_service_that_is_away() {
    let discovery = Discovery::start().await;
    let dead = format!("127.0.0.1:{}", free_port());
    let both = format!("{dead},{}", discovery.url);
    // One of two is dead: it is passed over.
    let sdutil = discovery.sdutil(&["--discoverd", &both, "exec", "www:8080", "sleep", "60"]);
    discovery.wait_for("www", 1).await;
    sdutil.signal(Signal::SIGTERM);
    assert_eq!(sdutil.outcome().await.status, 143);
    // Both are: the program runs all the same.
    let outcome = discovery
        .sdutil(&["--discoverd", &dead, "exec", "www:8080", "echo", "served"])
        .outcome()
        .await;
    assert_eq!((outcome.status, &*outcome.stdout), (0, "served\n"));
}
