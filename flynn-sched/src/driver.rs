//! The loop around schedulers: wake, look, schedule, commit; again on conflict.
//!
//! ```text
//!    watch ──► debounce ──► schedule ──► commit ──► refused? ──► schedule on the new state (bounded)
//!      ▲          ▲                                    │ no
//!      └──────────┴────── wait: change, wish, shutdown ◄┘
//! ```

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{self, BoxFuture, Either},
    stream::BoxStream,
};

use crate::{
    Cluster, ClusterState, Error, Result, Scheduler, Transaction,
    clock::Clock,
    scheduler::{Context, JobIds},
    transaction::Refused,
};

/// Waits; given from outside, since this crate has no runtime of its own.
pub trait Timer: fmt::Debug + Send + Sync + 'static {
    /// Resolves after this long.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Runs schedulers on a cell. Several drivers may run on one cell, in one process or many.
#[derive(Debug)]
pub struct Driver {
    cluster: Arc<dyn Cluster>,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    ids: Box<dyn JobIds>,
    schedulers: Vec<Box<dyn Scheduler>>,
    debounce: Duration,
    counters: Arc<Counters>,
}

/// What a driver has done so far.
#[derive(Debug, Default)]
pub struct Counters {
    rounds: AtomicU64,
    commits: AtomicU64,
    refused: AtomicU64,
    conflicts: AtomicU64,
    errors: AtomicU64,
}

impl Counters {
    /// Calls of a scheduler.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Transactions that were committed, at least in part.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Changes that were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Transactions that met a conflict, in whole or in part, and were scheduled again.
    #[must_use]
    pub fn conflicts(&self) -> u64 {
        self.conflicts.load(Ordering::Relaxed)
    }

    /// Failures of the cell's store.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    fn count(counter: &AtomicU64, n: usize) {
        counter.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// How a round ended.
#[derive(Debug, Clone)]
pub struct Rounded {
    /// The newest state that was seen.
    pub state: Arc<ClusterState>,
    /// When the schedulers wish to be called even if nothing changes, in milliseconds since the Unix epoch.
    pub wake_at_ms: Option<u64>,
    /// Conflicts were left when the attempts were used up.
    pub is_contended: bool,
}

impl Driver {
    /// Default of [`with_debounce`](Self::with_debounce).
    pub const DEBOUNCE: Duration = Duration::from_millis(10);
    /// How often a scheduler is called in one round to get past conflicts.
    pub const MAX_ATTEMPTS: u32 = 6;
    /// The pause after a round that was contended or failed; it doubles up to [`Driver::MAX_PAUSE`].
    pub const PAUSE: Duration = Duration::from_millis(50);
    /// The longest pause.
    pub const MAX_PAUSE: Duration = Duration::from_secs(2);

    /// A driver without schedulers. Give every driver of a cell ids of another seed.
    #[must_use]
    pub fn new(
        cluster: Arc<dyn Cluster>,
        clock: Arc<dyn Clock>,
        timer: Arc<dyn Timer>,
        ids: impl JobIds + 'static,
    ) -> Self {
        Self {
            cluster,
            clock,
            timer,
            ids: Box::new(ids),
            schedulers: Vec::new(),
            debounce: Self::DEBOUNCE,
            counters: Arc::default(),
        }
    }

    /// Adds a scheduler; they are called in the order in which they were added.
    #[must_use]
    pub fn with_scheduler(mut self, scheduler: impl Scheduler + 'static) -> Self {
        self.schedulers.push(Box::new(scheduler));
        self
    }

    /// How long to wait after a change for more to come, so that a burst is one round.
    #[must_use]
    pub fn with_debounce(mut self, debounce: Duration) -> Self {
        self.debounce = debounce;
        self
    }

    /// What the driver has done so far; stays readable while it runs.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Calls every scheduler on `state` until it has nothing to propose, or meets no more conflicts, or
    /// [`Driver::MAX_ATTEMPTS`] are used up.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] when the cell cannot be reached.
    pub async fn round(&mut self, mut state: Arc<ClusterState>) -> Result<Rounded> {
        let mut wake_at_ms: Option<u64> = None;
        let mut is_contended = false;
        for scheduler in &mut self.schedulers {
            for attempt in 1.. {
                let mut context = Context::new(self.clock.now_ms(), self.ids.as_mut());
                let transaction = scheduler.schedule(&state, &mut context);
                Counters::count(&self.counters.rounds, 1);
                let wish = context.wakes_at();
                if transaction.is_empty() {
                    wake_at_ms = earliest(wake_at_ms, wish);
                    break;
                }
                let has_conflicts;
                (state, has_conflicts) = commit(
                    self.cluster.as_ref(),
                    &self.counters,
                    scheduler.name(),
                    transaction,
                )
                .await?;
                if !has_conflicts || attempt == Self::MAX_ATTEMPTS {
                    wake_at_ms = earliest(wake_at_ms, wish);
                    is_contended |= has_conflicts;
                    break;
                }
            }
        }
        Ok(Rounded {
            state,
            wake_at_ms,
            is_contended,
        })
    }

    /// Runs until `shutdown` resolves. Failures of the cell are logged and tried again after a pause.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) {
        let waker = Waker {
            cluster: Arc::clone(&self.cluster),
            clock: Arc::clone(&self.clock),
            timer: Arc::clone(&self.timer),
            debounce: self.debounce,
        };
        let mut shutdown = std::pin::pin!(shutdown);
        let mut trouble = 0_u32;
        let mut watch = self.cluster.watch();
        let mut wake_at_ms = None;
        loop {
            let pause = (trouble > 0).then(|| pause(trouble));
            let woken = waker.wake(&mut watch, wake_at_ms, pause);
            let state = match future::select(std::pin::pin!(woken), &mut shutdown).await {
                Either::Left((state, _)) => state,
                Either::Right(((), _)) => return,
            };
            let rounded = match state {
                Ok(state) => {
                    let round = self.round(state);
                    match future::select(std::pin::pin!(round), &mut shutdown).await {
                        Either::Left((rounded, _)) => rounded,
                        Either::Right(((), _)) => return,
                    }
                }
                Err(error) => {
                    // The stream has ended with it.
                    watch = self.cluster.watch();
                    Err(error)
                }
            };
            match rounded {
                Ok(rounded) => {
                    wake_at_ms = rounded.wake_at_ms;
                    trouble = if rounded.is_contended { trouble + 1 } else { 0 };
                }
                Err(error) => {
                    Counters::count(&self.counters.errors, 1);
                    tracing::warn!(%error, source = error.source_text(), "cannot schedule now, trying again");
                    trouble += 1;
                }
            }
        }
    }
}

/// What waking needs of a driver.
struct Waker {
    cluster: Arc<dyn Cluster>,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    debounce: Duration,
}

impl Waker {
    /// Waits for a reason to schedule: a change, the schedulers' wish, or the end of a pause.
    async fn wake(
        &self,
        watch: &mut BoxStream<'static, Result<Arc<ClusterState>>>,
        wake_at_ms: Option<u64>,
        pause: Option<Duration>,
    ) -> Result<Arc<ClusterState>> {
        if let Some(pause) = pause {
            self.timer.sleep(pause).await;
            return self.cluster.snapshot().await;
        }
        let wish = async {
            match wake_at_ms {
                Some(at) => {
                    let wait = at.saturating_sub(self.clock.now_ms()).max(1);
                    self.timer.sleep(Duration::from_millis(wait)).await;
                }
                None => future::pending().await,
            }
        };
        let ended = || Error::Store {
            operation: "watching the cell",
            is_transient: true,
            source: "the watch ended".into(),
        };
        match future::select(watch.next(), std::pin::pin!(wish)).await {
            Either::Left((state, _)) => {
                let mut newest = state.ok_or_else(ended)??;
                self.timer.sleep(self.debounce).await;
                while let Some(state) = watch.next().now_or_never() {
                    newest = state.ok_or_else(ended)??;
                }
                Ok(newest)
            }
            Either::Right(((), _)) => self.cluster.snapshot().await,
        }
    }
}

/// Commits; gives the newest state, and whether there were conflicts.
async fn commit(
    cluster: &dyn Cluster,
    counters: &Counters,
    scheduler: &'static str,
    transaction: Transaction,
) -> Result<(Arc<ClusterState>, bool)> {
    let asked = transaction.changes.len();
    match cluster.commit(transaction).await {
        Ok(committed) => {
            let refused = committed.refused.len();
            Counters::count(&counters.commits, usize::from(refused < asked));
            Counters::count(&counters.refused, refused);
            let has_conflicts = committed.refused.iter().any(|refused| refused.is_conflict);
            Counters::count(&counters.conflicts, usize::from(has_conflicts));
            log_refusals(scheduler, &committed.refused);
            Ok((committed.state, has_conflicts))
        }
        Err(error) if matches!(error, Error::Store { .. }) => Err(error),
        Err(error) => {
            Counters::count(&counters.refused, asked);
            Counters::count(&counters.conflicts, usize::from(error.is_transient()));
            tracing::debug!(scheduler, %error, "the transaction was refused");
            Ok((cluster.snapshot().await?, error.is_transient()))
        }
    }
}

fn log_refusals(scheduler: &'static str, refused: &[Refused]) {
    for refused in refused {
        if refused.is_conflict {
            tracing::debug!(scheduler, host = ?refused.host, why = refused.why, "a change was refused");
        } else {
            tracing::warn!(scheduler, change = ?refused.change, why = refused.why, "a change can never be applied");
        }
    }
}

fn earliest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

/// The pause after the n-th round in a row that went wrong, from 1.
fn pause(n: u32) -> Duration {
    Driver::PAUSE
        .saturating_mul(2_u32.saturating_pow(n - 1))
        .min(Driver::MAX_PAUSE)
}
