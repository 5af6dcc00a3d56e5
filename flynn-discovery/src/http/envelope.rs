//! The body of every error answer.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Error;

/// An error answer: a status and `{"code","message","detail"?,"retry"}`.
///
/// `message` is one sentence for a person; `code` is for programs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The HTTP status.
    pub status: StatusCode,
    /// What happened, for programs: `object_not_found`, `validation_error`, ….
    pub code: Cow<'static, str>,
    /// What happened, for people.
    pub message: String,
    /// More for programs, for example `{"field": "name"}`.
    pub detail: Option<Value>,
    /// May the client send the same request again, with a chance to succeed?
    pub retry: bool,
}

/// The envelope as it is on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    #[serde(default)]
    pub(crate) code: String,
    #[serde(default)]
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<Value>,
    #[serde(default)]
    pub(crate) retry: bool,
}

impl Failure {
    /// A failure without detail that a retry cannot mend.
    #[must_use]
    pub fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            detail: None,
            retry: false,
        }
    }

    /// 404: the object does not exist. (The controller answers a bare 404 instead: [`StatusCode::NOT_FOUND`].)
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "object_not_found", message)
    }

    /// 409: the object exists already.
    #[must_use]
    pub fn exists(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "object_exists", message)
    }

    /// 409: the object is not in a state that allows this.
    #[must_use]
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// 412: it changed since the caller looked.
    #[must_use]
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            message,
        )
    }

    /// 400: a field is not acceptable; the message is `<field> <text>`.
    #[must_use]
    pub fn validation(field: &str, text: &str) -> Self {
        let message = if field.is_empty() {
            text.to_owned()
        } else {
            format!("{field} {text}")
        };
        let failure = Self::new(StatusCode::BAD_REQUEST, "validation_error", message);
        if field.is_empty() {
            failure
        } else {
            failure.with_detail(json!({ "field": field }))
        }
    }

    /// 401: the caller must authenticate, or may not do this.
    #[must_use]
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 429: too much at once; try later.
    #[must_use]
    pub fn rate_limited(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "ratelimited", message).with_retry()
    }

    /// 503: certainly not carried out; try again.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "service_unavailable",
            message,
        )
        .with_retry()
    }

    /// 500: something only the log can tell; the cause is logged here and not shown to the caller.
    #[must_use]
    pub fn unknown(cause: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(cause, "request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "unknown_error",
            "Something went wrong",
        )
    }

    /// With a detail for programs.
    #[must_use]
    pub fn with_detail(mut self, detail: Value) -> Self {
        self.detail = Some(detail);
        self
    }

    /// Says that the same request may succeed later.
    #[must_use]
    pub fn with_retry(mut self) -> Self {
        self.retry = true;
        self
    }

    pub(crate) fn envelope(&self) -> Envelope {
        Envelope {
            code: self.code.clone().into_owned(),
            message: self.message.clone(),
            detail: self.detail.clone(),
            retry: self.retry,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.envelope()).expect("strings and values are JSON");
        let json = HeaderValue::from_static("application/json");
        (self.status, [(header::CONTENT_TYPE, json)], body).into_response()
    }
}

/// Every variant has a code of its own and its fields in `detail`, so that the client can rebuild it exactly.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let (status, code, detail) = match error {
            Error::Conflict { key } => (StatusCode::CONFLICT, "conflict", json!({ "key": key })),
            Error::LeaseLost { lease } => {
                (StatusCode::GONE, "lease_lost", json!({ "lease": lease }))
            }
            Error::NotFound { what } => (
                StatusCode::NOT_FOUND,
                "object_not_found",
                json!({ "what": what }),
            ),
            Error::Exists { what } => (
                StatusCode::CONFLICT,
                "object_exists",
                json!({ "what": what }),
            ),
            Error::Invalid { what, why } => (
                StatusCode::BAD_REQUEST,
                "validation_error",
                json!({ "what": what, "why": why }),
            ),
            Error::Denied { why } => (StatusCode::FORBIDDEN, "unauthorized", json!({ "why": why })),
            Error::Unavailable { backend, why } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                json!({ "backend": backend, "why": why }),
            ),
            Error::Unknown { operation, after } => (
                StatusCode::GATEWAY_TIMEOUT,
                "unknown_outcome",
                json!({ "operation": operation, "after_ms": u64::try_from(after.as_millis()).unwrap_or(u64::MAX) }),
            ),
            Error::Closed { backend } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "closed",
                json!({ "backend": backend }),
            ),
            Error::Storage { backend, why, .. } => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "storage_error",
                json!({ "backend": backend, "why": why }),
            ),
            Error::Protocol { why } => (
                StatusCode::BAD_GATEWAY,
                "protocol_error",
                json!({ "why": why }),
            ),
        };
        Self {
            status,
            code: code.into(),
            message,
            detail: Some(detail),
            retry: code == "service_unavailable",
        }
    }
}
