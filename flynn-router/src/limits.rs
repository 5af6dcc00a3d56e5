//! Bounds on what a client or a backend can ask of the router.

use std::time::Duration;

/// Bounds on what a client or a backend can ask of the router. Change what you need of the defaults:
///
/// ```
/// let mut limits = flynn_router::Limits::default();
/// limits.max_connections = 100;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Client connections at a time; more wait to be accepted. Default 16,384.
    pub max_connections: usize,
    /// The longest head of a request or response, in bytes. Default 64 KiB; no more than 100 header lines.
    pub max_head_bytes: usize,
    /// From the first byte of a request's head to its last. Default 30 s.
    pub head_timeout: Duration,
    /// How long a client connection may wait for its next request. Default 5 min.
    pub keep_alive_timeout: Duration,
    /// How long connecting to a backend may take before the next one is tried. Default 750 ms: two backends that are
    /// gone without a word still leave time for an answer within two seconds.
    pub connect_timeout: Duration,
    /// From the last byte of a request to the head of its response. Default 10 min.
    pub response_timeout: Duration,
    /// How long nothing may move in a body, either way. Default 5 min.
    pub idle_timeout: Duration,
    /// How long what is in flight may take when the router stops. Default 30 s.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 16 * 1024,
            max_head_bytes: 64 * 1024,
            head_timeout: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_millis(750),
            response_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(30),
        }
    }
}
