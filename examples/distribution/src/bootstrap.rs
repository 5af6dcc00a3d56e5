//! `flynn-host bootstrap`: from running hosts to a platform.
//!
//! There is no special path for the platform's own parts. For the time of the bootstrap, a controller and a scheduler run inside this
//! command; it talks to them as any client does, makes controller, scheduler, router and receiver ordinary apps, and ends when
//! their jobs run. From then on the platform's own controller and schedulers see to them.

mod manifest;

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use flynn_controller::{
    http::Client,
    model::{App, NewRoute, Release, ScaleRequest},
};
use flynn_discovery::http::Secret;
use flynn_receive::ssh::HostKey;
use flynn_sched::Phase;
use tokio::{net::TcpListener, sync::watch, time::Instant};

use self::manifest::{AppStep, Manifest, Step};
use crate::{
    cli::{
        client,
        config::{Cluster, Config},
        output::note,
    },
    components::{controller, scheduler},
    operator::Operator,
    settings,
};

/// What to bootstrap.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many hosts must be there: 1, or 3 and more (two cannot outvote a failure of one).
    #[arg(short = 'n', long, default_value_t = 1)]
    min_hosts: usize,
    /// How long each step may take, in seconds.
    #[arg(short, long, default_value_t = 120)]
    timeout: u64,
    /// The domain apps get their names in; `*.DOMAIN` must lead to the hosts.
    #[arg(long, env = "CLUSTER_DOMAIN")]
    domain: String,
    /// The routers' HTTP port on each host.
    #[arg(long, default_value_t = 80)]
    http_port: u16,
    /// The receivers' SSH port on each host.
    #[arg(long, default_value_t = 2222)]
    ssh_port: u16,
    /// Where the buildpacks are, on every host.
    #[arg(long, default_value = "/usr/lib/flynn/buildpacks")]
    buildpacks: PathBuf,
    /// What the cluster is called in the users' configuration.
    #[arg(long, default_value = "default")]
    cluster_name: String,
    /// Do not add the cluster to this user's configuration (`~/.flynnrc` or FLYNNRC); print the command that does.
    #[arg(long)]
    no_config: bool,
    /// What to deploy, instead of the built-in manifest.
    manifest: Option<PathBuf>,
}

/// Carries out the manifest.
///
/// # Errors
///
/// When a step failed; the error names it. Steps can be repeated: what an interrupted bootstrap has made is found again.
pub async fn run(operator: Operator, options: Options) -> Result<()> {
    ensure!(
        options.min_hosts == 1 || options.min_hosts >= 3,
        "{} hosts cannot outvote the failure of one: bootstrap with one host, or with three or more",
        options.min_hosts
    );
    let text = match &options.manifest {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("the manifest {} cannot be read", path.display()))?,
        None => include_str!("../bootstrap.json").to_owned(),
    };
    let manifest = Manifest::parse(&text)?;
    let mut values = BTreeMap::from([
        ("domain".to_owned(), options.domain.clone()),
        ("http-port".to_owned(), options.http_port.to_string()),
        ("ssh-port".to_owned(), options.ssh_port.to_string()),
        (
            "buildpacks".to_owned(),
            options.buildpacks.display().to_string(),
        ),
    ]);
    let limit = Duration::from_secs(options.timeout);
    let mut bootstrap = Bootstrap {
        operator,
        options,
        limit,
        platform: None,
        apps: Vec::new(),
    };
    for step in manifest.steps() {
        let started = Instant::now();
        let what = bootstrap
            .step(step, &mut values)
            .await
            .with_context(|| format!("step {}", step.id()))?;
        note(&format!(
            "{:<18} {what} ({:.2} s)",
            step.id(),
            started.elapsed().as_secs_f64()
        ));
    }
    bootstrap.finish(&values).await
}

struct Bootstrap {
    operator: Operator,
    options: Options,
    limit: Duration,
    platform: Option<Platform>,
    /// The names of the apps deployed so far.
    apps: Vec<String>,
}

/// The controller and scheduler inside this command.
struct Platform {
    client: Client,
    stop: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Bootstrap {
    async fn step(&mut self, step: &Step, values: &mut BTreeMap<String, String>) -> Result<String> {
        match step {
            Step::WaitHosts { .. } => self.wait_hosts().await,
            Step::GenRandom { id } => {
                values.insert(id.clone(), settings::new_token().expose().to_owned());
                Ok("made".to_owned())
            }
            Step::GenSshKey { id } => {
                values.insert(id.clone(), HostKey::generate()?.to_openssh()?);
                Ok("made".to_owned())
            }
            Step::GenKey { id, name } => {
                let key = settings::new_token();
                controller::allow_key(&self.operator.backend, name, &key).await?;
                values.insert(id.clone(), key.expose().to_owned());
                Ok("made".to_owned())
            }
            Step::DeployApp(app) => self.deploy_app(app, values).await,
            Step::WaitJobs { .. } => self.wait_jobs().await,
            Step::AddRoute {
                app,
                domain,
                service,
                ..
            } => {
                let domain = manifest::fill(domain, values)?;
                let client = self.platform(values).await?.clone();
                let routes = client.routes(app).await?;
                if !routes.iter().any(|route| {
                    route
                        .rule
                        .as_http()
                        .is_some_and(|rule| rule.domain.as_str() == domain)
                }) {
                    let route = NewRoute {
                        kind: "http".to_owned(),
                        domain: domain.clone(),
                        service: service.clone(),
                        drain_backends: true,
                        ..NewRoute::default()
                    };
                    client.create_route(app, &route).await?;
                }
                Ok(format!("{domain} leads to {service}"))
            }
        }
    }

    async fn wait_hosts(&self) -> Result<String> {
        let deadline = Instant::now() + self.limit;
        loop {
            let alive = match self.operator.state().await {
                Ok(state) => state.hosts().filter(|host| host.is_schedulable()).count(),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => 0,
            };
            if alive >= self.options.min_hosts {
                return Ok(format!("{alive} in the cell"));
            }
            ensure!(
                Instant::now() < deadline,
                "{alive} of {} hosts are in the cell after {:?}: start `flynn-host daemon` on the others and look at their output",
                self.options.min_hosts,
                self.limit
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// The platform inside this command, started when it is first needed.
    async fn platform(&mut self, values: &BTreeMap<String, String>) -> Result<&Client> {
        if self.platform.is_none() {
            let key = values
                .get("controller-key")
                .context("the manifest makes no key called controller-key before it needs one")?;
            let (stop, stopped) = watch::channel(false);
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let url = format!("http://{}", listener.local_addr()?);
            let until = |mut stopped: watch::Receiver<bool>| async move {
                // The sender is only dropped with us.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let backend = Arc::clone(&self.operator.backend);
            let cluster = Arc::clone(&self.operator.cluster);
            let config = controller::Config {
                default_route_domain: Some(self.options.domain.clone()),
                token: self.operator.token().clone(),
            };
            let tasks = vec![
                tokio::spawn(controller::run(
                    Arc::clone(&backend),
                    Arc::clone(&cluster),
                    config,
                    listener,
                    until(stopped.clone()),
                )),
                tokio::spawn(scheduler::run(cluster, until(stopped))),
            ];
            let client = Client::new(vec![url], Secret::new(key.clone()))?;
            self.platform = Some(Platform {
                client,
                stop,
                tasks,
            });
        }
        Ok(&self
            .platform
            .as_ref()
            .context("it was just started")?
            .client)
    }

    async fn deploy_app(
        &mut self,
        step: &AppStep,
        values: &BTreeMap<String, String>,
    ) -> Result<String> {
        let hosts = self
            .operator
            .state()
            .await?
            .hosts()
            .filter(|host| host.is_schedulable())
            .count();
        let client = self.platform(values).await?.clone();
        self.apps.push(step.id.clone());
        let app = match client.app(&step.id).await {
            Ok(app) => app,
            Err(error) if error.is_not_found() => {
                let mut app = App::named(&step.id);
                app.meta = step.meta.clone();
                app.meta.insert(App::SYSTEM.to_owned(), "true".to_owned());
                client.create_app(&app).await?
            }
            Err(error) => return Err(error.into()),
        };
        if app.release.is_some() {
            return Ok("is deployed already".to_owned());
        }
        let mut release = Release {
            app_id: app.id.clone(),
            ..Release::default()
        };
        let mut counts = BTreeMap::new();
        for (name, value) in &step.env {
            release
                .env
                .insert(name.clone(), manifest::fill(value, values)?);
        }
        for (name, process) in &step.processes {
            let (count, process) = process.fill(values)?;
            // A copy more than there are hosts would only share their fate.
            let count = if process.omni {
                count
            } else {
                count.min(u32::try_from(hosts).unwrap_or(u32::MAX)).max(1)
            };
            counts.insert(name.clone(), count);
            release.processes.insert(name.clone(), process);
        }
        let release = client.create_release(&release).await?;
        client.set_release(&app.id, &release.id).await?;
        let request = ScaleRequest {
            app: app.id.clone(),
            release: release.id.clone(),
            new_processes: Some(counts.clone()),
            ..ScaleRequest::default()
        };
        client.scale(&request).await?;
        Ok(counts
            .iter()
            .map(|(name, count)| format!("{name}={count}"))
            .collect::<Vec<_>>()
            .join(" "))
    }

    /// Waits until every app's formation stands.
    async fn wait_jobs(&self) -> Result<String> {
        let deadline = Instant::now() + self.limit;
        loop {
            let state = self.operator.state().await?;
            let hosts = state.hosts().filter(|host| host.is_schedulable()).count();
            let mut missing = Vec::new();
            let mut up = 0;
            for group in state.groups() {
                let wanted = match group.kind {
                    flynn_sched::GroupKind::Service { count } => count as usize,
                    flynn_sched::GroupKind::Omni { per_host } => per_host as usize * hosts,
                    _ => continue,
                };
                let jobs: Vec<_> = state.jobs_of(&group.id).collect();
                let have = jobs
                    .iter()
                    .filter(|job| job.status.phase == Phase::Up)
                    .count();
                up += have;
                if have < wanted {
                    let why = jobs
                        .iter()
                        .find_map(|job| job.status.error.clone())
                        .map(|error| format!(": {error}"))
                        .unwrap_or_default();
                    let name = group
                        .spec
                        .metadata
                        .get("flynn-controller.app_name")
                        .map_or(group.id.as_str(), String::as_str);
                    missing.push(format!("{name} has {have} of {wanted} up{why}"));
                }
            }
            if missing.is_empty() && up > 0 {
                return Ok(format!("{up} up"));
            }
            ensure!(
                Instant::now() < deadline,
                "after {:?}: {}",
                self.limit,
                missing.join("; ")
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    async fn finish(mut self, values: &BTreeMap<String, String>) -> Result<()> {
        if let Some(platform) = self.platform.take() {
            platform.stop.send_replace(true);
            for task in platform.tasks {
                task.await??;
            }
        }
        let Some(key) = values.get("controller-key") else {
            return Ok(());
        };
        let options = &self.options;
        let port = if options.http_port == 80 {
            String::new()
        } else {
            format!(":{}", options.http_port)
        };
        let state = self.operator.state().await?;
        let mut addrs = Vec::new();
        for host in state.hosts() {
            addrs.push(host.host.addr.parse()?);
        }
        let cluster = Cluster {
            name: options.cluster_name.clone(),
            key: key.clone(),
            controller_url: format!("http://controller.{}{port}", options.domain),
            git_url: format!(
                "ssh://git@{}",
                settings::at(self.operator.settings().addr, options.ssh_port)
            ),
            addresses: addrs
                .iter()
                .map(|addr| settings::at(*addr, options.http_port))
                .collect(),
        };
        self.routers_answer(&cluster).await?;
        if options.no_config {
            note(&format!(
                "The platform is up. Let users reach it with\n\n    flynn cluster add -d --git-url {} --addresses {} {} {} {}\n",
                cluster.git_url,
                cluster.addresses.join(","),
                cluster.name,
                cluster.controller_url,
                key
            ));
            return Ok(());
        }
        let path = Config::path()?;
        let mut config = Config::load(&path)?;
        let name = cluster.name.clone();
        config.add(cluster, true, true)?;
        config.save(&path)?;
        note(&format!(
            "The platform is up; cluster {name} is the default in {}.",
            path.display()
        ));
        Ok(())
    }

    /// Waits until each router leads to the controller: only then is the platform there for its users.
    async fn routers_answer(&self, cluster: &Cluster) -> Result<()> {
        let deadline = Instant::now() + self.limit;
        for addr in &cluster.addresses {
            let one = Cluster {
                addresses: vec![addr.clone()],
                ..cluster.clone()
            };
            let client = client(&one)?;
            while let Err(error) = client.ping().await {
                ensure!(
                    Instant::now() < deadline,
                    "the router at {addr} does not lead to the controller after {:?}: {error}",
                    self.limit
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }
}
