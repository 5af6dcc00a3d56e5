//! One service as the store tells it: entries and changes in, service events out. No IO.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Instance, InstanceId, LeaderPolicy, Metadata, ServiceEvent, ServiceName,
    backend::{Change, Entry, Key, Prefix, WatchEvent},
    leader::Candidates,
};

/// What is fixed when a service is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ServiceConfig {
    /// How it gets its leader.
    #[serde(rename = "leader_type")]
    pub leader: LeaderPolicy,
}

impl ServiceConfig {
    /// A service whose leader is found by `leader`.
    #[must_use]
    pub fn new(leader: LeaderPolicy) -> Self {
        Self { leader }
    }
}

/// The keys of one service. They are part of the wire format: other versions of this crate read them.
#[derive(Debug, Clone)]
pub(crate) struct ServiceKeys {
    pub(crate) prefix: Prefix,
    pub(crate) instances: Prefix,
    pub(crate) config: Key,
    pub(crate) meta: Key,
    pub(crate) leader: Key,
}

impl ServiceKeys {
    pub(crate) fn new(service: &ServiceName) -> Self {
        let key = |rest: &str| Key::parse(format!("services/{service}/{rest}")).expect(FITS);
        let prefix = |rest: &str| Prefix::parse(format!("services/{service}/{rest}")).expect(FITS);
        Self {
            prefix: prefix(""),
            instances: prefix("instances/"),
            config: key("config"),
            meta: key("meta"),
            leader: key("leader"),
        }
    }

    pub(crate) fn instance(&self, id: &InstanceId) -> Key {
        self.instances.key(id).expect(FITS)
    }
}

const FITS: &str = "names and ids are segments of keys, and short";

/// All there is to know about one service.
#[derive(Debug, Clone)]
pub(crate) struct ServiceState {
    keys: ServiceKeys,
    policy: LeaderPolicy,
    candidates: Candidates,
    /// The leader chosen by hand, registered or not.
    chosen: Option<InstanceId>,
    metadata: Option<Metadata>,
    /// The leader that was told last: identity and age, since an instance that comes again is another one.
    told_leader: Option<(InstanceId, u64)>,
}

impl ServiceState {
    pub(crate) fn new(keys: ServiceKeys) -> Self {
        Self {
            keys,
            policy: LeaderPolicy::default(),
            candidates: Candidates::default(),
            chosen: None,
            metadata: None,
            told_leader: None,
        }
    }

    /// The service that `entries` describe.
    pub(crate) fn of(keys: ServiceKeys, entries: Vec<Entry>) -> Self {
        let mut state = Self::new(keys);
        for entry in entries {
            state.put(&entry);
        }
        state
    }

    pub(crate) fn instances(&self) -> Vec<Instance> {
        self.candidates.oldest_first().cloned().collect()
    }

    pub(crate) fn leader(&self) -> Option<&Instance> {
        self.policy.elect(&self.candidates, self.chosen.as_ref())
    }

    /// Takes one event of the store's watch; returns what it means for the service, in the order to be told.
    pub(crate) fn handle(&mut self, event: WatchEvent) -> Vec<ServiceEvent> {
        match event {
            WatchEvent::Reset { entries, .. } => {
                *self = Self::of(self.keys.clone(), entries);
                self.told_leader = self.leader().map(identity);
                vec![ServiceEvent::Reset {
                    instances: self.instances(),
                    leader: self.leader().cloned(),
                    metadata: self.metadata.clone(),
                }]
            }
            WatchEvent::Changes { changes, .. } => {
                let mut events = Vec::with_capacity(changes.len() + 1);
                let mut was_chosen = false;
                for change in &changes {
                    was_chosen |= matches!(change, Change::Put(e) if e.key == self.keys.leader);
                    events.extend(match change {
                        Change::Put(entry) => self.put(entry),
                        Change::Delete(key) => self.delete(key),
                    });
                }
                events.extend(self.tell_leader(was_chosen));
                events
            }
        }
    }

    /// The leader is told after what made it one, and told anew when it was chosen anew.
    fn tell_leader(&mut self, was_chosen: bool) -> Option<ServiceEvent> {
        let leader = self.leader().cloned();
        let identity = leader.as_ref().map(identity);
        if identity == self.told_leader && !(was_chosen && leader.is_some()) {
            return None;
        }
        self.told_leader = identity;
        Some(ServiceEvent::Leader(leader))
    }

    fn put(&mut self, entry: &Entry) -> Option<ServiceEvent> {
        if let Some(id) = self.keys.instances.strip(&entry.key) {
            let instance = read_instance(id, entry)?;
            return Some(match self.candidates.insert(instance.clone()) {
                Some(previous) if previous.created == instance.created => {
                    ServiceEvent::Update(instance)
                }
                Some(_) | None => ServiceEvent::Up(instance),
            });
        }
        if entry.key == self.keys.meta {
            let metadata = read_metadata(entry)?;
            self.metadata = Some(metadata.clone());
            return Some(ServiceEvent::Metadata(Some(metadata)));
        }
        if entry.key == self.keys.leader {
            self.chosen = read_chosen(entry);
        } else if entry.key == self.keys.config {
            let config: ServiceConfig = read_json(entry).unwrap_or_default();
            self.policy = config.leader;
        }
        None
    }

    fn delete(&mut self, key: &Key) -> Option<ServiceEvent> {
        if let Some(id) = self.keys.instances.strip(key) {
            let id = InstanceId::parse(id).ok()?;
            return self.candidates.remove(&id).map(ServiceEvent::Down);
        }
        if *key == self.keys.meta {
            return self.metadata.take().map(|_| ServiceEvent::Metadata(None));
        }
        if *key == self.keys.leader {
            self.chosen = None;
        } else if *key == self.keys.config {
            self.policy = LeaderPolicy::default();
        }
        None
    }
}

fn identity(instance: &Instance) -> (InstanceId, u64) {
    (instance.id.clone(), instance.created)
}

/// The instance an entry holds. Its id is that of the key and its age that of the entry, whatever the value says.
pub(crate) fn read_instance(id: &str, entry: &Entry) -> Option<Instance> {
    let mut instance: Instance = read_json(entry)?;
    instance.id = InstanceId::parse(id).ok()?;
    instance.created = entry.created.0;
    Some(instance)
}

pub(crate) fn read_metadata(entry: &Entry) -> Option<Metadata> {
    Some(Metadata {
        data: read_json(entry)?,
        index: entry.version.0,
    })
}

fn read_chosen(entry: &Entry) -> Option<InstanceId> {
    let id = std::str::from_utf8(&entry.value).ok()?;
    InstanceId::parse(id).ok()
}

/// A value somebody else damaged must not take the readers of the rest down with it: it is told to the operator and
/// counts as absent.
pub(crate) fn read_json<T: DeserializeOwned>(entry: &Entry) -> Option<T> {
    match serde_json::from_slice(&entry.value) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(key = %entry.key, %error, "an entry of the registry is not readable, it is left out");
            None
        }
    }
}

#[cfg(test)]
mod tests;
