//! A discovery server in this process, and `sdutil` as a process of its own.

use std::{
    net::TcpListener as StdTcpListener,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use flynn_discovery::{
    Instance, Registry, ServiceName,
    backend::MemoryBackend,
    http::{Keys, Secret, discovery_router, require_key, serve},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    process::{Child, Command},
    task::JoinHandle,
};

pub(crate) const TOKEN: &str = "s3cret";

/// A discovery server, and the registry behind it.
pub(crate) struct Discovery {
    pub(crate) url: String,
    pub(crate) registry: Registry,
    server: JoinHandle<()>,
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Discovery {
    pub(crate) async fn start() -> Self {
        let backend = Arc::new(MemoryBackend::new());
        let registry = Registry::new(Arc::clone(&backend) as _);
        let app = discovery_router(registry.clone(), backend, None);
        let app = require_key(app, Keys::new(vec![Secret::new(TOKEN)]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            serve(listener, app, std::future::pending()).await.unwrap();
        });
        Self {
            url,
            registry,
            server,
        }
    }

    /// `sdutil` with these arguments, told where this server is.
    pub(crate) fn sdutil(&self, args: &[&str]) -> Sdutil {
        let child = Command::new(env!("CARGO_BIN_EXE_sdutil"))
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("DISCOVERD", &self.url)
            .env("FLYNN_CLUSTER_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Sdutil { child }
    }

    pub(crate) async fn instances(&self, service: &str) -> Vec<Instance> {
        let service = ServiceName::parse(service).unwrap();
        self.registry.instances(&service).await.unwrap()
    }

    /// Waits until `service` has exactly so many instances.
    pub(crate) async fn wait_for(&self, service: &str, count: usize) -> Vec<Instance> {
        within(&format!("{count} instances of {service}"), async {
            loop {
                let instances = self.instances(service).await;
                if instances.len() == count {
                    return instances;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

/// A running `sdutil`.
pub(crate) struct Sdutil {
    child: Child,
}

/// What it came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sdutil {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap().try_into().unwrap())
    }

    /// The process it runs, once it does.
    pub(crate) async fn child(&self) -> Pid {
        let pid = self.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        within("the program to start", async {
            loop {
                let children = std::fs::read_to_string(&path).unwrap();
                if let Some(child) = children.split_whitespace().next() {
                    return Pid::from_raw(child.parse().unwrap());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    pub(crate) async fn outcome(mut self) -> Outcome {
        let mut stdout = self.child.stdout.take().unwrap();
        let mut stderr = self.child.stderr.take().unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        within("sdutil to end", async {
            let (status, _, _) = tokio::join!(
                self.child.wait(),
                stdout.read_to_string(&mut out),
                stderr.read_to_string(&mut err),
            );
            Outcome {
                status: status.unwrap().code().expect("sdutil is not killed"),
                stdout: out,
                stderr: err,
            }
        })
        .await
    }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .unwrap_or_else(|_| panic!("waited 30 s for {what}"))
}

/// A free port, of those that the system does not give to whoever asks for any: between now and its use only somebody who
/// wants this very one could take it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id() * 61 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + u16::try_from(next % 10_000).unwrap();
        if StdTcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until a file is there; gives what is in it.
pub(crate) async fn file(path: &Path) -> String {
    within(&format!("{}", path.display()), async {
        loop {
            match std::fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
}
