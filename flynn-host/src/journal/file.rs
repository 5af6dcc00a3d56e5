//! A journal in a file.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use flynn_sched::JobId;
use parking_lot::Mutex;

use super::{Change, Journal, Record, memory::apply};
use crate::{Error, Result};

/// A journal in one file: a line of JSON per change, synced before it counts, and written anew when most of it is old.
#[derive(Debug, Clone)]
pub struct FileJournal {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// `None` before the first use, and after a failure that left the file in doubt: it is then written anew.
    file: Option<File>,
    is_loaded: bool,
    records: BTreeMap<JobId, Record>,
    /// Lines in the file.
    lines: usize,
}

impl FileJournal {
    /// A journal in the file `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                path: path.into(),
                file: None,
                is_loaded: false,
                records: BTreeMap::new(),
                lines: 0,
            })),
        }
    }

    async fn with<T: Send + 'static>(
        &self,
        what: &'static str,
        action: impl FnOnce(&mut Inner) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || {
            let mut inner = inner.lock();
            action(&mut inner).map_err(|e| Error::file(what, &inner.path, e))
        })
        .await
        .unwrap_or(Err(Error::Closed))
    }
}

#[async_trait]
impl Journal for FileJournal {
    async fn load(&self) -> Result<Vec<Record>> {
        self.with("read", |inner| {
            inner.load()?;
            Ok(inner.records.values().cloned().collect())
        })
        .await
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.with("write", |inner| {
            inner.load()?;
            inner.apply(changes)
        })
        .await
    }
}

impl Inner {
    fn load(&mut self) -> io::Result<()> {
        if self.is_loaded {
            return Ok(());
        }
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            // The first line that is not whole is where a crash tore the file: nothing after it was acknowledged.
            let Some(change) = line
                .strip_suffix(b"\n")
                .and_then(|line| serde_json::from_slice(line).ok())
            else {
                tracing::warn!(path = %self.path.display(), "the journal's end was torn and is cut off");
                break;
            };
            apply(&mut self.records, change);
        }
        self.is_loaded = true;
        Ok(())
    }

    fn apply(&mut self, changes: Vec<Change>) -> io::Result<()> {
        let mut lines = Vec::new();
        let count = changes.len();
        for change in changes {
            serde_json::to_writer(&mut lines, &change)?;
            lines.push(b'\n');
            // Also when writing fails: the next attempt writes the whole state anew.
            apply(&mut self.records, change);
        }
        if self.lines + count > 2 * self.records.len() + COMPACT_SLACK {
            self.file = None;
        }
        let Some(file) = &mut self.file else {
            return self.rewrite();
        };
        let appended = file.write_all(&lines).and_then(|()| file.sync_data());
        match appended {
            Ok(()) => self.lines += count,
            // What the file holds now is in doubt.
            Err(_) => self.file = None,
        }
        appended
    }

    /// Writes the present state to a new file, which then takes the place of the old one.
    fn rewrite(&mut self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(dir)?;
        let temporary = self.path.with_extension("tmp");
        let mut lines = Vec::new();
        for record in self.records.values() {
            serde_json::to_writer(&mut lines, &Change::Put(Box::new(record.clone())))?;
            lines.push(b'\n');
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&lines)?;
        file.sync_data()?;
        fs::rename(&temporary, &self.path)?;
        File::open(dir)?.sync_all()?;
        self.lines = self.records.len();
        self.file = Some(file);
        Ok(())
    }
}

/// How many lines may be old before the file is written anew.
const COMPACT_SLACK: usize = 500;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flynn_sched::{GroupId, HostId, Job, JobStatus};

    use super::*;

    fn record(id: &str, restarts: u32) -> Change {
        Change::Put(Box::new(Record {
            job: Job {
                id: JobId::parse(id).unwrap(),
                group: GroupId::parse("g").unwrap(),
                host: HostId::parse("h").unwrap(),
                spec: Arc::default(),
                is_stopping: false,
                placed_at_ms: 0,
                attempt: 0,
                evicted: None,
                status: JobStatus::default(),
            },
            status: JobStatus {
                restarts,
                ..JobStatus::default()
            },
        }))
    }

    async fn ids(journal: &FileJournal) -> Vec<String> {
        let records = journal.load().await.unwrap();
        records.iter().map(|r| r.job.id.to_string()).collect()
    }

    #[tokio::test]
    async fn what_was_applied_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = FileJournal::new(&path);
        journal
            .apply(vec![record("a", 0), record("b", 0)])
            .await
            .unwrap();
        journal
            .apply(vec![Change::Remove(JobId::parse("a").unwrap())])
            .await
            .unwrap();
        assert_eq!(ids(&FileJournal::new(&path)).await, ["b"]);
    }

    #[tokio::test]
    async fn a_torn_end_is_cut_off_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = FileJournal::new(&path);
        journal.apply(vec![record("a", 0)]).await.unwrap();
        journal.apply(vec![record("b", 0)]).await.unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in whole.len() / 2 + 2..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let journal = FileJournal::new(&path);
            assert_eq!(ids(&journal).await, ["a"], "cut at {cut}");
            journal.apply(vec![record("c", 0)]).await.unwrap();
            assert_eq!(ids(&FileJournal::new(&path)).await, ["a", "c"]);
        }
    }

    #[tokio::test]
    async fn a_journal_with_many_changes_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = FileJournal::new(&path);
        for round in 0..60 {
            let changes = (0..20).map(|i| record("a", round * 20 + i)).collect();
            journal.apply(changes).await.unwrap();
        }
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= COMPACT_SLACK + 22, "{lines} lines");
        let records = FileJournal::new(&path).load().await.unwrap();
        assert_eq!(records[0].status.restarts, 1199);
    }
}
