//! Connections to one backend that wait for the next request.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::net::RecvFlags;
use tokio::{net::TcpStream, time::Instant};

/// Idle connections, the latest used first.
///
/// The request path waits for no lock: it tries the shards one after the other, its thread's own first, and goes without
/// where all are busy.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    shards: [Mutex<Vec<Idle>>; SHARDS],
    is_closed: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    since: Instant,
}

const SHARDS: usize = 4;

/// The most idle connections of one backend.
pub(crate) const MAX_IDLE: usize = 256;

/// How long a connection may wait. Shorter than what servers usually grant, so that we are the one to close it.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

impl Pool {
    /// A connection that is still open, as far as is known here.
    pub(crate) fn take(&self, now: Instant) -> Option<TcpStream> {
        self.shards().find_map(|shard| {
            let mut shard = shard.try_lock()?;
            while let Some(idle) = shard.pop() {
                if idle.is_fresh(now) && idle.is_open() {
                    return Some(idle.stream);
                }
            }
            None
        })
    }

    /// Keeps a connection, if there is room.
    pub(crate) fn put(&self, stream: TcpStream, now: Instant) {
        for shard in self.shards() {
            let Some(mut shard) = shard.try_lock() else {
                continue;
            };
            // Under the lock, so that a pool that is being closed is not filled behind the closer's back.
            if self.is_closed.load(Ordering::Acquire) {
                return;
            }
            if shard.len() < MAX_IDLE / SHARDS {
                shard.push(Idle { stream, since: now });
                return;
            }
        }
    }

    /// Closes what is idle.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let idle = std::mem::take(&mut *shard.lock());
            drop(idle);
        }
    }

    /// Closes what is idle and keeps nothing from now on.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.clear();
    }

    /// Closes what has waited too long or was closed by the backend.
    pub(crate) fn sweep(&self, now: Instant) {
        for shard in &self.shards {
            shard
                .lock()
                .retain(|idle| idle.is_fresh(now) && idle.is_open());
        }
    }

    fn shards(&self) -> impl Iterator<Item = &Mutex<Vec<Idle>>> {
        let first = HOME.with(|home| *home);
        (0..SHARDS).map(move |i| &self.shards[(first + i) % SHARDS])
    }
}

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The shard that this thread tries first.
    static HOME: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

impl Idle {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < IDLE_TIMEOUT
    }

    /// Nothing has arrived, not even the end. A backend that speaks unasked cannot be trusted with a request.
    ///
    /// The system is asked: what the runtime was told may be a moment old, and a request sent to a connection that has
    /// ended may not be sent again.
    fn is_open(&self) -> bool {
        let peek = rustix::net::recv(
            &self.stream,
            &mut [0; 1],
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        );
        matches!(peek, Err(rustix::io::Errno::AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (ours, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_connection_is_used_again_until_it_is_too_old() {
        let pool = Pool::default();
        let now = Instant::now();
        let (ours, _theirs) = pair().await;
        let addr = ours.local_addr().unwrap();
        pool.put(ours, now);
        let again = pool.take(now).unwrap();
        assert_eq!(again.local_addr().unwrap(), addr);
        assert!(pool.take(now).is_none());
        pool.put(again, now);
        assert!(pool.take(now + IDLE_TIMEOUT).is_none());
    }

    #[tokio::test]
    async fn a_connection_that_the_backend_closed_is_not_used_again() {
        let pool = Pool::default();
        let (ours, theirs) = pair().await;
        drop(theirs);
        ours.readable().await.unwrap();
        pool.put(ours, Instant::now());
        assert!(pool.take(Instant::now()).is_none());
    }

    #[tokio::test]
    async fn a_pool_has_a_bound_and_a_closed_one_keeps_nothing() {
        let pool = Pool::default();
        let now = Instant::now();
        let mut others = Vec::new();
        for _ in 0..=MAX_IDLE {
            let (ours, theirs) = pair().await;
            others.push(theirs);
            pool.put(ours, now);
        }
        let count = || pool.shards.iter().map(|s| s.lock().len()).sum::<usize>();
        assert_eq!(count(), MAX_IDLE);
        pool.sweep(now + IDLE_TIMEOUT);
        assert_eq!(count(), 0);
        pool.close();
        pool.put(pair().await.0, now);
        assert_eq!(count(), 0);
    }
}
