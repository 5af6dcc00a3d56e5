//! The loop around schedulers: wake, look, schedule, commit; again on conflict.
//!
//! ```text
//!    watch ──► debounce ──► schedule ──► commit ──► refused? ──► schedule on the new state (bounded)
//!      ▲          ▲                                    │ no
//!      └──────────┴────── wait: change, wish, shutdown ◄┘
//! ```

mod counters;
mod jitter;

use std::{fmt, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{self, BoxFuture, Either},
    stream::BoxStream,
};

use crate::{
    Cluster, ClusterState, Error, Result, Scheduler, Transaction,
    clock::Clock,
    scheduler::{Context, JobIds},
    transaction::{Mode, Refused},
};

use counters::Asked;
use jitter::Jitter;

pub use counters::{Conflicts, CounterSnapshot, Counters, SchedulerCounters, Waits};

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
    jitter: Jitter,
    schedulers: Vec<Box<dyn Scheduler>>,
    debounce: Duration,
    counters: Arc<Counters>,
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
    /// How often a scheduler is called in one round after all-or-nothing transactions that were committed.
    pub const MAX_IN_TURN: u32 = 64;
    /// The pause before the second attempt is at most this, or as long as the first one took if that was longer; the
    /// bound doubles with the third and the fourth attempt.
    pub const RETRY_PAUSE: Duration = Duration::from_millis(1);
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
            jitter: Jitter::default(),
            schedulers: Vec::new(),
            debounce: Self::DEBOUNCE,
            counters: Arc::default(),
        }
    }

    /// Adds a scheduler; they are called in the order in which they were added.
    #[must_use]
    pub fn with_scheduler(self, scheduler: impl Scheduler + 'static) -> Self {
        self.with_boxed(Box::new(scheduler))
    }

    /// Adds a scheduler; they are called in the order in which they were added.
    #[must_use]
    pub fn with_boxed(mut self, scheduler: Box<dyn Scheduler>) -> Self {
        self.schedulers.push(scheduler);
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
    /// [`Driver::MAX_ATTEMPTS`] are used up. Between two attempts it waits for a moment, at random (by the seed of its
    /// ids) and longer each time, so that drivers that met do not keep meeting. A scheduler that proposes all-or-nothing
    /// transactions is called again after each that was committed, at most [`Driver::MAX_IN_TURN`] times: such a
    /// transaction is about one thing, and there may be more to do. In between it leaves the cell to others for about as
    /// long as the transaction took, so that one driver that is faster by a hair does not keep out the rest.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] when the cell cannot be reached.
    pub async fn round(&mut self, mut state: Arc<ClusterState>) -> Result<Rounded> {
        let mut wake_at_ms: Option<u64> = None;
        let mut is_contended = false;
        for scheduler in &mut self.schedulers {
            let name = scheduler.name();
            let (mut attempts, mut in_turn) = (0, 0);
            loop {
                let began_ms = self.clock.now_ms();
                let mut context = Context::new(began_ms, self.ids.as_mut());
                let transaction = scheduler.schedule(&state, &mut context);
                let wish = context.wakes_at();
                let busy_ms = self.clock.now_ms().saturating_sub(began_ms);
                let proposed = !transaction.is_empty();
                self.counters.called(name, proposed, busy_ms);
                if !proposed {
                    wake_at_ms = earliest(wake_at_ms, wish);
                    break;
                }
                let is_whole = transaction.mode == Mode::AllOrNothing;
                let shell = Shell {
                    cluster: self.cluster.as_ref(),
                    clock: self.clock.as_ref(),
                    counters: &self.counters,
                };
                let outcome;
                (state, outcome) = shell.commit(scheduler.as_mut(), transaction).await?;
                let is_over = match outcome {
                    // Whatever could not be carried out, the scheduler may have something to say of it.
                    Outcome::Done if is_whole => {
                        in_turn += 1;
                        in_turn >= Self::MAX_IN_TURN
                    }
                    Outcome::Done => true,
                    Outcome::Conflict | Outcome::Impossible => {
                        attempts += 1;
                        attempts >= Self::MAX_ATTEMPTS
                    }
                };
                if is_over {
                    // What is left of a long turn is done in the next round.
                    let again = (outcome == Outcome::Done && is_whole).then_some(began_ms);
                    wake_at_ms = earliest(earliest(wake_at_ms, wish), again);
                    is_contended |= outcome == Outcome::Conflict;
                    break;
                }
                let took = Duration::from_millis(self.clock.now_ms().saturating_sub(began_ms));
                let most = match outcome {
                    Outcome::Impossible => continue,
                    // Who was faster leaves the others a chance to be it as well.
                    Outcome::Done => took.saturating_mul(2),
                    Outcome::Conflict => {
                        let doubled = 2_u32.saturating_pow((attempts - 1).min(MAX_DOUBLINGS));
                        Self::RETRY_PAUSE.max(took).saturating_mul(doubled)
                    }
                };
                let pause = self.jitter.up_to(most, self.ids.as_mut());
                if !pause.is_zero() {
                    self.timer.sleep(pause).await;
                    state = self.cluster.snapshot().await?;
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
            let pause = (trouble > 0).then(|| self.jitter.about(pause(trouble), self.ids.as_mut()));
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
                    self.counters.failed();
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

/// What committing needs of a driver.
struct Shell<'d> {
    cluster: &'d dyn Cluster,
    clock: &'d dyn Clock,
    counters: &'d Counters,
}

/// What became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was committed, but for what can never be.
    Done,
    /// Somebody else was faster, in whole or in part.
    Conflict,
    /// It can never be carried out as it is; the scheduler was told.
    Impossible,
}

impl Shell<'_> {
    /// Commits; gives the newest state, and what became of it.
    async fn commit(
        &self,
        scheduler: &mut dyn Scheduler,
        transaction: Transaction,
    ) -> Result<(Arc<ClusterState>, Outcome)> {
        let name = scheduler.name();
        let asked = Asked::of(&transaction);
        let kept = (transaction.mode == Mode::AllOrNothing).then(|| transaction.clone());
        let began_ms = self.clock.now_ms();
        let result = self.cluster.commit(transaction).await;
        let now_ms = self.clock.now_ms();
        let busy_ms = now_ms.saturating_sub(began_ms);
        let (state, outcome) = match result {
            Ok(committed) => {
                let refused = &committed.refused;
                self.counters.committed(name, &asked, refused, busy_ms);
                log_refusals(name, refused);
                let outcome = if refused.iter().any(|refused| refused.is_conflict) {
                    Outcome::Conflict
                } else {
                    Outcome::Done
                };
                (committed.state, outcome)
            }
            Err(error) if matches!(error, Error::Store { .. }) => return Err(error),
            Err(error) => {
                self.counters.rejected(name, &asked, &error, busy_ms);
                tracing::debug!(scheduler = name, %error, "the transaction was refused");
                if let Some(transaction) = kept {
                    scheduler.refused(&transaction, &error);
                }
                let outcome = if error.is_transient() {
                    Outcome::Conflict
                } else {
                    Outcome::Impossible
                };
                (self.cluster.snapshot().await?, outcome)
            }
        };
        self.counters.follow_waits(name, &asked, &state, now_ms);
        Ok((state, outcome))
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

/// How often the pause before another attempt doubles.
const MAX_DOUBLINGS: u32 = 2;
