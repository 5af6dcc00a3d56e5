//! Keeps the ports of one job in discovery.

use std::time::Duration;

use flynn_discovery::{
    Backoff, Instance, InstanceId, RegisterOptions, Registration, Registry, ServiceName,
};
use flynn_sched::{HostId, Job, JobId};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{checks::host_port, environment::attributes};
use crate::supervisor::Event;

/// What a registrar is told.
#[derive(Debug)]
pub(super) enum Wish {
    /// Be registered as these.
    Register(Vec<(ServiceName, Instance)>),
    /// Be registered as nothing, and say so: this is that run.
    Deregister(u32),
    /// End, and leave registrations to their leases: the job goes on. Says when that is done.
    Abandon(oneshot::Sender<()>),
}

/// The instances that a job's ports are.
pub(super) fn instances(
    host: &HostId,
    addr: &str,
    job: &Job,
    ports: &[u16],
) -> Vec<(ServiceName, Instance)> {
    let mut instances = Vec::new();
    for (index, (port, number)) in job.spec.ports.iter().zip(ports).enumerate() {
        let Some(service) = &port.service else {
            continue;
        };
        let name = ServiceName::parse(service.name.clone());
        let id = InstanceId::parse(format!("{}-{index}", job.id));
        match (name, id) {
            (Ok(name), Ok(id)) => instances.push((
                name,
                Instance {
                    id,
                    addr: host_port(addr, *number),
                    proto: match port.proto.as_str() {
                        "" => "tcp".to_owned(),
                        proto => proto.to_owned(),
                    },
                    attributes: attributes(host, job),
                    created: 0,
                },
            )),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(job = %job.id, %error, "a port cannot be registered");
            }
        }
    }
    instances
}

/// Carries out wishes, the newest first: one that waits for the store gives way to the next.
pub(super) async fn run(
    id: JobId,
    registry: Option<Registry>,
    mut wishes: mpsc::Receiver<Wish>,
    events: mpsc::Sender<Event>,
) {
    let mut wanted: Vec<(ServiceName, Instance)> = Vec::new();
    let mut held: Vec<Registration> = Vec::new();
    let mut backoff = Backoff::default();
    loop {
        let wish = match (&registry, wanted.get(held.len())) {
            (Some(registry), Some((service, instance))) => {
                let registering =
                    registry.register(service, instance.clone(), RegisterOptions::default());
                tokio::select! {
                    wish = wishes.recv() => wish,
                    registered = registering => {
                        match registered {
                            Ok(registration) => {
                                tracing::info!(job = %id, %service, addr = %instance.addr, "registered");
                                held.push(registration);
                                backoff.reset();
                                continue;
                            }
                            Err(error) => {
                                tracing::warn!(job = %id, %service, %error, "could not register, trying again");
                                tokio::select! {
                                    wish = wishes.recv() => wish,
                                    () = sleep(backoff.next().unwrap_or_default()) => continue,
                                }
                            }
                        }
                    }
                }
            }
            _ => wishes.recv().await,
        };
        match wish {
            Some(Wish::Register(instances)) => {
                if instances != wanted {
                    end(registry.as_ref(), &wanted, std::mem::take(&mut held)).await;
                    wanted = instances;
                }
            }
            Some(Wish::Deregister(run)) => {
                let ended = end(registry.as_ref(), &wanted, std::mem::take(&mut held));
                if timeout(PATIENCE, ended).await.is_err() {
                    tracing::warn!(job = %id, "the store was not told in time: the lease will end the registration");
                }
                wanted.clear();
                if events
                    .send(Event::Deregistered(id.clone(), run))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Some(Wish::Abandon(done)) => {
                held.into_iter().for_each(Registration::abandon);
                let _ = done.send(());
                return;
            }
            None => return, // what is held is deregistered as it is dropped
        }
    }
}

async fn end(
    registry: Option<&Registry>,
    wanted: &[(ServiceName, Instance)],
    held: Vec<Registration>,
) {
    let count = held.len();
    let ending = held.into_iter().map(|registration| async move {
        if let Err(error) = registration.deregister().await {
            tracing::warn!(%error, "could not deregister: the lease will");
        }
    });
    futures::future::join_all(ending).await;
    // The one that was just being registered may have arrived.
    if let (Some(registry), Some((service, instance))) = (registry, wanted.get(count)) {
        let _ = registry.remove_instance(service, &instance.id).await;
    }
}

/// A job's registrar, and how to talk to it.
#[derive(Debug)]
pub(super) struct Registrar {
    wishes: mpsc::Sender<Wish>,
}

impl Registrar {
    pub(super) fn start(
        id: JobId,
        registry: Option<Registry>,
        events: mpsc::Sender<Event>,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> Self {
        let (wishes, received) = mpsc::channel(WISHES);
        tasks.spawn(run(id, registry, received, events));
        Self { wishes }
    }

    /// Never waits: see [`WISHES`].
    pub(super) fn wish(&self, wish: Wish) {
        if self.wishes.try_send(wish).is_err() {
            tracing::error!("a registrar does not keep up");
        }
    }
}

/// A registrar takes a wish within [`PATIENCE`], and a job has a handful in that time.
const WISHES: usize = 64;

const PATIENCE: Duration = Duration::from_secs(4);
