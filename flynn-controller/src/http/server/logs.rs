//! What the jobs of an app wrote.

use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use flynn_discovery::http::{events, ndjson};
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};

use super::{
    Server,
    answer::{Answer, failure},
};
use crate::{Error, model::LogLine, streams::LogQuery};

/// The most lines that can be asked for.
const MAX_LINES: usize = 10_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Which {
    follow: bool,
    job_id: Option<String>,
    lines: Option<usize>,
    process_type: Option<String>,
    stream_types: Option<String>,
}

/// The event form of a line.
#[derive(Debug, Serialize)]
struct Message {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<LogLine>,
}

/// Lines of JSON, or events for who accepts them.
pub(super) async fn log(
    State(server): State<Server>,
    Path(app): Path<String>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Answer<Response> {
    if which.lines.is_some_and(|lines| lines > MAX_LINES) {
        return Err(Error::invalid("lines", format!("must be at most {MAX_LINES}")).into());
    }
    let streams = which.stream_types.unwrap_or_default();
    let query = LogQuery {
        follow: which.follow,
        lines: Some(which.lines.unwrap_or(MAX_LINES)),
        job: which.job_id.filter(|job| !job.is_empty()),
        process_type: which.process_type,
        streams: streams
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    };
    let lines = server.platform.log(&app, query).await?;
    let lines = lines.map(|line| line.map_err(failure));
    let accepts = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    if accepts.is_some_and(|accepts| accepts.contains("text/event-stream")) {
        let messages = lines.map(|line| {
            line.map(|line| Message {
                event: "message",
                data: Some(line),
            })
        });
        let end = stream::once(async {
            Ok(Message {
                event: "eof",
                data: None,
            })
        });
        return Ok(events(messages.chain(end)));
    }
    let mut response = ndjson(lines);
    let text = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}
