//! From an error's envelope back to the error: the reverse of `From<Error> for Failure`.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::{
    Error,
    backend::{Key, LeaseId},
};

/// The error an envelope was made from. One that none of ours can have been made from is a protocol error.
pub(crate) fn rebuild(
    status: StatusCode,
    code: &str,
    message: String,
    detail: Option<&Value>,
) -> Error {
    known(code, &message, detail).unwrap_or_else(|| {
        if status.is_server_error() {
            Error::Unavailable {
                backend: "remote",
                why: format!("{status}: {message}"),
            }
        } else {
            Error::Protocol {
                why: format!("{status}: {message}"),
            }
        }
    })
}

/// The error an envelope was made from, if it was made from one of ours.
pub(crate) fn known(code: &str, message: &str, detail: Option<&Value>) -> Option<Error> {
    let text = |field: &str| Some(detail?.get(field)?.as_str()?.to_owned());
    let number = |field: &str| detail?.get(field)?.as_u64();
    let backend = || text("backend").map_or("remote", |name| known_name(&name, BACKENDS));
    Some(match code {
        "conflict" => Error::Conflict {
            key: Key::parse(text("key")?).ok()?,
        },
        "lease_lost" => Error::LeaseLost {
            lease: LeaseId(number("lease")?),
        },
        "object_not_found" => Error::NotFound {
            what: text("what")?,
        },
        "object_exists" => Error::Exists {
            what: text("what")?,
        },
        "validation_error" | "syntax_error" | "request_body_too_big" => Error::Invalid {
            what: text("what").unwrap_or_else(|| "the request".to_owned()),
            why: text("why").unwrap_or_else(|| message.to_owned()),
        },
        "unauthorized" => Error::Denied { why: text("why")? },
        // A request that did not arrive whole was not carried out.
        "service_unavailable" | "request_timeout" => Error::Unavailable {
            backend: backend(),
            why: text("why").unwrap_or_else(|| message.to_owned()),
        },
        "unknown_outcome" => Error::Unknown {
            operation: known_name(&text("operation")?, OPERATIONS),
            after: Duration::from_millis(number("after_ms")?),
        },
        "closed" => Error::Closed { backend: backend() },
        "storage_error" => Error::Storage {
            backend: backend(),
            why: text("why")?,
            source: None,
        },
        "protocol_error" => Error::Protocol { why: text("why")? },
        _ => return None,
    })
}

/// Names in errors are constants; the last stands for those we do not know.
fn known_name(name: &str, names: &'static [&'static str]) -> &'static str {
    names
        .iter()
        .find(|known| **known == name)
        .or_else(|| names.last())
        .copied()
        .unwrap_or_default()
}

const BACKENDS: &[&str] = &["memory", "raft", "etcd", "zookeeper", "remote"];
const OPERATIONS: &[&str] = &[
    "commit",
    "grant",
    "keep_alive",
    "revoke",
    "get",
    "list",
    "an operation",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Failure;

    #[test]
    fn every_error_survives_the_way_over_the_wire() {
        for error in [
            || Error::Conflict {
                key: Key::parse("a/b").unwrap(),
            },
            || Error::LeaseLost {
                lease: LeaseId(u64::MAX),
            },
            || Error::NotFound {
                what: "service www".into(),
            },
            || Error::Exists {
                what: "service www".into(),
            },
            || Error::Invalid {
                what: "value".into(),
                why: "too long".into(),
            },
            || Error::Denied {
                why: "read only".into(),
            },
            || Error::Unavailable {
                backend: "raft",
                why: "no leader".into(),
            },
            || Error::Unknown {
                operation: "commit",
                after: Duration::from_millis(1500),
            },
            || Error::Closed { backend: "memory" },
            || Error::Storage {
                backend: "raft",
                why: "disk full".into(),
                source: None,
            },
            || Error::Protocol {
                why: "what?".into(),
            },
        ] as [fn() -> Error; 11]
        {
            let Failure {
                status,
                code,
                message,
                detail,
                ..
            } = Failure::from(error());
            let rebuilt = rebuild(status, &code, message, detail.as_ref());
            assert_eq!(format!("{rebuilt:?}"), format!("{:?}", error()));
        }
    }

    #[test]
    fn what_is_not_ours_is_unavailable_or_a_protocol_error() {
        let error = rebuild(StatusCode::BAD_GATEWAY, "", "upstream".into(), None);
        assert!(error.is_transient());
        let error = rebuild(StatusCode::IM_A_TEAPOT, "teapot", "short".into(), None);
        assert!(matches!(error, Error::Protocol { .. }));
    }
}
