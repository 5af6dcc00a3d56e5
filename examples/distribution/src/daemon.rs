//! The daemon of a host: a member of the cell's store, the discovery API over it, and the host that runs jobs.

mod store;

use std::{
    ffi::OsString,
    fs::File,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use flynn_discovery::{
    Backend, Registry,
    http::{Keys, Secret, discovery_router, require_key, serve},
};
use flynn_host::{
    Host,
    host::HostBuilder,
    image::{ArtifactStore, BlobSource},
    runtime::process::ProcessRuntime,
};
use flynn_sched::remote::DiscoveryCluster;
use tokio::{net::TcpListener, sync::watch};

use self::store::Store;
use crate::{
    operator::what_if,
    settings::{self, Settings},
    signals,
};

/// Runs a host until it is told to stop. Its jobs go on: a daemon that is replaced finds them again.
///
/// # Errors
///
/// When the host cannot start, or can no longer do its work; the error says why in one sentence.
pub async fn run(data_dir: PathBuf) -> Result<()> {
    let settings = Settings::load(&data_dir)?;
    let token = settings::read_token(&settings::token_path(&data_dir))?;
    let data_dir = std::fs::canonicalize(&data_dir)?;
    let _lock = lock(&data_dir)?;
    let stop = signals::shutdown()?;
    // Bound before anything is started, so that a port in use is told at once.
    let discovery = bind(&settings, settings.discovery_port, "discovery API").await?;
    let api = bind(&settings, settings.host_port, "host API").await?;
    let raft = bind(&settings, settings.raft_port, "store").await?;

    let store = Store::open(&settings, &data_dir, raft, &token).await?;
    let backend: Arc<dyn Backend> = store.backend();
    let registry = Registry::new(Arc::clone(&backend));
    let (stopping, stopped) = watch::channel(false);
    let until = || {
        let mut stopped = stopped.clone();
        async move {
            // The sender is dropped only when this function ends.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let keys = Keys::new(vec![token.clone()]);
    let router = require_key(
        discovery_router(registry.clone(), Arc::clone(&backend), Some(store.info())),
        keys.clone(),
    );
    let mut servers = tokio::task::JoinSet::new();
    servers.spawn(serve(discovery, router, until()));
    tracing::info!(host = %settings.id, addr = %settings.addr, discovery = settings.discovery_port, "host is starting");

    store.ready().await?;
    let host = start_host(&settings, &data_dir, &token, Arc::clone(&backend), registry).await?;
    let router = flynn_host::http::router(host.handle().clone(), keys.clone());
    servers.spawn(serve(api, router.merge(cell_api(backend, keys)), until()));
    tracing::info!(host = %settings.id, "host is running");

    let outcome = tokio::select! {
        signal = stop => {
            tracing::info!(%signal, "stopping; the jobs go on");
            Ok(())
        }
        error = host.failed() => Err(error.into()),
        error = store.failed() => Err(error),
        Some(ended) = servers.join_next() => match ended {
            Ok(Ok(())) => Err(anyhow::anyhow!("an API of the host ended")),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(error.into()),
        },
    };
    stopping.send_replace(true);
    host.shutdown(flynn_host::host::Shutdown::LeaveJobs).await;
    store.close().await;
    while servers.join_next().await.is_some() {}
    outcome
}

/// `GET /cell`: what schedulers look at, for `flynn-host what-if` and other tools.
fn cell_api(backend: Arc<dyn Backend>, keys: Keys) -> axum::Router {
    let cluster = Arc::new(DiscoveryCluster::new(backend));
    let cell = async move || what_if::serve(&cluster).await;
    require_key(
        axum::Router::new().route("/cell", axum::routing::get(cell)),
        keys,
    )
}

async fn start_host(
    settings: &Settings,
    data_dir: &Path,
    token: &Secret,
    backend: Arc<dyn Backend>,
    registry: Registry,
) -> Result<Host> {
    let program = std::env::current_exe().context("our own program cannot be found")?;
    let bin_dir = program
        .parent()
        .context("a program lies in a directory")?
        .to_owned();
    let shim = shim(&program, &bin_dir);
    let runtime = ProcessRuntime::new(data_dir.join("run"), shim);
    let images = ArtifactStore::new(data_dir.join("images"))
        .with_source("blob", BlobSource::new(registry.clone(), token.clone()));
    // How this machine's package managers reach their registries is for builds to know.
    let mut system_env = flynn_receive::builder::build_env(std::env::vars());
    for own in ["PATH", "HOME", "LANG", "TZ", "TMPDIR"] {
        system_env.remove(own);
    }
    system_env.extend([
        ("DISCOVERD".to_owned(), discovery_urls(settings).join(",")),
        ("FLYNN_CLUSTER_TOKEN".to_owned(), token.expose().to_owned()),
    ]);
    let mut builder = Host::builder(runtime)
        .id(settings.id.as_str())
        .link(DiscoveryCluster::new(backend).with_lease_ttl(HOST_LEASE))
        .data_dir(data_dir)
        .registry(registry)
        .with_addr(settings.addr)
        .with_api_url(format!(
            "http://{}",
            settings::at(settings.addr, settings.host_port)
        ))
        .with_tags(settings.tags.clone())
        .with_images(images)
        // The platform's binaries lie beside ours.
        .with_path(format!("{}:{}", bin_dir.display(), inherited_path()))
        .with_system_env(system_env)
        .with_ports(ports(settings.addr));
    if let Some(zone) = &settings.zone {
        builder = builder.with_zone(zone.as_str());
    }
    Ok(builder.start().await?)
}

/// How long a host may be silent before its jobs are placed elsewhere: long enough for an election of the store's leader.
const HOST_LEASE: Duration = Duration::from_secs(3);

/// Where the platform's jobs find the store: this host first, then the founders.
fn discovery_urls(settings: &Settings) -> Vec<String> {
    let own = format!(
        "http://{}",
        settings::at(settings.addr, settings.discovery_port)
    );
    let mut urls = vec![own.clone()];
    urls.extend(
        settings
            .discovery_urls()
            .into_iter()
            .filter(|url| *url != own),
    );
    urls
}

/// What each job's shim runs: the small program beside ours, which takes a tenth of our memory, or ourselves where there is only
/// one file.
fn shim(program: &Path, bin_dir: &Path) -> Vec<OsString> {
    let small = bin_dir.join("flynn-job-shim");
    if small.is_file() {
        vec![small.into_os_string()]
    } else {
        vec![program.as_os_str().to_owned(), OsString::from("job-shim")]
    }
}

/// Hosts on loopback addresses share one machine: each takes its ports from a range of its own, so that a job that listens on all
/// addresses is not in the way of another host's.
fn ports(addr: IpAddr) -> RangeInclusive<u16> {
    const FIRST: u16 = 10_000;
    const EACH: u16 = 1_000;
    // Below the range the kernel takes outgoing ports from (32768 and up).
    const RANGES: u8 = 22;
    let last = match addr {
        IpAddr::V4(addr) => addr.octets()[3],
        IpAddr::V6(addr) => addr.octets()[15],
    };
    let first = FIRST + u16::from(last % RANGES) * EACH;
    first..=first + EACH - 1
}

/// The daemon's own `PATH`: whoever started it knows where this machine keeps its languages.
fn inherited_path() -> String {
    std::env::var("PATH").unwrap_or_else(|_| HostBuilder::DEFAULT_PATH.to_owned())
}

async fn bind(settings: &Settings, port: u16, what: &str) -> Result<TcpListener> {
    let addr = settings::at(settings.addr, port);
    TcpListener::bind(&addr).await.with_context(|| {
        format!("the {what} cannot listen on {addr}: is another daemon running with this address?")
    })
}

/// Held as long as the daemon runs: two daemons in one directory would destroy it.
fn lock(data_dir: &Path) -> Result<File> {
    let path = data_dir.join("daemon.lock");
    let file =
        File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!(
                "another daemon runs with the data directory {}: stop it first, or give this one a directory of its own",
                data_dir.display()
            )
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{} cannot be locked", path.display()))
        }
    }
}
