//! Errors of the controller as answers: one place where a kind of error becomes a status.

use axum::response::{IntoResponse, Response};
use flynn_discovery::http::Failure;
use http::StatusCode;

use crate::Error;

/// An error on its way to the client.
#[derive(Debug)]
pub(super) struct Problem(pub(super) Error);

/// What a handler gives.
pub(super) type Answer<T> = Result<T, Problem>;

impl<E: Into<Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self.0 {
            // Existing clients take a bare 404 for "does not exist" and one with an envelope for something else.
            Error::NotFound { .. } => StatusCode::NOT_FOUND.into_response(),
            error => failure(error).into_response(),
        }
    }
}

/// The envelope of an error.
pub(super) fn failure(error: Error) -> Failure {
    match error {
        Error::NotFound { .. } => Failure::not_found(error.to_string()),
        Error::Exists { .. } => Failure::exists(error.to_string()),
        Error::DuplicateRoute { ref route } => {
            let detail = serde_json::to_value(route).expect("a route is JSON");
            Failure::conflict(error.to_string()).with_detail(detail)
        }
        Error::Conflict { .. } => Failure::conflict(error.to_string()),
        Error::Invalid { field, why } => Failure::validation(field.unwrap_or_default(), &why),
        Error::Contended { .. } => Failure::conflict(error.to_string()).with_retry(),
        Error::Unavailable { why } => Failure::unavailable(why),
        Error::Lagged => Failure::unavailable(error.to_string()),
        Error::Store(source) => source.into(),
        Error::Cluster(source) => match source {
            flynn_sched::Error::Invalid { .. } => Failure::validation("", &source.to_string()),
            flynn_sched::Error::Conflict { .. } => {
                Failure::conflict(source.to_string()).with_retry()
            }
            _ if source.is_transient() => {
                Failure::unavailable("the cell cannot be reached just now")
            }
            _ => Failure::unknown(&source),
        },
        Error::Routes(source) => {
            if source.is_transient() {
                Failure::unavailable("the routes cannot be reached just now")
            } else {
                Failure::unknown(&source)
            }
        }
        Error::ClaimLost { .. } | Error::Damaged { .. } => Failure::unknown(&error),
    }
}
