//! Long-running jobs: desired counts are kept, whatever happens to hosts.

use std::time::Duration;

use crate::{
    ClusterState, GroupKind, Preemptor, Transaction,
    clock::millis,
    placement::{Board, Placer},
    scheduler::{
        Context, RestartBackoff, Round, Scheduler, omni, replicas,
        roster::Roster,
        suspension::{MassFailure, Suspension},
    },
    transaction::Change,
};

/// Keeps [`GroupKind::Service`] and [`GroupKind::Omni`] groups at their counts, clears away what groups leave behind, and
/// forgets hosts that do not return.
///
/// It keeps nothing between calls but the last suspension it has logged: any number of copies may run, and a new one
/// carries on where another ended.
#[derive(Debug)]
pub struct ServiceScheduler {
    pub(super) placer: Placer,
    pub(super) lost_grace: Duration,
    pub(super) settle: Duration,
    pub(super) forget_after: Duration,
    pub(super) history: usize,
    pub(super) backoff: RestartBackoff,
    pub(super) preemptor: Option<Preemptor>,
    suspension: Suspension,
    logged: Option<MassFailure>,
    /// Of the last round.
    board: Option<Board>,
}

impl Default for ServiceScheduler {
    fn default() -> Self {
        Self {
            placer: Placer::default(),
            lost_grace: Self::LOST_GRACE,
            settle: Self::SETTLE,
            forget_after: Self::FORGET_AFTER,
            history: Self::HISTORY,
            backoff: RestartBackoff::default(),
            preemptor: Some(Preemptor::default()),
            suspension: Suspension {
                window: Self::SUSPENSION_WINDOW,
                grace: Self::SUSPENSION_GRACE,
            },
            logged: None,
            board: None,
        }
    }
}

impl ServiceScheduler {
    /// Default of [`with_lost_grace`](Self::with_lost_grace).
    pub const LOST_GRACE: Duration = Duration::from_secs(2);
    /// How long jobs of a host that came back are given to report before their replacements may be stopped.
    pub const SETTLE: Duration = Duration::from_secs(5);
    /// Default of [`with_forget_after`](Self::with_forget_after).
    pub const FORGET_AFTER: Duration = Duration::from_secs(600);
    /// Default of [`with_history`](Self::with_history).
    pub const HISTORY: usize = 8;
    /// Default of the window of [`with_suspension`](Self::with_suspension).
    pub const SUSPENSION_WINDOW: Duration = Duration::from_secs(10);
    /// Default of the grace of [`with_suspension`](Self::with_suspension).
    pub const SUSPENSION_GRACE: Duration = Duration::from_secs(30);

    /// A service scheduler with the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Places by these filters and scores.
    #[must_use]
    pub fn with_placer(mut self, placer: Placer) -> Self {
        self.placer = placer;
        self
    }

    /// How long a host may be lost (after its lease has ended) before its jobs are replaced.
    #[must_use]
    pub fn with_lost_grace(mut self, grace: Duration) -> Self {
        self.lost_grace = grace;
        self
    }

    /// How long the jobs of a lost host are kept for its return, and the host itself after that.
    #[must_use]
    pub fn with_forget_after(mut self, after: Duration) -> Self {
        self.forget_after = after;
        self
    }

    /// How many ended jobs of each group are kept to look at, and to reckon delays by.
    #[must_use]
    pub fn with_history(mut self, history: usize) -> Self {
        self.history = history;
        self
    }

    /// The delays before jobs that ended by themselves are replaced.
    #[must_use]
    pub fn with_backoff(mut self, backoff: RestartBackoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Makes room by this preemptor for groups that it [serves](Preemptor::serves). The default is [`Preemptor::new`],
    /// which serves groups that are more important than [`Group::PRIORITY`](crate::Group::PRIORITY).
    #[must_use]
    pub fn with_preemption(mut self, preemptor: Preemptor) -> Self {
        self.preemptor = Some(preemptor);
        self
    }

    /// Preempts nothing.
    #[must_use]
    pub fn without_preemption(mut self) -> Self {
        self.preemptor = None;
        self
    }

    /// If more than half of the hosts (and at least two) vanish within `window`, nothing is done until they return or
    /// `grace` has passed since the last of them.
    #[must_use]
    pub fn with_suspension(mut self, window: Duration, grace: Duration) -> Self {
        self.suspension = Suspension { window, grace };
        self
    }

    /// Removes jobs of hosts that do not return, and jobs that were to stop on them anyway.
    pub(super) fn clear_lost(
        &self,
        state: &ClusterState,
        roster: &Roster<'_>,
        is_unwanted: bool,
        context: &mut Context<'_>,
        changes: &mut Vec<Change>,
    ) {
        for job in &roster.lost {
            let since = state.host(&job.host).and_then(|host| host.lost_since_ms);
            let end = since
                .unwrap_or_default()
                .saturating_add(millis(self.forget_after));
            if job.is_stopping || is_unwanted || context.now_ms() >= end {
                changes.push(Change::Remove(job.id.clone()));
            } else {
                context.wake_at(end);
            }
        }
    }

    fn forget_hosts(&self, round: &mut Round<'_>, context: &mut Context<'_>) {
        for host in round.state.hosts() {
            let Some(since) = host.lost_since_ms else {
                continue;
            };
            let end = since.saturating_add(millis(self.forget_after));
            if context.now_ms() < end {
                context.wake_at(end);
            } else if host.jobs.is_empty() {
                let id = host.host.id.clone();
                round.transaction.changes.push(Change::ForgetHost(id));
            }
        }
    }

    /// Logs the beginning and the end of a suspension, once.
    fn log(&mut self, failure: Option<MassFailure>) {
        if failure == self.logged {
            return;
        }
        match failure {
            Some(failure) => tracing::warn!(
                vanished = failure.vanished,
                of = failure.of,
                "most hosts vanished at once: holding still until they return or a longer grace has passed"
            ),
            None => tracing::info!("scheduling again after most hosts had vanished"),
        }
        self.logged = failure;
    }
}

impl Scheduler for ServiceScheduler {
    fn name(&self) -> &'static str {
        "service"
    }

    fn schedule(&mut self, state: &ClusterState, context: &mut Context<'_>) -> Transaction {
        let failure = self.suspension.check(state, context.now_ms());
        self.log(failure);
        if let Some(failure) = failure {
            context.wake_at(failure.until_ms);
            return Transaction::on(state);
        }
        let mut round = Round::on(state).with_board(self.board.take());
        for group in round.groups() {
            match group.kind {
                GroupKind::Service { count } => {
                    replicas::schedule(self, &mut round, group, count, context);
                }
                GroupKind::Omni { per_host } => {
                    omni::schedule(self, &mut round, group, per_host, context);
                }
                GroupKind::Batch { .. } | GroupKind::Gang { .. } | GroupKind::Cron(_) => {}
            }
        }
        round.clear_orphans();
        self.board = round.board.take();
        round.clear_reservations(context);
        self.forget_hosts(&mut round, context);
        round.transaction
    }
}
