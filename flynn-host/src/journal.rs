//! What a host remembers across restarts: which jobs it has, and how they are.

mod file;
mod memory;

use std::fmt;

use async_trait::async_trait;
use flynn_sched::{Job, JobId, JobStatus};
use serde::{Deserialize, Serialize};

pub use file::FileJournal;
pub use memory::MemoryJournal;

use crate::Result;

/// Remembers a host's jobs.
#[async_trait]
pub trait Journal: fmt::Debug + Send + Sync + 'static {
    /// Everything that is remembered, by id.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File) when it cannot be read at all. A torn end is cut off silently: what it held
    /// was never acted upon.
    async fn load(&self) -> Result<Vec<Record>>;

    /// Makes changes, in order, and returns once they would survive a power cut.
    ///
    /// # Errors
    ///
    /// [`Error::DiskFull`](crate::Error::DiskFull), [`Error::File`](crate::Error::File): some of the changes may be
    /// lost; what was remembered before is not.
    async fn apply(&self, changes: Vec<Change>) -> Result<()>;
}

/// What is remembered of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The job as it was assigned.
    pub job: Job,
    /// How it is, with its ports and the count of its restarts.
    pub status: JobStatus,
}

/// A change of what is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// The job is like this.
    Put(Box<Record>),
    /// There is no such job any more.
    Remove(JobId),
}
