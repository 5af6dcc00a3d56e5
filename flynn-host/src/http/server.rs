//! The host API's routes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::http::{HeaderMap, header};
use axum::{
    Router,
    extract::{Path, Query, Request, State},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::BytesMut;
use flynn_discovery::http::{
    Failure, Health, Json, Keys, MAX_JSON_BYTES, accept_upgrade, events, ndjson, read_body,
    require_key, status_route,
};
use flynn_sched::{JobId, Phase};
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncWriteExt, split},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::wire::{ActiveJob, AttachBody, HostStatus, JobEvent, LogEntry};
use crate::{
    Error,
    attach::{
        Attached, AttachedReceiver, AttachedSender, Channel, Frame, Greeting, PROTOCOL, flags,
    },
    host::{AttachRequest, AttachSession, Drain, HostHandle, JobView, Jobs},
    log::{LogStream, TailOptions},
    runtime::Signal,
};

/// The host API over `host`, for those who have one of `keys`.
///
/// Dropping the router (all clones of it) ends its attach connections.
pub fn router(host: HostHandle, keys: Keys) -> Router {
    let ending = CancellationToken::new();
    let api = Arc::new(Api {
        host,
        attached: ending.clone(),
        _guard: ending.drop_guard(),
    });
    let guarded = Router::new()
        .route("/host/jobs", get(jobs))
        .route("/host/jobs/{id}", get(job).delete(stop))
        .route("/host/jobs/{id}/signal/{signal}", put(signal))
        .route("/host/jobs/{id}/log", get(log))
        .route("/host/status", get(status))
        .route("/host/drain", put(drain).delete(undrain))
        .route("/attach", post(attach))
        .with_state(api);
    require_key(guarded, keys).merge(status_route(env!("CARGO_PKG_VERSION"), || async {
        Health::healthy()
    }))
}

struct Api {
    host: HostHandle,
    /// Cancelled with the last router: attach connections are no longer HTTP's, and end with it all the same.
    attached: CancellationToken,
    _guard: DropGuard,
}

type Answer<T> = Result<T, Failure>;

#[derive(Deserialize)]
struct JobsQuery {
    #[serde(default)]
    active: bool,
}

async fn jobs(
    State(api): State<Arc<Api>>,
    Query(query): Query<JobsQuery>,
    headers: HeaderMap,
) -> Response {
    if wants_events(&headers) {
        return events(job_events(&api.host, None));
    }
    let jobs: BTreeMap<String, ActiveJob> = api
        .host
        .jobs()
        .values()
        .filter(|view| !query.active || !view.status.phase.is_final())
        .map(|view| ActiveJob::new(view, api.host.addr()))
        .map(|job| (job.job.id.clone(), job))
        .collect();
    Json(jobs).into_response()
}

async fn job(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let id = api.job_id(&id)?;
    if wants_events(&headers) {
        return Ok(events(job_events(&api.host, Some(id))));
    }
    let view = api.host.job(&id).map_err(refuse)?;
    Ok(Json(ActiveJob::new(&view, api.host.addr())).into_response())
}

async fn stop(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Answer<Json<Empty>> {
    api.host.stop(&api.job_id(&id)?).await.map_err(refuse)?;
    Ok(Json(Empty {}))
}

async fn signal(
    State(api): State<Arc<Api>>,
    Path((id, signal)): Path<(String, String)>,
) -> Answer<Json<Empty>> {
    let number = signal
        .parse()
        .map_err(|_| Failure::validation("signal", "is not a number"))?;
    let signal = Signal::parse(number).map_err(refuse)?;
    let id = api.job_id(&id)?;
    api.host.signal(&id, signal).await.map_err(refuse)?;
    Ok(Json(Empty {}))
}

/// What Flynn's clients expect where there is nothing to say.
#[derive(Serialize)]
struct Empty {}

#[derive(Deserialize)]
struct LogParameters {
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    streams: String,
}

async fn log(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(query): Query<LogParameters>,
) -> Answer<Response> {
    let id = api.job_id(&id)?;
    let mut streams = Vec::new();
    for name in query.streams.split(',').filter(|name| !name.is_empty()) {
        streams.push(match name {
            "stdout" => LogStream::Stdout,
            "stderr" => LogStream::Stderr,
            "host" | "init" => LogStream::Host,
            _ => {
                let text = "is a comma list of stdout, stderr and host";
                return Err(Failure::validation("streams", text));
            }
        });
    }
    let mut options = TailOptions::default().with_streams(streams.clone());
    options.lines = query.lines;
    let tail = api.host.log(&id, options).await.map_err(refuse)?;
    if tail.lines.is_empty() && api.host.job(&id).is_err() && !query.follow {
        return Err(refuse(Error::UnknownJob { job: id }));
    }
    let read: Vec<_> = tail
        .lines
        .iter()
        .map(|line| Ok(LogEntry::from(line)))
        .collect();
    let read = stream::iter(read);
    if !query.follow {
        return Ok(ndjson(read));
    }
    let followed = api.host.follow_log(&id, tail.end).filter_map(move |line| {
        let entry = match line {
            Ok(line) if streams.is_empty() || streams.contains(&line.stream) => {
                Some(Ok(LogEntry::from(&line)))
            }
            Ok(_) => None,
            Err(error) => Some(Err(refuse(error))),
        };
        std::future::ready(entry)
    });
    Ok(ndjson(read.chain(followed)))
}

async fn status(State(api): State<Arc<Api>>) -> Json<HostStatus> {
    let jobs = api.host.jobs();
    Json(HostStatus {
        id: api.host.id().to_string(),
        pid: std::process::id(),
        addr: api.host.addr().to_owned(),
        jobs: jobs
            .values()
            .filter(|view| !view.status.phase.is_final())
            .count(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        drain: api.host.drain(),
    })
}

async fn drain(State(api): State<Arc<Api>>, request: Request) -> Answer<Json<Empty>> {
    let body = read_body(request.into_body(), MAX_JSON_BYTES).await?;
    let drain = if body.is_empty() {
        Drain::default()
    } else {
        serde_json::from_slice(&body).map_err(|e| Failure::validation("", &e.to_string()))?
    };
    api.host.set_drain(Some(drain)).await.map_err(refuse)?;
    Ok(Json(Empty {}))
}

async fn undrain(State(api): State<Arc<Api>>) -> Answer<Json<Empty>> {
    api.host.set_drain(None).await.map_err(refuse)?;
    Ok(Json(Empty {}))
}

async fn attach(State(api): State<Arc<Api>>, request: Request) -> Answer<Response> {
    let (response, body, connection) = accept_upgrade(request, PROTOCOL)?;
    let body = read_body(body, MAX_JSON_BYTES).await?;
    let body: AttachBody = serde_json::from_slice(&body)
        .map_err(|_| Failure::validation("", "the body is not an attach request"))?;
    let id = api.job_id(&body.job_id)?;
    let (host, ending) = (api.host.clone(), api.attached.clone());
    tokio::spawn(async move {
        let serving = async {
            let connection = connection.connected().await?;
            serve_attach(&host, &id, body.flags, connection).await
        };
        if let Some(Err(error)) = ending.run_until_cancelled(serving).await {
            tracing::debug!(job = %id, %error, "an attach connection ended");
        }
    });
    Ok(response)
}

/// Greets, replays, and passes frames on in both directions until the job or the client has had enough.
async fn serve_attach(
    host: &HostHandle,
    id: &JobId,
    wanted: u8,
    connection: flynn_discovery::http::Upgraded,
) -> std::io::Result<()> {
    let (reader, mut writer) = split(connection);
    let mut greet = async |greeting: Greeting| {
        let mut bytes = BytesMut::new();
        greeting.encode(&mut bytes);
        writer.write_all(&bytes).await?;
        writer.flush().await
    };
    let mut attaching = std::pin::pin!(host.attach(id, AttachRequest { flags: wanted }));
    let attached = match timeout(SOON, &mut attaching).await {
        Ok(attached) => attached,
        Err(_) => {
            greet(Greeting::Waiting).await?;
            attaching.await
        }
    };
    let session = match attached {
        Ok(session) => session,
        Err(error) => {
            let text = match error {
                Error::NotRunning { .. } | Error::UnknownJob { .. } => {
                    "host: job not running".to_owned()
                }
                Error::AlreadyAttached { .. } => "host: job is attached".to_owned(),
                error => error.to_string(),
            };
            return greet(Greeting::Refused(text)).await;
        }
    };
    greet(Greeting::Attached).await?;
    let (mut to_client, from_client) = Attached::new(reader, writer).split();
    let passed = pass(session, wanted, &mut to_client, from_client).await;
    let closed = to_client.close().await;
    passed.and(closed).map_err(std::io::Error::other)
}

async fn pass(
    session: AttachSession,
    wanted: u8,
    to_client: &mut AttachedSender,
    mut from_client: AttachedReceiver,
) -> crate::Result<()> {
    for frame in session.replay {
        to_client.send(frame).await?;
    }
    if let Some(code) = session.exit {
        to_client.send(Frame::Exit(code)).await?;
    }
    let Some(live) = session.live else {
        return Ok(());
    };
    let (mut to_job, mut from_job) = live.split();
    let to_job = async {
        while let Some(frame) = from_client.recv().await? {
            to_job.send(frame).await?;
        }
        Ok(())
    };
    let from_job = async {
        let mut has_ended = false;
        while let Some(frame) = from_job.recv().await? {
            let flag = match &frame {
                Frame::Data(Channel::Stdout, _) => flags::STDOUT,
                Frame::Data(Channel::Stderr, _) => flags::STDERR,
                _ => u8::MAX,
            };
            has_ended |= matches!(frame, Frame::Exit(_));
            if wanted & flag != 0 {
                to_client.send(frame).await?;
            }
        }
        if !has_ended {
            let text = "the connection to the job broke: it may have been read too slowly";
            to_client.send(Frame::Error(text.to_owned())).await?;
        }
        Ok(())
    };
    // The job's last words count; a client that hangs up ends it at once.
    tokio::select! {
        gone = to_job => gone,
        ended = from_job => ended,
    }
}

/// The changes of all jobs, or of one, from now on; of one, beginning with how it is.
fn job_events(
    host: &HostHandle,
    only: Option<JobId>,
) -> impl Stream<Item = Answer<JobEvent>> + Send + use<> {
    let addr = host.addr().to_owned();
    let mut before: Option<Arc<Jobs>> = only.is_some().then(Arc::default);
    host.watch_jobs()
        .map(move |jobs| {
            let last = before.replace(Arc::clone(&jobs));
            let last = last.unwrap_or_else(|| Arc::clone(&jobs));
            let changes: Vec<Answer<JobEvent>> = jobs
                .iter()
                .filter(|(id, _)| only.as_ref().is_none_or(|only| only == *id))
                .filter_map(|(id, view)| Some((event(last.get(id), view)?, view)))
                .map(|(event, view)| {
                    let job = ActiveJob::new(view, &addr);
                    Ok(JobEvent {
                        event: event.to_owned(),
                        job_id: job.job.id.clone(),
                        job: Some(job),
                    })
                })
                .collect();
            stream::iter(changes)
        })
        .flatten()
}

fn event(before: Option<&JobView>, now: &JobView) -> Option<&'static str> {
    if before.is_some_and(|before| before.status == now.status) {
        return None;
    }
    Some(match now.status.phase {
        Phase::Pending | Phase::Starting => "create",
        Phase::Up => "start",
        Phase::Failed | Phase::Restarting => "error",
        _ => "stop",
    })
}

impl Api {
    /// The job's own id, from that or from its name beyond the host.
    fn job_id(&self, id: &str) -> Answer<JobId> {
        let own = id
            .strip_prefix(self.host.id().as_str())
            .and_then(|rest| rest.strip_prefix('-'))
            .unwrap_or(id);
        JobId::parse(own).map_err(|e| refuse(e.into()))
    }
}

fn wants_events(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"))
}

fn refuse(error: Error) -> Failure {
    match &error {
        Error::UnknownJob { .. } => Failure::not_found(error.to_string()),
        Error::NotRunning { .. } | Error::AlreadyAttached { .. } | Error::Exists { .. } => {
            Failure::conflict(error.to_string())
        }
        Error::Invalid { .. } | Error::Cluster(flynn_sched::Error::Invalid { .. }) => {
            Failure::validation("", &error.to_string())
        }
        Error::Closed | Error::Ended { .. } => Failure::unavailable(error.to_string()),
        _ => Failure::unknown(&error),
    }
}

/// Whoever has to wait longer is told so.
const SOON: Duration = Duration::from_millis(100);
