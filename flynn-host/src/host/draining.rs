//! Whether a host takes jobs: what an operator said last, and a restart does not forget.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Error, Result};

/// Remembers by a file in the data directory that the host drains.
#[derive(Debug)]
pub(super) struct Draining {
    dir: PathBuf,
    marker: PathBuf,
    /// One change at a time: the file and what is told must not disagree.
    changing: Mutex<()>,
    is_draining: watch::Sender<bool>,
}

impl Draining {
    /// As it was left.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let marker = dir.join(MARKER);
        let is_draining = marker
            .try_exists()
            .map_err(|e| Error::file("look for", &marker, e))?;
        Ok(Self {
            dir: dir.to_owned(),
            marker,
            changing: Mutex::default(),
            is_draining: watch::Sender::new(is_draining),
        })
    }

    pub(super) fn is_draining(&self) -> bool {
        *self.is_draining.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.is_draining.subscribe()
    }

    /// Returns once it would survive a power cut.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::DiskFull`]; nothing has changed then.
    pub(super) fn set(&self, is_draining: bool) -> Result<()> {
        let _changing = self.changing.lock();
        let written = if is_draining {
            File::create(&self.marker).and_then(|file| file.sync_all())
        } else {
            match fs::remove_file(&self.marker) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        written
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .map_err(|e| Error::file("write", &self.marker, e))?;
        self.is_draining.send_replace(is_draining);
        Ok(())
    }
}

const MARKER: &str = "draining";
