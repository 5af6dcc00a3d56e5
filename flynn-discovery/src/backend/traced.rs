//! A backend that tells what is asked of it, and counts.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::time::Instant;
use tracing::{Instrument, Span, debug_span};

use super::{
    Backend, Capabilities, Compare, Condition, Entry, Key, LeaseId, ListOptions, Op, Page, Prefix,
    Revision, WatchEvent,
};
use crate::{Error, Result};

/// Puts a `tracing` span of level debug around each call of a backend, and counts calls and failures.
///
/// Values are never part of a span. The counts are read with [`counters`](Self::counters), by whoever exports metrics.
#[derive(Debug, Clone)]
pub struct TracedBackend {
    inner: Arc<dyn Backend>,
    counts: Arc<Counts>,
}

/// How often a [`TracedBackend`] was called, since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Gets and lists.
    pub reads: u64,
    /// Commits, puts and deletes.
    pub writes: u64,
    /// Of these writes, how many met another state than expected; not a failure.
    pub conflicts: u64,
    /// Grants, renewals and revocations.
    pub lease_calls: u64,
    /// Calls that failed for other reasons than a conflict or a lost lease.
    pub failures: u64,
    /// Watches that were begun.
    pub watches: u64,
    /// Watches that are open.
    pub open_watches: u64,
    /// Events all watches delivered.
    pub watch_events: u64,
    /// Of these, how many were resets.
    pub watch_resets: u64,
}

#[derive(Debug, Default)]
struct Counts {
    reads: AtomicU64,
    writes: AtomicU64,
    conflicts: AtomicU64,
    lease_calls: AtomicU64,
    failures: AtomicU64,
    watches: AtomicU64,
    ended_watches: AtomicU64,
    watch_events: AtomicU64,
    watch_resets: AtomicU64,
}

impl TracedBackend {
    /// Traces what is asked of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self {
            inner,
            counts: Arc::default(),
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &*self.counts;
        let ended = read(&counts.ended_watches);
        let watches = read(&counts.watches);
        Counters {
            reads: read(&counts.reads),
            writes: read(&counts.writes),
            conflicts: read(&counts.conflicts),
            lease_calls: read(&counts.lease_calls),
            failures: read(&counts.failures),
            watches,
            open_watches: watches.saturating_sub(ended),
            watch_events: read(&counts.watch_events),
            watch_resets: read(&counts.watch_resets),
        }
    }

    async fn traced<T>(
        &self,
        count: &AtomicU64,
        span: Span,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        add_one(count);
        let begun = Instant::now();
        async move {
            let answer = call.await;
            let took = begun.elapsed();
            match &answer {
                Ok(_) => tracing::trace!(?took, "done"),
                Err(error @ Error::Conflict { .. }) => {
                    add_one(&self.counts.conflicts);
                    tracing::debug!(?took, %error, "refused");
                }
                Err(error @ Error::LeaseLost { .. }) => {
                    tracing::debug!(?took, %error, "refused");
                }
                Err(error) => {
                    add_one(&self.counts.failures);
                    tracing::debug!(?took, %error, "failed");
                }
            }
            answer
        }
        .instrument(span)
        .await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Backend for TracedBackend {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let span = debug_span!("get", backend = self.name(), %key);
        self.traced(&self.counts.reads, span, self.inner.get(key))
            .await
    }

    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<Page> {
        let span = debug_span!("list", backend = self.name(), %prefix, limit = options.limit);
        self.traced(&self.counts.reads, span, self.inner.list(prefix, options))
            .await
    }

    async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Revision> {
        let span = debug_span!(
            "commit",
            backend = self.name(),
            compares = compares.len(),
            ops = ops.len()
        );
        self.traced(&self.counts.writes, span, self.inner.commit(compares, ops))
            .await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let span = debug_span!("grant", backend = self.name(), ?ttl);
        self.traced(&self.counts.lease_calls, span, self.inner.grant(ttl))
            .await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let span = debug_span!("keep_alive", backend = self.name(), %lease);
        self.traced(&self.counts.lease_calls, span, self.inner.keep_alive(lease))
            .await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let span = debug_span!("revoke", backend = self.name(), %lease);
        self.traced(&self.counts.lease_calls, span, self.inner.revoke(lease))
            .await
    }

    fn watch(&self, prefix: &Prefix) -> BoxStream<'static, Result<WatchEvent>> {
        add_one(&self.counts.watches);
        let span = debug_span!("watch", backend = self.name(), %prefix);
        let events = span.in_scope(|| self.inner.watch(prefix));
        TracedWatch {
            events,
            span,
            counts: Arc::clone(&self.counts),
        }
        .boxed()
    }

    async fn put(&self, key: &Key, value: Bytes, condition: Condition) -> Result<Revision> {
        let span = debug_span!("put", backend = self.name(), %key, ?condition);
        self.traced(
            &self.counts.writes,
            span,
            self.inner.put(key, value, condition),
        )
        .await
    }

    async fn delete(&self, key: &Key, condition: Condition) -> Result<Revision> {
        let span = debug_span!("delete", backend = self.name(), %key, ?condition);
        self.traced(&self.counts.writes, span, self.inner.delete(key, condition))
            .await
    }
}

struct TracedWatch {
    events: BoxStream<'static, Result<WatchEvent>>,
    span: Span,
    counts: Arc<Counts>,
}

impl Stream for TracedWatch {
    type Item = Result<WatchEvent>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let _entered = this.span.enter();
        let event = this.events.poll_next_unpin(cx);
        match &event {
            Poll::Ready(Some(Ok(event))) => {
                add_one(&this.counts.watch_events);
                if matches!(event, WatchEvent::Reset { .. }) {
                    add_one(&this.counts.watch_resets);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                add_one(&this.counts.failures);
                tracing::debug!(%error, "the watch ended");
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        event
    }
}

impl Drop for TracedWatch {
    fn drop(&mut self) {
        add_one(&self.counts.ended_watches);
    }
}

fn add_one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::backend::MemoryBackend;

    #[tokio::test]
    async fn calls_conflicts_and_watches_are_counted() {
        let backend = TracedBackend::new(Arc::new(MemoryBackend::new()));
        let key = Key::parse("a").unwrap();
        let mut watch = backend.watch(&Prefix::root());
        assert!(watch.next().now_or_never().unwrap().unwrap().is_ok());
        backend
            .put(&key, "x".into(), Condition::Absent)
            .await
            .unwrap();
        let again = backend.put(&key, "x".into(), Condition::Absent).await;
        assert!(matches!(again, Err(Error::Conflict { .. })));
        backend.get(&key).await.unwrap();
        let too_long = vec![0; super::super::MAX_VALUE_LEN + 1].into();
        assert!(backend.put(&key, too_long, Condition::Any).await.is_err());
        assert!(watch.next().await.unwrap().is_ok());
        let counted = Counters {
            reads: 1,
            writes: 3,
            conflicts: 1,
            failures: 1,
            watches: 1,
            open_watches: 1,
            watch_events: 2,
            watch_resets: 1,
            lease_calls: 0,
        };
        assert_eq!(backend.counters(), counted);
        drop(watch);
        assert_eq!(backend.counters().open_watches, 0);
    }
}
