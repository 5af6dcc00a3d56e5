//! Artifacts of this machine.

use async_trait::async_trait;

use super::{ArtifactReader, ArtifactSource};
use crate::{Error, Result};

/// Reads `file:///path`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSource;

#[async_trait]
impl ArtifactSource for FileSource {
    async fn open(&self, uri: &str) -> Result<ArtifactReader> {
        let failed = |why: String| Error::Artifact {
            uri: uri.to_owned(),
            why,
            is_transient: false,
        };
        let path = uri
            .strip_prefix("file://")
            .filter(|path| path.starts_with('/'))
            .ok_or_else(|| failed("not of the form file:///path".to_owned()))?;
        let file = tokio::fs::File::open(path)
            .await
            .map_err(|e| failed(e.to_string()))?;
        Ok(Box::new(file))
    }
}
