//! Where a job's files come from.

mod fetch;
#[cfg(feature = "http")]
mod http;
mod store;
mod unpack;

use std::{fmt, path::Path};

use async_trait::async_trait;
use flynn_sched::Artifact;
use tokio::io::AsyncRead;

pub use fetch::FileSource;
#[cfg(feature = "http")]
pub use http::{BlobSource, HttpSource};
pub use store::ArtifactStore;
pub use unpack::UnpackLimits;

use crate::Result;

/// Makes the file tree of a job.
#[async_trait]
pub trait ImageStore: fmt::Debug + Send + Sync + 'static {
    /// Unpacks `artifacts`, in order, into the existing directory `root`; later ones replace files of earlier ones.
    ///
    /// Nothing is written outside of `root`, whatever the artifacts hold.
    ///
    /// # Errors
    ///
    /// [`Error::Artifact`](crate::Error::Artifact) when one cannot be fetched, is not what its checksum says, or cannot
    /// be unpacked; [`Error::DiskFull`](crate::Error::DiskFull).
    async fn unpack(&self, artifacts: &[Artifact], root: &Path) -> Result<()>;
}

/// Fetches artifacts of one URI scheme.
#[async_trait]
pub trait ArtifactSource: fmt::Debug + Send + Sync + 'static {
    /// Begins to read an artifact. `uri` has the scheme this source was registered for.
    ///
    /// # Errors
    ///
    /// [`Error::Artifact`](crate::Error::Artifact).
    async fn open(&self, uri: &str) -> Result<ArtifactReader>;
}

/// The bytes of an artifact.
pub type ArtifactReader = Box<dyn AsyncRead + Send + Unpin>;
