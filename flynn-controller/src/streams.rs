//! What the controller needs of hosts: the output of a job, and its standard streams.

use std::fmt;

use async_trait::async_trait;
use flynn_sched::{Host, JobId};
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Result, model::Time};

/// The way to the output and the standard streams of jobs. The controller itself knows no host's API.
#[async_trait]
pub trait JobStreams: fmt::Debug + Send + Sync + 'static {
    /// What a job wrote, oldest first, and what it writes from now on if the options say so.
    ///
    /// # Errors
    ///
    /// When the host cannot be reached or does not know the job.
    async fn log(
        &self,
        host: &Host,
        job: &JobId,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<OutputLine>>>;

    /// Attaches to a job's standard streams; returns when the host has said that it is attached. What follows in both
    /// directions are attach frames. Dropping the connection detaches.
    ///
    /// # Errors
    ///
    /// When the host cannot be reached or refuses.
    async fn attach(
        &self,
        host: &Host,
        job: &JobId,
        options: &AttachOptions,
    ) -> Result<Box<dyn ByteStream>>;
}

/// A connection of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> ByteStream for T {}

/// Which part of a job's output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// At most so many of the lines that are there.
    pub lines: Option<usize>,
    /// Go on with new lines as they are written.
    pub follow: bool,
    /// Only these streams; empty: all.
    pub streams: Vec<String>,
}

/// How to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttachOptions {
    /// The size of the terminal, columns and rows, if there is one.
    pub tty: Option<(u16, u16)>,
}

/// A line that a job wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputLine {
    /// When.
    pub time: Time,
    /// `stdout`, `stderr` or `init`.
    pub stream: String,
    /// The line, without its end.
    pub msg: String,
}

/// Which lines of an app's jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogQuery {
    /// Go on with new lines as they are written.
    pub follow: bool,
    /// At most so many of the lines that are there; all that are kept if absent.
    pub lines: Option<usize>,
    /// Only this job, by id or UUID.
    pub job: Option<String>,
    /// Only this process type; empty for one-off jobs.
    pub process_type: Option<String>,
    /// Only these streams (`stdout`, `stderr`, `init`); empty: all.
    pub streams: Vec<String>,
}
