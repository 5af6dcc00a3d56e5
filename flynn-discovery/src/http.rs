//! HTTP as every Flynn component speaks it: server, keys, errors, JSON, streams, client; and the discovery API itself.
//!
//! The conventions are those of the original system, so that its clients work unchanged:
//!
//! - errors are `{"code","message","detail"?,"retry"}` ([`Failure`]);
//! - a key is the password of HTTP basic authentication with an empty user, or a bearer token ([`require_key`]);
//! - streams are server-sent events in one strict dialect ([`events()`]), or lines of JSON ([`ndjson`]);
//! - `X-Request-ID` is accepted, echoed and logged ([`serve`]).

mod auth;
mod client;
mod client_error;
mod endpoints;
mod envelope;
mod explain;
mod incoming;
mod json;
pub(crate) mod kv;
mod request_id;
mod server;
mod services;
mod status;
mod stream;
mod upgrade;

pub use crate::Secret;
pub use auth::{Keys, presented_key, require_key};
pub use axum::body::Body;
pub use client::Client;
pub use client_error::ClientError;
pub use endpoints::segment;
pub use envelope::Failure;
pub use incoming::{MAX_LINE_BYTES, STREAM_SILENCE};
pub use json::{BODY_READ_TIMEOUT, Json, MAX_JSON_BYTES, read_body};
pub use kv::{MAX_COMMIT_BYTES, kv_router};
pub use request_id::RequestId;
pub use server::{Limits, serve, serve_with};
pub use services::{RaftInfo, discovery_router, instance_id};
pub use status::{Health, status_route};
pub use stream::{KEEP_ALIVE, events, events_with_id, ndjson};
pub use upgrade::{PendingUpgrade, Upgraded, accept_upgrade};
