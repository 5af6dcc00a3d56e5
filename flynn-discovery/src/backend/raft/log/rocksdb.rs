//! The log and the state in RocksDB.
//!
//! One directory holds the database and a small file beside it, [`Highwater`]: the number of the last write that was
//! synced. A database whose write-ahead log was cut or damaged opens without complaint at an earlier state, in which
//! the member has forgotten votes and acknowledgements; the file gives that away.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use prost::Message as _;
use rocksdb::{
    BlockBasedOptions, ColumnFamilyDescriptor, DB, DBRecoveryMode, IteratorMode, Options,
    WriteBatch, WriteOptions,
};

use super::{
    Batch, HardState, Identity, LogEntry, LogError, LogStore, Position, Recovered, StateChange,
};
use crate::{BoxError, backend::raft::wire::WEntry};

/// A log store in a directory of its own.
///
/// Entries and votes are synced to the disk before they are acknowledged, many at a time. The state is written along
/// without a sync of its own: what a power cut takes of it is applied again from the log.
#[derive(Debug)]
pub struct RocksLog {
    dir: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    db: DB,
    highwater: Highwater,
    /// How many batches were ever written; stored in each of them.
    writes: u64,
    last_index: u64,
    compacted: u64,
    sync: WriteOptions2,
    buffer: Vec<u8>,
}

/// Two ready-made sets of options; the library's type cannot be cloned or printed.
struct WriteOptions2 {
    synced: WriteOptions,
    plain: WriteOptions,
}

impl std::fmt::Debug for WriteOptions2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriteOptions")
    }
}

impl RocksLog {
    /// A store in `dir`, which is made if it does not exist. Nothing is opened yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            open: None,
        }
    }

    fn place(&self) -> String {
        self.dir.display().to_string()
    }

    fn damaged(&self, what: impl Into<String>) -> LogError {
        LogError::Damaged {
            place: self.place(),
            what: what.into(),
        }
    }

    fn open_db(&self) -> Result<DB, LogError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // A torn last record is what a power cut leaves; everything before it is kept, and the high-water file tells
        // whether more than unsynced writes is gone.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_recycle_log_file_num(RECYCLED_WALS);
        options.set_max_total_wal_size(MAX_WAL_BYTES);
        options.set_max_background_jobs(2);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_max_open_files(64);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_paranoid_checks(true);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        let mut family = Options::default();
        family.set_write_buffer_size(WRITE_BUFFER_BYTES);
        family.set_max_write_buffer_number(3);
        // Tables are read from one end to the other when the store is opened, and never again.
        let mut tables = BlockBasedOptions::default();
        tables.disable_cache();
        family.set_block_based_table_factory(&tables);
        let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family.clone()));
        DB::open_cf_descriptors(&options, self.dir.join(DATABASE), families)
            .map_err(|error| self.failed(error))
    }

    fn failed(&self, error: rocksdb::Error) -> LogError {
        let place = self.place();
        let text = error.as_ref();
        if text.contains("No space left") || text.contains("NoSpace") {
            return LogError::Full {
                place,
                source: error.into(),
            };
        }
        if text.contains("lock file") || text.contains("lock hold by current process") {
            return LogError::InUse { place };
        }
        match error.kind() {
            rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::InvalidArgument => {
                LogError::Damaged {
                    place,
                    what: error.into_string(),
                }
            }
            // A file of the database that cannot be found is not the disk's fault but somebody's.
            rocksdb::ErrorKind::IOError if text.contains("No such file") => LogError::Damaged {
                place,
                what: error.into_string(),
            },
            _ => LogError::Failed {
                place,
                source: error.into(),
            },
        }
    }

    fn io(&self, error: io::Error) -> LogError {
        let place = self.place();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::Full {
                place,
                source: error.into(),
            },
            _ => LogError::Failed {
                place,
                source: error.into(),
            },
        }
    }

    fn read(&self, db: &DB) -> Result<(Recovered, u64), LogError> {
        let failed = |error| self.failed(error);
        let meta = |key: &[u8]| -> Result<Option<Vec<u8>>, LogError> {
            db.get_cf(family(db, META), key).map_err(failed)
        };
        let mut recovered = Recovered {
            identity: self.decode(meta(IDENTITY)?)?,
            hard_state: self.decode(meta(HARD_STATE)?)?.unwrap_or_default(),
            compacted: self.decode(meta(COMPACTED)?)?.unwrap_or_default(),
            applied: self.decode(meta(APPLIED)?)?.unwrap_or_default(),
            ..Recovered::default()
        };
        let writes = self.decode(meta(WRITES)?)?.unwrap_or_default();
        for pair in db.iterator_cf(family(db, LOG), IteratorMode::Start) {
            let (key, value) = pair.map_err(failed)?;
            let entry = decode_entry(Bytes::from(value))
                .filter(|e| e.position.index.to_be_bytes()[..] == key[..])
                .ok_or_else(|| self.damaged(format!("log entry {key:x?} cannot be read")))?;
            recovered.entries.push(entry);
        }
        for pair in db.iterator_cf(family(db, STATE), IteratorMode::Start) {
            let (key, value) = pair.map_err(failed)?;
            recovered.state.push((Bytes::from(key), Bytes::from(value)));
        }
        Ok((recovered, writes))
    }

    fn decode<T: serde::de::DeserializeOwned>(
        &self,
        bytes: Option<Vec<u8>>,
    ) -> Result<Option<T>, LogError> {
        let Some(bytes) = bytes else { return Ok(None) };
        postcard::from_bytes(&bytes)
            .map(Some)
            .map_err(|error| self.damaged(format!("a record cannot be read: {error}")))
    }
}

impl LogStore for RocksLog {
    fn recover(&mut self) -> Result<Recovered, LogError> {
        self.open = None;
        fs::create_dir_all(&self.dir).map_err(|e| self.io(e))?;
        let database = self.dir.join(DATABASE);
        let is_new = !database.join("CURRENT").exists();
        let mark = Highwater::path(&self.dir);
        if is_new && mark.exists() && Highwater::read(&mark).map_err(|e| self.io(e))? > Some(0) {
            return Err(self.damaged("the database is gone"));
        }
        if !is_new && !mark.exists() {
            return Err(self.damaged(format!("{} is gone", mark.display())));
        }
        // The mark comes first: a process that is killed while its new database is made must not leave one without a mark,
        // which looks like a loss.
        let highwater = Highwater::open(&self.dir, is_new).map_err(|e| self.io(e))?;
        let db = self.open_db()?;
        let (recovered, writes) = self.read(&db)?;
        let synced = Highwater::read(&mark)
            .map_err(|e| self.io(e))?
            .ok_or_else(|| self.damaged(format!("{} cannot be read", mark.display())))?;
        if writes < synced {
            return Err(self.damaged(format!(
                "it ends at write {writes}, but {synced} writes were made durable: {} are lost",
                synced - writes
            )));
        }
        super::check(&self.place(), &recovered)?;
        let last = recovered.entries.last().map(|e| e.position);
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.open = Some(Open {
            db,
            highwater,
            writes,
            last_index: last.unwrap_or(recovered.compacted).index,
            compacted: recovered.compacted.index,
            sync: WriteOptions2 {
                synced,
                plain: WriteOptions::default(),
            },
            buffer: Vec::new(),
        });
        Ok(recovered)
    }

    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), LogError> {
        let Some(mut open) = self.open.take() else {
            return Err(LogError::Failed {
                place: self.place(),
                source: "it is not open".into(),
            });
        };
        // Only a store whose writes all succeeded stays open: after a failure it has to be recovered first.
        open.write(batch, sync).map_err(|error| match error {
            WriteError::Rocks(error) => self.failed(error),
            WriteError::Io(error) => self.io(error),
            WriteError::Encode(error) => LogError::Failed {
                place: self.place(),
                source: error,
            },
        })?;
        self.open = Some(open);
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }
}

enum WriteError {
    Rocks(rocksdb::Error),
    Io(io::Error),
    Encode(BoxError),
}

impl Open {
    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), WriteError> {
        let db = &self.db;
        let (log, state, meta) = (family(db, LOG), family(db, STATE), family(db, META));
        let mut to = WriteBatch::default();
        let encode = |value: &dyn Encode| value.encode();
        if let Some(position) = batch.reset_to {
            to.delete_range_cf(log, 0_u64.to_be_bytes(), u64::MAX.to_be_bytes());
            // Keys of the state begin with a letter.
            to.delete_range_cf(state, [0_u8], [0xff_u8]);
            to.put_cf(meta, COMPACTED, encode(&position)?);
            self.last_index = position.index;
            self.compacted = position.index;
        }
        if let Some(hard_state) = batch.hard_state {
            to.put_cf(meta, HARD_STATE, encode(&hard_state)?);
        }
        if let (Some(first), Some(last)) = (batch.entries.first(), batch.entries.last()) {
            let (first, last) = (first.position.index, last.position.index);
            for index in last + 1..=self.last_index {
                to.delete_cf(log, index.to_be_bytes());
            }
            debug_assert!(first <= self.last_index + 1, "the log has no gaps");
            self.last_index = last;
        }
        for entry in batch.entries {
            let index = entry.position.index.to_be_bytes();
            self.buffer.clear();
            encode_entry(entry)
                .encode(&mut self.buffer)
                .map_err(|e| WriteError::Encode(e.into()))?;
            to.put_cf(log, index, &self.buffer);
        }
        for change in batch.state {
            match change {
                StateChange::Put(key, value) => to.put_cf(state, key, value),
                StateChange::Delete(key) => to.delete_cf(state, key),
            }
        }
        if let Some(applied) = batch.applied {
            to.put_cf(meta, APPLIED, encode(&applied)?);
        }
        if let Some(position) = batch.compact_to {
            let end = (position.index + 1).to_be_bytes();
            to.delete_range_cf(log, self.compacted.to_be_bytes(), end);
            to.put_cf(meta, COMPACTED, encode(&position)?);
            self.compacted = position.index;
        }
        if let Some(identity) = batch.identity {
            to.put_cf(meta, IDENTITY, encode(&identity)?);
        }
        self.writes += 1;
        to.put_cf(meta, WRITES, encode(&self.writes)?);
        let options = if sync {
            &self.sync.synced
        } else {
            &self.sync.plain
        };
        self.db.write_opt(to, options).map_err(WriteError::Rocks)?;
        if sync {
            self.highwater.set(self.writes).map_err(WriteError::Io)?;
        }
        Ok(())
    }
}

trait Encode {
    fn encode(&self) -> Result<Vec<u8>, WriteError>;
}

macro_rules! encode_with_postcard {
    ($($type:ty),*) => {$(
        impl Encode for $type {
            fn encode(&self) -> Result<Vec<u8>, WriteError> {
                postcard::to_stdvec(self).map_err(|e| WriteError::Encode(e.into()))
            }
        }
    )*};
}
encode_with_postcard!(Position, HardState, Identity, u64);

fn encode_entry(entry: LogEntry) -> WEntry {
    WEntry {
        entry_type: entry.kind.into(),
        term: entry.position.term,
        index: entry.position.index,
        data: entry.data,
        context: entry.context,
    }
}

fn decode_entry(bytes: Bytes) -> Option<LogEntry> {
    let entry = WEntry::decode(bytes).ok()?;
    Some(LogEntry {
        position: Position {
            index: entry.index,
            term: entry.term,
        },
        kind: entry.entry_type.try_into().ok()?,
        data: entry.data,
        context: entry.context,
    })
}

fn family<'db>(db: &'db DB, name: &str) -> &'db rocksdb::ColumnFamily {
    db.cf_handle(name)
        .expect("every family is made when the database is opened")
}

/// The number of the last synced write, in a file of its own.
///
/// It is written after the sync and not synced itself: it may lag behind after a power cut, but it is never ahead.
#[derive(Debug)]
struct Highwater {
    file: File,
}

impl Highwater {
    fn path(dir: &Path) -> PathBuf {
        dir.join("highwater")
    }

    fn open(dir: &Path, is_new: bool) -> io::Result<Self> {
        let path = Self::path(dir);
        let file = OpenOptions::new()
            .write(true)
            .create(is_new)
            .truncate(false)
            .open(&path)?;
        let this = Self { file };
        if is_new {
            this.set(0)?;
            this.file.sync_all()?;
            File::open(dir)?.sync_all()?;
        }
        Ok(this)
    }

    fn set(&self, writes: u64) -> io::Result<()> {
        let mut record = [0; 16];
        record[..8].copy_from_slice(&writes.to_be_bytes());
        record[8..].copy_from_slice(&(!writes).to_be_bytes());
        self.file.write_all_at(&record, 0)
    }

    /// `None` when the file does not hold a number.
    fn read(path: &Path) -> io::Result<Option<u64>> {
        let mut record = Vec::new();
        File::open(path)?.take(16).read_to_end(&mut record)?;
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
        let (Some(writes), Some(check)) = (
            record.get(..8).and_then(number),
            record.get(8..).and_then(number),
        ) else {
            return Ok(None);
        };
        Ok((writes == !check).then_some(writes))
    }
}

const DATABASE: &str = "db";
const LOG: &str = "log";
const STATE: &str = "state";
const META: &str = "meta";
/// The first is not used, but there; named, so that it has the same small buffers, after which logs are made large.
const FAMILIES: [&str; 4] = ["default", LOG, STATE, META];

const IDENTITY: &[u8] = b"identity";
const HARD_STATE: &[u8] = b"hard-state";
const COMPACTED: &[u8] = b"compacted";
const APPLIED: &[u8] = b"applied";
const WRITES: &[u8] = b"writes";

/// How many write-ahead logs are kept to be written over, which spares the disk growing a file at every sync.
const RECYCLED_WALS: usize = 2;

/// When write-ahead logs take more, the oldest family is written out so that they can go.
const MAX_WAL_BYTES: u64 = 64 << 20;

const WRITE_BUFFER_BYTES: usize = 8 << 20;
