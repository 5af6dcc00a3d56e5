//! Tells watchers of prefixes what was committed, without ever waiting for one of them.
//!
//! ```text
//!  writer ── publish ──▶ WatchHub ──▶ queue of one watcher ──▶ WatchStream ── Reset, Changes, … ──▶ consumer
//!                        by prefix    bounded in bytes              ▲
//!                                     overflow: forgotten whole     └── snapshot, taken when a Reset is due
//! ```
//!
//! A watcher's queue exists before its snapshot is taken, and whatever the snapshot holds already is dropped from the
//! queue by revision. So nothing is missed or told twice, and neither side holds the other's lock. A queue that is full
//! is forgotten and marked: its watcher takes a fresh snapshot when it comes round.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures::{Stream, task::AtomicWaker};
use parking_lot::Mutex;

use super::{Change, Entry, Prefix, Revision, WatchEvent, kv::KvState};
use crate::{Error, Result};

/// Fans committed changes out to watchers. Its clones are the same hub.
///
/// A publish costs as much as the watchers it reaches: those of other prefixes are not looked at.
#[derive(Clone)]
pub struct WatchHub {
    shared: Arc<Shared>,
}

struct Shared {
    backend: &'static str,
    queue_bytes: usize,
    /// The number of watchers, readable without the lock: a store nobody watches pays nothing.
    watchers: AtomicUsize,
    registry: Mutex<Watchers>,
}

#[derive(Default)]
struct Watchers {
    by_prefix: HashMap<Prefix, BTreeMap<u64, Arc<Queue>>>,
    next_id: u64,
    is_closed: bool,
}

/// What waits for one watcher.
struct Queue {
    waker: AtomicWaker,
    state: Mutex<QueueState>,
}

struct QueueState {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    /// The watcher is to take a snapshot first; until then nothing is queued for it.
    needs_reset: bool,
    is_closed: bool,
}

/// What one commit changed under one prefix; shared by all who watch it.
struct Batch {
    revision: Revision,
    changes: Vec<Change>,
    bytes: usize,
}

impl WatchHub {
    /// How many bytes of changes wait for one slow watcher before it is told to start afresh.
    pub const QUEUE_BYTES: usize = 8 * 1024 * 1024;

    /// A hub without watchers; `backend` is named in errors.
    #[must_use]
    pub fn new(backend: &'static str) -> Self {
        Self::with_queue_bytes(backend, Self::QUEUE_BYTES)
    }

    /// A hub with another bound than [`QUEUE_BYTES`](Self::QUEUE_BYTES).
    #[must_use]
    pub fn with_queue_bytes(backend: &'static str, queue_bytes: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                backend,
                queue_bytes,
                watchers: AtomicUsize::new(0),
                registry: Mutex::default(),
            }),
        }
    }

    /// Tells the watchers what one commit changed. To be called once for each commit, in the order of revisions, and
    /// after a snapshot taken by a watcher would hold the commit.
    pub fn publish(&self, revision: Revision, changes: &[Change]) {
        if changes.is_empty() || self.shared.watchers.load(Ordering::SeqCst) == 0 {
            return;
        }
        let watchers = self.shared.registry.lock();
        let mut parts: HashMap<&str, Vec<usize>> = HashMap::new();
        for (position, change) in changes.iter().enumerate() {
            for prefix in prefixes_of(change.key().as_str()) {
                if watchers.by_prefix.contains_key(prefix) {
                    parts.entry(prefix).or_default().push(position);
                }
            }
        }
        // Most watchers see the whole of a commit, so that part is made once and shared between prefixes too.
        let mut whole: Option<Arc<Batch>> = None;
        for (prefix, positions) in parts {
            let batch = if positions.len() == changes.len() {
                Arc::clone(whole.get_or_insert_with(|| Batch::new(revision, changes.to_vec())))
            } else {
                Batch::new(
                    revision,
                    positions.into_iter().map(|p| changes[p].clone()).collect(),
                )
            };
            for queue in watchers.by_prefix[prefix].values() {
                queue.push(&batch, self.shared.queue_bytes);
            }
        }
    }

    /// Tells every watcher to start afresh, because the state was replaced as a whole.
    pub fn reset(&self) {
        for queue in self.shared.registry.lock().queues() {
            queue.forget();
        }
    }

    /// Ends every watch with [`Error::Closed`], now and in future.
    pub fn close(&self) {
        let mut watchers = self.shared.registry.lock();
        watchers.is_closed = true;
        for queue in watchers.queues() {
            queue.close();
        }
    }

    /// How many watches there are.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.shared.watchers.load(Ordering::SeqCst)
    }

    /// A watch of `prefix`. `snapshot` gives the present state each time a [`WatchEvent::Reset`] is due.
    pub fn watch(
        &self,
        prefix: &Prefix,
        snapshot: impl FnMut() -> KvState + Send + 'static,
    ) -> WatchStream {
        let mut watchers = self.shared.registry.lock();
        let queue = Arc::new(Queue {
            waker: AtomicWaker::new(),
            state: Mutex::new(QueueState {
                batches: VecDeque::new(),
                bytes: 0,
                needs_reset: true,
                is_closed: watchers.is_closed,
            }),
        });
        let id = watchers.next_id;
        watchers.next_id += 1;
        watchers
            .by_prefix
            .entry(prefix.clone())
            .or_default()
            .insert(id, Arc::clone(&queue));
        self.shared.watchers.fetch_add(1, Ordering::SeqCst);
        WatchStream {
            hub: self.clone(),
            id,
            prefix: prefix.clone(),
            queue,
            snapshot: Box::new(snapshot),
            seen: Revision::default(),
            is_done: false,
        }
    }
}

impl fmt::Debug for WatchHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchHub")
            .field("backend", &self.shared.backend)
            .field("watchers", &self.watchers())
            .finish_non_exhaustive()
    }
}

/// One watch of a [`WatchHub`]; dropping it ends the watch.
pub struct WatchStream {
    hub: WatchHub,
    id: u64,
    prefix: Prefix,
    queue: Arc<Queue>,
    snapshot: Box<dyn FnMut() -> KvState + Send>,
    /// The revision of the last reset: the queue may still hold changes that were part of it.
    seen: Revision,
    is_done: bool,
}

impl Stream for WatchStream {
    type Item = Result<WatchEvent>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_done {
            return Poll::Ready(None);
        }
        // Registered before the queue is looked at, so that a push in between is not slept through.
        this.queue.waker.register(cx.waker());
        match this.queue.pop(this.seen) {
            Next::Nothing => Poll::Pending,
            Next::Changes(batch) => Poll::Ready(Some(Ok(batch.into_event()))),
            Next::Reset => {
                let state = (this.snapshot)();
                let entries: Vec<Entry> = state.under(&this.prefix, None).cloned().collect();
                this.seen = state.revision();
                Poll::Ready(Some(Ok(WatchEvent::Reset {
                    entries,
                    revision: this.seen,
                })))
            }
            Next::Closed => {
                this.is_done = true;
                let backend = this.hub.shared.backend;
                Poll::Ready(Some(Err(Error::Closed { backend })))
            }
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let mut watchers = self.hub.shared.registry.lock();
        if let Some(queues) = watchers.by_prefix.get_mut(&self.prefix) {
            queues.remove(&self.id);
            if queues.is_empty() {
                watchers.by_prefix.remove(&self.prefix);
            }
        }
        self.hub.shared.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream")
            .field("prefix", &self.prefix)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Watchers {
    fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.by_prefix.values().flat_map(BTreeMap::values)
    }
}

enum Next {
    Nothing,
    Changes(Arc<Batch>),
    Reset,
    Closed,
}

impl Queue {
    fn push(&self, batch: &Arc<Batch>, limit: usize) {
        let is_news = {
            let mut state = self.state.lock();
            if state.needs_reset || state.is_closed {
                // Its watcher knows already that there is something to do.
                false
            } else if !state.batches.is_empty() && state.bytes + batch.bytes > limit {
                state.forget();
                true
            } else {
                state.bytes += batch.bytes;
                state.batches.push_back(Arc::clone(batch));
                true
            }
        };
        if is_news {
            self.waker.wake();
        }
    }

    fn pop(&self, seen: Revision) -> Next {
        let mut state = self.state.lock();
        if state.is_closed {
            return Next::Closed;
        }
        if state.needs_reset {
            // From here on changes are queued again; the snapshot is taken after that.
            state.needs_reset = false;
            return Next::Reset;
        }
        while let Some(batch) = state.batches.pop_front() {
            state.bytes -= batch.bytes;
            if batch.revision > seen {
                return Next::Changes(batch);
            }
        }
        Next::Nothing
    }

    fn forget(&self) {
        self.state.lock().forget();
        self.waker.wake();
    }

    fn close(&self) {
        self.state.lock().is_closed = true;
        self.waker.wake();
    }
}

impl QueueState {
    fn forget(&mut self) {
        self.batches = VecDeque::new();
        self.bytes = 0;
        self.needs_reset = true;
    }
}

impl Batch {
    fn new(revision: Revision, changes: Vec<Change>) -> Arc<Self> {
        let bytes = changes.iter().map(weight).sum();
        Arc::new(Self {
            revision,
            changes,
            bytes,
        })
    }

    /// The last watcher to take the batch takes it without a copy.
    fn into_event(self: Arc<Self>) -> WatchEvent {
        let revision = self.revision;
        let changes = match Arc::try_unwrap(self) {
            Ok(batch) => batch.changes,
            Err(shared) => shared.changes.clone(),
        };
        WatchEvent::Changes { changes, revision }
    }
}

/// Roughly what a change costs in memory.
fn weight(change: &Change) -> usize {
    let value = match change {
        Change::Put(entry) => entry.value.len(),
        Change::Delete(_) => 0,
    };
    size_of::<Change>() + change.key().as_str().len() + value
}

/// The prefixes a key is below, the root first.
fn prefixes_of(key: &str) -> impl Iterator<Item = &str> {
    let directories = key.match_indices('/').map(|(at, _)| &key[..=at]);
    std::iter::once("").chain(directories)
}

#[cfg(test)]
mod tests;
