//! A small host: carries out the jobs of a cell as processes. The real one is `flynn-host`; this one is enough to see
//! pushed apps run.

use std::{collections::HashMap, fmt, io, path::Path, process::Stdio, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use flynn_controller::{
    model::Time,
    streams::{AttachOptions, ByteStream, JobStreams, LogOptions, OutputLine},
};
use flynn_receive::{
    blob::{BlobName, BlobStore},
    slug::{Limits, unpack},
};
use flynn_sched::{
    Host, HostId, HostLink, Job, JobId, JobStatus, LocalCluster, Phase, Resources, RestartPolicy,
};
use futures::{StreamExt, future::join_all, stream::BoxStream};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    process::Command,
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long what a job started may keep its output open when it has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The jobs a host knows.
pub(crate) struct MiniHost {
    id: HostId,
    cluster: LocalCluster,
    blobs: Arc<dyn BlobStore>,
    jobs: Mutex<HashMap<JobId, Arc<Known>>>,
}

#[derive(Default)]
struct Known {
    stop: CancellationToken,
    log: Mutex<Vec<OutputLine>>,
    attached: Mutex<Option<mpsc::UnboundedSender<Frame>>>,
    is_attached: Notify,
}

enum Frame {
    Output(Bytes),
    Exit(u32),
}

impl fmt::Debug for MiniHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MiniHost")
    }
}

impl MiniHost {
    pub(crate) fn new(cluster: LocalCluster, blobs: Arc<dyn BlobStore>) -> Arc<Self> {
        Arc::new(Self {
            id: HostId::parse("mini").unwrap(),
            cluster,
            blobs,
            jobs: Mutex::default(),
        })
    }

    /// Carries out jobs until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let host = Host {
            addr: "127.0.0.1".to_owned(),
            api_url: "http://127.0.0.1:0".to_owned(),
            incarnation: 1,
            ..Host::new(
                self.id.clone(),
                Resources {
                    cpu_millis: 64_000,
                    memory_bytes: 64 << 30,
                    disk_bytes: 1 << 40,
                },
            )
        };
        let _membership = self.cluster.join(host).await.unwrap();
        let mut wanted = self.cluster.assignments(&self.id);
        while let Some(Ok(wanted)) = wanted.next().await {
            let known = self.jobs.lock().clone();
            for (id, known) in &known {
                let is_wanted = wanted.iter().any(|job| job.id == *id && !job.is_stopping);
                if !is_wanted {
                    known.stop.cancel();
                }
            }
            for job in wanted {
                if !known.contains_key(&job.id) && !job.is_stopping {
                    let known = Arc::new(Known::default());
                    self.jobs.lock().insert(job.id.clone(), known.clone());
                    tokio::spawn(Arc::clone(&self).carry_out(job, known));
                }
            }
        }
    }

    async fn carry_out(self: Arc<Self>, job: Arc<Job>, known: Arc<Known>) {
        let dir = tempfile::tempdir().unwrap();
        let mut status = JobStatus::default();
        loop {
            let ran = self.run_once(&job, &known, dir.path(), &mut status).await;
            let is_stopped = known.stop.is_cancelled();
            match ran {
                Ok(code) => status.exit_status = code,
                Err(error) => {
                    status.error = Some(error.to_string());
                    self.say(&job, &mut status, Phase::Failed).await;
                    return;
                }
            }
            if is_stopped || job.spec.restart == RestartPolicy::Never {
                let phase = match status.exit_status {
                    Some(0) => Phase::Done,
                    _ if is_stopped => Phase::Done,
                    _ => Phase::Crashed,
                };
                self.say(&job, &mut status, phase).await;
                let code = status.exit_status.and_then(|code| u32::try_from(code).ok());
                known.frame(Frame::Exit(code.unwrap_or(255)));
                return;
            }
            status.restarts += 1;
            self.say(&job, &mut status, Phase::Restarting).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn run_once(
        &self,
        job: &Job,
        known: &Arc<Known>,
        dir: &Path,
        status: &mut JobStatus,
    ) -> io::Result<Option<i32>> {
        self.say(job, status, Phase::Starting).await;
        if job.spec.waits_for_attach {
            known.is_attached.notified().await;
        }
        self.unpack(job, dir).await?;
        let port = crate::process::free_port();
        let mut child = Command::new(&job.spec.args[0])
            .args(&job.spec.args[1..])
            .current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("HOME", dir)
            .env("PORT", port.to_string())
            .env("FLYNN_JOB_ID", format!("{}-{}", self.id, job.id))
            .envs(&job.spec.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        let group = Group(Pid::from_raw(group.unwrap()).unwrap());
        let reading = [
            known.read("stdout", child.stdout.take().unwrap()),
            known.read("stderr", child.stderr.take().unwrap()),
        ];
        if job.spec.ports.is_empty() {
            self.say(job, status, Phase::Up).await;
        }
        let mut announced = job.spec.ports.is_empty();
        let ended = loop {
            tokio::select! {
                ended = child.wait() => break ended?,
                () = known.stop.cancelled() => {
                    let _ = kill_process_group(group.0, Signal::TERM);
                    break child.wait().await?;
                }
                () = tokio::time::sleep(Duration::from_millis(20)), if !announced => {
                    if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                        announced = true;
                        status.ports = vec![port];
                        self.say(job, status, Phase::Up).await;
                    }
                }
            }
        };
        // What it wrote last is read before anybody hears that it ended. Whoever holds on to its output does not count.
        drop(group);
        let _ = timeout(LAST_WORDS, join_all(reading)).await;
        Ok(ended.code())
    }

    async fn unpack(&self, job: &Job, dir: &Path) -> io::Result<()> {
        for artifact in &job.spec.artifacts {
            let name = artifact.uri.strip_prefix("blob:").unwrap();
            let blob = self.blobs.get(&BlobName::parse(name).unwrap()).await;
            let blob = blob.map_err(io::Error::other)?;
            assert_eq!(Some(blob.info.sha256.to_string()), artifact.sha256);
            let bytes = blob.bytes(1 << 30).await.map_err(io::Error::other)?;
            unpack(&bytes[..], dir, Limits::default()).map_err(io::Error::other)?;
        }
        Ok(())
    }

    async fn say(&self, job: &Job, status: &mut JobStatus, phase: Phase) {
        status.phase = phase;
        let report = vec![(job.id.clone(), status.clone())];
        self.cluster.report(&self.id, report).await.unwrap();
    }

    fn known(&self, job: &JobId) -> flynn_controller::Result<Arc<Known>> {
        let jobs = self.jobs.lock();
        jobs.get(job)
            .cloned()
            .ok_or_else(|| flynn_controller::Error::Unavailable {
                why: format!("job {job} is not here yet"),
            })
    }
}

struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

impl Known {
    fn frame(&self, frame: Frame) {
        if let Some(attached) = &*self.attached.lock() {
            let _ = attached.send(frame);
        }
    }

    fn read(
        self: &Arc<Self>,
        stream: &'static str,
        mut from: impl AsyncReadExt + Send + Unpin + 'static,
    ) -> JoinHandle<()> {
        let known = Arc::clone(self);
        tokio::spawn(async move {
            let mut line = Vec::new();
            let mut buffer = vec![0; 4096];
            while let Ok(read @ 1..) = from.read(&mut buffer).await {
                known.frame(Frame::Output(Bytes::copy_from_slice(&buffer[..read])));
                for byte in &buffer[..read] {
                    if *byte == b'\n' {
                        known.log.lock().push(OutputLine {
                            time: Time::now(),
                            stream: stream.to_owned(),
                            msg: String::from_utf8_lossy(&line).into_owned(),
                        });
                        line.clear();
                    } else {
                        line.push(*byte);
                    }
                }
            }
        })
    }
}

#[async_trait]
impl JobStreams for MiniHost {
    async fn log(
        &self,
        _host: &Host,
        job: &JobId,
        _options: &LogOptions,
    ) -> flynn_controller::Result<BoxStream<'static, flynn_controller::Result<OutputLine>>> {
        let lines = self.known(job)?.log.lock().clone();
        Ok(futures::stream::iter(lines).map(Ok).boxed())
    }

    async fn attach(
        &self,
        _host: &Host,
        job: &JobId,
        _options: &AttachOptions,
    ) -> flynn_controller::Result<Box<dyn ByteStream>> {
        let known = loop {
            if let Ok(known) = self.known(job) {
                break known;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let (mut ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(64 << 10);
        let (sender, mut frames) = mpsc::unbounded_channel();
        *known.attached.lock() = Some(sender);
        known.is_attached.notify_one();
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                let bytes = match frame {
                    Frame::Output(bytes) => {
                        let mut frame = vec![3, 1];
                        frame.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                        frame.extend(bytes);
                        frame
                    }
                    Frame::Exit(code) => [vec![5], code.to_be_bytes().to_vec()].concat(),
                };
                let is_exit = bytes[0] == 5;
                if ours.write_all(&bytes).await.is_err() || is_exit {
                    return;
                }
            }
        });
        Ok(Box::new(theirs))
    }
}
