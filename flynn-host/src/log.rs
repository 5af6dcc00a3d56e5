//! What jobs write: kept per job, bounded, and followed.

mod file;
mod memory;
mod record;
pub(crate) mod writer;

use std::{fmt, path::PathBuf};

use async_trait::async_trait;
use flynn_sched::JobId;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use file::FileLogs;
pub use memory::MemoryLogs;
#[cfg(feature = "process")]
pub(crate) use record::{LineSplitter, encode_line};

use crate::Result;

/// Keeps the output of jobs.
///
/// # Contract
///
/// Each sentence below is a case of the conformance suite.
#[async_trait]
pub trait LogSink: fmt::Debug + Send + Sync + 'static {
    /// Where a runtime writes a job's output by itself, so that it flows while the daemon is away. `None`: the sink has
    /// no files, and such a runtime keeps no log.
    fn target(&self, job: &JobId) -> Option<LogTarget>;

    /// Adds lines to the end of a job's log. Lines longer than 10,000 bytes are split.
    ///
    /// # Errors
    ///
    /// [`Error::DiskFull`](crate::Error::DiskFull), [`Error::File`](crate::Error::File).
    async fn append(&self, job: &JobId, lines: Vec<LogLine>) -> Result<()>;

    /// Reads the newest lines of a job's log, oldest first, and where they end. The log of an unknown job is empty.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File).
    async fn tail(&self, job: &JobId, options: TailOptions) -> Result<Tail>;

    /// Follows a job's log from a point on, line by line, without an end. Where lines were dropped before they were
    /// read, a line of the host says so.
    ///
    /// # Cancel safety
    ///
    /// Dropping a pending `next` loses nothing.
    fn follow(&self, job: &JobId, from: Cursor) -> BoxStream<'static, Result<LogLine>>;

    /// Forgets a job's log. Forgetting an absent one succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File).
    async fn remove(&self, job: &JobId) -> Result<()>;

    /// The jobs that have a log, those with the newest lines last.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File).
    async fn jobs(&self) -> Result<Vec<JobId>>;
}

/// Where and how much of a job's output is kept in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTarget {
    /// The directory of the job's log.
    pub dir: PathBuf,
    /// How large one file grows.
    pub file_bytes: u64,
    /// How many files are kept.
    pub files: u64,
}

/// One line of a job's output.
#[derive(Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was read from the job, in microseconds since the Unix epoch.
    pub at_micros: u64,
    /// Where it came from.
    pub stream: LogStream,
    /// Its bytes, without the newline.
    pub message: Vec<u8>,
    /// Did a newline end it? If not, it was split or is the end of the output.
    pub is_whole: bool,
}

impl LogLine {
    /// A line of the host's own.
    #[must_use]
    pub fn host(at_ms: u64, message: impl Into<String>) -> Self {
        Self {
            at_micros: at_ms.saturating_mul(1000),
            stream: LogStream::Host,
            message: message.into().into_bytes(),
            is_whole: true,
        }
    }

    /// The line as text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.message).into_owned()
    }
}

impl fmt::Debug for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.stream, self.text())
    }
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LogStream {
    /// The job's standard output.
    Stdout,
    /// The job's standard error.
    Stderr,
    /// What the host says about the job.
    Host,
}

/// What to read.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TailOptions {
    /// At most so many lines; `None`: all that are kept.
    pub lines: Option<usize>,
    /// Of these streams; empty: of all.
    pub streams: Vec<LogStream>,
    /// Only up to here.
    pub until: Option<Cursor>,
}

impl TailOptions {
    /// At most so many lines.
    #[must_use]
    pub fn with_lines(mut self, lines: usize) -> Self {
        self.lines = Some(lines);
        self
    }

    /// Only of these streams.
    #[must_use]
    pub fn with_streams(mut self, streams: impl Into<Vec<LogStream>>) -> Self {
        self.streams = streams.into();
        self
    }

    /// Only up to a point.
    #[must_use]
    pub fn with_until(mut self, until: Cursor) -> Self {
        self.until = Some(until);
        self
    }

    pub(crate) fn wants(&self, stream: LogStream) -> bool {
        self.streams.is_empty() || self.streams.contains(&stream)
    }
}

/// Lines of a log, and where they end.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Tail {
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
    /// The end of the last of them; [`LogSink::follow`] goes on here.
    pub end: Cursor,
}

/// A point in a log.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Cursor {
    /// The number of the file.
    pub file: u64,
    /// The offset in it.
    pub offset: u64,
}
