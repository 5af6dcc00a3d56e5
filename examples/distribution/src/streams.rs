//! The controller's way to jobs' output and standard streams: the hosts' APIs.

use async_trait::async_trait;
use flynn_controller::{
    Error, Result,
    model::Time,
    streams::{AttachOptions, ByteStream, JobStreams, LogOptions, OutputLine},
};
use flynn_discovery::http::{Client, Secret};
use flynn_host::{
    attach::{Greeting, PROTOCOL, flags},
    http::{Client as HostClient, LogEntry, LogQuery},
    log::LogStream,
};
use flynn_sched::{Host, JobId};
use futures::{StreamExt as _, stream::BoxStream};
use http::Method;
use serde_json::json;

/// Asks each host with the cluster's token.
#[derive(Debug, Clone)]
pub(crate) struct HostStreams {
    token: Secret,
}

impl HostStreams {
    /// With this token.
    #[must_use]
    pub(crate) fn new(token: Secret) -> Self {
        Self { token }
    }
}

#[async_trait]
impl JobStreams for HostStreams {
    async fn log(
        &self,
        host: &Host,
        job: &JobId,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<OutputLine>>> {
        let unavailable = |error: flynn_host::Error| unavailable(host, &error);
        let client = HostClient::new(&*host.api_url, self.token.clone()).map_err(unavailable)?;
        let mut query = LogQuery::default().with_follow(options.follow);
        if let Some(lines) = options.lines {
            query = query.with_lines(lines);
        }
        if !options.streams.is_empty() {
            query = query.with_streams(
                options
                    .streams
                    .iter()
                    .filter_map(|name| stream_of(name))
                    .collect::<Vec<_>>(),
            );
        }
        let lines = client
            .log(&on_wire(host, job), &query)
            .await
            .map_err(unavailable)?;
        let host = host.clone();
        Ok(lines
            .map(move |line| {
                line.map_err(|error| self::unavailable(&host, &error))
                    .and_then(output_line)
            })
            .boxed())
    }

    async fn attach(
        &self,
        host: &Host,
        job: &JobId,
        _options: &AttachOptions,
    ) -> Result<Box<dyn ByteStream>> {
        let client =
            Client::new(vec![host.api_url.clone()]).map_err(|error| unavailable(host, &error))?;
        let client = client.with_key(self.token.clone()).with_noun("host");
        let flags = flags::STDOUT
            | flags::STDERR
            | flags::STDIN
            | flags::INITLOG
            | flags::LOGS
            | flags::STREAM;
        let body = json!({ "job_id": on_wire(host, job), "flags": flags, "height": 0, "width": 0 });
        let mut connection = client
            .upgrade(Method::POST, "/attach", PROTOCOL, &body)
            .await
            .map_err(|error| unavailable(host, &error))?;
        loop {
            match Greeting::read(&mut connection)
                .await
                .map_err(|error| unavailable(host, &error))?
            {
                Greeting::Attached => return Ok(Box::new(connection)),
                Greeting::Waiting => {}
                Greeting::Refused(why) => return Err(Error::Conflict { why }),
                _ => {
                    return Err(Error::Unavailable {
                        why: format!("host {} speaks another protocol to attach", host.id),
                    });
                }
            }
        }
    }
}

/// The name of a job on the wire.
fn on_wire(host: &Host, job: &JobId) -> String {
    format!("{}-{job}", host.id)
}

fn stream_of(name: &str) -> Option<LogStream> {
    match name {
        "stdout" => Some(LogStream::Stdout),
        "stderr" => Some(LogStream::Stderr),
        "init" => Some(LogStream::Host),
        _ => None,
    }
}

fn output_line(entry: LogEntry) -> Result<OutputLine> {
    let time: Time =
        serde_json::from_value(entry.time.into()).map_err(|source| Error::Damaged {
            what: "line of a job's log".to_owned(),
            source,
        })?;
    let stream = match entry.stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        _ => "init",
    };
    Ok(OutputLine {
        time,
        stream: stream.to_owned(),
        msg: entry.msg,
    })
}

fn unavailable(host: &Host, error: &dyn std::error::Error) -> Error {
    Error::Unavailable {
        why: format!("host {}: {error}", host.id),
    }
}
