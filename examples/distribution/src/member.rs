//! What a job of the platform is told by its host, and the store it reaches with it.

use std::{env, net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result};
use flynn_discovery::{Backend, Registry, backend::RemoteBackend, http::Secret};
use flynn_sched::remote::DiscoveryCluster;

/// The environment a host gives to the platform's jobs.
#[derive(Debug)]
pub struct Member {
    /// The address to listen on and to be reached at.
    pub addr: IpAddr,
    /// The host's id.
    pub host: String,
    /// The cluster's token.
    pub token: Secret,
    /// The hosts of the store, as they stand in URLs; this one first.
    pub hosts: Vec<String>,
    /// The store.
    pub backend: Arc<dyn Backend>,
    /// Services in it.
    pub registry: Registry,
}

impl Member {
    /// Reads `DISCOVERD`, `FLYNN_CLUSTER_TOKEN` and `EXTERNAL_IP`.
    ///
    /// # Errors
    ///
    /// When one is missing: the program was not started by a host.
    pub fn from_env() -> Result<Self> {
        let addr = variable("EXTERNAL_IP")?;
        let addr = addr
            .parse()
            .with_context(|| format!("EXTERNAL_IP={addr} is not an IP address"))?;
        let token = Secret::new(variable("FLYNN_CLUSTER_TOKEN")?);
        let urls: Vec<String> = variable("DISCOVERD")?
            .split(',')
            .map(|url| url.trim().to_owned())
            .collect();
        let hosts = urls.iter().map(|url| host_of(url).to_owned()).collect();
        let backend: Arc<dyn Backend> = Arc::new(RemoteBackend::new(urls, Some(token.clone()))?);
        let registry = Registry::new(Arc::clone(&backend));
        Ok(Self {
            addr,
            host: variable("FLYNN_HOST_ID")?,
            token,
            hosts,
            backend,
            registry,
        })
    }

    /// The cell.
    #[must_use]
    pub fn cluster(&self) -> Arc<DiscoveryCluster> {
        Arc::new(DiscoveryCluster::new(Arc::clone(&self.backend)))
    }
}

/// The host in a URL, with its brackets if it is an IPv6 address.
fn host_of(url: &str) -> &str {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or(authority);
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => authority,
    }
}

/// A variable that must be there.
///
/// # Errors
///
/// When it is not.
pub fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| {
        format!("{name} is not set: this program is started by a host, as a job of the platform")
    })
}

/// A port number in a variable, or a default.
///
/// # Errors
///
/// When it is set and not a port.
pub fn port(name: &str, default: u16) -> Result<u16> {
    match env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name}={text} is not a port")),
        Err(_) => Ok(default),
    }
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn the_host_of_a_url_keeps_its_brackets() {
        assert_eq!(host_of("http://127.0.0.1:1111"), "127.0.0.1");
        assert_eq!(host_of("http://[::1]:1111/x"), "[::1]");
        assert_eq!(host_of("http://host"), "host");
    }
}
