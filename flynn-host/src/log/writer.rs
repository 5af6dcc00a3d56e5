//! Appending to a job's log files, from several processes.
//!
//! A log is a directory of numbered files, the highest being written. The job's shim and the daemon may both append:
//! each append holds a lock on the file `lock`, whose content is the number of the current file, so that everyone
//! notices when another one has rotated. A lock is released by the kernel when its holder dies.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::LogTarget;

/// Appends whole records to a job's log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    target: LogTarget,
    lock: File,
    current: Option<(u64, File)>,
}

impl LogWriter {
    /// Opens the log of a job, making its directory if there is none.
    pub(crate) fn open(target: &LogTarget) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&target.dir)?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(target.dir.join("lock"))?;
        Ok(Self {
            target: target.clone(),
            lock,
            current: None,
        })
    }

    /// Appends whole records. After an error some of them, whole, may have been written.
    pub(crate) fn append(&mut self, mut records: &[u8]) -> io::Result<()> {
        self.locked(|log| {
            let (mut number, mut length) = log.catch_up()?;
            while !records.is_empty() {
                let room = log.target.file_bytes.saturating_sub(length);
                let mut fitting = whole_records(records, room);
                if fitting == 0 && length > 0 {
                    number += 1;
                    length = 0;
                    log.rotate(number)?;
                    continue;
                }
                if fitting == 0 {
                    // One that is larger than a file has a file to itself.
                    let end = records.iter().position(|b| *b == b'\n');
                    fitting = end.map_or(records.len(), |end| end + 1);
                }
                let (_, file) = log.current.as_mut().expect("catch_up opened it");
                file.write_all(&records[..fitting]).inspect_err(|_| {
                    // A torn record would swallow the one after it.
                    let _ = file.set_len(length);
                })?;
                length += fitting as u64;
                records = &records[fitting..];
            }
            Ok(())
        })
    }

    /// The end of the log.
    #[cfg(feature = "process")]
    pub(crate) fn end(&mut self) -> io::Result<super::Cursor> {
        self.locked(|log| {
            let (file, offset) = log.catch_up()?;
            Ok(super::Cursor { file, offset })
        })
    }

    fn locked<T>(&mut self, action: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        self.lock.lock()?;
        let result = action(self);
        self.lock.unlock()?;
        result
    }

    /// Makes `current` the file that the lock names; returns its number and length.
    fn catch_up(&mut self) -> io::Result<(u64, u64)> {
        let mut bytes = [0; 8];
        let number = match self.lock.read_at(&mut bytes, 0)? {
            8 => u64::from_le_bytes(bytes),
            _ => file_numbers(&self.target.dir)?.last().copied().unwrap_or(1),
        };
        if self.current.as_ref().is_none_or(|(n, _)| *n != number) {
            self.open_file(number)?;
        }
        let (_, file) = self.current.as_ref().expect("opened above");
        Ok((number, file.metadata()?.len()))
    }

    fn rotate(&mut self, number: u64) -> io::Result<()> {
        self.open_file(number)?;
        let oldest_kept = (number + 1).saturating_sub(self.target.files.max(1));
        for old in file_numbers(&self.target.dir)? {
            if old < oldest_kept {
                let _ = fs::remove_file(file_path(&self.target.dir, old));
            }
        }
        Ok(())
    }

    fn open_file(&mut self, number: u64) -> io::Result<()> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(file_path(&self.target.dir, number))?;
        self.lock.write_all_at(&number.to_le_bytes(), 0)?;
        self.current = Some((number, file));
        Ok(())
    }
}

/// How many bytes of whole records fit into the room.
fn whole_records(records: &[u8], room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    if records.len() <= room {
        return records.len();
    }
    let end = records[..room].iter().rposition(|b| *b == b'\n');
    end.map_or(0, |end| end + 1)
}

pub(super) fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// The numbers of a log's files, ascending; none if the directory is absent.
pub(super) fn file_numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut numbers: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(".log")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}
