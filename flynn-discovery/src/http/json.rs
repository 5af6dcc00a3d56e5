//! JSON bodies, with a size limit and the errors Flynn's clients know.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Serialize, de::DeserializeOwned};

use super::Failure;

/// The largest JSON body a server reads.
pub const MAX_JSON_BYTES: usize = 1024 * 1024;

/// How long a client may take to send a body.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A JSON body, in or out.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a transparent wrapper, matched by handlers"
)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let is_json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("application/json"));
        if !is_json {
            return Err(Failure::validation(
                "",
                "Content-Type must be application/json",
            ));
        }
        let body = read_body(request.into_body(), MAX_JSON_BYTES).await?;
        parse(&body).map(Self)
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|e| {
        if e.is_data() {
            Failure::validation("", &e.to_string())
        } else {
            Failure::new(
                StatusCode::BAD_REQUEST,
                "syntax_error",
                "The provided JSON input is invalid",
            )
            .with_detail(serde_json::json!({ "cause": e.to_string() }))
        }
    })
}

/// Reads a whole request body of at most `limit` bytes, within [`BODY_READ_TIMEOUT`].
///
/// # Errors
///
/// 400 `request_body_too_big` over the limit, 400 when the client sends it wrongly, 408 when it does not come.
pub async fn read_body(body: Body, limit: usize) -> Result<Bytes, Failure> {
    let collected = tokio::time::timeout(BODY_READ_TIMEOUT, Limited::new(body, limit).collect())
        .await
        .map_err(|_| {
            Failure::new(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                format!(
                    "the request body did not arrive within {} s: send it at once",
                    BODY_READ_TIMEOUT.as_secs()
                ),
            )
            .with_retry()
        })?;
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "request_body_too_big",
            format!("the request body is larger than {limit} bytes"),
        )),
        Err(e) => Err(Failure::validation(
            "",
            &format!(
                "the request body could not be read ({}): check its length or chunks",
                super::client_error::root_cause(&*e)
            ),
        )),
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => {
                let json = HeaderValue::from_static("application/json");
                ([(header::CONTENT_TYPE, json)], body).into_response()
            }
            Err(e) => Failure::unknown(&e).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    async fn read(content_type: &str, body: Body) -> Result<BTreeMap<String, u8>, Failure> {
        let request = Request::builder()
            .header("content-type", content_type)
            .body(body)
            .unwrap();
        Json::from_request(request, &()).await.map(|Json(map)| map)
    }

    #[tokio::test]
    async fn bad_bodies_have_the_codes_clients_know() {
        let json = "application/json; charset=utf-8";
        assert_eq!(read(json, Body::from(r#"{"a":1}"#)).await.unwrap()["a"], 1);

        let failure = read("text/plain", Body::from("{}")).await.unwrap_err();
        assert_eq!(failure.message, "Content-Type must be application/json");
        assert_eq!(failure.code, "validation_error");

        let failure = read(json, Body::from("{")).await.unwrap_err();
        assert_eq!(failure.message, "The provided JSON input is invalid");
        assert_eq!(failure.code, "syntax_error");

        let failure = read(json, Body::from(r#"{"a":"b"}"#)).await.unwrap_err();
        assert_eq!(failure.code, "validation_error");

        let big = Body::from(vec![b' '; MAX_JSON_BYTES + 1]);
        assert_eq!(
            read(json, big).await.unwrap_err().code,
            "request_body_too_big"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_not_waited_for() {
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let failure = read("application/json", never).await.unwrap_err();
        assert_eq!(failure.status, StatusCode::REQUEST_TIMEOUT);
    }
}
