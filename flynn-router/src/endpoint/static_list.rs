//! Endpoints that never change.

use std::collections::BTreeMap;

use flynn_discovery::{Instance, InstanceId, ServiceName};
use futures::{StreamExt as _, stream, stream::BoxStream};

use super::{EndpointSet, EndpointSource};
use crate::Result;

/// A fixed list of endpoints, for a router without discovery.
#[derive(Debug, Clone, Default)]
pub struct StaticEndpoints {
    services: BTreeMap<ServiceName, EndpointSet>,
}

impl StaticEndpoints {
    /// No services.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This list with a service at `addrs`, each `host:port`. The first one leads.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "a number is always an instance id"
    )]
    pub fn with<A: Into<String>>(
        mut self,
        service: ServiceName,
        addrs: impl IntoIterator<Item = A>,
    ) -> Self {
        let instance = |(i, addr): (usize, A)| Instance {
            id: InstanceId::parse(i.to_string()).expect("a number is an instance id"),
            addr: addr.into(),
            proto: "tcp".to_owned(),
            attributes: BTreeMap::new(),
            created: i as u64,
        };
        let instances: Vec<_> = addrs.into_iter().enumerate().map(instance).collect();
        let leader = instances.first().map(|i| i.id.clone());
        self.services
            .insert(service, EndpointSet { instances, leader });
        self
    }
}

impl EndpointSource for StaticEndpoints {
    fn watch(&self, service: &ServiceName) -> BoxStream<'static, Result<EndpointSet>> {
        let set = self.services.get(service).cloned().unwrap_or_default();
        stream::iter([Ok(set)]).chain(stream::pending()).boxed()
    }
}
