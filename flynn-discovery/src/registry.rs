//! Services, their instances, leaders and metadata, as a view over any [`Backend`].

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use serde_json::Value;

use crate::{
    Error, Instance, InstanceId, LeaderPolicy, Metadata, Registration, Result, ServiceConfig,
    ServiceEvent, ServiceName,
    backend::{
        Backend, Condition, Entry, Key, LeaseId, ListOptions, MAX_OPS, Op, Prefix, list_all,
    },
    service::{ServiceKeys, ServiceState, read_instance, read_json, read_metadata},
};

/// Registers instances of services and finds them.
///
/// All of it is plain keys of the backend, so every backend has the same semantics. Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> flynn_discovery::Result<()> {
/// use std::sync::Arc;
/// use flynn_discovery::{Instance, RegisterOptions, Registry, ServiceName, backend::MemoryBackend};
///
/// let registry = Registry::new(Arc::new(MemoryBackend::new()));
/// let www = ServiceName::parse("www")?;
/// let instance = Instance::new("web-1", "10.0.0.1:8080", "http")?;
/// let registration = registry.register(&www, instance, RegisterOptions::default()).await?;
/// assert_eq!(registry.leader(&www).await?.unwrap().addr, "10.0.0.1:8080");
/// registration.deregister().await?;
/// assert!(registry.instances(&www).await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Registry {
    backend: Arc<dyn Backend>,
}

/// How an instance is registered.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegisterOptions {
    /// How long the instance stays after its last sign of life.
    pub ttl: Duration,
}

impl RegisterOptions {
    /// How long an instance stays after its last sign of life, if nothing else is said.
    pub const TTL: Duration = Duration::from_secs(10);

    /// With another [`ttl`](Self::ttl): shorter finds a crash sooner, longer forgives longer pauses.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl }
    }
}

impl Default for RegisterOptions {
    fn default() -> Self {
        Self { ttl: Self::TTL }
    }
}

impl Registry {
    /// A registry in `backend`.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }

    /// The backend it is in.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Creates a service without instances.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`]; and as [`Backend::commit`].
    pub async fn create_service(&self, service: &ServiceName, leader: LeaderPolicy) -> Result<()> {
        let keys = ServiceKeys::new(service);
        let config = to_json(&ServiceConfig::new(leader));
        match self
            .backend
            .put(&keys.config, config, Condition::Absent)
            .await
        {
            Err(Error::Conflict { .. }) => Err(Error::Exists {
                what: format!("service {service}"),
            }),
            other => other.map(drop),
        }
    }

    /// Removes a service with its instances and metadata.
    ///
    /// A [`Registration`] of it that is still alive comes back, with the service, only when its lease was lost:
    /// stop the instances first.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; and as [`Backend::commit`].
    pub async fn remove_service(&self, service: &ServiceName) -> Result<()> {
        let keys = ServiceKeys::new(service);
        let mut condition = Condition::Present;
        loop {
            // Again until nothing is left: an instance may be registered between the list and the transaction.
            let entries = list_all(&*self.backend, &keys.prefix).await?;
            let ops: Vec<Op> = entries
                .into_iter()
                .map(|entry| Op::delete(entry.key))
                .take(MAX_OPS - 1)
                .collect();
            if ops.is_empty() && condition == Condition::Absent {
                return Ok(());
            }
            let compares = condition.on(&keys.config).into_iter().collect();
            match self.backend.commit(compares, ops).await {
                Ok(_) => condition = Condition::Absent,
                Err(Error::Conflict { .. }) if condition == Condition::Present => {
                    return Err(no_service(service));
                }
                // Somebody has created it anew.
                Err(Error::Conflict { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// What is fixed about a service; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// As [`Backend::get`].
    pub async fn service(&self, service: &ServiceName) -> Result<Option<ServiceConfig>> {
        let entry = self.backend.get(&ServiceKeys::new(service).config).await?;
        Ok(entry.map(|entry| read_json(&entry).unwrap_or_default()))
    }

    /// The names of all services, in order.
    ///
    /// # Errors
    ///
    /// As [`Backend::list`].
    pub async fn services(&self) -> Result<Vec<ServiceName>> {
        let root = Prefix::parse("services/")?;
        let mut services = Vec::new();
        let mut after = None;
        loop {
            let options = ListOptions {
                after: after.take(),
                ..ListOptions::default()
            };
            let page = self.backend.list(&root, options).await?;
            let names = page.entries.iter().filter_map(|entry| {
                let (name, rest) = root.strip(&entry.key)?.split_once('/')?;
                (rest == "config").then(|| ServiceName::parse(name).ok())?
            });
            services.extend(names);
            let Some(last) = page.entries.last().filter(|_| page.more) else {
                return Ok(services);
            };
            after = Some(past_service_of(&root, &last.key));
        }
    }

    /// Registers an instance and keeps it registered until the [`Registration`] is dropped.
    ///
    /// Creates the service, led by its oldest instance, if it is absent. An instance of the same id is replaced: it
    /// keeps its place in the order, and its former registration ends as [`RegistrationStatus::Replaced`].
    ///
    /// [`RegistrationStatus::Replaced`]: crate::RegistrationStatus::Replaced
    ///
    /// # Errors
    ///
    /// As [`Backend::grant`] and [`Backend::commit`]. There is no retry: see [`Backoff`](crate::Backoff).
    pub async fn register(
        &self,
        service: &ServiceName,
        instance: Instance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        Registration::start(Arc::clone(&self.backend), service, instance, options.ttl).await
    }

    /// Registers an instance, or renews it, until `ttl` from now: for callers whose instances speak for themselves,
    /// such as servers of a protocol with heartbeats.
    ///
    /// Other contents than before are an update. Returns the instance with its place in the order.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such service; and as [`Backend::commit`].
    pub async fn heartbeat(
        &self,
        service: &ServiceName,
        instance: Instance,
        ttl: Duration,
    ) -> Result<Instance> {
        let keys = ServiceKeys::new(service);
        let key = keys.instance(&instance.id);
        loop {
            let entry = self.backend.get(&key).await?;
            let beat = match &entry {
                Some(entry) => self.renew(&keys, &instance, entry).await,
                None => self.announce(&keys, &instance, ttl).await,
            };
            match beat {
                Ok(created) => {
                    return Ok(Instance {
                        created,
                        ..instance
                    });
                }
                Err(Error::Conflict { key }) if key == keys.config => {
                    return Err(no_service(service));
                }
                // It came, went or changed in between: look again.
                Err(Error::Conflict { .. } | Error::LeaseLost { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes an instance out. An instance that is not there succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such service; and as [`Backend::commit`].
    pub async fn remove_instance(&self, service: &ServiceName, id: &InstanceId) -> Result<()> {
        let keys = ServiceKeys::new(service);
        let compares = Condition::Present.on(&keys.config).into_iter().collect();
        let ops = vec![Op::delete(keys.instance(id))];
        match self.backend.commit(compares, ops).await {
            Err(Error::Conflict { .. }) => Err(no_service(service)),
            other => other.map(drop),
        }
    }

    /// The instances of a service, the oldest first; none if it does not exist.
    ///
    /// # Errors
    ///
    /// As [`Backend::list`].
    pub async fn instances(&self, service: &ServiceName) -> Result<Vec<Instance>> {
        let instances = ServiceKeys::new(service).instances;
        let entries = list_all(&*self.backend, &instances).await?;
        let mut found: Vec<Instance> = entries
            .iter()
            .filter_map(|entry| read_instance(instances.strip(&entry.key)?, entry))
            .collect();
        found.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(found)
    }

    /// The leader of a service, if it has one.
    ///
    /// # Errors
    ///
    /// As [`Backend::list`].
    pub async fn leader(&self, service: &ServiceName) -> Result<Option<Instance>> {
        let keys = ServiceKeys::new(service);
        let entries = list_all(&*self.backend, &keys.prefix).await?;
        Ok(ServiceState::of(keys, entries).leader().cloned())
    }

    /// Chooses the leader of a service whose policy is [`LeaderPolicy::Manual`]. It leads while it is registered.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such service, [`Error::Invalid`] when its leader is not chosen by hand; and
    /// as [`Backend::commit`].
    pub async fn set_leader(&self, service: &ServiceName, leader: &InstanceId) -> Result<()> {
        let keys = ServiceKeys::new(service);
        let choose = Op::put(keys.leader.clone(), leader.to_string());
        self.commit_to_manual(service, &keys, Condition::Any, vec![choose])
            .await?;
        Ok(())
    }

    /// The metadata of a service, if it has any.
    ///
    /// # Errors
    ///
    /// As [`Backend::get`].
    pub async fn metadata(&self, service: &ServiceName) -> Result<Option<Metadata>> {
        let entry = self.backend.get(&ServiceKeys::new(service).meta).await?;
        Ok(entry.as_ref().and_then(read_metadata))
    }

    /// Sets the metadata of a service if its present index is `expected`; zero stands for none yet. Returns the new
    /// index.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such service, [`Error::Exists`] when none was expected but there is some,
    /// [`Error::Conflict`] when the index is another one; and as [`Backend::commit`].
    pub async fn set_metadata(
        &self,
        service: &ServiceName,
        data: &Value,
        expected: u64,
    ) -> Result<u64> {
        let keys = ServiceKeys::new(service);
        let compares = [
            Condition::Present.on(&keys.config),
            at(expected).on(&keys.meta),
        ];
        let ops = vec![Op::put(keys.meta.clone(), to_json(data))];
        let committed = self
            .backend
            .commit(compares.into_iter().flatten().collect(), ops)
            .await;
        explain(service, &keys, expected, committed)
    }

    /// Sets the metadata and chooses the leader in one transaction: both or neither.
    ///
    /// # Errors
    ///
    /// As [`set_metadata`](Self::set_metadata) and [`set_leader`](Self::set_leader).
    pub async fn set_metadata_and_leader(
        &self,
        service: &ServiceName,
        data: &Value,
        expected: u64,
        leader: &InstanceId,
    ) -> Result<u64> {
        let keys = ServiceKeys::new(service);
        let ops = vec![
            Op::put(keys.meta.clone(), to_json(data)),
            Op::put(keys.leader.clone(), leader.to_string()),
        ];
        let committed = self
            .commit_to_manual(service, &keys, at(expected), ops)
            .await;
        explain(service, &keys, expected, committed)
    }

    /// Follows a service, which may not exist yet.
    ///
    /// The stream begins with [`ServiceEvent::Reset`] and says it again when something may have been missed. A change
    /// of the leader is told after the change that caused it. An `Err` item is its last, as in [`Backend::watch`].
    #[must_use]
    pub fn watch(&self, service: &ServiceName) -> BoxStream<'static, Result<ServiceEvent>> {
        let keys = ServiceKeys::new(service);
        let changes = self.backend.watch(&keys.prefix);
        let mut state = ServiceState::new(keys);
        changes
            .flat_map(move |event| {
                stream::iter(match event {
                    Ok(event) => state.handle(event).into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                })
            })
            .boxed()
    }

    /// Renews an entry that is there, and brings it up to date; returns its age.
    async fn renew(&self, keys: &ServiceKeys, instance: &Instance, entry: &Entry) -> Result<u64> {
        let present = read_instance(instance.id.as_str(), entry);
        let is_same = present.is_some_and(|present| {
            let Instance {
                id,
                addr,
                proto,
                attributes,
                created: _,
            } = &present;
            (id, addr, proto, attributes)
                == (
                    &instance.id,
                    &instance.addr,
                    &instance.proto,
                    &instance.attributes,
                )
        });
        if !is_same {
            let compares = [
                Condition::Present.on(&keys.config),
                Condition::Version(entry.version).on(&entry.key),
            ];
            let op = put_instance(entry.key.clone(), instance, entry.lease);
            self.backend
                .commit(compares.into_iter().flatten().collect(), vec![op])
                .await?;
        }
        if let Some(lease) = entry.lease {
            self.backend.keep_alive(lease).await?;
        }
        Ok(entry.created.0)
    }

    /// Writes an entry that is not there; returns its age.
    async fn announce(
        &self,
        keys: &ServiceKeys,
        instance: &Instance,
        ttl: Duration,
    ) -> Result<u64> {
        let key = keys.instance(&instance.id);
        let compares = [
            Condition::Present.on(&keys.config),
            Condition::Absent.on(&key),
        ];
        let lease = self.backend.grant(ttl).await?;
        let op = put_instance(key, instance, Some(lease));
        let committed = self
            .backend
            .commit(compares.into_iter().flatten().collect(), vec![op])
            .await;
        if committed.is_err() {
            // Only tidiness: nobody renews it.
            let _ = self.backend.revoke(lease).await;
        }
        Ok(committed?.0)
    }

    /// Commits `ops` if the service is led by hand and its metadata meets `meta`.
    async fn commit_to_manual(
        &self,
        service: &ServiceName,
        keys: &ServiceKeys,
        meta: Condition,
        ops: Vec<Op>,
    ) -> Result<crate::backend::Revision> {
        let Some(entry) = self.backend.get(&keys.config).await? else {
            return Err(no_service(service));
        };
        let config: ServiceConfig = read_json(&entry).unwrap_or_default();
        if config.leader != LeaderPolicy::Manual {
            return Err(Error::Invalid {
                what: format!("a leader for service {service}"),
                why: "its oldest instance leads: create it with the leader type manual".to_owned(),
            });
        }
        let compares = [
            Condition::Version(entry.version).on(&keys.config),
            meta.on(&keys.meta),
        ];
        self.backend
            .commit(compares.into_iter().flatten().collect(), ops)
            .await
    }
}

/// The op that writes an instance; its age is the store's to know.
pub(crate) fn put_instance(key: Key, instance: &Instance, lease: Option<LeaseId>) -> Op {
    let value = to_json(&Instance {
        created: 0,
        ..instance.clone()
    });
    Op::Put { key, value, lease }
}

pub(crate) fn to_json(value: &impl serde::Serialize) -> bytes::Bytes {
    let json = serde_json::to_vec(value).expect("plain data with text keys is always JSON");
    json.into()
}

pub(crate) fn no_service(service: &ServiceName) -> Error {
    Error::NotFound {
        what: format!("service {service}"),
    }
}

/// What the key of metadata must be for its index to be `expected`.
fn at(expected: u64) -> Condition {
    match expected {
        0 => Condition::Absent,
        index => Condition::Version(crate::backend::Revision(index)),
    }
}

/// The answer to setting metadata, in the words of services.
fn explain(
    service: &ServiceName,
    keys: &ServiceKeys,
    expected: u64,
    committed: Result<crate::backend::Revision>,
) -> Result<u64> {
    match committed {
        Ok(revision) => Ok(revision.0),
        Err(Error::Conflict { key }) if key == keys.config => Err(no_service(service)),
        Err(Error::Conflict { .. }) if expected == 0 => Err(Error::Exists {
            what: format!("metadata of service {service}"),
        }),
        Err(error) => Err(error),
    }
}

/// A key behind all those of the service `key` belongs to, so that a list need not read its instances.
fn past_service_of(root: &Prefix, key: &Key) -> Key {
    let name = root
        .strip(key)
        .and_then(|rest| rest.split('/').next())
        .unwrap_or_default();
    // `~` is the last of the characters a key is made of.
    root.key(format!("{name}/~"))
        .unwrap_or_else(|_| key.clone())
}
