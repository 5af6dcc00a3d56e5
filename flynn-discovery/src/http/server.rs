//! The accept loop of every API: bounded, logged, and ending when it is told to.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    response::{IntoResponse, Response},
};
use futures::{FutureExt, StreamExt};
use http::{Method, Request, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use tower::ServiceExt;

use super::{
    Failure, RequestId,
    explain::{Explained, plain_answer},
    request_id,
    stream::Endless,
};

/// What a server puts up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at once; further ones get one 503 and are closed. Default 4096.
    pub max_connections: usize,
    /// Bytes of a request's head; more is 431. Default 32 KiB.
    pub max_header_bytes: usize,
    /// Header lines of a request; more is 431. Default 100.
    pub max_headers: usize,
    /// How long a head may take, and how long an idle connection is kept. Default 30 s.
    pub header_read_timeout: Duration,
    /// How long requests that are being answered may go on after shutdown. Default 10 s.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_header_bytes: 32 * 1024,
            max_headers: 100,
            header_read_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// With another [`max_connections`](Self::max_connections).
    #[must_use]
    pub fn with_max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    /// With another [`header_read_timeout`](Self::header_read_timeout).
    #[must_use]
    pub fn with_header_read_timeout(mut self, timeout: Duration) -> Self {
        self.header_read_timeout = timeout;
        self
    }

    /// With another [`drain_timeout`](Self::drain_timeout).
    #[must_use]
    pub fn with_drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }
}

/// Serves `app` over HTTP/1.1 with keep-alive and upgrades until `shutdown`, within the default [`Limits`].
///
/// At shutdown no connection is accepted any more, event streams end, and requests in progress may finish within
/// [`Limits::drain_timeout`]. Each request is one log line, debug level for what succeeds; its id is the caller's
/// `X-Request-ID` or a new one, and is in the answer. A handler that panics is a 500. The caller's address is in the
/// request's extensions as [`ConnectInfo`].
///
/// # Errors
///
/// The listener is broken.
///
/// # Cancel safety
///
/// Dropping the future closes all connections at once.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_with(listener, app, Limits::default(), shutdown).await
}

/// As [`serve`], within other limits.
///
/// # Errors
///
/// As [`serve`].
pub async fn serve_with(
    listener: TcpListener,
    app: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let (closing, is_closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                        let connection = Connection {
                            app: app.clone(),
                            remote,
                            limits,
                            is_closing: is_closing.clone(),
                        };
                        connections.spawn(async move {
                            connection.run(stream).await;
                            drop(slot);
                        });
                    } else {
                        refuse(stream, limits).await;
                    }
                }
                Err(e) if is_fatal(&e) => return Err(e),
                Err(cause) => {
                    // Out of descriptors, most likely: wait for some to be closed.
                    tracing::warn!(%cause, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    closing.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain_timeout, drained)
        .await
        .is_err()
    {
        tracing::warn!(
            after = ?limits.drain_timeout,
            "requests were still in progress at shutdown and are cut off"
        );
    }
    Ok(())
}

/// Between two attempts to accept, after an error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Errors that accepting again cannot mend: the descriptor is not a listening socket.
fn is_fatal(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::InvalidInput
}

async fn refuse(mut stream: TcpStream, limits: Limits) {
    let failure = Failure::unavailable(format!(
        "the server has {} connections open, its limit: close some or try another server",
        limits.max_connections
    ));
    // The answer fits any socket buffer, so this does not hold up the accept loop.
    let answer = plain_answer(&failure);
    let write = stream.write_all(&answer);
    if let Ok(Err(cause)) = tokio::time::timeout(ACCEPT_PAUSE, write).await {
        tracing::debug!(%cause, "a refused connection was gone already");
    }
}

struct Connection {
    app: Router,
    remote: SocketAddr,
    limits: Limits,
    is_closing: watch::Receiver<bool>,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        if let Err(cause) = stream.set_nodelay(true) {
            tracing::debug!(%cause, "cannot set TCP_NODELAY");
        }
        let raw = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(Explained::new(stream, self.limits, Arc::clone(&raw)));
        let service = service_fn(|request| self.exchange(request, &raw));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read_timeout)
            .max_header_size(self.limits.max_header_bytes)
            .max_headers(self.limits.max_headers)
            .serve_connection(io, service)
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = closed(self.is_closing.clone()) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(cause) = ended {
            tracing::debug!(remote = %self.remote, %cause, "connection ended");
        }
    }

    async fn exchange(
        &self,
        request: Request<Incoming>,
        raw: &AtomicBool,
    ) -> Result<Response, Infallible> {
        let started = Instant::now();
        let mut request = request.map(Body::new);
        let id = RequestId::of(request.headers());
        request
            .headers_mut()
            .insert(request_id::HEADER, id.to_header());
        request.extensions_mut().insert(id.clone());
        request.extensions_mut().insert(ConnectInfo(self.remote));
        let method = request.method().clone();
        let path = request.uri().path().to_owned();

        let answer = AssertUnwindSafe(self.app.clone().oneshot(request))
            .catch_unwind()
            .await;
        let mut response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => panicked(&method, &path, &id),
        };
        response
            .headers_mut()
            .insert(request_id::HEADER, id.to_header());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            raw.store(true, Ordering::Relaxed);
        }
        if response.extensions().get::<Endless>().is_some() {
            response = response.map(|body| self.until_closing(body));
        }
        self.log(&method, &path, &id, response.status(), started);
        Ok(response)
    }

    /// Ends a body that would never end, when the server does.
    fn until_closing(&self, body: Body) -> Body {
        let closing = closed(self.is_closing.clone());
        Body::from_stream(body.into_data_stream().take_until(Box::pin(closing)))
    }

    fn log(&self, method: &Method, path: &str, id: &RequestId, status: StatusCode, from: Instant) {
        let (remote, status) = (self.remote, status.as_u16());
        let duration = from.elapsed();
        if status >= 500 {
            tracing::warn!(target: TARGET, %method, path, status, ?duration, %id, %remote, "request");
        } else if status >= 400 {
            tracing::info!(target: TARGET, %method, path, status, ?duration, %id, %remote, "request");
        } else {
            tracing::debug!(target: TARGET, %method, path, status, ?duration, %id, %remote, "request");
        }
    }
}

/// Waits for the server to begin its shutdown, or to be gone altogether.
async fn closed(mut is_closing: watch::Receiver<bool>) {
    _ = is_closing.wait_for(|closing| *closing).await;
}

/// The target of the one log line per request, for filters.
const TARGET: &str = "flynn::request";

fn panicked(method: &Method, path: &str, id: &RequestId) -> Response {
    tracing::error!(%method, path, %id, "a handler panicked");
    Failure::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "unknown_error",
        "Something went wrong",
    )
    .into_response()
}
