//! A small platform: the real controller and schedulers in memory, a small host, receivers, and real git clients.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use flynn_controller::{
    Controller, DiscoveryStore, Platform, Running,
    auth::StaticKeys,
    http::{Client, Secret, Server},
    model::App,
};
use flynn_discovery::{
    backend::MemoryBackend,
    http::{Keys, serve},
};
use flynn_receive::{
    Receiver, ReceiverBuilder,
    blob::{BlobServer, CapabilityKey, FsBlobStore},
    build::{BuildRunner, JobBuildRunner, LocalBuildRunner},
    ssh::HostKey,
};
use flynn_router::MemoryRouteStore;
use flynn_sched::{
    Driver, LocalCluster, Phase,
    remote::{SystemClock, TokioTimer},
    scheduler::{BatchScheduler, SeededIds, ServiceScheduler},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, task::JoinSet, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    builds::{copy_dir, sample},
    host::MiniHost,
    process::{PATIENCE, env, receive_program},
};

pub(crate) struct Town {
    pub(crate) dir: TempDir,
    pub(crate) client: Client,
    pub(crate) cluster: LocalCluster,
    pub(crate) blobs: Arc<FsBlobStore>,
    pub(crate) receiver: RunningReceiver,
    host_key: HostKey,
    _controller: Running,
    _tasks: JoinSet<()>,
    _stop: DropGuard,
}

pub(crate) struct RunningReceiver {
    pub(crate) addr: SocketAddr,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl RunningReceiver {
    /// Asks it to end, and waits for that.
    pub(crate) async fn shut_down(mut self) {
        self.stop().await;
    }

    /// The same for one that is part of something.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        timeout(PATIENCE, &mut self.ended)
            .await
            .expect("the receiver ends when asked to")
            .unwrap()
            .unwrap();
    }
}

const KEY: &str = "controller-key";

impl Town {
    pub(crate) async fn new() -> Self {
        Self::with_builds(|town| town.local_builds(None)).await
    }

    /// Builds with a buildpack of the test's own; see [`own_buildpack`].
    pub(crate) async fn with_buildpacks(packs: PathBuf) -> Self {
        Self::with_builds(|town| town.local_builds(Some(packs))).await
    }

    pub(crate) async fn with_job_builds() -> Self {
        Self::with_builds(Founding::job_builds).await
    }

    async fn with_builds(runner: impl FnOnce(&Founding) -> Arc<dyn BuildRunner>) -> Self {
        let founding = Founding::new().await;
        let runner = runner(&founding);
        let host_key = HostKey::generate().unwrap();
        let receiver = Receiver::builder(
            founding.client.clone(),
            runner,
            host_key.clone(),
            founding.dir.path().join("receiver"),
        );
        let receiver = start(receiver).await;
        let Founding {
            dir,
            client,
            cluster,
            blobs,
            controller,
            tasks,
            stop,
            ..
        } = founding;
        let town = Self {
            dir,
            client,
            cluster,
            blobs,
            receiver,
            host_key,
            _controller: controller,
            _tasks: tasks,
            _stop: stop,
        };
        town.make_key("key").await;
        town.know_key("key").await;
        town
    }

    /// Another receiver of the same cluster, with nothing cached.
    pub(crate) async fn second_receiver(
        &self,
        change: impl FnOnce(ReceiverBuilder) -> ReceiverBuilder,
    ) -> RunningReceiver {
        let runner = LocalBuildRunner::new(self.blobs.clone(), env());
        let dir = self.dir.path().join(format!("receiver-{}", uuid()));
        let builder = Receiver::builder(
            self.client.clone(),
            Arc::new(runner),
            self.host_key.clone(),
            dir,
        );
        start(change(builder)).await
    }

    pub(crate) async fn app(&self, name: &str) -> App {
        self.client.create_app(&App::named(name)).await.unwrap()
    }

    pub(crate) fn key_path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn make_key(&self, name: &str) {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
            .arg(self.key_path(name))
            .status()
            .await
            .unwrap();
        assert!(made.success());
    }

    pub(crate) async fn know_key(&self, name: &str) {
        let path = self.key_path(name).with_extension("pub");
        let line = fs::read_to_string(path).unwrap();
        self.client.add_key(line.trim()).await.unwrap();
    }

    /// A git repository with the files of a sample app.
    pub(crate) async fn checkout(&self, sample_name: &str) -> Checkout {
        let checkout = self.empty_checkout().await;
        copy_dir(&sample(sample_name), &checkout.dir);
        checkout.commit("first").await;
        checkout
    }

    pub(crate) async fn empty_checkout(&self) -> Checkout {
        let dir = self.dir.path().join(format!("checkout-{}", uuid()));
        fs::create_dir(&dir).unwrap();
        let known = self.dir.path().join("known_hosts");
        let mut checkout = Checkout {
            home: self.dir.path().to_owned(),
            dir,
            known,
            key: self.key_path("key"),
            addr: self.receiver.addr,
            host_key: self.host_key.public_line(),
        };
        checkout.at(self.receiver.addr);
        checkout.git_ok(&["init", "-q", "-b", "main"]).await;
        checkout
    }

    /// The port of a job of a process type that is up in the app's current release.
    pub(crate) async fn port_of(&self, app: &App, process_type: &str) -> u16 {
        let release = self.client.current_release(&app.id).await.unwrap().unwrap();
        let state = self.cluster.state();
        let port = state
            .jobs()
            .filter(|job| job.status.phase == Phase::Up && !job.is_stopping)
            .filter(|job| job.group.as_str().contains(&release.id))
            .filter(|job| job.group.as_str().ends_with(&format!(".{process_type}")))
            .find_map(|job| job.status.ports.first().copied());
        port.unwrap_or_else(|| panic!("no {process_type} job of the current release is up"))
    }
}

/// The town before it has a receiver.
struct Founding {
    dir: TempDir,
    client: Client,
    cluster: LocalCluster,
    blobs: Arc<FsBlobStore>,
    blob_url: String,
    capabilities: CapabilityKey,
    controller: Running,
    tasks: JoinSet<()>,
    stop: DropGuard,
}

impl Founding {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let blobs = FsBlobStore::open(dir.path().join("blobs")).await.unwrap();
        let blobs = Arc::new(blobs);

        let cluster = LocalCluster::new(Arc::new(SystemClock));
        let driver = Driver::new(
            Arc::new(cluster.clone()),
            Arc::new(SystemClock),
            Arc::new(TokioTimer),
            SeededIds::new(7),
        )
        .with_scheduler(ServiceScheduler::new())
        .with_scheduler(BatchScheduler::new());
        tasks.spawn(driver.run(std::future::pending()));
        let host = MiniHost::new(cluster.clone(), blobs.clone());
        tasks.spawn(host.clone().run());

        let store = DiscoveryStore::new(Arc::new(MemoryBackend::new()));
        let platform = Platform::new(
            Arc::new(store),
            Arc::new(cluster.clone()),
            Arc::new(MemoryRouteStore::new()),
        )
        .with_streams(host)
        .with_default_route_domain("flynn.local");
        let controller = Controller::new(platform.clone()).start();
        let server = Server::new(platform, Arc::new(StaticKeys::new([KEY]).unwrap()));
        let url = serve_on_loopback(server.into_router(), &stop).await;
        let client = Client::new(vec![url], Secret::new(KEY)).unwrap();

        let capabilities = CapabilityKey::derive(b"cluster secret");
        let blob_server = BlobServer::new(blobs.clone(), Keys::new(vec![Secret::new("blob-key")]))
            .with_capabilities(capabilities.clone());
        let blob_url = serve_on_loopback(blob_server.router(), &stop).await;
        Self {
            dir,
            client,
            cluster,
            blobs,
            blob_url,
            capabilities,
            controller,
            tasks,
            stop: stop.drop_guard(),
        }
    }

    fn env(&self) -> BTreeMap<String, String> {
        let mut env = env();
        let server = receive_program(self.dir.path());
        env.insert(
            "FLYNN_STATIC_SERVER".to_owned(),
            server.to_string_lossy().into_owned(),
        );
        env
    }

    fn local_builds(&self, packs: Option<PathBuf>) -> Arc<dyn BuildRunner> {
        let runner = LocalBuildRunner::new(self.blobs.clone(), self.env());
        Arc::new(match packs {
            Some(packs) => runner.with_buildpacks(packs),
            None => runner,
        })
    }

    fn job_builds(&self) -> Arc<dyn BuildRunner> {
        let program = receive_program(self.dir.path());
        let args = vec![program.to_string_lossy().into_owned(), "build".to_owned()];
        let mut env = self.env();
        // A host gives jobs a home and a path of their own.
        env.remove("HOME");
        env.remove("PATH");
        // The small host's jobs have only what they are given; npm finds its settings below the home of the tests.
        if let Ok(home) = std::env::var("HOME") {
            let config = Path::new(&home).join(".npmrc");
            env.insert(
                "NPM_CONFIG_USERCONFIG".to_owned(),
                config.to_string_lossy().into_owned(),
            );
        }
        Arc::new(
            JobBuildRunner::new(
                self.client.clone(),
                self.blobs.clone(),
                vec![self.blob_url.clone()],
                self.capabilities.clone(),
                args,
            )
            .with_env(env),
        )
    }
}

async fn serve_on_loopback(app: axum::Router, stop: &CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(listener, app, stop.clone().cancelled_owned()));
    url
}

async fn start(builder: ReceiverBuilder) -> RunningReceiver {
    let receiver = builder
        .with_path(std::env::var("PATH").unwrap())
        .with_http_port(8080)
        .build()
        .await
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let ended = tokio::spawn(receiver.run(listener, stop.clone().cancelled_owned()));
    RunningReceiver { addr, stop, ended }
}

/// A buildpack of the test's own that knows everything; `compile` is its script.
pub(crate) fn own_buildpack(dir: &Path, compile: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let packs = dir.join("packs");
    let bin = packs.join("own/bin");
    fs::create_dir_all(&bin).unwrap();
    for (program, body) in [("detect", "echo Own"), ("compile", compile)] {
        let path = bin.join(program);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    packs
}

/// A git repository of a developer.
pub(crate) struct Checkout {
    pub(crate) dir: PathBuf,
    home: PathBuf,
    known: PathBuf,
    pub(crate) key: PathBuf,
    addr: SocketAddr,
    host_key: String,
}

/// How a git command ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) is_ok: bool,
    pub(crate) text: String,
}

impl Said {
    /// The lines that came from the other side, without git's `remote: `.
    pub(crate) fn remote(&self) -> Vec<String> {
        self.text
            .split(['\n', '\r'])
            .filter_map(|line| line.strip_prefix("remote: "))
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    #[track_caller]
    pub(crate) fn shows(&self, text: &str) -> &Self {
        assert!(self.text.contains(text), "no {text:?} in:\n{}", self.text);
        self
    }

    #[track_caller]
    pub(crate) fn ok(&self) -> &Self {
        assert!(self.is_ok, "{}", self.text);
        self
    }

    #[track_caller]
    pub(crate) fn refused(&self) -> &Self {
        assert!(!self.is_ok, "{}", self.text);
        self
    }
}

impl Checkout {
    /// Pushes go to the receiver at `addr` from now on.
    pub(crate) fn at(&mut self, addr: SocketAddr) {
        self.addr = addr;
        let line = format!("[{}]:{} {}\n", addr.ip(), addr.port(), self.host_key);
        let known = fs::read_to_string(&self.known).unwrap_or_default();
        fs::write(&self.known, known + &line).unwrap();
    }

    pub(crate) fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(crate) async fn commit(&self, message: &str) -> String {
        self.git_ok(&["add", "-A"]).await;
        self.git_ok(&["commit", "-q", "--allow-empty", "-m", message])
            .await;
        self.git_ok(&["rev-parse", "HEAD"]).await.trim().to_owned()
    }

    pub(crate) fn url(&self, app: &str) -> String {
        format!("ssh://git@{}/{app}.git", self.addr)
    }

    pub(crate) async fn push(&self, app: &str) -> Said {
        self.git(&["push", &self.url(app), "main"]).await
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let ssh = format!(
            "ssh -F /dev/null -i {} -o IdentitiesOnly=yes -o UserKnownHostsFile={} -o StrictHostKeyChecking=yes",
            self.key.display(),
            self.known.display()
        );
        let mut command = Command::new(program);
        command
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("HOME", &self.home)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_SSH_COMMAND", ssh)
            .env("GIT_PROTOCOL", "version=2")
            .envs([
                ("GIT_AUTHOR_NAME", "dev"),
                ("GIT_AUTHOR_EMAIL", "dev@example.com"),
                ("GIT_COMMITTER_NAME", "dev"),
                ("GIT_COMMITTER_EMAIL", "dev@example.com"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn git(&self, args: &[&str]) -> Said {
        let mut command = self.command("git");
        command.args(args);
        said(command).await
    }

    pub(crate) async fn git_ok(&self, args: &[&str]) -> String {
        let said = self.git(args).await;
        assert!(said.is_ok, "git {args:?}: {}", said.text);
        said.text
    }

    /// `ssh` itself, as somebody who wants a shell runs it.
    pub(crate) async fn ssh(&self, args: &[&str]) -> Said {
        let mut command = self.command("ssh");
        command
            .args(["-F", "/dev/null", "-T", "-i"])
            .arg(&self.key)
            .args([
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "StrictHostKeyChecking=yes",
                "-o",
            ])
            .arg(format!("UserKnownHostsFile={}", self.known.display()))
            .arg("-p")
            .arg(self.addr.port().to_string())
            .arg(format!("git@{}", self.addr.ip()))
            .args(args);
        said(command).await
    }
}

async fn said(mut command: Command) -> Said {
    let Output {
        status,
        stdout,
        stderr,
    } = timeout(PATIENCE, command.output())
        .await
        .expect("it ends")
        .unwrap();
    let text = [stdout, stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    println!("{text}");
    Said {
        is_ok: status.success(),
        text,
    }
}

fn uuid() -> String {
    tempfile::Builder::new()
        .rand_bytes(8)
        .tempdir()
        .unwrap()
        .path()
        .file_name()
        .unwrap()
        .to_string_lossy()
        .trim_start_matches('.')
        .to_owned()
}

/// Waits for something that others do.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}
