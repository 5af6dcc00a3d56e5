//! A small world: a memory backend, a cell in it, the real schedulers, hosts that obey, and the controller's API.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use flynn_controller::{
    Controller, DiscoveryStore, Platform, Running, Store,
    auth::StaticKeys,
    http::{Client, Secret, Server},
    model::{App, Counts, Event, EventKind, Job, JobState, ProcessType, Release, ScaleRequest},
    streams::JobStreams,
};
use flynn_discovery::{Backend, backend::MemoryBackend};
use flynn_router::DiscoveryRouteStore;
use flynn_sched::{
    Cluster, DiscoveryCluster, Driver, Host, HostId, HostLink, JobId, JobStatus, Phase, Resources,
    scheduler::{BatchScheduler, ServiceScheduler},
};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::task::JoinSet;

/// How long a test waits for something that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const KEY: &str = "s3cret";

/// What a test is made of. All that it started ends with it.
pub(crate) struct World {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) cluster: Arc<DiscoveryCluster>,
    pub(crate) platform: Platform,
    tasks: JoinSet<()>,
}

impl World {
    /// A world with so many hosts, and no controller yet.
    pub(crate) async fn with_hosts(count: usize) -> Self {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let cluster = Arc::new(DiscoveryCluster::new(Arc::clone(&backend)));
        let mut tasks = JoinSet::new();
        for n in 0..count {
            let link = DiscoveryCluster::new(Arc::clone(&backend));
            tasks.spawn(host(format!("host{n}"), Arc::new(link)));
        }
        let driver = Driver::on_tokio(Arc::<DiscoveryCluster>::clone(&cluster))
            .with_scheduler(ServiceScheduler::new())
            .with_scheduler(BatchScheduler::new());
        tasks.spawn(driver.run(std::future::pending()));
        let platform = platform(&backend, Arc::<DiscoveryCluster>::clone(&cluster));
        let world = Self {
            backend,
            cluster,
            platform,
            tasks,
        };
        world
            .until("all hosts have joined", |state| {
                state.hosts().count() == count
            })
            .await;
        world
    }

    /// Another controller of the same platform, as if in another process.
    pub(crate) fn controller(&self) -> Running {
        let cluster = Arc::new(DiscoveryCluster::new(Arc::clone(&self.backend)));
        Controller::new(platform(&self.backend, cluster))
            .with_claim_ttl(Duration::from_millis(600))
            .start()
    }

    /// The API, and a client of it.
    pub(crate) async fn client(&mut self) -> Client {
        let platform = self.platform.clone();
        self.client_of(platform).await
    }

    pub(crate) async fn client_of(&mut self, platform: Platform) -> Client {
        let endpoint = self.serve(platform).await;
        Client::new(vec![endpoint], Secret::new(KEY)).unwrap()
    }

    /// Serves the API of a platform; returns its URL.
    pub(crate) async fn serve(&mut self, platform: Platform) -> String {
        let keys = StaticKeys::new([KEY]).unwrap();
        let router = Server::new(platform, Arc::new(keys)).into_router();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        self.tasks.spawn(async {
            flynn_discovery::http::serve(listener, router, std::future::pending())
                .await
                .unwrap();
        });
        endpoint
    }

    /// Waits until the cell is so.
    pub(crate) async fn until(
        &self,
        what: &str,
        holds: impl Fn(&flynn_sched::ClusterState) -> bool + Send + Sync,
    ) {
        let mut states = self.cluster.watch();
        let found = async {
            while let Some(state) = states.next().await {
                if holds(&state.unwrap()) {
                    return;
                }
            }
        };
        if tokio::time::timeout(DEADLINE, found).await.is_err() {
            let state = self.cluster.snapshot().await.unwrap();
            let jobs: Vec<_> = state
                .jobs()
                .map(|j| (&j.group, j.status.phase, j.is_stopping))
                .collect();
            panic!("{what}; there are {jobs:?}");
        }
    }

    /// Waits until so many jobs of a release are up, and no others are live.
    pub(crate) async fn until_up(&self, release: &Release, name: &str, count: usize) {
        self.until(&format!("{count} {name} are up"), |state| {
            up(state, release, name) == count && live(state, release, name) == count
        })
        .await;
    }
}

pub(crate) fn up(state: &flynn_sched::ClusterState, release: &Release, name: &str) -> usize {
    let group = flynn_controller::reconcile::group_id(&release.app_id, &release.id, name).unwrap();
    state
        .jobs_of(&group)
        .filter(|job| job.status.phase == Phase::Up && !job.is_stopping)
        .count()
}

pub(crate) fn live(state: &flynn_sched::ClusterState, release: &Release, name: &str) -> usize {
    let group = flynn_controller::reconcile::group_id(&release.app_id, &release.id, name).unwrap();
    state
        .jobs_of(&group)
        .filter(|job| !job.status.phase.is_final())
        .count()
}

fn platform(backend: &Arc<dyn Backend>, cluster: Arc<DiscoveryCluster>) -> Platform {
    Platform::new(
        Arc::new(DiscoveryStore::new(Arc::clone(backend))),
        cluster,
        Arc::new(DiscoveryRouteStore::new(Arc::clone(backend))),
    )
    .with_default_route_domain("example.com")
}

impl World {
    pub(crate) fn platform_with(&self, streams: Arc<dyn JobStreams>) -> Platform {
        self.platform.clone().with_streams(streams)
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.platform.store()
    }
}

/// A release whose `web` does what its first argument says: `ok`, `crash`, `hang` or `finish`.
pub(crate) fn release_of(app: &App, behaviour: &str) -> Release {
    Release {
        app_id: app.id.clone(),
        processes: [("web".to_owned(), ProcessType::command([behaviour]))].into(),
        ..Release::default()
    }
}

pub(crate) fn scale_to(release: &Release, count: u32) -> ScaleRequest {
    let counts = Counts::from([("web".to_owned(), count)]);
    ScaleRequest::to(&release.app_id, &release.id, counts)
}

/// Waits for the first event that is so.
pub(crate) async fn event_where<E: std::fmt::Debug>(
    events: &mut BoxStream<'static, Result<Event, E>>,
    what: &str,
    holds: impl Fn(&Event) -> bool + Send + Sync,
) -> Event {
    let found = async {
        loop {
            let event = events.next().await.expect("the stream goes on").unwrap();
            if holds(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(DEADLINE, found)
        .await
        .unwrap_or_else(|_| panic!("{what}"))
}

/// Is it about a scale request that is complete?
pub(crate) fn is_scaled(event: &Event) -> bool {
    event.kind == EventKind::ScaleRequest && event.data["state"] == "complete"
}

pub(crate) fn job_of(event: &Event) -> Option<(JobState, Job)> {
    let job: Job = serde_json::from_value(event.data.clone()).ok()?;
    (event.kind == EventKind::Job).then_some((job.state, job))
}

/// A host that carries out what is assigned to it.
async fn host(id: String, link: Arc<dyn HostLink>) {
    let id = HostId::parse(id).unwrap();
    let membership = link.join(a_host(&id)).await.unwrap();
    let mut assignments = link.assignments(&id);
    let mut known: BTreeMap<JobId, Phase> = BTreeMap::new();
    let mut crashing: BTreeSet<JobId> = BTreeSet::new();
    let mut restarts: BTreeMap<JobId, u32> = BTreeMap::new();
    let mut jobs = Vec::new();
    loop {
        tokio::select! {
            assigned = assignments.next() => match assigned {
                Some(assigned) => jobs = assigned.unwrap(),
                None => break,
            },
            // Jobs that crash are started again after a moment.
            () = tokio::time::sleep(Duration::from_millis(20)), if !crashing.is_empty() => {}
        }
        crashing.clear();
        let mut reports = Vec::new();
        for job in &jobs {
            let phase = known.get(&job.id).copied().unwrap_or_default();
            let behaviour = job.spec.args.first().map_or("", String::as_str);
            let mut status = JobStatus {
                since_ms: flynn_controller::model::Time::now().as_millis(),
                ..JobStatus::default()
            };
            status.phase = match (behaviour, job.is_stopping) {
                _ if phase.is_final() => continue,
                (_, true) => Phase::Done,
                ("hang", false) => Phase::Starting,
                ("finish", false) => {
                    status.exit_status = Some(0);
                    Phase::Done
                }
                ("crash", false) => {
                    let count = restarts.entry(job.id.clone()).or_default();
                    status.restarts = *count;
                    status.exit_status = Some(1);
                    status.error = Some("exited with status 1 after 0.2 s".to_owned());
                    *count += 1;
                    crashing.insert(job.id.clone());
                    Phase::Restarting
                }
                _ => Phase::Up,
            };
            if status.phase != phase || status.phase == Phase::Restarting {
                known.insert(job.id.clone(), status.phase);
                reports.push((job.id.clone(), status));
            }
        }
        if !reports.is_empty() {
            link.report(&id, reports).await.unwrap();
        }
    }
    drop(membership);
}

pub(crate) fn a_host(id: &HostId) -> Host {
    Host {
        addr: "127.0.0.1".to_owned(),
        api_url: format!("http://127.0.0.1/{id}"),
        incarnation: 1,
        ..Host::new(
            id.clone(),
            Resources {
                cpu_millis: 64_000,
                memory_bytes: 64 << 30,
                disk_bytes: 64 << 30,
            },
        )
    }
}
