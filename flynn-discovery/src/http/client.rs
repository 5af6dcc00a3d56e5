//! A client of any Flynn API: keeps connections, tries each endpoint, says clearly what went wrong.

mod payload;

use std::{fmt, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, error::Elapsed};

use self::payload::Payload;
use super::{
    ClientError, STREAM_SILENCE, Secret, Upgraded,
    auth::authorization,
    client_error::root_cause,
    endpoints::Endpoints,
    envelope::Envelope,
    incoming::{self, Format, Source},
    upgrade::PendingUpgrade,
};

/// A client of one service at one or more endpoints. Copies share connections.
///
/// Endpoints are tried in turn, beginning with the one that worked last, until one takes the connection. One that
/// answers 503 with `service_unavailable` and `retry` has not carried out the request, so the next is asked. A request
/// that was sent and not answered is sent again only if it is a `GET` or `HEAD`. A 307 is followed with the same body.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpConnector, Body>,
    endpoints: Endpoints,
    authorization: Option<HeaderValue>,
    host: Option<HeaderValue>,
    noun: Arc<str>,
    timeout: Duration,
}

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an answer may take: its head, and then its body (of a stream, only its head).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an idle connection is kept; servers keep theirs longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Probes on a silent connection, so that a host that lost its power is noticed in the middle of a stream.
const PROBE_AFTER: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBES: u32 = 3;

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// The largest JSON answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

impl Client {
    /// A client of the service at `endpoints`, each a URL like `http://127.0.0.1:1111` or `host:port`.
    ///
    /// Does not connect yet.
    ///
    /// # Errors
    ///
    /// [`ClientError::Invalid`] when one is not a URL, or there is none.
    pub fn new(endpoints: Vec<String>) -> Result<Self, ClientError> {
        Ok(Self {
            pool: pool(CONNECT_TIMEOUT),
            endpoints: Endpoints::parse(&endpoints)?,
            authorization: None,
            host: None,
            noun: Arc::from("server"),
            timeout: REQUEST_TIMEOUT,
        })
    }

    /// Presents `key` with every request.
    #[must_use]
    pub fn with_key(mut self, key: Secret) -> Self {
        self.authorization = Some(authorization(&key));
        self
    }

    /// Names this host (`host:port`) in requests instead of the endpoint's, for a service behind a router whose name has
    /// no address of its own. A name that cannot be a header's value is left out.
    #[must_use]
    pub fn with_host(mut self, host: &str) -> Self {
        self.host = HeaderValue::from_str(host).ok();
        self
    }

    /// Waits at most `timeout` for an answer; default 30 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Waits at most `timeout` for a connection; default 1 s.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.pool = pool(timeout);
        self
    }

    /// Calls the service by this noun in messages, for example `controller`; default `server`.
    #[must_use]
    pub fn with_noun(mut self, noun: &str) -> Self {
        self.noun = Arc::from(noun);
        self
    }

    /// The endpoints, joined by commas.
    #[must_use]
    pub fn endpoints(&self) -> String {
        self.endpoints.list()
    }

    /// `GET`, answered with JSON.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    /// `PUT` with a JSON body. An empty answer is `()`; [`serde::de::IgnoredAny`] ignores what comes.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync + ?Sized),
    ) -> Result<T, ClientError> {
        self.json(Method::PUT, path, encode(body)?).await
    }

    /// `POST` with a JSON body.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync + ?Sized),
    ) -> Result<T, ClientError> {
        self.json(Method::POST, path, encode(body)?).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::DELETE, path, Bytes::new()).await
    }

    /// Any method, with or without a JSON body.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync + ?Sized)>,
    ) -> Result<T, ClientError> {
        let body = body.map(encode).transpose()?.unwrap_or_default();
        self.json(method, path, body).await
    }

    /// `GET` of a stream of server-sent events.
    ///
    /// The stream ends when the server ends it, and after its first error. A server that is silent for
    /// [`STREAM_SILENCE`] is taken for lost.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn events<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        last_event_id: Option<i64>,
    ) -> Result<BoxStream<'static, Result<T, ClientError>>, ClientError> {
        let mut headers = accept("text/event-stream");
        if let Some(id) = last_event_id {
            headers.insert("last-event-id", HeaderValue::from(id));
        }
        self.stream(path, headers, Format::Events, STREAM_SILENCE)
            .await
    }

    /// `GET` of a stream of JSON lines.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn lines<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
    ) -> Result<BoxStream<'static, Result<T, ClientError>>, ClientError> {
        self.lines_within(path, STREAM_SILENCE).await
    }

    /// As [`lines`](Self::lines), for a server that breaks its silence more often.
    pub(crate) async fn lines_within<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        silence: Duration,
    ) -> Result<BoxStream<'static, Result<T, ClientError>>, ClientError> {
        let headers = accept("application/x-ndjson");
        self.stream(path, headers, Format::Lines, silence).await
    }

    /// Sends any body, as it comes, and gives the answer as it comes. Other statuses than 2xx and 3xx are errors.
    ///
    /// The time for the answer counts from the body's last part. A body that nobody has begun to read when a connection is refused goes to the next endpoint.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn bytes(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: impl Into<Body>,
    ) -> Result<Response<Incoming>, ClientError> {
        let payload = Payload::streaming(body.into());
        let (response, _) = self.exchange(&method, path, &headers, &payload).await?;
        Ok(response)
    }

    /// Turns a connection into a raw one: sends `body` with the headers of an upgrade to `protocol`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; [`ClientError::Protocol`] when the server does not switch.
    pub async fn upgrade<B: Serialize + Sync + ?Sized>(
        &self,
        method: Method,
        path: &str,
        protocol: &str,
        body: &B,
    ) -> Result<Upgraded, ClientError> {
        let mut headers = accept("application/json");
        headers.insert(header::CONTENT_TYPE, APPLICATION_JSON);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        let value = HeaderValue::from_str(protocol).map_err(|_| ClientError::Invalid {
            what: format!("protocol {protocol:?}"),
            why: "it cannot be a header's value".to_owned(),
        })?;
        headers.insert(header::UPGRADE, value);
        let payload = Payload::Whole(encode(body)?);
        let (response, source) = self.exchange(&method, path, &headers, &payload).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let why = format!("{} instead of switching to {protocol}", response.status());
            return Err(source.protocol(why));
        }
        PendingUpgrade::of_response(response)
            .connected()
            .await
            .map_err(|e| source.lost(root_cause(&e)))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let mut headers = accept("application/json");
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, APPLICATION_JSON);
        }
        let payload = Payload::Whole(body);
        let (response, source) = self.exchange(&method, path, &headers, &payload).await?;
        let body = self.collect(response, &source).await?;
        let text: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(text).map_err(|e| source.protocol(e.to_string()))
    }

    async fn stream<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        headers: HeaderMap,
        format: Format,
        silence: Duration,
    ) -> Result<BoxStream<'static, Result<T, ClientError>>, ClientError> {
        let payload = Payload::Whole(Bytes::new());
        let (response, source) = self
            .exchange(&Method::GET, path, &headers, &payload)
            .await?;
        Ok(incoming::items(
            response.into_body(),
            source,
            format,
            silence,
        ))
    }

    /// Sends a request to the endpoints in turn until one answers it.
    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        payload: &Payload,
    ) -> Result<(Response<Incoming>, Source), ClientError> {
        let mut failed = None;
        for (index, base) in self.endpoints.in_turn() {
            let source = Source {
                noun: Arc::clone(&self.noun),
                endpoint: base.to_owned(),
                request: format!("{method} {path}"),
            };
            let url = format!("{base}{path}");
            match self.follow(method, url, headers, payload, &source).await {
                Ok(response) => {
                    self.endpoints.worked(index);
                    return Ok((response, source));
                }
                Err(Attempt::Final(error)) => {
                    match error {
                        ClientError::Timeout { .. } | ClientError::Lost { .. } => {
                            self.endpoints.failed(index);
                        }
                        _ => self.endpoints.worked(index),
                    }
                    return Err(error);
                }
                Err(Attempt::Next(error)) if payload.can_be_sent() => {
                    self.endpoints.failed(index);
                    // What a server that is there said, or did not say, outweighs that another one is gone.
                    let keep = matches!(
                        (&failed, &error),
                        (
                            Some(
                                ClientError::Status { .. }
                                    | ClientError::Timeout { .. }
                                    | ClientError::Lost { .. }
                            ),
                            ClientError::Refused { .. }
                        )
                    );
                    if !keep {
                        failed = Some(error);
                    }
                }
                Err(Attempt::Next(error)) => return Err(error),
            }
        }
        Err(failed.expect("there is always at least one endpoint"))
    }

    /// Sends a request to one endpoint, and to where that sends it.
    async fn follow(
        &self,
        method: &Method,
        mut url: String,
        headers: &HeaderMap,
        payload: &Payload,
        source: &Source,
    ) -> Result<Response<Incoming>, Attempt> {
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(method, &url, headers, payload, source).await?;
            let status = response.status();
            if matches!(
                status,
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
            ) {
                url = location(&url, &response)
                    .ok_or_else(|| Attempt::Final(source.protocol("a redirect to nowhere")))?;
                if !payload.can_be_sent() {
                    let why = "a redirect after the body had been sent";
                    return Err(Attempt::Final(source.protocol(why)));
                }
                continue;
            }
            if status.is_client_error() || status.is_server_error() {
                let error = self.refusal(response, source).await;
                let next = matches!(
                    &error,
                    ClientError::Status { status: StatusCode::SERVICE_UNAVAILABLE, code, retry: true, .. }
                        if code == "service_unavailable"
                );
                return Err(if next {
                    Attempt::Next(error)
                } else {
                    Attempt::Final(error)
                });
            }
            return Ok(response);
        }
        Err(Attempt::Final(source.protocol("too many redirects")))
    }

    async fn send(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        payload: &Payload,
        source: &Source,
    ) -> Result<Response<Incoming>, Attempt> {
        let uri: Uri = url.parse().map_err(|_| {
            Attempt::Final(ClientError::Invalid {
                what: format!("path of {}", source.request),
                why: "it is not a path of a URL; encode its segments".to_owned(),
            })
        })?;
        let mut request = Request::new(payload.body());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers.clone();
        if let Some(value) = &self.host {
            request.headers_mut().insert(header::HOST, value.clone());
        }
        if let Some(value) = &self.authorization {
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, value.clone());
        }
        match self.answer(self.pool.request(request), payload).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) if e.is_connect() => Err(Attempt::Next(ClientError::Refused {
                noun: self.noun.to_string(),
                endpoint: self.endpoints.list(),
                why: root_cause(&e),
            })),
            Ok(Err(e)) => {
                let error = source.lost(root_cause(&e));
                Err(unless_safe(method, error))
            }
            Err(_) => {
                let error = ClientError::Timeout {
                    noun: self.noun.to_string(),
                    endpoint: source.endpoint.clone(),
                    request: source.request.clone(),
                    after: self.timeout,
                };
                Err(unless_safe(method, error))
            }
        }
    }

    /// Waits for an answer as long as may be: a body that is still on its way is progress.
    async fn answer<T>(
        &self,
        answer: impl Future<Output = T>,
        payload: &Payload,
    ) -> Result<T, Elapsed> {
        let start = Instant::now();
        tokio::pin!(answer);
        loop {
            let deadline = payload.waiting_since(start) + self.timeout;
            match tokio::time::timeout_at(deadline, &mut answer).await {
                Err(_) if payload.waiting_since(start) + self.timeout > deadline => {}
                outcome => return outcome,
            }
        }
    }

    async fn collect(
        &self,
        response: Response<Incoming>,
        source: &Source,
    ) -> Result<Bytes, ClientError> {
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
        match tokio::time::timeout(self.timeout, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(e)) => Err(source.lost(root_cause(&*e))),
            Err(_) => {
                Err(source.lost(format!("its body did not arrive within {:?}", self.timeout)))
            }
        }
    }

    /// The error a bad status stands for.
    async fn refusal(&self, response: Response<Incoming>, source: &Source) -> ClientError {
        let status = response.status();
        let is_json = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
        if status == StatusCode::UNAUTHORIZED {
            return ClientError::Denied {
                noun: self.noun.to_string(),
                endpoint: source.endpoint.clone(),
            };
        }
        if status == StatusCode::NOT_FOUND && !is_json {
            let (_, path) = source.request.split_once(' ').unwrap_or_default();
            return ClientError::NotFound {
                noun: self.noun.to_string(),
                path: path.to_owned(),
            };
        }
        let body = match self.collect(response, source).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice::<Envelope>(&body) {
            Ok(envelope) if is_json => ClientError::Status {
                status,
                code: envelope.code,
                message: envelope.message,
                detail: envelope.detail,
                retry: envelope.retry,
            },
            _ => {
                let text = String::from_utf8_lossy(&body);
                let line = text.lines().next().unwrap_or_default();
                ClientError::Status {
                    status,
                    code: String::new(),
                    message: format!(
                        "the {} answered {} with {status}{}{}",
                        self.noun,
                        source.request,
                        if line.is_empty() { "" } else { ": " },
                        line.chars().take(300).collect::<String>()
                    ),
                    detail: None,
                    retry: false,
                }
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("noun", &self.noun)
            .field("endpoints", &self.endpoints.list())
            .field("has_key", &self.authorization.is_some())
            .finish_non_exhaustive()
    }
}

/// What one attempt came to.
enum Attempt {
    /// Not carried out here, or safe to repeat: another endpoint may be asked.
    Next(ClientError),
    /// The answer, whichever endpoint is asked.
    Final(ClientError),
}

/// A request that was sent is only sent again if that cannot do harm.
fn unless_safe(method: &Method, error: ClientError) -> Attempt {
    if method.is_safe() {
        Attempt::Next(error)
    } else {
        Attempt::Final(error)
    }
}

fn pool(connect_timeout: Duration) -> Pool<HttpConnector, Body> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(connect_timeout));
    connector.set_keepalive(Some(PROBE_AFTER));
    connector.set_keepalive_interval(Some(PROBE_EVERY));
    connector.set_keepalive_retries(Some(PROBES));
    Pool::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build(connector)
}

/// Where a redirect leads: a URL, or a path at the same server.
fn location(from: &str, response: &Response<Incoming>) -> Option<String> {
    let to = response.headers().get(header::LOCATION)?.to_str().ok()?;
    if to.starts_with("http://") {
        return Some(to.to_owned());
    }
    let from: Uri = from.parse().ok()?;
    to.starts_with('/')
        .then(|| format!("http://{}{to}", from.authority().map_or("", |a| a.as_str())))
}

fn encode(body: &(impl Serialize + ?Sized)) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|e| ClientError::Invalid {
            what: "the request's body".to_owned(),
            why: e.to_string(),
        })
}

fn accept(kind: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(kind))])
}

const APPLICATION_JSON: HeaderValue = HeaderValue::from_static("application/json");
