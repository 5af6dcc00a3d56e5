//! `GET /.well-known/status`, which every service answers.

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// How a service is.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    is_healthy: bool,
    detail: Option<Value>,
}

impl Health {
    /// All is well: 200.
    #[must_use]
    pub fn healthy() -> Self {
        Self {
            is_healthy: true,
            detail: None,
        }
    }

    /// Something is wrong: 500, with what.
    #[must_use]
    pub fn unhealthy(detail: impl Into<Value>) -> Self {
        Self {
            is_healthy: false,
            detail: Some(detail.into()),
        }
    }

    /// With more to tell.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Value>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// A router with one route, `GET /.well-known/status`, that asks `check` each time.
///
/// `version` is `dev` or `vYYYYMMDD.N`: clients gate features on it.
pub fn status_route<F, Fut>(version: &'static str, check: F) -> Router
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Health> + Send + 'static,
{
    let answer = move || async move { render(version, check().await) };
    Router::new().route("/.well-known/status", get(answer))
}

fn render(version: &str, health: Health) -> Response {
    let (status, word) = if health.is_healthy {
        (StatusCode::OK, "healthy")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "unhealthy")
    };
    let mut data = json!({ "status": word, "version": version });
    if let Some(detail) = health.detail {
        data["detail"] = detail;
    }
    let body = serde_json::to_string_pretty(&json!({ "data": data })).expect("values are JSON");
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], body).into_response()
}
