//! Real processes of real slugs, and the programs that they and build jobs call.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use flynn_receive::{
    StaticServer,
    builder::{build_env, main_in_job, process_args},
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

/// The longest that anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The environment of builds in tests: this machine's way to its package registries.
pub(crate) fn env() -> BTreeMap<String, String> {
    build_env(std::env::vars())
}

/// A process of an app.
pub(crate) struct Process {
    child: Child,
    pub(crate) port: u16,
    output: mpsc::UnboundedReceiver<String>,
}

impl Process {
    /// Starts `command` in the unpacked slug `dir`, as a host does.
    pub(crate) fn start(dir: &Path, command: &str, more: &[(&str, &str)]) -> Self {
        let port = free_port();
        let args = process_args(command);
        let mut child = Command::new(&args[0])
            .args(&args[1..])
            .current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("PORT", port.to_string())
            .env("FLYNN_JOB_ID", "host-job")
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (lines, output) = mpsc::unbounded_channel();
        for stream in [
            Box::new(child.stdout.take().unwrap()) as Box<dyn tokio::io::AsyncRead + Send + Unpin>,
            Box::new(child.stderr.take().unwrap()),
        ] {
            let lines = lines.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream).lines();
                while let Ok(Some(line)) = stream.next_line().await {
                    let _ = lines.send(line);
                }
            });
        }
        Self {
            child,
            port,
            output,
        }
    }

    /// Waits until it accepts connections.
    pub(crate) async fn connect(&mut self) -> TcpStream {
        let connecting = async {
            loop {
                if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)).await {
                    return stream;
                }
                if let Some(status) = self.child.try_wait().unwrap() {
                    let mut said = Vec::new();
                    while let Ok(Some(line)) =
                        timeout(Duration::from_millis(500), self.output.recv()).await
                    {
                        said.push(line);
                    }
                    panic!("the process ended with {status}: {said:#?}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, connecting).await.expect("it listens")
    }

    /// `GET` of a path; the whole answer.
    pub(crate) async fn get(&mut self, path: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        timeout(PATIENCE, read).await.expect("it answers").unwrap();
        answer
    }

    /// Asks it to stop; its exit status.
    pub(crate) async fn stop(mut self) -> std::process::ExitStatus {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        kill_process(Pid::from_raw(pid.unwrap()).unwrap(), Signal::TERM).unwrap();
        timeout(PATIENCE, self.child.wait())
            .await
            .expect("it stops when asked to")
            .unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = kill_process_group(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
    }
}

/// A program at `dir/flynn-receive` that does what the distribution's does: `build` and `serve-static <root>`.
///
/// It is this test binary again, told which of the two tests below to be.
pub(crate) fn receive_program(dir: &Path) -> PathBuf {
    let path = dir.join("flynn-receive");
    let this = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nFLYNN_TEST_ROOT=$2 exec '{}' --quiet --nocapture --ignored --exact \"process::as_the_program_$(echo $1 | tr - _)\"\n",
        this.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "not a test: what the program made by `receive_program` runs"]
async fn as_the_program_serve_static() {
    let root = std::env::var("FLYNN_TEST_ROOT").unwrap();
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let server = StaticServer::new(root).await.unwrap();
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", port))
        .await
        .unwrap();
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    let shutdown = async move {
        terminate.recv().await;
    };
    flynn_discovery::http::serve(listener, server.router(), shutdown)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "not a test: what the program made by `receive_program` runs"]
async fn as_the_program_build() {
    let dir = std::env::current_dir().unwrap();
    let code = main_in_job(&dir, std::env::vars().collect()).await;
    assert_eq!(code, std::process::ExitCode::SUCCESS);
}

/// A free port, of those that the system does not give to whoever asks for any: between now and its use only somebody who
/// wants this very one could take it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id() * 61 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + u16::try_from(next % 10_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
