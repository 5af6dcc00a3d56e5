//! A route: which traffic goes to which service.

use std::{fmt, str::FromStr, sync::Arc};

use flynn_discovery::ServiceName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

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

/// The identity of a route, written `http/<uuid>` or `tcp/<uuid>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouteId {
    /// What the route routes.
    pub kind: RouteKind,
    /// The part that is unique.
    pub uuid: Uuid,
}

impl RouteId {
    /// A new id.
    #[must_use]
    pub fn random(kind: RouteKind) -> Self {
        let uuid = Uuid::new_v4();
        Self { kind, uuid }
    }

    /// Parses `http/<uuid>` or `tcp/<uuid>`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is allowed.
    pub fn parse(id: &str) -> Result<Self> {
        let parse = || {
            let (kind, uuid) = id.split_once('/')?;
            let kind = match kind {
                "http" => RouteKind::Http,
                "tcp" => RouteKind::Tcp,
                _ => return None,
            };
            let uuid = Uuid::parse_str(uuid).ok()?;
            Some(Self { kind, uuid })
        };
        parse().ok_or_else(|| {
            let what = format!("route id {id:?}");
            invalid(what, "a route id is http/<uuid> or tcp/<uuid>")
        })
    }
}

/// The host a route answers for: a name, `*.` and a name for every host below it, or `*` for every host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(Arc<str>);

impl Domain {
    /// The longest domain, in bytes.
    pub const MAX_LEN: usize = 253;

    /// Every host that no other route names.
    #[must_use]
    pub fn any() -> Self {
        Self(Arc::from("*"))
    }

    /// Parses a domain. Upper case becomes lower case, a dot at the end is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is allowed.
    pub fn parse(domain: impl AsRef<str>) -> Result<Self> {
        let given = domain.as_ref();
        if given == "*" {
            return Ok(Self::any());
        }
        let domain = given.strip_suffix('.').unwrap_or(given);
        let domain = domain.to_ascii_lowercase();
        let labels = domain.strip_prefix("*.").unwrap_or(&domain);
        let fits = domain.len() <= Self::MAX_LEN
            && labels.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        if fits {
            Ok(Self(domain.into()))
        } else {
            Err(invalid(
                format!("domain {given:?}"),
                "a domain is a host name without a port, *.name for all hosts below it, or * for all hosts",
            ))
        }
    }

    /// The domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name below which every host fits: `Some("")` for `*`, `None` if this is one host.
    #[must_use]
    pub fn wildcard(&self) -> Option<&str> {
        match self.0.strip_prefix('*') {
            Some("") => Some(""),
            Some(rest) => rest.strip_prefix('.'),
            None => None,
        }
    }
}

/// A path and everything below it; begins and ends with `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPrefix(Arc<str>);

impl PathPrefix {
    /// The longest prefix, in bytes, counting `/` and `%` three times: a store may have to escape them.
    pub const MAX_LEN: usize = 200;

    /// Every path.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::from("/"))
    }

    /// Parses a prefix; a `/` is added at the end if there is none, and an empty text is every path.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is allowed.
    pub fn parse(path: impl AsRef<str>) -> Result<Self> {
        let given = path.as_ref();
        if given.is_empty() {
            return Ok(Self::root());
        }
        let path = if given.ends_with('/') {
            given.to_owned()
        } else {
            format!("{given}/")
        };
        let wrong = if !path.starts_with('/') {
            Some("begin with a slash")
        } else if path
            .bytes()
            .any(|b| !b.is_ascii_graphic() || b == b'?' || b == b'#')
        {
            Some("use visible ASCII without ? and #, other characters percent-encoded")
        } else if path.split('/').any(|s| s == "." || s == "..") || path.contains("//") {
            Some("leave out empty, . and .. segments")
        } else if escape(&path).len() > Self::MAX_LEN {
            Some("use a shorter path")
        } else {
            None
        };
        match wrong {
            None => Ok(Self(path.into())),
            Some(why) => Err(invalid(format!("path {given:?}"), why)),
        }
    }

    /// The prefix as text, with the `/` at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is `path` this path or below it, by whole segments?
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        let bare = &self.0[..self.0.len() - 1];
        match path.strip_prefix(bare) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }
}

/// A text with `/` escaped, so that it can be one segment of a key.
pub(crate) fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('/', "%2F")
}

/// The JSON of a route, field by field.
#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "type")]
    kind: RouteKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_ref: Option<String>,
    service: ServiceName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<i64>,
    #[serde(default)]
    leader: Option<bool>,
    #[serde(default)]
    created_at: Option<Timestamp>,
    #[serde(default)]
    updated_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sticky: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drain_backends: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disable_keep_alives: Option<bool>,
    #[serde(default, skip_serializing)]
    certificate: Option<serde_json::Value>,
    #[serde(default, skip_serializing)]
    tls_cert: Option<String>,
    #[serde(default, skip_serializing)]
    tls_key: Option<String>,
}

impl TryFrom<Wire> for Route {
    type Error = Error;

    fn try_from(wire: Wire) -> Result<Self> {
        let uuid = match wire.id.as_deref() {
            None | Some("") => Uuid::new_v4(),
            // Command lines write `type/uuid`, the API writes the two apart.
            Some(id) => match Uuid::parse_str(id) {
                Ok(uuid) => uuid,
                Err(_) => {
                    let id = RouteId::parse(id)?;
                    if id.kind != wire.kind {
                        return Err(invalid(
                            format!("route id {id}"),
                            "the type before the slash must be that of the route",
                        ));
                    }
                    id.uuid
                }
            },
        };
        let given = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
        let has_certificate = wire.certificate.as_ref().is_some_and(|c| !c.is_null());
        if has_certificate || given(&wire.tls_cert) || given(&wire.tls_key) {
            return Err(invalid(
                "certificate of a route",
                "this router does not end TLS: leave the certificate out",
            ));
        }
        let port = wire.port.unwrap_or(0);
        let rule = match wire.kind {
            RouteKind::Http => {
                if port != 0 {
                    return Err(invalid(
                        "HTTP route",
                        "leave out the port: HTTP routes share the router's",
                    ));
                }
                let Some(domain) = wire.domain.filter(|d| !d.is_empty()) else {
                    return Err(invalid("HTTP route", "name a domain"));
                };
                Rule::Http(HttpRule {
                    domain: Domain::parse(domain)?,
                    path: PathPrefix::parse(wire.path.unwrap_or_default())?,
                    sticky: wire.sticky.unwrap_or_default(),
                    disable_keep_alives: wire.disable_keep_alives.unwrap_or_default(),
                })
            }
            RouteKind::Tcp => {
                if given(&wire.domain) || given(&wire.path) {
                    return Err(invalid("TCP route", "leave out domain and path"));
                }
                match u16::try_from(port) {
                    Ok(port) if port > 0 => Rule::Tcp { port },
                    Ok(_) | Err(_) => {
                        return Err(invalid("TCP route", "name a port from 1 to 65535"));
                    }
                }
            }
        };
        Ok(Self {
            id: RouteId {
                kind: wire.kind,
                uuid,
            },
            parent_ref: wire.parent_ref.unwrap_or_default(),
            service: wire.service,
            leader: wire.leader.unwrap_or_default(),
            drain_backends: wire.drain_backends.unwrap_or_default(),
            rule,
            // Go's zero time means "not said".
            created_at: wire.created_at.filter(|t| *t > Timestamp::UNIX_EPOCH),
            updated_at: wire.updated_at.filter(|t| *t > Timestamp::UNIX_EPOCH),
        })
    }
}

impl From<Route> for Wire {
    fn from(route: Route) -> Self {
        let text = |t: String| (!t.is_empty()).then_some(t);
        let flag = |f: bool| f.then_some(true);
        let mut wire = Self {
            kind: route.id.kind,
            id: Some(route.id.uuid.to_string()),
            parent_ref: text(route.parent_ref),
            service: route.service,
            port: None,
            leader: Some(route.leader),
            created_at: Some(route.created_at.unwrap_or_else(go_zero_time)),
            updated_at: Some(route.updated_at.unwrap_or_else(go_zero_time)),
            domain: None,
            sticky: None,
            path: None,
            drain_backends: flag(route.drain_backends),
            disable_keep_alives: None,
            certificate: None,
            tls_cert: None,
            tls_key: None,
        };
        match route.rule {
            Rule::Http(rule) => {
                wire.domain = Some(rule.domain.into());
                wire.path = Some(rule.path.into());
                wire.sticky = flag(rule.sticky);
                wire.disable_keep_alives = flag(rule.disable_keep_alives);
            }
            Rule::Tcp { port } => wire.port = Some(port.into()),
        }
        wire
    }
}

/// 0001-01-01T00:00:00Z, which existing clients read as "no time".
fn go_zero_time() -> Timestamp {
    Timestamp::from_second(-62_135_596_800).expect("the year 1 is in range")
}

fn invalid(what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Invalid {
        what: what.into(),
        why: why.into(),
    }
}

macro_rules! text_like {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::parse(text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    )*};
}
text_like!(Domain, PathPrefix);

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.uuid)
    }
}

impl fmt::Debug for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RouteId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for RouteId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<RouteId> for String {
    fn from(id: RouteId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests;
