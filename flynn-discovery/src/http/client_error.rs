//! Why a request got no good answer, in one sentence.

use std::{error::Error as StdError, time::Duration};

use http::StatusCode;
use serde_json::Value;

/// Why a request got no good answer. As text, it is one sentence: what, why, and what next.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No endpoint took a connection: the request was certainly not carried out.
    #[error(
        "cannot reach the {noun} at {endpoint}: {why}; is it running, and is the address right?"
    )]
    Refused {
        /// What was called, for example `controller`.
        noun: String,
        /// The endpoints that were tried.
        endpoint: String,
        /// What the last of them said.
        why: String,
    },
    /// The request was sent and not answered in time: it may or may not have been carried out.
    #[error(
        "the {noun} at {endpoint} did not answer {request} within {after:?}; it may or may not have happened"
    )]
    Timeout {
        /// What was called.
        noun: String,
        /// The endpoint.
        endpoint: String,
        /// Method and path.
        request: String,
        /// How long was waited.
        after: Duration,
    },
    /// The connection broke after the request was sent, or in the middle of a stream: it may have been carried out.
    #[error("the connection to the {noun} at {endpoint} broke during {request}: {why}")]
    Lost {
        /// What was called.
        noun: String,
        /// The endpoint.
        endpoint: String,
        /// Method and path.
        request: String,
        /// Why.
        why: String,
    },
    /// The server said no.
    #[error("{}", if message.is_empty() { status.to_string() } else { message.clone() })]
    Status {
        /// The status.
        status: StatusCode,
        /// The envelope's code, or nothing.
        code: String,
        /// The envelope's message, or the start of the body.
        message: String,
        /// The envelope's detail.
        detail: Option<Value>,
        /// May it be tried again?
        retry: bool,
    },
    /// A bare 404: what was named does not exist.
    #[error("the {noun} has nothing at {path}")]
    NotFound {
        /// What was called.
        noun: String,
        /// The path.
        path: String,
    },
    /// The key is missing or wrong.
    #[error("the {noun} at {endpoint} refused the key; check that it is the one of this cluster")]
    Denied {
        /// What was called.
        noun: String,
        /// The endpoint.
        endpoint: String,
    },
    /// The server said something that is not in the protocol.
    #[error("the {noun} answered {request} with something unexpected: {why}")]
    Protocol {
        /// What was called.
        noun: String,
        /// Method and path.
        request: String,
        /// What was unexpected.
        why: String,
    },
    /// The caller gave something that cannot be sent.
    #[error("{what}: {why}")]
    Invalid {
        /// What was given.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ClientError {
    /// Does the object not exist (bare 404 or 404 with an envelope)?
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Status { status, .. } => *status == StatusCode::NOT_FOUND,
            _ => false,
        }
    }

    /// May the same request be sent again, with a chance to succeed and no risk to do something twice?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Status { retry, .. } => *retry,
            _ => false,
        }
    }

    /// The status the server answered, if it answered.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::NotFound { .. } => Some(StatusCode::NOT_FOUND),
            Self::Denied { .. } => Some(StatusCode::UNAUTHORIZED),
            _ => None,
        }
    }
}

/// The innermost cause: "connection refused" instead of "client error (Connect)".
pub(crate) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    // "Connection refused (os error 111)": the number says nothing more.
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}
