//! Pushes with the real git and ssh, over loopback, to apps that then really run.

use flynn_controller::model::Release;
use flynn_receive::{
    Console,
    blob::{BlobStore, ListOptions},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::{
    process::PATIENCE,
    tiny::{Tiny, get},
    town::{Town, eventually},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_push_goes_live_and_says_so_as_the_original_does() {
    let town = Town::new().await;
    let app = town.app("hello").await;
    let checkout = town.checkout("python-web").await;
    let said = checkout.push("hello").await;
    said.ok().shows("* [new branch]").shows("main -> main");
    let lines = said.remote();
    let position = |text: &str| {
        lines
            .iter()
            .position(|line| line == text)
            .unwrap_or_else(|| panic!("no line {text:?} in {lines:#?}"))
    };
    let expected = [
        "-----> Building hello...",
        "-----> Python app detected",
        "-----> Process types: web",
        "-----> Creating release...",
        "=====> Scaling initial release to web=1",
        "-----> Waiting for initial web job to start...",
        "=====> Initial web job started",
        "=====> Application deployed",
        "=====> http://hello.flynn.local:8080/",
    ];
    let positions: Vec<_> = expected.iter().map(|line| position(line)).collect();
    assert!(positions.is_sorted(), "{lines:#?}");

    let port = town.port_of(&app, "web").await;
    let answer = get(port, "/there").await;
    assert!(answer.contains("Hello from python-web\n"), "{answer}");
    assert!(answer.contains("path /there"), "{answer}");

    let release = town.client.current_release("hello").await.unwrap().unwrap();
    assert_eq!(release.meta["git"], "true");
    let head = checkout.git_ok(&["rev-parse", "HEAD"]).await;
    assert_eq!(release.meta["git.commit"], head.trim());
    let service = release.processes["web"].ports[0].service.clone().unwrap();
    assert_eq!(service.name, "hello-web");
    let artifact = town.client.artifact(&release.artifacts[0]).await.unwrap();
    assert_eq!(
        artifact.uri,
        format!("blob:slugs/{}.tgz", artifact.hashes["sha256"])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_sample_apps_go_live_too() {
    let town = Town::new().await;
    for sample in ["node-web", "static-site"] {
        let app = town.app(sample).await;
        town.checkout(sample).await.push(sample).await.ok();
        let answer = get(town.port_of(&app, "web").await, "/").await;
        let hello = format!("Hello from {sample}");
        assert!(answer.contains(&hello), "{answer}");
    }

    let lines = town.app("lines").await;
    let said = town.checkout("tcp-echo").await.push("lines").await;
    said.ok().shows("Scaling initial release to echo=1");
    let port = town.port_of(&lines, "echo").await;
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut stream = BufReader::new(stream);
    stream.write_all(b"ping\n").await.unwrap();
    let mut line = String::new();
    timeout(PATIENCE, stream.read_line(&mut line))
        .await
        .unwrap()
        .unwrap();
    assert!(line.starts_with("ping (mini-"), "{line}");
    let release = town.client.current_release("lines").await.unwrap().unwrap();
    let service = release.processes["echo"].ports[0].service.clone().unwrap();
    assert_eq!(service.name, "lines-echo");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_push_is_deployed_and_keeps_the_environment_and_the_scale() {
    let tiny = Tiny::live().await;
    tiny.answers("version 1 setting None").await;

    // What `flynn env set` does.
    let client = &tiny.town.client;
    let current = tiny.release().await.unwrap();
    let mut env = (*current.env).clone();
    env.insert("SETTING".to_owned(), "kept".to_owned());
    let with_env = Release {
        id: String::new(),
        env: env.into(),
        ..current
    };
    let with_env = client.create_release(&with_env).await.unwrap();
    client.deploy("tiny", &with_env.id).await.unwrap();
    becomes_current(&tiny, &with_env).await;

    let said = tiny.push_with(&[("version", "2")]).await;
    said.ok().shows("Application deployed");
    let is_first = said.text.contains("Scaling initial release");
    assert!(!is_first, "{}", said.text);
    tiny.answers("version 2 setting kept").await;
}

async fn becomes_current(tiny: &Tiny, release: &Release) {
    eventually("the release is current", async || {
        tiny.release().await.unwrap().id == release.id
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_roll_back_the_same_commit_can_be_pushed_again() {
    let tiny = Tiny::live().await;
    let first = tiny.release().await.unwrap();
    tiny.push_with(&[("version", "2")]).await.ok();
    tiny.push().await.ok().shows("Everything up-to-date");

    tiny.town.client.deploy("tiny", &first.id).await.unwrap();
    becomes_current(&tiny, &first).await;
    tiny.push().await.ok().shows("Application deployed");
    tiny.answers("version 2 setting None").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_has_never_seen_the_app_takes_its_push() {
    let mut tiny = Tiny::live().await;
    let second = tiny.town.second_receiver(|builder| builder).await;
    tiny.checkout.at(second.addr);
    tiny.push_with(&[("version", "2")]).await.ok();
    // And back to the first, which has not seen the second commit.
    tiny.checkout.at(tiny.town.receiver.addr);
    tiny.push_with(&[("version", "3")]).await.ok();
    tiny.answers("version 3 setting None").await;
    second.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shallow_clone_can_be_pushed() {
    let tiny = Tiny::new().await;
    tiny.commit(&[("version", "2")]).await;
    let shallow = tiny.town.empty_checkout().await;
    let from = format!("file://{}", tiny.checkout.dir.display());
    let fetch = ["fetch", "-q", "--depth=1", &from, "main"];
    shallow.git_ok(&fetch).await;
    let checkout = ["checkout", "-q", "-B", "main", "FETCH_HEAD"];
    shallow.git_ok(&checkout).await;
    let said = shallow.push("tiny").await;
    said.ok().shows("Application deployed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_as_a_job_needs_no_secret_and_shows_its_output() {
    let town = Town::with_job_builds().await;
    let app = town.app("hello").await;
    let checkout = town.checkout("python-web").await;
    let said = checkout.push("hello").await;
    said.ok()
        .shows("-----> Python app detected")
        .shows("-----> Installing packages with pip")
        .shows("=====> Application deployed");
    assert!(!said.text.contains("##flynn-build"), "{}", said.text);
    assert!(
        get(town.port_of(&app, "web").await, "/")
            .await
            .contains("Hello from python-web")
    );

    // The cache came back, and the source did not stay.
    checkout.file("new", "file").commit("second").await;
    checkout
        .push("hello")
        .await
        .ok()
        .shows("requirements.txt is unchanged");
    let page = town
        .blobs
        .list(ListOptions::prefix("sources/"))
        .await
        .unwrap();
    assert!(page.blobs.is_empty(), "{page:?}");

    // A refusal comes through the job in its own words.
    checkout.file("Procfile", "\n").commit("bad").await;
    checkout
        .push("hello")
        .await
        .refused()
        .shows("remote:  !     Procfile has no process type");
}

#[tokio::test]
async fn a_console_nobody_reads_does_not_hold_up_the_work() {
    let (console, written) = Console::new();
    drop(written);
    for line in 0..10_000 {
        console.line(line).await;
    }
}
