//! A route: which traffic goes to which service.

mod names;
mod wire;

use std::fmt;

use flynn_discovery::ServiceName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use self::names::escape;
pub use self::names::{Domain, PathPrefix, RouteId};
use self::wire::Wire;
use crate::{Error, Result};

/// Sends the traffic that fits [`rule`](Self::rule) to the instances of a service.
///
/// Its JSON is flat, as in Flynn's API: `type` and `id` apart, the fields of the rule beside the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Route {
    /// Its identity. JSON without an id makes a new one.
    pub id: RouteId,
    /// Who owns it, for example `controller/apps/<id>`; empty if nobody does.
    pub parent_ref: String,
    /// The service whose instances answer.
    pub service: ServiceName,
    /// Only the service's leader answers.
    pub leader: bool,
    /// Tell the owner of a backend when the last request to it has ended.
    pub drain_backends: bool,
    /// Which traffic.
    pub rule: Rule,
    /// When it was made, if whoever made it said so.
    pub created_at: Option<Timestamp>,
    /// When it was last changed, if whoever changed it said so.
    pub updated_at: Option<Timestamp>,
}

impl Route {
    /// A route for all paths of a domain.
    #[must_use]
    pub fn http(domain: Domain, service: ServiceName) -> Self {
        Self::new(
            RouteKind::Http,
            service,
            Rule::Http(HttpRule {
                domain,
                path: PathPrefix::root(),
                sticky: false,
                disable_keep_alives: false,
            }),
        )
    }

    /// A route for a TCP port.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for port 0.
    pub fn tcp(port: u16, service: ServiceName) -> Result<Self> {
        if port == 0 {
            return Err(invalid("TCP route", "name a port from 1 to 65535"));
        }
        Ok(Self::new(RouteKind::Tcp, service, Rule::Tcp { port }))
    }

    fn new(kind: RouteKind, service: ServiceName, rule: Rule) -> Self {
        Self {
            id: RouteId::random(kind),
            parent_ref: String::new(),
            service,
            leader: false,
            drain_backends: false,
            rule,
            created_at: None,
            updated_at: None,
        }
    }

    /// This route for the paths under `path` only. A TCP route has no paths and stays as it is.
    #[must_use]
    pub fn with_path(mut self, prefix: PathPrefix) -> Self {
        if let Rule::Http(rule) = &mut self.rule {
            rule.path = prefix;
        }
        self
    }

    /// This route, keeping each client on one backend. A TCP route stays as it is.
    #[must_use]
    pub fn with_sticky(mut self) -> Self {
        if let Rule::Http(rule) = &mut self.rule {
            rule.sticky = true;
        }
        self
    }

    /// This route, to the service's leader only.
    #[must_use]
    pub fn with_leader(mut self) -> Self {
        self.leader = true;
        self
    }

    /// This route, owned by `parent_ref`.
    #[must_use]
    pub fn with_parent_ref(mut self, parent_ref: impl Into<String>) -> Self {
        self.parent_ref = parent_ref.into();
        self
    }
}

/// Which traffic a route takes. No two routes of a store have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// HTTP requests by host and path.
    Http(HttpRule),
    /// Connections to a port of the router.
    Tcp {
        /// The port.
        port: u16,
    },
}

impl Rule {
    /// The HTTP rule, if it is one.
    #[must_use]
    pub fn as_http(&self) -> Option<&HttpRule> {
        match self {
            Self::Http(rule) => Some(rule),
            Self::Tcp { .. } => None,
        }
    }

    /// The TCP port, if it is a TCP rule.
    #[must_use]
    pub fn tcp_port(&self) -> Option<u16> {
        match self {
            Self::Tcp { port } => Some(*port),
            Self::Http(_) => None,
        }
    }

    /// Do both take the same traffic?
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(a), Self::Http(b)) => a.domain == b.domain && a.path == b.path,
            (Self::Tcp { port: a }, Self::Tcp { port: b }) => a == b,
            (Self::Http(_) | Self::Tcp { .. }, _) => false,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(rule) => write!(f, "{}{}", rule.domain, rule.path),
            Self::Tcp { port } => write!(f, "TCP port {port}"),
        }
    }
}

/// HTTP requests by host and path, and how they are passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRule {
    /// The host.
    pub domain: Domain,
    /// The paths.
    pub path: PathPrefix,
    /// Keep each client on one backend by a cookie.
    pub sticky: bool,
    /// Use a new backend connection for each request.
    pub disable_keep_alives: bool,
}

/// HTTP or TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RouteKind {
    /// By host and path.
    Http,
    /// By port.
    Tcp,
}

impl RouteKind {
    /// `http` or `tcp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

fn invalid(what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Invalid {
        what: what.into(),
        why: why.into(),
    }
}

#[cfg(test)]
mod tests;
