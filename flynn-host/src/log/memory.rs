//! Logs in memory, for tests and hosts without a disk.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use flynn_sched::JobId;
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Cursor, LogLine, LogSink, LogTarget, Tail, TailOptions,
    record::{decode, encode_line},
};
use crate::{Result, wall::wall_ms};

/// The newest lines of each job, in memory.
#[derive(Debug, Clone)]
pub struct MemoryLogs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lines_kept: usize,
    /// By job; the order of change is in `Ring::changed`.
    rings: Mutex<HashMap<JobId, Ring>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    /// How many lines were dropped from the front.
    dropped: u64,
    changed: u64,
}

impl MemoryLogs {
    /// Keeps so many lines of each job.
    #[must_use]
    pub fn new(lines_kept: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                lines_kept,
                rings: Mutex::default(),
                changes: watch::Sender::new(0),
            }),
        }
    }
}

impl Shared {
    /// The lines from a point on, and the point after them.
    fn read_on(&self, job: &JobId, from: u64) -> (Vec<LogLine>, u64) {
        let rings = self.rings.lock();
        let Some(ring) = rings.get(job) else {
            return (Vec::new(), from);
        };
        let end = ring.dropped + ring.lines.len() as u64;
        let mut lines = Vec::new();
        if from < ring.dropped && from > 0 {
            lines.push(LogLine::host(
                wall_ms(),
                "lines were dropped here: the log was written faster than it was read",
            ));
        }
        let skip = usize::try_from(from.saturating_sub(ring.dropped)).unwrap_or(usize::MAX);
        lines.extend(ring.lines.iter().skip(skip).cloned());
        (lines, end)
    }
}

#[async_trait]
impl LogSink for MemoryLogs {
    fn target(&self, _job: &JobId) -> Option<LogTarget> {
        None
    }

    async fn append(&self, job: &JobId, lines: Vec<LogLine>) -> Result<()> {
        let mut records = Vec::new();
        for line in &lines {
            encode_line(line, &mut records);
        }
        let change = *self.shared.changes.borrow() + 1;
        {
            let mut rings = self.shared.rings.lock();
            let ring = rings.entry(job.clone()).or_default();
            ring.lines
                .extend(records.split(|b| *b == b'\n').filter_map(decode));
            while ring.lines.len() > self.shared.lines_kept {
                ring.lines.pop_front();
                ring.dropped += 1;
            }
            ring.changed = change;
        }
        self.shared.changes.send_replace(change);
        Ok(())
    }

    async fn tail(&self, job: &JobId, options: TailOptions) -> Result<Tail> {
        let (mut lines, end) = self.shared.read_on(job, 0);
        let end = options.until.map_or(end, |until| until.offset.min(end));
        {
            let rings = self.shared.rings.lock();
            let dropped = rings.get(job).map_or(0, |ring| ring.dropped);
            lines.truncate(usize::try_from(end.saturating_sub(dropped)).unwrap_or(usize::MAX));
        }
        lines.retain(|line| options.wants(line.stream));
        let surplus = lines
            .len()
            .saturating_sub(options.lines.unwrap_or(usize::MAX));
        lines.drain(..surplus);
        let end = Cursor {
            file: 0,
            offset: end,
        };
        Ok(Tail { lines, end })
    }

    fn follow(&self, job: &JobId, from: Cursor) -> BoxStream<'static, Result<LogLine>> {
        let changes = self.shared.changes.subscribe();
        // Weak, so that a follower does not keep the logs alive: the stream ends with them.
        let state = (
            Arc::downgrade(&self.shared),
            changes,
            job.clone(),
            from.offset,
        );
        stream::unfold(state, |(shared, mut changes, job, from)| async move {
            loop {
                changes.borrow_and_update();
                let (lines, next) = shared.upgrade()?.read_on(&job, from);
                if !lines.is_empty() {
                    return Some((lines, (shared, changes, job, next)));
                }
                changes.changed().await.ok()?;
            }
        })
        .flat_map(|lines| stream::iter(lines.into_iter().map(Ok)))
        .boxed()
    }

    async fn remove(&self, job: &JobId) -> Result<()> {
        self.shared.rings.lock().remove(job);
        Ok(())
    }

    async fn jobs(&self) -> Result<Vec<JobId>> {
        let rings = self.shared.rings.lock();
        let mut jobs: Vec<_> = rings
            .iter()
            .map(|(job, ring)| (ring.changed, job.clone()))
            .collect();
        jobs.sort();
        Ok(jobs.into_iter().map(|(_, job)| job).collect())
    }
}
