//! Whether a host takes jobs: what an operator said last, and a restart does not forget.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{Error, Result};

/// That a host gives its jobs away and takes no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Drain {
    /// How long jobs that end by themselves may stay, in milliseconds since the Unix epoch; `None`: until they end. See
    /// [`Host::drain_by_ms`](flynn_sched::Host::drain_by_ms).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_ms: Option<u64>,
}

/// Remembers in a file of the data directory that the host drains.
#[derive(Debug)]
pub(super) struct Draining {
    dir: PathBuf,
    file: PathBuf,
    /// One change at a time: the file and what is told must not disagree.
    changing: Mutex<()>,
    drain: watch::Sender<Option<Drain>>,
}

impl Draining {
    /// As it was left.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let file = dir.join(FILE);
        let drain = match fs::read(&file) {
            // The file is what counts: one that cannot be understood was cut off while it was written.
            Ok(json) => Some(serde_json::from_slice(&json).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::file("read", &file, error)),
        };
        Ok(Self {
            dir: dir.to_owned(),
            file,
            changing: Mutex::default(),
            drain: watch::Sender::new(drain),
        })
    }

    pub(super) fn get(&self) -> Option<Drain> {
        *self.drain.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Drain>> {
        self.drain.subscribe()
    }

    /// Returns once it would survive a power cut.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::DiskFull`]; what is told has not changed then.
    pub(super) fn set(&self, drain: Option<Drain>) -> Result<()> {
        let _changing = self.changing.lock();
        let written = match drain {
            Some(drain) => self.write(drain),
            None => match fs::remove_file(&self.file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        written
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .map_err(|e| Error::file("write", &self.file, e))?;
        self.drain.send_replace(drain);
        Ok(())
    }

    fn write(&self, drain: Drain) -> io::Result<()> {
        let temporary = self.file.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&drain)?)?;
        file.sync_all()?;
        fs::rename(temporary, &self.file)
    }
}

const FILE: &str = "draining";
