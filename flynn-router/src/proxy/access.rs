//! A line for each request.

use std::sync::Arc;

use tokio::time::Instant;

use crate::endpoint::Endpoint;

/// What is said about a request when it has ended.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) started: Instant,
    pub(super) status: u16,
    /// Of the response's body, as it went to the client.
    pub(super) bytes: u64,
    pub(super) backend: Option<Arc<Endpoint>>,
}

impl Access {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            status: 0,
            bytes: 0,
            backend: None,
        }
    }

    /// Writes the line. `request` begins with the request line.
    pub(super) fn log(&self, id: &str, host: &str, client: &str, request: &[u8]) {
        if !tracing::enabled!(target: "flynn_router::access", tracing::Level::INFO) {
            return;
        }
        let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split(' ');
        let method = words.next().unwrap_or_default();
        let path = words.next().unwrap_or_default();
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let backend = self.backend.as_ref().map(|b| b.addr());
        let backend = backend.as_ref().map(tracing::field::display);
        let duration_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (status, bytes) = (self.status, self.bytes);
        tracing::info!(
            target: "flynn_router::access",
            id, method, host, path, status, backend, bytes, duration_us, client,
            "request"
        );
    }
}
