//! Jobs, and one-off ones to run.

use axum::{
    extract::{FromRequest as _, Path, Request, State},
    response::{IntoResponse, Response},
};
use flynn_discovery::http::{Json, MAX_JSON_BYTES, PendingUpgrade, accept_upgrade, read_body};
use http::header;

use super::{
    Server,
    answer::{Answer, Problem},
};
use crate::{
    http::ATTACH_PROTOCOL,
    model::{Job, NewJob},
    streams::ByteStream,
};

pub(super) async fn of_app(
    State(server): State<Server>,
    Path(app): Path<String>,
) -> Answer<Json<Vec<Job>>> {
    Ok(Json(server.platform.jobs(&app).await?))
}

pub(super) async fn one(
    State(server): State<Server>,
    Path((app, job)): Path<(String, String)>,
) -> Answer<Json<Job>> {
    Ok(Json(server.platform.job(&app, &job).await?))
}

pub(super) async fn kill(
    State(server): State<Server>,
    Path((app, job)): Path<(String, String)>,
) -> Answer<()> {
    Ok(server.platform.kill(&app, &job).await?)
}

pub(super) async fn active(State(server): State<Server>) -> Answer<Json<Vec<Job>>> {
    Ok(Json(server.platform.active_jobs().await?))
}

/// Plain: answers with the job. With an upgrade: the connection becomes the job's standard streams.
pub(super) async fn run(
    State(server): State<Server>,
    Path(app): Path<String>,
    request: Request,
) -> Response {
    if !request.headers().contains_key(header::UPGRADE) {
        return match Json::<NewJob>::from_request(request, &()).await {
            Ok(Json(job)) => match server.platform.run(&app, &job).await {
                Ok(job) => Json(job).into_response(),
                Err(error) => Problem(error).into_response(),
            },
            Err(failure) => failure.into_response(),
        };
    }
    let (response, body, pending) = match accept_upgrade(request, ATTACH_PROTOCOL) {
        Ok(accepted) => accepted,
        Err(failure) => return failure.into_response(),
    };
    let body = match read_body(body, MAX_JSON_BYTES).await {
        Ok(body) => body,
        Err(failure) => return failure.into_response(),
    };
    let job: NewJob = match serde_json::from_slice(&body) {
        Ok(job) => job,
        Err(error) => {
            let why = format!("the job to run is not understood: {error}");
            return Problem(crate::Error::refused(why)).into_response();
        }
    };
    match server.platform.run_attached(&app, &job).await {
        Ok((_, attached)) => {
            let mut connections = server.attached.lock();
            // Those that have ended are let go.
            while connections.try_join_next().is_some() {}
            connections.spawn(join(pending, attached));
            drop(connections);
            response
        }
        Err(error) => Problem(error).into_response(),
    }
}

/// Passes attach frames between a client and a host until both have said all.
async fn join(pending: PendingUpgrade, mut attached: Box<dyn ByteStream>) {
    let Ok(mut client) = pending.connected().await else {
        return;
    };
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut attached).await {
        tracing::debug!(%error, "an attached connection broke");
    }
}
