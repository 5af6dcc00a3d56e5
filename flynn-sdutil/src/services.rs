//! Looks services up.

use std::{collections::BTreeMap, time::Duration};

use flynn_discovery::{
    Instance, Registry, ServiceEvent, ServiceName,
    backend::{ListOptions, Prefix},
};
use futures::StreamExt;

use crate::{Error, Result};

/// Which instances are looked for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Query {
    /// The service.
    pub service: ServiceName,
    /// Attributes each must have.
    pub attributes: BTreeMap<String, String>,
    /// How long to wait for one.
    pub timeout: Duration,
}

impl Query {
    /// How long is waited, if nothing else is said.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// All instances of `service`.
    #[must_use]
    pub fn new(service: ServiceName) -> Self {
        Self {
            service,
            attributes: BTreeMap::new(),
            timeout: Self::TIMEOUT,
        }
    }

    /// Only those with these attributes.
    #[must_use]
    pub fn with_attributes(
        mut self,
        attributes: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        self.attributes.extend(attributes);
        self
    }

    /// With another [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn matches(&self, instance: &Instance) -> bool {
        self.attributes
            .iter()
            .all(|(key, value)| instance.attributes.get(key) == Some(value))
    }
}

/// The instances that fit, the oldest first. Waits until there is one.
///
/// # Errors
///
/// [`Error::Nobody`] when none comes in time; [`Error::Discovery`] when discovery cannot be asked.
pub async fn services(registry: &Registry, query: &Query) -> Result<Vec<Instance>> {
    // Asked once without waiting, so that an unreachable discovery service is an error and not an absent service.
    let found = matching(registry.instances(&query.service).await?, query);
    if !found.is_empty() {
        return Ok(found);
    }
    let wait = async {
        let mut events = registry.watch(&query.service);
        while let Some(event) = events.next().await {
            let is_news = match event? {
                ServiceEvent::Reset { instances, .. } => {
                    instances.iter().any(|instance| query.matches(instance))
                }
                ServiceEvent::Up(instance) | ServiceEvent::Update(instance) => {
                    query.matches(&instance)
                }
                _ => false,
            };
            if is_news {
                return Ok(matching(registry.instances(&query.service).await?, query));
            }
        }
        Ok(Vec::new())
    };
    match tokio::time::timeout(query.timeout, wait).await {
        Ok(Ok(found)) if found.is_empty() => Err(nobody(query)),
        Ok(found) => found,
        Err(_) => Err(nobody(query)),
    }
}

fn matching(instances: Vec<Instance>, query: &Query) -> Vec<Instance> {
    instances
        .into_iter()
        .filter(|instance| query.matches(instance))
        .collect()
}

fn nobody(query: &Query) -> Error {
    let wanted: Vec<String> = query
        .attributes
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    Error::Nobody {
        service: query.service.to_string(),
        matching: if wanted.is_empty() {
            String::new()
        } else {
            format!(" with {}", wanted.join(", "))
        },
        waited_s: query.timeout.as_secs(),
    }
}

/// Can discovery be reached, and does it answer?
///
/// # Errors
///
/// [`Error::Discovery`] says why not.
pub async fn ping(registry: &Registry) -> Result<()> {
    let options = ListOptions {
        limit: 1,
        ..ListOptions::default()
    };
    registry.backend().list(&Prefix::root(), options).await?;
    Ok(())
}
