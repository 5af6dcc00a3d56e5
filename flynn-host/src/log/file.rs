//! Logs in files, rotated and bounded.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use flynn_sched::JobId;
use futures::stream::{self, BoxStream, StreamExt};

use super::{
    Cursor, LogLine, LogSink, LogTarget, Tail, TailOptions,
    record::{decode, encode_line},
    writer::{LogWriter, file_numbers, file_path},
};
use crate::{Error, Result, wall::wall_ms};

/// Logs in files: a directory per job, in it a few numbered files, the oldest of which goes when a new one begins.
#[derive(Debug, Clone)]
pub struct FileLogs {
    dir: PathBuf,
    file_bytes: u64,
    files: u64,
}

impl FileLogs {
    /// How large one file grows, if nothing else is said.
    pub const DEFAULT_FILE_BYTES: u64 = 1 << 20;
    /// How many files of a job are kept, if nothing else is said.
    pub const DEFAULT_FILES: u64 = 4;

    /// Logs in directories below `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            file_bytes: Self::DEFAULT_FILE_BYTES,
            files: Self::DEFAULT_FILES,
        }
    }

    /// Keeps `files` files of at most `file_bytes` for each job.
    #[must_use]
    pub fn with_limits(mut self, files: u64, file_bytes: u64) -> Self {
        self.files = files.max(1);
        self.file_bytes = file_bytes;
        self
    }

    fn job_dir(&self, job: &JobId) -> PathBuf {
        self.dir.join(job.as_str())
    }

    fn target_of(&self, job: &JobId) -> LogTarget {
        LogTarget {
            dir: self.job_dir(job),
            file_bytes: self.file_bytes,
            files: self.files,
        }
    }
}

#[async_trait]
impl LogSink for FileLogs {
    fn target(&self, job: &JobId) -> Option<LogTarget> {
        Some(self.target_of(job))
    }

    async fn append(&self, job: &JobId, lines: Vec<LogLine>) -> Result<()> {
        let target = self.target_of(job);
        blocking(move || {
            let mut records = Vec::new();
            for line in &lines {
                encode_line(line, &mut records);
            }
            LogWriter::open(&target)
                .and_then(|mut log| log.append(&records))
                .map_err(|e| Error::file("append to the log in", target.dir.join("log"), e))
        })
        .await
    }

    async fn tail(&self, job: &JobId, options: TailOptions) -> Result<Tail> {
        let dir = self.job_dir(job);
        blocking(move || tail(&dir, &options).map_err(|e| Error::file("read the log in", dir, e)))
            .await
    }

    fn follow(&self, job: &JobId, from: Cursor) -> BoxStream<'static, Result<LogLine>> {
        let dir = self.job_dir(job);
        let batches = stream::unfold(Some((dir, from)), |state| async move {
            let (dir, mut from) = state?;
            loop {
                let at = from;
                let read_dir = dir.clone();
                let read = blocking(move || {
                    read_on(&read_dir, at).map_err(|e| Error::file("read the log in", read_dir, e))
                });
                match read.await {
                    Ok((lines, next)) => {
                        from = next;
                        if !lines.is_empty() {
                            let lines: Vec<Result<LogLine>> = lines.into_iter().map(Ok).collect();
                            return Some((lines, Some((dir, from))));
                        }
                        if at.file == next.file {
                            tokio::time::sleep(FOLLOW_INTERVAL).await;
                        }
                    }
                    Err(error) => return Some((vec![Err(error)], None)),
                }
            }
        });
        batches.flat_map(stream::iter).boxed()
    }

    async fn remove(&self, job: &JobId) -> Result<()> {
        let dir = self.job_dir(job);
        blocking(move || match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", dir, e)),
            _ => Ok(()),
        })
        .await
    }

    async fn jobs(&self) -> Result<Vec<JobId>> {
        let dir = self.dir.clone();
        blocking(move || {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(e) => return Err(Error::file("list", dir, e)),
            };
            let mut jobs: Vec<_> = entries
                .filter_map(|entry| {
                    let entry = entry.ok()?;
                    let job = JobId::parse(entry.file_name().into_string().ok()?).ok()?;
                    let newest = *file_numbers(&entry.path()).ok()?.last()?;
                    let changed = file_path(&entry.path(), newest).metadata().ok()?.modified();
                    Some((changed.ok()?, job))
                })
                .collect();
            jobs.sort();
            Ok(jobs.into_iter().map(|(_, job)| job).collect())
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    action: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(action)
        .await
        .unwrap_or(Err(Error::Closed))
}

/// Reads the newest lines, from the end backwards, block by block, until there are enough.
fn tail(dir: &Path, options: &TailOptions) -> io::Result<Tail> {
    let wanted = options.lines.unwrap_or(usize::MAX);
    let mut newest_first: Vec<LogLine> = Vec::new();
    let mut end: Option<Cursor> = None;
    for number in file_numbers(dir)?.into_iter().rev() {
        if options.until.is_some_and(|until| number > until.file) {
            continue;
        }
        let Some((file, mut length)) = open(dir, number)? else {
            continue;
        };
        if let Some(until) = options.until.filter(|until| until.file == number) {
            length = length.min(until.offset);
        }
        let mut blocks = BackwardLines::new(&file, length);
        while newest_first.len() < wanted || end.is_none() {
            let Some((record, offset)) = blocks.next_record()? else {
                break;
            };
            end.get_or_insert(Cursor {
                file: number,
                offset,
            });
            let line = decode(&record).filter(|line| options.wants(line.stream));
            if newest_first.len() < wanted {
                newest_first.extend(line);
            }
        }
        if newest_first.len() >= wanted && end.is_some() {
            break;
        }
    }
    newest_first.reverse();
    Ok(Tail {
        lines: newest_first,
        end: end.unwrap_or_default(),
    })
}

/// Reads complete lines from a point on, at most one block of them; says where to go on.
fn read_on(dir: &Path, from: Cursor) -> io::Result<(Vec<LogLine>, Cursor)> {
    let numbers = file_numbers(dir)?;
    let Some(&oldest) = numbers.first() else {
        return Ok((Vec::new(), from));
    };
    if from.file < oldest {
        let start = Cursor {
            file: oldest,
            offset: 0,
        };
        // A cursor of zero is the beginning, wherever that is by now.
        let lines = if from == Cursor::default() {
            Vec::new()
        } else {
            vec![LogLine::host(
                wall_ms(),
                "lines were dropped here: the log was written faster than it was read",
            )]
        };
        return Ok((lines, start));
    }
    let Some((file, length)) = open(dir, from.file)? else {
        return Ok((Vec::new(), from));
    };
    let mut block = vec![0; BLOCK];
    let count = file.read_at(&mut block, from.offset)?;
    let complete = block[..count]
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |i| i + 1);
    let lines = block[..complete]
        .split(|b| *b == b'\n')
        .filter_map(decode)
        .collect();
    let offset = from.offset + complete as u64;
    let next = numbers.into_iter().find(|n| *n > from.file);
    // A later file exists only once this one is complete; a torn record may be its end.
    let cursor = match next {
        Some(next) if complete == 0 && from.offset + count as u64 >= length => Cursor {
            file: next,
            offset: 0,
        },
        _ => Cursor {
            file: from.file,
            offset,
        },
    };
    Ok((lines, cursor))
}

/// Opens a file of the log; `None` if it has been rotated away.
fn open(dir: &Path, number: u64) -> io::Result<Option<(File, u64)>> {
    match File::open(file_path(dir, number)) {
        Ok(file) => {
            let length = file.metadata()?.len();
            Ok(Some((file, length)))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The records of a file, last first.
struct BackwardLines<'a> {
    file: &'a File,
    /// Where `buffer` begins in the file.
    start: u64,
    /// Not yet returned bytes; ends with the newline of the next record to return.
    buffer: Vec<u8>,
    is_aligned: bool,
}

impl<'a> BackwardLines<'a> {
    fn new(file: &'a File, length: u64) -> Self {
        Self {
            file,
            start: length,
            buffer: Vec::new(),
            is_aligned: false,
        }
    }

    /// The record before the last returned one, without its newline, and the offset of its end.
    fn next_record(&mut self) -> io::Result<Option<(Vec<u8>, u64)>> {
        // What stands after the last newline is still being written.
        while !self.is_aligned {
            if let Some(newline) = self.buffer.iter().rposition(|b| *b == b'\n') {
                self.buffer.truncate(newline + 1);
                self.is_aligned = true;
            } else if !self.read_block()? {
                return Ok(None);
            }
        }
        loop {
            let Some(body) = self.buffer.len().checked_sub(1) else {
                if self.read_block()? {
                    continue;
                }
                return Ok(None);
            };
            let begin = match self.buffer[..body].iter().rposition(|b| *b == b'\n') {
                Some(newline) => newline + 1,
                None if self.read_block()? => continue,
                None => 0,
            };
            let end = self.start + self.buffer.len() as u64;
            let record = self.buffer[begin..self.buffer.len() - 1].to_vec();
            self.buffer.truncate(begin);
            return Ok(Some((record, end)));
        }
    }

    fn read_block(&mut self) -> io::Result<bool> {
        let size = self.start.min(BLOCK as u64);
        if size == 0 {
            return Ok(false);
        }
        self.start -= size;
        let mut block = vec![0; usize::try_from(size).expect("at most a block")];
        self.file.read_exact_at(&mut block, self.start)?;
        block.extend_from_slice(&self.buffer);
        self.buffer = block;
        Ok(true)
    }
}

/// How much is read at once.
const BLOCK: usize = 64 * 1024;

/// How soon a follower sees a new line; nobody looks while nobody follows.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
