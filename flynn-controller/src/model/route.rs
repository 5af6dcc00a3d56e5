//! A route to be made; what becomes of it is the router's [`Route`](flynn_router::Route).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{is_false, nullable};

/// A route to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NewRoute {
    /// `http` or `tcp`.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// Its identity, if it is to have this one.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub id: String,
    /// The service whose instances answer.
    #[serde(deserialize_with = "nullable")]
    pub service: String,
    /// The port of a TCP route; 0 for the first that is free.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub port: i64,
    /// The host of an HTTP route.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub domain: String,
    /// The paths of an HTTP route; all if empty.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub path: String,
    /// Only the service's leader answers.
    #[serde(deserialize_with = "nullable")]
    pub leader: bool,
    /// Keep each client on one backend.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub sticky: bool,
    /// Let requests end before a backend stops.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub drain_backends: bool,
    /// Use a new backend connection for each request.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub disable_keep_alives: bool,
    /// A certificate with its key; refused, as the router does not end TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Value>,
    /// A certificate as old clients send it.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub tls_cert: String,
}

impl NewRoute {
    /// All paths of a domain.
    #[must_use]
    pub fn http(domain: impl Into<String>, service: impl Into<String>) -> Self {
        Self {
            kind: "http".to_owned(),
            domain: domain.into(),
            service: service.into(),
            drain_backends: true,
            ..Self::default()
        }
    }

    /// A TCP port; the first that is free if none is given.
    #[must_use]
    pub fn tcp(port: Option<u16>, service: impl Into<String>) -> Self {
        Self {
            kind: "tcp".to_owned(),
            port: port.unwrap_or_default().into(),
            service: service.into(),
            drain_backends: true,
            ..Self::default()
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}
