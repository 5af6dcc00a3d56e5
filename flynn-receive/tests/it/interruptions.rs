//! Pushes that somebody stops, and what is seen of them while they run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr},
    time::timeout,
};

use crate::{
    process::PATIENCE,
    tiny::Tiny,
    town::{Checkout, Town, eventually, own_buildpack},
};

/// An app whose buildpack writes its process id to a file, and works until the file is gone.
struct Slow {
    tiny: Tiny,
    started: PathBuf,
    _dir: TempDir,
}

impl Slow {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let started = dir.path().join("started");
        let compile = format!(
            "echo '-----> Working'; echo $$ > {0}.tmp; mv {0}.tmp {0}; while [ -e {0} ]; do sleep 0.05; done",
            started.display()
        );
        let packs = own_buildpack(dir.path(), &compile);
        Self {
            tiny: Tiny::in_town(Town::with_buildpacks(packs).await).await,
            started,
            _dir: dir,
        }
    }

    /// Is the build at work? Waits until it has begun.
    async fn is_running(&self) -> bool {
        eventually("the build has begun", async || self.started.exists()).await;
        let pid = fs::read_to_string(&self.started).unwrap();
        fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat"))
            .is_ok_and(|stat| !stat.contains(") Z"))
    }

    /// Lets the build end.
    fn release(&self) {
        fs::remove_file(&self.started).unwrap();
    }
}

/// A push that runs on its own, and what it has shown.
struct Pushing {
    git: Child,
    shown: Lines<BufReader<ChildStderr>>,
}

impl Pushing {
    fn start(checkout: &Checkout, app: &str) -> Self {
        let mut command = checkout.command("git");
        command
            .args(["push", &checkout.url(app), "main"])
            .process_group(0);
        let mut git = command.spawn().unwrap();
        let shown = BufReader::new(git.stderr.take().unwrap()).lines();
        Self { git, shown }
    }

    /// Waits until it shows this.
    async fn shows(&mut self, text: &str) {
        let seen = async {
            while let Some(line) = self.shown.next_line().await.unwrap() {
                if line.contains(text) {
                    return;
                }
            }
            panic!("it ended without {text:?}");
        };
        timeout(PATIENCE, seen).await.unwrap();
    }

    /// Waits for its end; did it succeed?
    async fn end(mut self) -> bool {
        let rest = async {
            while self.shown.next_line().await.unwrap().is_some() {}
            self.git.wait().await.unwrap().success()
        };
        timeout(PATIENCE, rest).await.unwrap()
    }

    /// Ends git and its ssh at once, as Ctrl-C does; but the signal is one that they heed also where the tests run in the
    /// background of a shell, which lets its children ignore interrupts.
    async fn stop(mut self) {
        let group = i32::try_from(self.git.id().unwrap()).unwrap();
        let group = rustix::process::Pid::from_raw(group).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::TERM).unwrap();
        timeout(PATIENCE, self.git.wait()).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_stops_its_build() {
    let slow = Slow::new().await;
    let push = Pushing::start(&slow.tiny.checkout, "tiny");
    assert!(slow.is_running().await);
    push.stop().await;
    eventually("the build is stopped", async || !slow.is_running().await).await;
    assert!(slow.tiny.release().await.is_none());

    // The app can be pushed to again.
    slow.release();
    let releasing = async {
        slow.is_running().await;
        slow.release();
    };
    let (said, ()) = tokio::join!(slow.tiny.push(), releasing);
    said.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_live_and_a_second_push_to_the_same_app_is_told_to_wait() {
    let slow = Slow::new().await;
    let mut push = Pushing::start(&slow.tiny.checkout, "tiny");
    // The build waits for us: what is read now is what the pusher sees while it runs.
    push.shows("-----> Working").await;
    let second = slow.tiny.push().await;
    second
        .refused()
        .shows("another push to tiny is under way: wait for it to end and push again");
    // The first is not concerned.
    assert!(slow.is_running().await);
    slow.release();
    assert!(push.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_shuts_down_stops_its_pushes_and_says_so() {
    let mut slow = Slow::new().await;
    let mut push = Pushing::start(&slow.tiny.checkout, "tiny");
    assert!(slow.is_running().await);
    slow.tiny.town.receiver.stop().await;
    push.shows("the receiver shuts down; push again in a moment")
        .await;
    assert!(!push.end().await);
    assert!(!slow.is_running().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_deleted_while_it_is_built_is_not_released() {
    let slow = Slow::new().await;
    let client = &slow.tiny.town.client;
    let delete = async {
        assert!(slow.is_running().await);
        client.delete_app("tiny").await.unwrap();
        eventually("the app is deleted", async || {
            client.app("tiny").await.is_err()
        })
        .await;
        slow.release();
    };
    let (said, ()) = tokio::join!(slow.tiny.push(), delete);
    said.refused()
        .shows("app tiny was deleted while it was built");
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
    let mut push = Pushing::start(&checkout, "slow");
    push.shows("Running the build script").await;
    push.stop().await;
    eventually("the job is over", async || {
        let jobs = town.client.jobs("slow").await.unwrap();
        jobs.iter().all(|job| !job.state.is_active())
    })
    .await;
}

/// As after a power cut, when the next controller takes it up only once the claim of the dead one has run out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_waits_for_a_deployment_that_is_under_way_and_goes_on() {
    let tiny = Tiny::live().await;
    let (go, held) = held_deployment(&tiny).await;
    tiny.commit(&[("version", "2")]).await;
    let mut push = Pushing::start(&tiny.checkout, "tiny");
    push.shows("-----> Waiting for the deployment under way to end...")
        .await;
    assert_eq!(tiny.release().await.unwrap().id, held.before);
    fs::write(&go, "").unwrap();
    push.shows("=====> Application deployed").await;
    assert!(push.end().await);
    // What the other one set is kept: the release was made after it.
    tiny.answers("version 2 setting held").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_does_not_wait_for_ever() {
    let mut tiny = Tiny::live().await;
    let (_go, held) = held_deployment(&tiny).await;
    let impatient = tiny
        .town
        .second_receiver(|builder| builder.with_turn_timeout(std::time::Duration::ZERO))
        .await;
    tiny.checkout.at(impatient.addr);
    let said = tiny.push_with(&[("version", "2")]).await;
    said.refused()
        .shows(&format!(
            "deployment {} of tiny is still under way",
            held.id
        ))
        .shows("push again when it has ended");
    impatient.shut_down().await;
}

/// A deployment that is under way.
struct Held {
    id: String,
    /// The release that serves meanwhile.
    before: String,
}

/// Deploys a release whose process waits for a file, the first of the two, before it listens.
async fn held_deployment(tiny: &Tiny) -> (PathBuf, Held) {
    let go = tiny.town.dir.path().join("go");
    let current = tiny.release().await.unwrap();
    let before = current.id.clone();
    let mut release = flynn_controller::model::Release {
        id: String::new(),
        ..current
    };
    let mut env = (*release.env).clone();
    env.insert("SETTING".to_owned(), "held".to_owned());
    release.env = env.into();
    let web = release.processes.get_mut("web").unwrap();
    let wait = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; exec ./server",
        go.display()
    );
    web.args = vec!["sh".to_owned(), "-c".to_owned(), wait];
    let client = &tiny.town.client;
    let release = client.create_release(&release).await.unwrap();
    let id = client.deploy("tiny", &release.id).await.unwrap().id;
    (go, Held { id, before })
}
