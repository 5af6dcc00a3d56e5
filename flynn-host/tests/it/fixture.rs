//! A cell of one host, with what tests ask of it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use flynn_discovery::{Instance, Registry, ServiceName, backend::MemoryBackend};
use flynn_host::{
    Host, HostBuilder,
    host::Shutdown,
    log::{LogLine, TailOptions},
    runtime::process::ProcessRuntime,
};
use flynn_sched::{
    Check, Cluster, ClusterState, GroupId, HostId, HostLink, Job, JobId, JobSpec, JobStatus,
    LocalCluster, Phase, Port, Resources, Service, Transaction, clock::ManualClock,
};
use futures::StreamExt;
use tokio::time::{sleep, timeout};

/// Generous, since many builds may share the machine. No test waits for it to pass.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Cell {
    pub(crate) cluster: LocalCluster,
    pub(crate) registry: Registry,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) host: Option<Host>,
}

impl Cell {
    pub(crate) async fn start() -> Self {
        Self::start_with(|builder| builder).await
    }

    pub(crate) async fn start_with(configure: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        let mut cell = Self::without_host();
        cell.start_host(configure).await;
        cell
    }

    pub(crate) fn without_host() -> Self {
        Self {
            cluster: LocalCluster::new(Arc::new(ManualClock::at(1))),
            registry: Registry::new(Arc::new(MemoryBackend::new())),
            dir: tempfile::tempdir().unwrap(),
            host: None,
        }
    }

    pub(crate) fn builder(&self) -> HostBuilder {
        self.builder_in(self.dir.path())
    }

    pub(crate) fn builder_in(&self, dir: &Path) -> HostBuilder {
        Host::builder(runtime(dir))
            .id("h1")
            .link(self.cluster.clone())
            .registry(self.registry.clone())
            .data_dir(dir)
            .with_capacity(Resources {
                cpu_millis: 100_000,
                memory_bytes: 1 << 40,
                disk_bytes: 1 << 40,
            })
            .with_ports(ports())
            .with_drain_delay(Duration::from_millis(50))
            .with_stop_grace(Duration::from_secs(20))
    }

    pub(crate) async fn start_host(&mut self, configure: impl FnOnce(HostBuilder) -> HostBuilder) {
        let host = configure(self.builder()).start().await.unwrap();
        timeout(DEADLINE, host.joined()).await.unwrap().unwrap();
        self.host = Some(host);
    }

    pub(crate) fn host(&self) -> &Host {
        self.host.as_ref().unwrap()
    }

    /// Places a job; returns its id.
    pub(crate) async fn place(&self, spec: JobSpec) -> JobId {
        let id = JobId::parse(uuid::Uuid::new_v4().to_string()).unwrap();
        let job = job(&id, spec);
        self.commit(Transaction::default().start(job)).await;
        id
    }

    /// Places a job before the host is in the cell, as if that had only just gone.
    pub(crate) async fn place_as(&self, id: &JobId, spec: JobSpec) {
        let host = flynn_sched::Host {
            addr: "127.0.0.1".to_owned(),
            api_url: String::new(),
            incarnation: 1,
            ..flynn_sched::Host::new(HostId::parse("h1").unwrap(), Resources::default())
        };
        let _stay = self.cluster.join(host).await.unwrap();
        self.commit(Transaction::default().start(job(id, spec)))
            .await;
    }

    /// The first process of a job.
    pub(crate) fn pid(&self, id: &JobId) -> nix::unistd::Pid {
        self.process(id, "job.json", "/process/pid")
    }

    pub(crate) fn shim_pid(&self, id: &JobId) -> nix::unistd::Pid {
        self.process(id, "shim.json", "/pid")
    }

    /// The cgroup a job was given, where the system lets us make one.
    pub(crate) fn cgroup(&self, id: &JobId) -> Option<PathBuf> {
        Some(self.record(id, "job.json")["cgroup"].as_str()?.into())
    }

    fn record(&self, id: &JobId, file: &str) -> serde_json::Value {
        let path = self.dir.path().join("run").join(id.as_str()).join(file);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn process(&self, id: &JobId, file: &str, field: &str) -> nix::unistd::Pid {
        let pid = self
            .record(id, file)
            .pointer(field)
            .unwrap()
            .as_i64()
            .unwrap();
        nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap())
    }

    pub(crate) async fn stop(&self, id: &JobId) {
        self.commit(Transaction::default().stop(id.clone())).await;
    }

    async fn commit(&self, transaction: Transaction) {
        let committed = self.cluster.commit(transaction).await.unwrap();
        assert!(committed.refused.is_empty(), "{:?}", committed.refused);
    }

    /// Waits until the cell knows the job as wanted.
    pub(crate) async fn until(
        &self,
        id: &JobId,
        what: &str,
        is_wanted: impl Fn(&JobStatus) -> bool + Send + Sync,
    ) -> JobStatus {
        let mut states = self.cluster.watch();
        let mut last = None;
        let found = timeout(DEADLINE, async {
            while let Some(state) = states.next().await {
                let status = state.unwrap().job(id).unwrap().status.clone();
                if is_wanted(&status) {
                    return status;
                }
                last = Some(status);
            }
            unreachable!("a cell's watch does not end")
        });
        match found.await {
            Ok(status) => status,
            Err(_) => panic!(
                "job {id} is not {what}, but {last:?}; log: {:?}",
                self.log(id).await
            ),
        }
    }

    pub(crate) async fn until_phase(&self, id: &JobId, phase: Phase) -> JobStatus {
        self.until(id, &format!("{phase:?}"), |status| status.phase == phase)
            .await
    }

    /// Waits until the cell is as wanted.
    pub(crate) async fn until_state(
        &self,
        what: &str,
        is_wanted: impl Fn(&ClusterState) -> bool + Send + Sync,
    ) {
        eventually(what, async || {
            let state = self.cluster.snapshot().await.unwrap();
            is_wanted(&state).then_some(())
        })
        .await;
    }

    /// Waits until the instances of a service are as wanted.
    pub(crate) async fn until_instances(
        &self,
        service: &str,
        is_wanted: impl Fn(&[Instance]) -> bool + Send + Sync,
    ) -> Vec<Instance> {
        let service = ServiceName::parse(service).unwrap();
        let found = timeout(DEADLINE, async {
            loop {
                let instances = self.registry.instances(&service).await.unwrap();
                if is_wanted(&instances) {
                    return instances;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        found.await.expect("the instances become as wanted")
    }

    pub(crate) async fn log(&self, id: &JobId) -> Vec<String> {
        let logs = flynn_host::log::FileLogs::new(self.dir.path().join("logs"));
        let tail = flynn_host::log::LogSink::tail(&logs, id, TailOptions::default()).await;
        tail.unwrap().lines.iter().map(LogLine::text).collect()
    }

    /// Waits until a line of the job's log is as wanted.
    pub(crate) async fn until_logged(&self, id: &JobId, part: &str) -> String {
        eventually(&format!("{part:?} is in the log"), async || {
            let lines = self.log(id).await;
            lines.into_iter().find(|line| line.contains(part))
        })
        .await
    }

    /// Stops all jobs, so that nothing outlives the test.
    pub(crate) async fn end(mut self) {
        if let Some(host) = self.host.take() {
            timeout(DEADLINE, host.shutdown(Shutdown::StopJobs))
                .await
                .unwrap();
        }
        assert_eq!(left_in(&self.dir.path().join("run")), Vec::<String>::new());
    }
}

impl Drop for Cell {
    /// Also after a failed test nothing of its jobs may stay.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for job in left_in(&self.dir.path().join("run")) {
            let job = self.dir.path().join("run").join(job);
            for file in ["job.json", "shim.json"] {
                let Ok(text) = std::fs::read_to_string(job.join(file)) else {
                    continue;
                };
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                let process = value.get("process").unwrap_or(&value);
                let pid = i32::try_from(process["pid"].as_i64().unwrap()).unwrap();
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::killpg(pid, nix::sys::signal::SIGKILL);
            }
        }
    }
}

/// Ports that no other test of this run has, and hardly one of another run.
fn ports() -> std::ops::RangeInclusive<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let slot = (std::process::id() * 41 + NEXT.fetch_add(1, Ordering::Relaxed)) % 600;
    let first = 20_000 + u16::try_from(slot).unwrap() * 20;
    first..=first + 19
}

fn job(id: &JobId, spec: JobSpec) -> Job {
    Job {
        id: id.clone(),
        group: GroupId::parse("g").unwrap(),
        host: HostId::parse("h1").unwrap(),
        spec: Arc::new(spec),
        is_stopping: false,
        placed_at_ms: 0,
        attempt: 0,
        evicted: None,
        status: JobStatus::default(),
    }
}

pub(crate) fn runtime(dir: &Path) -> ProcessRuntime {
    ProcessRuntime::new(dir.join("run"), vec![shim().into()])
}

pub(crate) fn shim() -> PathBuf {
    env!("CARGO_BIN_EXE_flynn-job-shim").into()
}

fn left_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let answered = timeout(DEADLINE, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    match answered.await {
        Ok(answer) => answer,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// A job that runs a script.
pub(crate) fn sh(script: &str) -> JobSpec {
    JobSpec {
        args: ["sh", "-c", script].map(String::from).to_vec(),
        ..JobSpec::default()
    }
}

/// A web server with a service `web` that must pass a check to be up.
pub(crate) fn web(check: Option<Check>) -> JobSpec {
    JobSpec {
        args: vec![
            "sh".to_owned(),
            "-c".to_owned(),
            "echo hello > index.html; exec python3 -m http.server --bind $LISTEN_IP $PORT"
                .to_owned(),
        ],
        ports: vec![Port {
            port: None,
            proto: "http".to_owned(),
            service: Some(Service {
                name: "web".to_owned(),
                check,
            }),
        }],
        metadata: BTreeMap::from([
            ("flynn-controller.app".to_owned(), "app-1".to_owned()),
            ("flynn-controller.type".to_owned(), "web".to_owned()),
        ]),
        ..JobSpec::default()
    }
}
