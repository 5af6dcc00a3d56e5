//! Volumes as plain directories.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use flynn_sched::Volume;

use super::VolumeProvider;
use crate::{Error, Result};

/// Volumes as directories `<owner>/<name>`.
#[derive(Debug, Clone)]
pub struct DirVolumes {
    dir: PathBuf,
}

impl DirVolumes {
    /// Volumes below `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    fn path(&self, volume: &Volume) -> Result<PathBuf> {
        for (what, name) in [("name", &volume.name), ("owner", &volume.owner)] {
            let fits = !name.is_empty()
                && name.len() <= 128
                && !name.starts_with('.')
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !fits {
                return Err(Error::Invalid {
                    what: format!("volume {what} {name:?}"),
                    why:
                        "use 1 to 128 of letters, digits, '-', '_' and '.', not beginning with '.'"
                            .to_owned(),
                });
            }
        }
        Ok(self.dir.join(&volume.owner).join(&volume.name))
    }
}

#[async_trait]
impl VolumeProvider for DirVolumes {
    async fn open(&self, volume: &Volume) -> Result<PathBuf> {
        let path = self.path(volume)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|e| Error::file("create", &path, e))?;
        Ok(path)
    }

    async fn remove(&self, volume: &Volume) -> Result<()> {
        let path = self.path(volume)?;
        let removed = tokio::task::spawn_blocking({
            let path = path.clone();
            move || fs::remove_dir_all(path)
        });
        match removed.await.map_err(|_| Error::Closed)? {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path, e)),
            _ => Ok(()),
        }
    }

    async fn list(&self) -> Result<Vec<Volume>> {
        let mut volumes = Vec::new();
        for owner in names(&self.dir)? {
            for name in names(&self.dir.join(&owner))? {
                let owner = owner.clone();
                volumes.push(Volume { name, owner });
            }
        }
        Ok(volumes)
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::file("list", dir, e)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(owner: &str, name: &str) -> Volume {
        Volume {
            name: name.to_owned(),
            owner: owner.to_owned(),
        }
    }

    #[tokio::test]
    async fn the_same_owner_and_name_are_the_same_directory() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = DirVolumes::new(dir.path().join("volumes"));
        let data = volumes.open(&volume("app", "data")).await.unwrap();
        fs::write(data.join("file"), "kept").unwrap();
        assert_eq!(volumes.open(&volume("app", "data")).await.unwrap(), data);
        assert_ne!(volumes.open(&volume("other", "data")).await.unwrap(), data);
        assert_eq!(
            volumes.list().await.unwrap(),
            [volume("app", "data"), volume("other", "data")]
        );
        volumes.remove(&volume("app", "data")).await.unwrap();
        volumes.remove(&volume("app", "data")).await.unwrap();
        assert!(!data.exists());
    }

    #[tokio::test]
    async fn names_that_lead_elsewhere_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = DirVolumes::new(dir.path());
        for (owner, name) in [("..", "x"), ("a", "../x"), ("a", ""), ("a/b", "x")] {
            let error = volumes.open(&volume(owner, name)).await.unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{owner}/{name}");
        }
    }
}
