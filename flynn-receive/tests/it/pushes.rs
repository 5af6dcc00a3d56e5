//! Pushes with the real git and ssh, over loopback, to apps that then really run.

use std::fs;

use flynn_controller::model::Release;
use flynn_receive::{
    Console,
    blob::{BlobStore, ListOptions},
    slug::Limits,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::{
    process::PATIENCE,
    town::{Town, eventually, own_buildpack},
};

async fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    answer
}

/// An app that needs no package: quick to build, listens at once.
const TINY: &str = "#!/usr/bin/env python3
import http.server, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f\"version {open('version').read()} setting {os.environ.get('SETTING')}\".encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Answer).serve_forever()
";

async fn tiny(town: &Town) -> crate::town::Checkout {
    let checkout = town.empty_checkout().await;
    checkout
        .file("server", TINY)
        .file("Procfile", "web: ./server\n")
        .file("version", "1");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(checkout.dir.join("server"), mode).unwrap();
    checkout.commit("first").await;
    checkout
}

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
    let node = town.app("node").await;
    town.checkout("node-web").await.push("node").await.ok();
    assert!(
        get(town.port_of(&node, "web").await, "/")
            .await
            .contains("Hello from node-web")
    );

    let site = town.app("site").await;
    town.checkout("static-site").await.push("site").await.ok();
    assert!(
        get(town.port_of(&site, "web").await, "/")
            .await
            .contains("Hello from static-site")
    );

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
    let town = Town::new().await;
    let app = town.app("tiny").await;
    let checkout = tiny(&town).await;
    checkout.push("tiny").await.ok();
    assert!(
        get(town.port_of(&app, "web").await, "/")
            .await
            .ends_with("version 1 setting None")
    );

    // What `flynn env set` does.
    let current = town.client.current_release("tiny").await.unwrap().unwrap();
    let mut env = (*current.env).clone();
    env.insert("SETTING".to_owned(), "kept".to_owned());
    let with_env = Release {
        id: String::new(),
        env: env.into(),
        ..current
    };
    let with_env = town.client.create_release(&with_env).await.unwrap();
    town.client.deploy("tiny", &with_env.id).await.unwrap();
    eventually("the release with the setting is current", async || {
        let current = town.client.current_release("tiny").await.unwrap().unwrap();
        current.id == with_env.id
    })
    .await;

    checkout.file("version", "2").commit("second").await;
    let said = checkout.push("tiny").await;
    said.ok().shows("Application deployed");
    assert!(
        !said.text.contains("Scaling initial release"),
        "{}",
        said.text
    );
    assert!(
        get(town.port_of(&app, "web").await, "/")
            .await
            .ends_with("version 2 setting kept")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_told_what_to_do_and_a_new_key_works_at_once() {
    let town = Town::new().await;
    town.app("tiny").await;
    let mut checkout = tiny(&town).await;
    town.make_key("other").await;
    checkout.key = town.key_path("other");
    let said = checkout.push("tiny").await;
    said.refused()
        .shows("flynn: your key is not known here; add it with `flynn key add` and push again")
        .shows("Permission denied");
    town.know_key("other").await;
    checkout.push("tiny").await.ok();

    // Without any key at all.
    checkout.key = town.dir.path().join("no-such-key");
    let said = checkout.push("tiny").await;
    said.refused().shows("flynn: pushing needs an SSH key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_pushed_to_is_refused_in_a_sentence() {
    let town = Town::new().await;
    let checkout = tiny(&town).await;
    checkout
        .push("nothing")
        .await
        .refused()
        .shows("flynn: app nothing does not exist; create it with `flynn create nothing`\n");

    town.app("gone").await;
    checkout.push("gone").await.ok();
    town.client.delete_app("gone").await.unwrap();
    eventually("the app is deleted", async || {
        town.client.app("gone").await.is_err()
    })
    .await;
    checkout.file("version", "2").commit("second").await;
    checkout
        .push("gone")
        .await
        .refused()
        .shows("flynn: app gone does not exist; create it with `flynn create gone`\n");

    // A name that is none, as a path would be.
    checkout
        .push("../../etc")
        .await
        .refused()
        .shows("does not exist");
    // A new app of the old name begins anew.
    town.app("gone").await;
    checkout
        .push("gone")
        .await
        .ok()
        .shows("Initial web job started");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_shell_and_nothing_to_fetch() {
    let town = Town::new().await;
    town.app("tiny").await;
    let checkout = tiny(&town).await;
    let no_shell = "flynn: there is no shell here, only `git push`";
    checkout.ssh(&[]).await.refused().shows(no_shell);
    checkout.ssh(&["ls", "/"]).await.refused().shows(no_shell);
    checkout
        .ssh(&["git-receive-pack 'tiny.git'; id"])
        .await
        .refused()
        .shows(no_shell);
    checkout
        .git(&["ls-remote", &checkout.url("tiny")])
        .await
        .refused()
        .shows("only `git push` works");
    // Nor a way around: forwarding, and subsystems.
    let said = checkout.ssh(&["-s", "sftp"]).await;
    said.refused();
    let said = checkout
        .ssh(&[
            "-o",
            "ExitOnForwardFailure=yes",
            "-R",
            "0:127.0.0.1:1",
            "ls",
        ])
        .await;
    said.refused();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_main_or_master_is_deployed_and_not_deleted() {
    let town = Town::new().await;
    let app = town.app("tiny").await;
    let checkout = tiny(&town).await;
    let url = checkout.url("tiny");
    let said = checkout.git(&["push", &url, "main:feature"]).await;
    said.refused()
        .shows("feature is not deployed, only main or master is: push it as `git push <remote> feature:main`")
        .shows("[remote rejected]");
    checkout.git_ok(&["tag", "v1"]).await;
    let said = checkout.git(&["push", &url, "main", "v1"]).await;
    said.refused().shows("v1 is not deployed");
    assert!(town.client.current_release("tiny").await.unwrap().is_none());

    checkout.git(&["push", &url, "main:master"]).await.ok();
    let port = town.port_of(&app, "web").await;
    let said = checkout.git(&["push", &url, ":master"]).await;
    said.refused().shows("master cannot be deleted here");
    assert!(get(port, "/").await.contains("version 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_build_rejects_the_push_and_the_mended_one_goes_through() {
    let town = Town::new().await;
    town.app("tiny").await;
    let checkout = tiny(&town).await;
    checkout.file("Procfile", "# nothing\n").commit("bad").await;
    let said = checkout.push("tiny").await;
    said.refused()
        .shows("remote:  !     Procfile has no process type; write a line such as `web: ./server`")
        .shows("pre-receive hook declined");
    // The same commit again: nothing of it was accepted.
    checkout
        .push("tiny")
        .await
        .refused()
        .shows("Building tiny...");

    checkout
        .file("Procfile", "web: ./missing\n")
        .commit("worse")
        .await;
    let said = checkout.push("tiny").await;
    said.refused()
        .shows("the Procfile runs ./missing, which is not in the repository")
        .shows("the procfile build failed (exit status 1)");
    assert!(town.client.current_release("tiny").await.unwrap().is_none());

    checkout
        .file("Procfile", "web: ./server\n")
        .commit("good")
        .await;
    checkout.push("tiny").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_release_that_exits_at_once_is_refused_with_its_last_words() {
    let town = Town::new().await;
    let app = town.app("tiny").await;
    let checkout = tiny(&town).await;
    let start = "web: echo cannot find my database >&2; exit 3\n";
    checkout.file("Procfile", start).commit("crashing").await;
    let said = checkout.push("tiny").await;
    said.refused()
        .shows("| cannot find my database")
        .shows("the web process does not stay up (exit status 3)");
    eventually("nothing of it goes on", async || {
        let state = town.cluster.state();
        !state.jobs().any(|job| !job.status.phase.is_final())
    })
    .await;

    checkout
        .file("Procfile", "web: ./server\n")
        .commit("mended")
        .await;
    checkout
        .push("tiny")
        .await
        .ok()
        .shows("Initial web job started");
    assert!(
        get(town.port_of(&app, "web").await, "/")
            .await
            .contains("version 1")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_deployment_leaves_the_old_release_serving() {
    let town = Town::new().await;
    let app = town.app("tiny").await;
    let checkout = tiny(&town).await;
    checkout.push("tiny").await.ok();
    let port = town.port_of(&app, "web").await;

    let start = "web: echo cannot find my database >&2; exit 3\n";
    checkout.file("Procfile", start).commit("crashing").await;
    let said = checkout.push("tiny").await;
    said.refused()
        .shows("the deployment failed (")
        .shows("the release before it serves on")
        .shows("| cannot find my database");
    assert_eq!(town.port_of(&app, "web").await, port);
    assert!(get(port, "/").await.contains("version 1"));

    checkout
        .file("Procfile", "web: ./server\n")
        .file("version", "2")
        .commit("mended")
        .await;
    checkout.push("tiny").await.ok();
    assert!(
        get(town.port_of(&app, "web").await, "/")
            .await
            .contains("version 2")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_roll_back_the_same_commit_can_be_pushed_again() {
    let town = Town::new().await;
    let app = town.app("tiny").await;
    let checkout = tiny(&town).await;
    checkout.push("tiny").await.ok();
    let first = town.client.current_release("tiny").await.unwrap().unwrap();
    checkout.file("version", "2").commit("second").await;
    checkout.push("tiny").await.ok();
    checkout
        .push("tiny")
        .await
        .ok()
        .shows("Everything up-to-date");

    town.client.deploy("tiny", &first.id).await.unwrap();
    eventually("the first release is back", async || {
        town.client
            .current_release("tiny")
            .await
            .unwrap()
            .unwrap()
            .id
            == first.id
    })
    .await;
    let said = checkout.push("tiny").await;
    said.ok().shows("Application deployed");
    assert!(
        get(town.port_of(&app, "web").await, "/")
            .await
            .contains("version 2")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_has_never_seen_the_app_takes_its_push() {
    let town = Town::new().await;
    let app = town.app("tiny").await;
    let mut checkout = tiny(&town).await;
    checkout.push("tiny").await.ok();
    let second = town.second_receiver(|builder| builder).await;
    checkout.at(second.addr);
    checkout.file("version", "2").commit("second").await;
    checkout.push("tiny").await.ok();
    // And back to the first, which has not seen the second commit.
    checkout.at(town.receiver.addr);
    checkout.file("version", "3").commit("third").await;
    checkout.push("tiny").await.ok();
    assert!(
        get(town.port_of(&app, "web").await, "/")
            .await
            .contains("version 3")
    );
    second.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shallow_clone_can_be_pushed() {
    let town = Town::new().await;
    town.app("tiny").await;
    let checkout = tiny(&town).await;
    checkout.file("version", "2").commit("second").await;
    let shallow = town.empty_checkout().await;
    let from = format!("file://{}", checkout.dir.display());
    shallow
        .git_ok(&["fetch", "-q", "--depth=1", &from, "main"])
        .await;
    shallow
        .git_ok(&["checkout", "-q", "-B", "main", "FETCH_HEAD"])
        .await;
    shallow
        .push("tiny")
        .await
        .ok()
        .shows("Application deployed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_is_too_large_is_refused() {
    let town = Town::new().await;
    town.app("tiny").await;
    let mut checkout = tiny(&town).await;
    let noise: String = (0..40_000_u32)
        .map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761)))
        .collect();
    checkout.file("noise", &noise).commit("large").await;

    let small = town
        .second_receiver(|builder| builder.with_push_limit(10_000))
        .await;
    checkout.at(small.addr);
    checkout
        .push("tiny")
        .await
        .refused()
        .shows("exceeds maximum allowed size");
    small.shut_down().await;

    let limits = Limits {
        bytes: 1000,
        entries: 1000,
    };
    let small = town
        .second_receiver(|builder| builder.with_source_limits(limits))
        .await;
    checkout.at(small.addr);
    checkout
        .push("tiny")
        .await
        .refused()
        .shows("keep what is large out of the repository");
    small.shut_down().await;
}

/// A town whose buildpack writes its process id to the file `started`, and then does as told.
async fn slow_town() -> (Town, std::path::PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let started = dir.path().join("started");
    let compile = format!(
        "echo '-----> Working'; echo $$ > {0}.tmp; mv {0}.tmp {0}; while [ -e {0} ]; do sleep 0.05; done",
        started.display()
    );
    let packs = own_buildpack(dir.path(), &compile);
    (Town::with_buildpacks(packs).await, started, dir)
}

/// What Ctrl-C does: git and its ssh are interrupted at once.
/// Ends the push as a closed terminal would. Not by SIGINT: a shell that starts the tests in the background has it ignored,
/// and git inherits that.
async fn interrupt(git: &mut tokio::process::Child) {
    let group = i32::try_from(git.id().unwrap()).unwrap();
    let group = rustix::process::Pid::from_raw(group).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::TERM).unwrap();
    git.wait().await.unwrap();
}

async fn is_running(started: &std::path::Path) -> bool {
    eventually("the build has begun", async || started.exists()).await;
    let pid = fs::read_to_string(started).unwrap();
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_stops_its_build() {
    let (town, started, _dir) = slow_town().await;
    town.app("tiny").await;
    let checkout = tiny(&town).await;
    let mut command = checkout.command("git");
    command
        .args(["push", &checkout.url("tiny"), "main"])
        .process_group(0);
    let mut git = command.spawn().unwrap();
    assert!(is_running(&started).await);

    interrupt(&mut git).await;
    eventually("the build is stopped", async || !is_running(&started).await).await;
    assert!(town.client.current_release("tiny").await.unwrap().is_none());

    // The app can be pushed to again.
    fs::remove_file(&started).unwrap();
    let pushing = checkout.push("tiny");
    let releasing = async {
        is_running(&started).await;
        fs::remove_file(&started).unwrap();
    };
    let (said, ()) = tokio::join!(pushing, releasing);
    said.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_live_and_a_second_push_to_the_same_app_is_told_to_wait() {
    let (town, started, _dir) = slow_town().await;
    town.app("tiny").await;
    let checkout = tiny(&town).await;
    let mut command = checkout.command("git");
    command.args(["push", &checkout.url("tiny"), "main"]);
    let mut git = command.spawn().unwrap();
    let mut stderr = BufReader::new(git.stderr.take().unwrap()).lines();
    // The build waits for us: what is read now is what the pusher sees while it runs.
    let seen = async {
        while let Some(line) = stderr.next_line().await.unwrap() {
            if line.contains("-----> Working") {
                return true;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, seen).await.unwrap());
    let second = checkout.push("tiny").await;
    second
        .refused()
        .shows("another push to tiny is under way: wait for it to end and push again");
    // Another app is not concerned.
    assert!(is_running(&started).await);
    fs::remove_file(&started).unwrap();
    let rest = async { while stderr.next_line().await.unwrap().is_some() {} };
    timeout(PATIENCE, rest).await.unwrap();
    assert!(git.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_shuts_down_stops_its_pushes_and_says_so() {
    let (town, started, _dir) = slow_town().await;
    town.app("tiny").await;
    let checkout = tiny(&town).await;
    let push = checkout.push("tiny");
    let stop = async {
        assert!(is_running(&started).await);
        town.receiver.shut_down().await;
        assert!(!is_running(&started).await);
    };
    let (said, ()) = tokio::join!(push, stop);
    said.refused()
        .shows("the receiver shuts down; push again in a moment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_deleted_while_it_is_built_is_not_released() {
    let (town, started, _dir) = slow_town().await;
    town.app("tiny").await;
    let checkout = tiny(&town).await;
    let push = checkout.push("tiny");
    let delete = async {
        assert!(is_running(&started).await);
        town.client.delete_app("tiny").await.unwrap();
        eventually("the app is deleted", async || {
            town.client.app("tiny").await.is_err()
        })
        .await;
        fs::remove_file(&started).unwrap();
    };
    let (said, ()) = tokio::join!(push, delete);
    said.refused()
        .shows("app tiny was deleted while it was built");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_job_is_stopped_when_the_client_goes_away() {
    let town = Town::with_job_builds().await;
    town.app("slow").await;
    let checkout = town.empty_checkout().await;
    // npm runs the app's own script during the build: one that never ends.
    checkout.file(
        "package.json",
        r#"{"name": "slow", "version": "1.0.0", "scripts": {"build": "sleep 1000", "start": "node ."}}"#,
    );
    checkout.commit("slow").await;
    let mut command = checkout.command("git");
    command
        .args(["push", &checkout.url("slow"), "main"])
        .process_group(0);
    let mut git = command.spawn().unwrap();
    let mut stderr = BufReader::new(git.stderr.take().unwrap()).lines();
    let begun = async {
        while let Some(line) = stderr.next_line().await.unwrap() {
            if line.contains("Running the build script") {
                return;
            }
        }
        panic!("the build did not begin");
    };
    timeout(PATIENCE, begun).await.unwrap();
    interrupt(&mut git).await;
    eventually("the job is over", async || {
        let jobs = town.client.jobs("slow").await.unwrap();
        jobs.iter().all(|job| !job.state.is_active())
    })
    .await;
}

#[tokio::test]
async fn a_console_nobody_reads_does_not_hold_up_the_work() {
    let (console, written) = Console::new();
    drop(written);
    for line in 0..10_000 {
        console.line(line).await;
    }
}
