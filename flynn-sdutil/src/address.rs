//! Under which address others reach this host.

use std::net::{IpAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;

use crate::{Error, Result};

/// Where the address to register comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// This host name or address.
    Host(String),
    /// The address of this network interface.
    Interface(String),
    /// The address this host has towards the discovery service at `host:port`.
    Towards(String),
}

impl Address {
    /// Chooses by the options `-h` and `-i`; without either, by `external` (the variable `EXTERNAL_IP`) or by the way to
    /// `discovery`.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when both are given.
    pub fn choose(
        host: Option<String>,
        interface: Option<String>,
        external: Option<String>,
        discovery: &str,
    ) -> Result<Self> {
        match (host, interface) {
            (Some(_), Some(_)) => Err(Error::Usage {
                what: "-h and -i".to_owned(),
                why: "give the host or the interface, not both".to_owned(),
            }),
            (Some(host), None) => Ok(Self::Host(host)),
            (None, Some(interface)) => Ok(Self::Interface(interface)),
            (None, None) => Ok(match external.filter(|ip| !ip.is_empty()) {
                Some(ip) => Self::Host(ip),
                None => Self::Towards(discovery.to_owned()),
            }),
        }
    }

    /// The host part of the address to register; IPv6 addresses are in brackets.
    ///
    /// # Errors
    ///
    /// [`Error::NoAddress`] for an interface that is not there or has no address; [`Error::System`] when there is no way
    /// to the discovery service.
    pub fn resolve(&self) -> Result<String> {
        match self {
            Self::Host(host) => Ok(bracketed(host)),
            Self::Interface(name) => Ok(bracketed(&interface_address(name)?.to_string())),
            Self::Towards(peer) => Ok(bracketed(&local_address(peer)?.to_string())),
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// The address of a network interface: the first IPv4 address, else the first IPv6 address that others can use.
///
/// # Errors
///
/// [`Error::NoAddress`].
pub fn interface_address(name: &str) -> Result<IpAddr> {
    let no_address = |why: &str| Error::NoAddress {
        interface: name.to_owned(),
        why: why.to_owned(),
    };
    let all = getifaddrs().map_err(|e| no_address(&format!("cannot be looked up: {e}")))?;
    let mut exists = false;
    let mut fallback = None;
    for interface in all.filter(|interface| interface.interface_name == name) {
        exists = true;
        let Some(address) = interface.address else {
            continue;
        };
        if let Some(v4) = address.as_sockaddr_in() {
            return Ok(v4.ip().into());
        }
        if let Some(v6) = address.as_sockaddr_in6()
            && !v6.ip().is_unicast_link_local()
        {
            fallback.get_or_insert_with(|| IpAddr::from(v6.ip()));
        }
    }
    fallback.ok_or_else(|| {
        no_address(if exists {
            "has no address"
        } else {
            "does not exist"
        })
    })
}

/// Our side of the way to `peer`. Connecting a datagram socket sends nothing.
fn local_address(peer: &str) -> Result<IpAddr> {
    let find = || {
        let unspecified: &[std::net::SocketAddr] = &[
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
        ];
        let mut found = Err(std::io::ErrorKind::AddrNotAvailable.into());
        for address in unspecified {
            let socket = UdpSocket::bind(address)?;
            found = socket.connect(peer).and_then(|()| socket.local_addr());
            if found.is_ok() {
                break;
            }
        }
        found
    };
    find()
        .map(|address| address.ip())
        .map_err(|source| Error::System {
            operation: "find this host's address (give it with -h or -i)",
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(
        host: Option<&str>,
        interface: Option<&str>,
        external: Option<&str>,
    ) -> Result<Address> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Address::choose(own(host), own(interface), own(external), "127.0.0.1:1111")
    }

    #[test]
    fn a_host_or_an_interface_but_not_both() {
        assert_eq!(
            choose(Some("a"), None, Some("b")).unwrap(),
            Address::Host("a".into())
        );
        assert_eq!(
            choose(None, None, Some("b")).unwrap(),
            Address::Host("b".into())
        );
        let error = choose(Some("a"), Some("lo"), None).unwrap_err();
        assert_eq!(error.exit_status(), 1);
    }

    #[test]
    fn ipv6_addresses_get_brackets() {
        let resolve = |host: &str| Address::Host(host.into()).resolve().unwrap();
        assert_eq!(resolve("::1"), "[::1]");
        assert_eq!(resolve("[::1]"), "[::1]");
        assert_eq!(resolve("a.example"), "a.example");
    }

    #[test]
    fn an_interface_has_an_address_or_the_exit_status_is_65() {
        assert_eq!(
            Address::Interface("lo".into()).resolve().unwrap(),
            "127.0.0.1"
        );
        let error = Address::Interface("nosuch0".into()).resolve().unwrap_err();
        assert_eq!(error.exit_status(), 65);
        assert_eq!(error.to_string(), "interface nosuch0 does not exist");
    }

    #[test]
    fn without_options_it_is_the_address_towards_discovery() {
        let address = choose(None, None, None).unwrap();
        assert_eq!(address.resolve().unwrap(), "127.0.0.1");
    }
}
