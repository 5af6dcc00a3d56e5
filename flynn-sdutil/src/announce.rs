//! Keeps one instance registered as long as it should be.

use std::{collections::BTreeMap, time::Duration};

use flynn_discovery::{
    Backoff, Instance, RegisterOptions, Registration, RegistrationStatus, Registry, ServiceName,
    health::{self, HealthEvent, MonitorConfig},
    http::instance_id,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use tokio::{sync::watch, task::JoinSet};

use crate::{CheckSpec, Error, Result, Signals, Target};

/// What is registered: some services at one host.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Announcement {
    /// The services and their ports.
    pub targets: Vec<Target>,
    /// The host others reach them at.
    pub host: String,
    /// Attributes of each instance.
    pub attributes: BTreeMap<String, String>,
    /// What must succeed for an instance to be registered; without a check it is registered at once.
    pub check: Option<CheckSpec>,
}

impl Announcement {
    /// Announces `targets` at `host`.
    #[must_use]
    pub fn new(targets: Vec<Target>, host: impl Into<String>) -> Self {
        Self {
            targets,
            host: host.into(),
            ..Self::default()
        }
    }

    /// With attributes.
    #[must_use]
    pub fn with_attributes(
        mut self,
        attributes: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        self.attributes.extend(attributes);
        self
    }

    /// With a check.
    #[must_use]
    pub fn with_check(mut self, check: Option<CheckSpec>) -> Self {
        self.check = check;
        self
    }

    /// Checks everything, so that nothing is left to go wrong but discovery itself.
    pub(crate) fn prepare(&self, registry: &Registry) -> Result<Prepared> {
        let mut keepers = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            let addr = format!("{}:{}", self.host, target.port);
            let instance = Instance {
                id: instance_id(PROTO, &addr),
                proto: PROTO.to_owned(),
                attributes: self.attributes.clone(),
                created: 0,
                addr,
            };
            let health = match &self.check {
                None => futures::stream::iter([HealthEvent::Up])
                    .chain(futures::stream::pending())
                    .boxed(),
                Some(check) => health::watch(check.of(&instance.addr)?, MonitorConfig::default()),
            };
            keepers.push(Keeper {
                registry: registry.clone(),
                service: target.service.clone(),
                instance,
                health,
            });
        }
        Ok(Prepared { keepers })
    }
}

/// What can be announced at any time.
pub(crate) struct Prepared {
    keepers: Vec<Keeper>,
}

impl Prepared {
    /// Announces everything in the background.
    pub(crate) fn start(self) -> Announced {
        let (stop, stopped) = watch::channel(false);
        let tasks = self
            .keepers
            .into_iter()
            .map(|keeper| keeper.run(stopped.clone()))
            .collect();
        Announced { stop, tasks }
    }
}

/// Registers and stays until a signal asks to end; then takes everything out again.
///
/// # Errors
///
/// [`Error::Discovery`] when the registry refuses; [`Error::Replaced`] when another process registers the address.
pub async fn register(
    registry: &Registry,
    announcement: &Announcement,
    signals: &mut Signals,
) -> Result<()> {
    let mut announced = announcement.prepare(registry)?.start();
    let outcome = tokio::select! {
        _ = signals.end() => Ok(()),
        error = announced.failed() => Err(error),
    };
    announced.end().await;
    outcome
}

/// What is announced. Dropping it stops; the instances are taken out in the background.
#[derive(Debug)]
pub(crate) struct Announced {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<()>>,
}

impl Announced {
    /// Waits for a failure that waiting cannot mend. Cancel safe.
    pub(crate) async fn failed(&mut self) -> Error {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Err(error))) => return error,
                Some(Ok(Ok(()))) => {}
                Some(Err(panic)) => {
                    return Error::System {
                        operation: "keep the registration",
                        source: std::io::Error::other(panic),
                    };
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Takes all instances out, as far as that is possible soon. What is left goes with its lease.
    pub(crate) async fn end(mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(END_TIMEOUT, all).await.is_err() {
            tracing::warn!("discovery did not answer; the registration ends by itself in 10 s");
        }
    }
}

/// Keeps one instance registered while it is healthy.
struct Keeper {
    registry: Registry,
    service: ServiceName,
    instance: Instance,
    health: BoxStream<'static, HealthEvent>,
}

impl Keeper {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> Result<()> {
        let mut presence = Presence::None;
        loop {
            tokio::select! {
                _ = wait(&mut stopped) => break,
                event = self.health.next() => match event {
                    Some(HealthEvent::Up) => {
                        tracing::info!(service = %self.service, addr = self.instance.addr, "up");
                        presence = Presence::Coming(self.register().boxed());
                    }
                    Some(HealthEvent::Down { why }) => {
                        tracing::warn!(service = %self.service, addr = self.instance.addr, why, "down");
                        presence.end().await;
                        presence = Presence::None;
                    }
                    Some(_) => {}
                    None => break,
                },
                change = presence.changed() => match change {
                    Change::Registered(registered) => presence = Presence::There(registered?),
                    Change::Replaced => {
                        return Err(Error::Replaced {
                            service: self.service.to_string(),
                            addr: self.instance.addr,
                        });
                    }
                }
            }
        }
        presence.end().await;
        Ok(())
    }

    /// Registers; tries again as long as that may help.
    fn register(&self) -> impl Future<Output = Result<Registration>> + Send + 'static {
        let registry = self.registry.clone();
        let (service, instance) = (self.service.clone(), self.instance.clone());
        async move {
            let mut backoff = Backoff::default();
            loop {
                let options = RegisterOptions::default();
                let attempt = registry.register(&service, instance.clone(), options);
                match attempt.await {
                    Ok(registration) => return Ok(registration),
                    // Registering twice is harmless: it is the same instance.
                    Err(
                        error @ (flynn_discovery::Error::Unavailable { .. }
                        | flynn_discovery::Error::Unknown { .. }
                        | flynn_discovery::Error::LeaseLost { .. }
                        | flynn_discovery::Error::Conflict { .. }),
                    ) => tracing::warn!(%service, %error, "cannot register yet"),
                    Err(error) => return Err(error.into()),
                }
                backoff.wait().await;
            }
        }
    }
}

async fn wait(stopped: &mut watch::Receiver<bool>) {
    // An error means that the owner is gone, which is the same.
    _ = stopped.wait_for(|stopped| *stopped).await;
}

/// How far an instance is registered.
enum Presence {
    None,
    Coming(BoxFuture<'static, Result<Registration>>),
    There(Registration),
}

enum Change {
    Registered(Result<Registration>),
    Replaced,
}

impl Presence {
    /// Waits for something to happen to it by itself. Cancel safe.
    async fn changed(&mut self) -> Change {
        match self {
            Self::None => std::future::pending().await,
            Self::Coming(registering) => Change::Registered(registering.await),
            Self::There(registration) => {
                let mut statuses = registration.statuses();
                while let Some(status) = statuses.next().await {
                    if status == RegistrationStatus::Replaced {
                        return Change::Replaced;
                    }
                }
                std::future::pending().await
            }
        }
    }

    /// Takes the instance out.
    async fn end(&mut self) {
        let registration = match std::mem::replace(self, Self::None) {
            Self::None => None,
            // What has been sent may arrive: given a moment, it can be taken back.
            Self::Coming(registering) => tokio::time::timeout(TAKE_BACK, registering)
                .await
                .ok()
                .and_then(Result::ok),
            Self::There(registration) => Some(registration),
        };
        if let Some(registration) = registration
            && let Err(error) = registration.deregister().await
        {
            tracing::warn!(%error, "cannot deregister; the registration ends by itself in 10 s");
        }
    }
}

/// sdutil does not know what a port speaks.
const PROTO: &str = "tcp";

/// How long the end waits for a registration that is under way.
const TAKE_BACK: Duration = Duration::from_secs(1);

/// How long taking instances out may hold up our end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
