//! Directories that outlive jobs.

mod dir;

use std::{fmt, path::PathBuf};

use async_trait::async_trait;
use flynn_sched::Volume;

pub use dir::DirVolumes;

use crate::Result;

/// Provides the volumes of a host.
#[async_trait]
pub trait VolumeProvider: fmt::Debug + Send + Sync + 'static {
    /// The directory of a volume, made if it is not there yet. Two jobs that name the same owner and name get the same.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) when the owner or the name is no name for a directory.
    async fn open(&self, volume: &Volume) -> Result<PathBuf>;

    /// Deletes a volume and what it holds. Deleting an absent one succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File).
    async fn remove(&self, volume: &Volume) -> Result<()>;

    /// All volumes.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File).
    async fn list(&self) -> Result<Vec<Volume>>;
}
