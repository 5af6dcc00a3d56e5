//! The other replicas, from discovery.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use async_trait::async_trait;
use flynn_discovery::{Registry, ServiceName, http::Secret};
use parking_lot::Mutex;

use super::{HttpBlobStore, Peer, Peers};
use crate::{Error, Result};

/// The instances of a service, but for the one at our own address.
pub struct RegistryPeers {
    registry: Registry,
    service: ServiceName,
    own_addr: String,
    key: Secret,
    /// Clients by address, so that connections are kept.
    known: Mutex<BTreeMap<String, Peer>>,
}

impl RegistryPeers {
    /// The instances of `service`; `own_addr` is what we are registered under. Peers are shown `key`.
    #[must_use]
    pub fn new(
        registry: Registry,
        service: ServiceName,
        own_addr: impl Into<String>,
        key: Secret,
    ) -> Self {
        Self {
            registry,
            service,
            own_addr: own_addr.into(),
            key,
            known: Mutex::default(),
        }
    }
}

#[async_trait]
impl Peers for RegistryPeers {
    async fn peers(&self) -> Result<Vec<Peer>> {
        let instances = self
            .registry
            .instances(&self.service)
            .await
            .map_err(|error| Error::Unavailable {
                what: "discovery",
                why: error.to_string(),
            })?;
        let mut known = self.known.lock();
        known.retain(|addr, _| instances.iter().any(|i| i.addr == *addr));
        let mut peers = Vec::new();
        let mut seen = BTreeSet::new();
        for instance in instances {
            if instance.addr == self.own_addr || !seen.insert(instance.addr.clone()) {
                continue;
            }
            let peer = match known.get(&instance.addr) {
                Some(peer) => peer.clone(),
                None => {
                    let url = format!("http://{}", instance.addr);
                    let store = HttpBlobStore::new(vec![url])?
                        .with_key(self.key.clone())
                        .one_replica();
                    let peer = Peer {
                        id: instance.addr.clone(),
                        store: Arc::new(store),
                    };
                    known.insert(instance.addr, peer.clone());
                    peer
                }
            };
            peers.push(peer);
        }
        Ok(peers)
    }
}

impl fmt::Debug for RegistryPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryPeers")
            .field("service", &self.service)
            .field("own_addr", &self.own_addr)
            .finish_non_exhaustive()
    }
}
