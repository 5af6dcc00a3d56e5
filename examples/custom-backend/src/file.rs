//! The file: written whole, to a temporary name first, so that it is always either the old or the new one.

use std::{
    fs::{self, File, TryLockError},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use flynn_discovery::{
    Error, Result,
    backend::{
        Entry, Key, LeaseId, Revision,
        kv::{Header, KvState},
    },
};
use serde::{Deserialize, Serialize};

use crate::NAME;

#[derive(Debug)]
pub(crate) struct JsonFile {
    path: PathBuf,
    /// Locked for as long as this lives: two writers would overwrite each other's changes.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    #[serde(flatten)]
    header: Header,
    entries: Vec<SavedEntry>,
}

#[derive(Serialize, Deserialize)]
struct SavedEntry {
    key: Key,
    #[serde(flatten)]
    value: SavedValue,
    version: Revision,
    created: Revision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseId>,
}

/// Text stays readable.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SavedValue {
    Text(String),
    Hex(String),
}

impl JsonFile {
    /// Takes the file and reads what is in it.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, KvState)> {
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).map_err(|error| failed("make", &lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(storage(
                    format!("{} is open already: one process at a time", path.display()),
                    None,
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &lock_path, error)),
        }
        let state = match fs::read(&path) {
            Ok(json) => parse(&path, &json)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => KvState::new(),
            Err(error) => return Err(failed("read", &path, error)),
        };
        Ok((Self { path, _lock: lock }, state))
    }

    /// Replaces the contents. When it returns, they survive a power cut.
    pub(crate) fn write(&self, state: &KvState) -> Result<()> {
        let new = self.path.with_extension("new");
        let written = (|| {
            let mut file = BufWriter::new(File::create(&new)?);
            serde_json::to_writer_pretty(&mut file, &Contents::of(state))?;
            file.flush()?;
            file.get_ref().sync_all()?;
            fs::rename(&new, &self.path)?;
            let directory = self.path.parent().filter(|d| !d.as_os_str().is_empty());
            File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
        })();
        written.map_err(|error| failed("write", &self.path, error))
    }
}

impl Contents {
    fn of(state: &KvState) -> Self {
        let entries = state.entries().map(|entry| SavedEntry {
            key: entry.key.clone(),
            value: SavedValue::of(&entry.value),
            version: entry.version,
            created: entry.created,
            lease: entry.lease,
        });
        Self {
            header: state.header(),
            entries: entries.collect(),
        }
    }
}

impl SavedValue {
    fn of(value: &Bytes) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(hex::encode(value)),
        }
    }

    fn into_bytes(self) -> Result<Bytes, hex::FromHexError> {
        Ok(match self {
            Self::Text(text) => text.into(),
            Self::Hex(digits) => hex::decode(digits)?.into(),
        })
    }
}

fn parse(path: &Path, json: &[u8]) -> Result<KvState> {
    let damaged = |error: String| {
        storage(
            format!("{} is damaged: {error}; restore it", path.display()),
            None,
        )
    };
    let contents: Contents =
        serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
    let mut entries = Vec::with_capacity(contents.entries.len());
    for saved in contents.entries {
        entries.push(Entry {
            value: saved
                .value
                .into_bytes()
                .map_err(|error| damaged(error.to_string()))?,
            key: saved.key,
            version: saved.version,
            created: saved.created,
            lease: saved.lease,
        });
    }
    KvState::import(contents.header, entries).map_err(|error| damaged(error.to_string()))
}

fn failed(verb: &str, path: &Path, error: io::Error) -> Error {
    let why = format!("could not {verb} {}: {error}", path.display());
    storage(why, Some(error))
}

fn storage(why: String, source: Option<io::Error>) -> Error {
    Error::Storage {
        backend: NAME,
        why,
        source: source.map(Into::into),
    }
}
