//! The JSON of a route.

use flynn_discovery::ServiceName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Domain, HttpRule, PathPrefix, Route, RouteId, RouteKind, Rule, invalid};
use crate::{Error, Result};

/// The JSON of a route, field by field.
#[derive(Serialize, Deserialize)]
pub(super) struct Wire {
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
