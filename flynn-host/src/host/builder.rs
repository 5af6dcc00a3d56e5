//! How a host is described, checked and started.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, TryLockError},
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use flynn_discovery::Registry;
use flynn_sched::{HostId, HostLink, JobId, Resources};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::{
    Host, HostHandle,
    draining::Draining,
    link,
    reporter::Reports,
    shell::{Shell, write_notes},
    world::{SystemEnv, World, make_dir},
};
use crate::{
    Error, Result,
    image::{ArtifactStore, ImageStore},
    journal::{FileJournal, Journal},
    log::{FileLogs, LogSink},
    ports::PortAllocator,
    runtime::ContainerRuntime,
    supervisor::{Options, Supervisor, Survivor},
    volume::{DirVolumes, VolumeProvider},
};

/// Describes a host. [`id`](Self::id), [`link`](Self::link) and [`data_dir`](Self::data_dir) are mandatory.
#[derive(Debug)]
#[must_use]
pub struct HostBuilder {
    runtime: Arc<dyn ContainerRuntime>,
    id: Option<String>,
    link: Option<Arc<dyn HostLink>>,
    data_dir: Option<PathBuf>,
    registry: Option<Registry>,
    addr: IpAddr,
    api_url: String,
    capacity: Option<Resources>,
    tags: BTreeMap<String, String>,
    zone: Option<String>,
    images: Option<Arc<dyn ImageStore>>,
    volumes: Option<Arc<dyn VolumeProvider>>,
    logs: Option<Arc<dyn LogSink>>,
    journal: Option<Arc<dyn Journal>>,
    ports: RangeInclusive<u16>,
    path: String,
    system_env: SystemEnv,
    max_files: u64,
    prepare_timeout: Duration,
    options: Options,
}

impl HostBuilder {
    /// The `PATH` of jobs, if nothing else is said.
    pub const DEFAULT_PATH: &'static str =
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    /// How many files a process of a job may have open, if nothing else is said.
    pub const DEFAULT_MAX_FILES: u64 = 10_000;
    /// How long fetching and unpacking a job's artifacts may take, if nothing else is said.
    pub const DEFAULT_PREPARE_TIMEOUT: Duration = Duration::from_secs(300);

    pub(super) fn new(runtime: Arc<dyn ContainerRuntime>) -> Self {
        Self {
            runtime,
            id: None,
            link: None,
            data_dir: None,
            registry: None,
            addr: IpAddr::from([127, 0, 0, 1]),
            api_url: String::new(),
            capacity: None,
            tags: BTreeMap::new(),
            zone: None,
            images: None,
            volumes: None,
            logs: None,
            journal: None,
            ports: PortAllocator::DEFAULT_RANGE,
            path: Self::DEFAULT_PATH.to_owned(),
            system_env: SystemEnv::default(),
            max_files: Self::DEFAULT_MAX_FILES,
            prepare_timeout: Self::DEFAULT_PREPARE_TIMEOUT,
            options: Options::default(),
        }
    }

    /// Its identity in the cell.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The cell.
    pub fn link(mut self, link: impl HostLink) -> Self {
        self.link = Some(Arc::new(link));
        self
    }

    /// Where everything is kept. One daemon works in a directory at a time.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Registers the services of jobs here. Without one they are not registered.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// The address that jobs are reached at; default 127.0.0.1.
    pub fn with_addr(mut self, addr: IpAddr) -> Self {
        self.addr = addr;
        self
    }

    /// Where the host API is, for the cell to tell others.
    pub fn with_api_url(mut self, url: impl Into<String>) -> Self {
        self.api_url = url.into();
        self
    }

    /// What it can give to jobs; default: [what the machine has](detect_capacity).
    pub fn with_capacity(mut self, capacity: Resources) -> Self {
        self.capacity = Some(capacity);
        self
    }

    /// Labels that constraints refer to.
    pub fn with_tags(mut self, tags: BTreeMap<String, String>) -> Self {
        self.tags = tags;
        self
    }

    /// The failure domain it stands in.
    pub fn with_zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Where jobs' files come from; default: an [`ArtifactStore`] for `file:` below the data directory.
    pub fn with_images(mut self, images: impl ImageStore) -> Self {
        self.images = Some(Arc::new(images));
        self
    }

    /// Where volumes are; default: directories below the data directory.
    pub fn with_volumes(mut self, volumes: impl VolumeProvider) -> Self {
        self.volumes = Some(Arc::new(volumes));
        self
    }

    /// Where jobs' output is kept; default: files below the data directory.
    pub fn with_logs(mut self, logs: impl LogSink) -> Self {
        self.logs = Some(Arc::new(logs));
        self
    }

    /// Where it remembers its jobs; default: a file below the data directory.
    pub fn with_journal(mut self, journal: impl Journal) -> Self {
        self.journal = Some(Arc::new(journal));
        self
    }

    /// The ports that jobs are given; default [`PortAllocator::DEFAULT_RANGE`]. Hosts on one machine should have ranges
    /// of their own.
    pub fn with_ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.ports = ports;
        self
    }

    /// The `PATH` of jobs; default [`DEFAULT_PATH`](Self::DEFAULT_PATH).
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Variables that only jobs of [`Partition::System`](flynn_sched::Partition::System) are given, such as the
    /// cluster's token.
    pub fn with_system_env(mut self, env: BTreeMap<String, String>) -> Self {
        self.system_env = SystemEnv(env);
        self
    }

    /// How long a job may take to stop after SIGTERM, unless its spec says otherwise; default 30 s.
    pub fn with_stop_grace(mut self, grace: Duration) -> Self {
        self.options.stop_grace = grace;
        self
    }

    /// How long a job that is to stop goes on after it was taken out of discovery; default 1 s.
    pub fn with_drain_delay(mut self, delay: Duration) -> Self {
        self.options.drain_delay = delay;
        self
    }

    /// The delays between restarts of a job that keeps ending; default 0.1 s to 30 s.
    pub fn with_back_off(mut self, first: Duration, max: Duration) -> Self {
        self.options.first_back_off = first;
        self.options.max_back_off = max;
        self
    }

    /// How many jobs are started at once; default 4.
    pub fn with_max_starts(mut self, starts: usize) -> Self {
        self.options.max_starts = starts.max(1);
        self
    }

    /// How many jobs that are over are remembered, with their logs; default 100.
    pub fn with_past_jobs(mut self, jobs: usize) -> Self {
        self.options.past_jobs = jobs;
        self
    }

    /// How many files a process of a job may have open; default
    /// [`DEFAULT_MAX_FILES`](Self::DEFAULT_MAX_FILES).
    pub fn with_max_files(mut self, files: u64) -> Self {
        self.max_files = files;
        self
    }

    /// How long fetching and unpacking a job's artifacts may take; default
    /// [`DEFAULT_PREPARE_TIMEOUT`](Self::DEFAULT_PREPARE_TIMEOUT).
    pub fn with_prepare_timeout(mut self, timeout: Duration) -> Self {
        self.prepare_timeout = timeout;
        self
    }

    /// Finds the jobs of an earlier life and goes to work. Entering the cell goes on in the background: see
    /// [`Host::joined`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names what is missing or wrong; [`Error::DirTaken`] when another daemon works in the data
    /// directory; [`Error::File`] when it cannot be read or written.
    pub async fn start(self) -> Result<Host> {
        let id = HostId::parse(required(self.id, "id")?)?;
        let link = required(self.link, "link")?;
        let dir = required(self.data_dir, "data_dir")?;
        if self.ports.is_empty() {
            return Err(Error::Invalid {
                what: "ports".to_owned(),
                why: "the range is empty".to_owned(),
            });
        }
        let dir = std::path::absolute(&dir).map_err(|e| Error::file("find", dir, e))?;
        make_dir(&dir)?;
        let lock = lock(&dir).await?;
        let jobs_dir = dir.join("jobs");
        make_dir(&jobs_dir)?;
        let journal = self
            .journal
            .unwrap_or_else(|| Arc::new(FileJournal::new(dir.join("journal"))));
        let world = Arc::new(World {
            runtime: self.runtime,
            images: self
                .images
                .unwrap_or_else(|| Arc::new(ArtifactStore::new(dir.join("artifacts")))),
            volumes: self
                .volumes
                .unwrap_or_else(|| Arc::new(DirVolumes::new(dir.join("volumes")))),
            logs: self
                .logs
                .unwrap_or_else(|| Arc::new(FileLogs::new(dir.join("logs")))),
            registry: self.registry,
            ports: Mutex::new(PortAllocator::new(self.addr, self.ports, id.as_str())),
            addr: self.addr.to_string(),
            id: id.clone(),
            path: self.path,
            system_env: self.system_env,
            max_files: self.max_files,
            prepare_timeout: self.prepare_timeout,
            draining: Draining::open(&dir)?,
            jobs_dir,
        });
        let survivors = survivors(&world, &*journal).await?;
        clear_up(&world, &survivors, self.options.past_jobs).await;

        let host = flynn_sched::Host {
            addr: world.addr.clone(),
            api_url: self.api_url,
            tags: self.tags,
            zone: self.zone,
            incarnation: Uuid::new_v4().as_u64_pair().0,
            ..flynn_sched::Host::new(id.clone(), self.capacity.unwrap_or_else(detect_capacity))
        };
        let (event_sender, events) = mpsc::channel(EVENTS);
        let (orders, received_orders) = mpsc::channel(1);
        let (jobs, watched_jobs) = watch::channel(Arc::default());
        let (failed, failure) = watch::channel(None);
        let (joined, is_joined) = watch::channel(false);
        let (leave, told_to_leave) = oneshot::channel();
        let (notes, received_notes) = mpsc::channel(NOTES);
        let reports = Arc::new(Reports::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&reports).run(id, Arc::clone(&link)));
        tasks.spawn(write_notes(Arc::clone(&world), received_notes));
        let stay = link::run(
            host,
            link,
            event_sender.clone(),
            world.draining.watch(),
            joined,
            told_to_leave,
        );
        let shell = Shell {
            supervisor: Supervisor::new(self.options.clone()),
            // Long enough for the last of them to be killed after its grace.
            stop_patience: self.options.stop_grace
                + self.options.drain_delay
                + self.options.deregister_timeout
                + STOP_SLACK,
            link: tokio::spawn(stay),
            leave: Some(leave),
            failure: failed,
            world: Arc::clone(&world),
            journal,
            reports,
            events,
            event_sender: event_sender.clone(),
            orders: received_orders,
            jobs,
            notes,
            registrars: HashMap::new(),
            checks: HashMap::new(),
            tasks,
            began: Instant::now(),
            _lock: lock,
        };
        Ok(Host {
            handle: HostHandle::new(world, event_sender, watched_jobs),
            orders,
            shell: tokio::spawn(shell.run(survivors)),
            failure,
            is_joined,
        })
    }
}

/// What this machine has: its processors, its memory, and no promise about its disk.
#[must_use]
pub fn detect_capacity() -> Resources {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory_kib: u64 = fs::read_to_string("/proc/meminfo")
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            let rest = line.strip_prefix("MemTotal:")?;
            rest.trim().trim_end_matches("kB").trim().parse().ok()
        })
        .unwrap_or(0);
    Resources {
        cpu_millis: processors as u64 * 1000,
        memory_bytes: memory_kib * 1024,
        disk_bytes: u64::from(u32::MAX) << 20,
    }
}

fn required<T>(value: Option<T>, what: &str) -> Result<T> {
    value.ok_or_else(|| Error::Invalid {
        what: what.to_owned(),
        why: "a host cannot do without it".to_owned(),
    })
}

/// Takes the data directory. A daemon that was just told to end may still hold it for a moment.
async fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|e| Error::file("create", &path, e))?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(50)).await,
            Err(TryLockError::Error(e)) => return Err(Error::file("lock", path, e)),
        }
    }
    Err(Error::DirTaken {
        dir: dir.to_owned(),
    })
}

/// What the journal and the runtime know of an earlier life.
async fn survivors(world: &World, journal: &dyn Journal) -> Result<Vec<Survivor>> {
    let mut survivors: BTreeMap<JobId, Survivor> = BTreeMap::new();
    for record in journal.load().await? {
        if !record.status.phase.is_final() {
            let mut ports = world.ports.lock();
            let wanted = &record.job.spec.ports;
            ports.restore(&record.job.id, wanted, &record.status.ports);
        }
        let id = record.job.id.clone();
        survivors.insert(
            id.clone(),
            Survivor {
                id,
                record: Some(record),
                container: None,
            },
        );
    }
    for container in world.runtime.list().await? {
        let survivor = survivors
            .entry(container.id.clone())
            .or_insert_with(|| Survivor {
                id: container.id.clone(),
                record: None,
                container: None,
            });
        survivor.container = Some(container.state);
    }
    Ok(survivors.into_values().collect())
}

/// Removes what no job of ours can still need. What cannot be removed now is tried again at the next start.
async fn clear_up(world: &World, survivors: &[Survivor], past_jobs: usize) {
    let is_known = |id: &JobId| survivors.iter().any(|s| s.id == *id);
    if let Ok(mut logs) = world.logs.jobs().await {
        logs.retain(|id| !is_known(id));
        let surplus = logs.len().saturating_sub(past_jobs);
        for id in &logs[..surplus] {
            let _ = world.logs.remove(id).await;
        }
    }
    for entry in fs::read_dir(&world.jobs_dir)
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().into_string().unwrap_or_default();
        if let Ok(id) = JobId::parse(name)
            && !is_known(&id)
        {
            let _ = world.delete(&id).await;
        }
    }
}

/// Events on their way to the supervisor.
const EVENTS: usize = 1024;
/// Lines on their way to jobs' logs.
const NOTES: usize = 1024;
/// Together five seconds.
const LOCK_TRIES: u32 = 100;
const STOP_SLACK: Duration = Duration::from_secs(10);
