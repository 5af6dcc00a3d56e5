//! A client of the host API.

use std::collections::BTreeMap;

use ::http::Method;
use flynn_discovery::http::{Client as HttpClient, Secret, segment};
use futures::stream::{BoxStream, StreamExt};
use serde::de::IgnoredAny;
use tokio::io::split;

use super::wire::{ActiveJob, AttachBody, HostStatus, JobEvent, LogEntry};
use crate::{
    Error, Result,
    attach::{Attached, Greeting, PROTOCOL},
    host::{AttachRequest, Drain},
    log::LogStream,
    runtime::Signal,
};

/// Speaks to the API of one host. Job ids are the job's own or `<host>-<job>`.
#[derive(Debug, Clone)]
pub struct Client {
    http: HttpClient,
}

/// Which part of a log.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LogQuery {
    /// At most so many of the newest lines; `None`: all that are kept.
    pub lines: Option<usize>,
    /// And what comes after them, until the job is over.
    pub follow: bool,
    /// Of these streams; empty: of all.
    pub streams: Vec<LogStream>,
}

impl LogQuery {
    /// At most so many of the newest lines.
    #[must_use]
    pub fn with_lines(mut self, lines: usize) -> Self {
        self.lines = Some(lines);
        self
    }

    /// And what comes after them.
    #[must_use]
    pub fn with_follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// Only of these streams.
    #[must_use]
    pub fn with_streams(mut self, streams: impl Into<Vec<LogStream>>) -> Self {
        self.streams = streams.into();
        self
    }

    fn query(&self) -> String {
        let mut query = format!("?follow={}", self.follow);
        if let Some(lines) = self.lines {
            query.push_str(&format!("&lines={lines}"));
        }
        if !self.streams.is_empty() {
            let names: Vec<&str> = self
                .streams
                .iter()
                .map(|stream| match stream {
                    LogStream::Stdout => "stdout",
                    LogStream::Stderr => "stderr",
                    LogStream::Host => "host",
                })
                .collect();
            query.push_str(&format!("&streams={}", names.join(",")));
        }
        query
    }
}

impl Client {
    /// A client of the host API at `url`, such as `http://10.0.0.1:1113`.
    ///
    /// # Errors
    ///
    /// [`Error::Api`] when it is not a URL.
    pub fn new(url: impl Into<String>, token: Secret) -> Result<Self> {
        let http = HttpClient::new(vec![url.into()])?
            .with_key(token)
            .with_noun("host");
        Ok(Self { http })
    }

    /// The host's jobs by their id; only those that are not over if `active`.
    ///
    /// # Errors
    ///
    /// [`Error::Api`].
    pub async fn jobs(&self, active: bool) -> Result<BTreeMap<String, ActiveJob>> {
        let path = format!("/host/jobs?active={active}");
        Ok(self.http.get(&path).await?)
    }

    /// One job.
    ///
    /// # Errors
    ///
    /// [`Error::Api`].
    pub async fn job(&self, id: &str) -> Result<ActiveJob> {
        Ok(self.http.get(&path(id, "")).await?)
    }

    /// Stops a job. Returns at once.
    ///
    /// # Errors
    ///
    /// [`Error::Api`].
    pub async fn stop(&self, id: &str) -> Result<()> {
        let _: IgnoredAny = self.http.delete(&path(id, "")).await?;
        Ok(())
    }

    /// Signals a job.
    ///
    /// # Errors
    ///
    /// [`Error::Api`].
    pub async fn signal(&self, id: &str, signal: Signal) -> Result<()> {
        let path = path(id, &format!("/signal/{}", signal.number()));
        let _: IgnoredAny = self.http.request(Method::PUT, &path, None::<&()>).await?;
        Ok(())
    }

    /// How the host is.
    ///
    /// # Errors
    ///
    /// [`Error::Api`].
    pub async fn status(&self) -> Result<HostStatus> {
        Ok(self.http.get("/host/status").await?)
    }

    /// Makes the host give its jobs away and take no others, or ends that.
    ///
    /// # Errors
    ///
    /// [`Error::Api`].
    pub async fn set_drain(&self, drain: Option<Drain>) -> Result<()> {
        let (method, path) = (Method::PUT, "/host/drain");
        let _: IgnoredAny = match drain {
            Some(drain) => self.http.request(method, path, Some(&drain)).await?,
            None => self.http.delete(path).await?,
        };
        Ok(())
    }

    /// What happens to the host's jobs from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Api`].
    pub async fn events(&self) -> Result<BoxStream<'static, Result<JobEvent>>> {
        let events = self.http.events("/host/jobs", None).await?;
        Ok(events.map(|event| event.map_err(Error::from)).boxed())
    }

    /// The lines of a job's log.
    ///
    /// # Errors
    ///
    /// [`Error::Api`]; an error within the stream is its last item.
    pub async fn log(
        &self,
        id: &str,
        query: &LogQuery,
    ) -> Result<BoxStream<'static, Result<LogEntry>>> {
        let path = path(id, &format!("/log{}", query.query()));
        let lines = self.http.lines(&path).await?;
        Ok(lines.map(|line| line.map_err(Error::from)).boxed())
    }

    /// Connects to a job's streams; waits for a job that is about to come.
    ///
    /// # Errors
    ///
    /// [`Error::Api`]; [`Error::Refused`] with the host's words.
    pub async fn attach(&self, id: &str, request: AttachRequest) -> Result<Attached> {
        let body = AttachBody {
            job_id: id.to_owned(),
            flags: request.flags,
            height: 0,
            width: 0,
        };
        let connection = self
            .http
            .upgrade(Method::POST, "/attach", PROTOCOL, &body)
            .await?;
        let (mut reader, writer) = split(connection);
        loop {
            match Greeting::read(&mut reader).await? {
                Greeting::Attached => return Ok(Attached::new(reader, writer)),
                Greeting::Waiting => {}
                Greeting::Refused(why) => return Err(Error::Refused { why }),
            }
        }
    }
}

fn path(id: &str, rest: &str) -> String {
    format!("/host/jobs/{}{rest}", segment(id))
}
