//! Jobs that start together or not at all.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    ClusterState, Error, Forgotten, Group, GroupId, GroupKind, GroupStatus, Job, Transaction,
    clock::millis,
    placement::{Board, LeastLoaded, Need, Placer},
    scheduler::{
        Context, RestartBackoff, Round, Scheduler,
        attempt::{Attempt, Outcome, describe, number},
        hold,
        together::place_all,
    },
    transaction::{Change, Mode},
};

/// Runs [`GroupKind::Gang`] groups: all `count` jobs are started in one transaction that is applied as a whole or not at
/// all, and run to completion.
///
/// The gang has succeeded when all its jobs ended with 0. When one fails or its host is lost, the others are stopped, and
/// once they have, the gang is started anew as a whole, after a delay, at most `retries` times. When somebody else stops
/// one of its jobs (an operator, or a group of higher priority that needs the room), the gang is started anew as well,
/// and that does not count as a retry. [`Job::attempt`] tells the attempts apart. To stop a gang for good, remove the
/// group.
///
/// A gang never holds room while it waits for more, so no two gangs can wait for each other. Against starvation by small
/// jobs, one gang at a time has hosts kept free for it after it has waited for
/// [a while](Self::with_hold_after); see [`GroupStatus::held`].
#[derive(Debug)]
pub struct GangScheduler {
    placer: Placer,
    lost_grace: Duration,
    hold_after: Duration,
    backoff: RestartBackoff,
    /// Gangs that the cell can never start, by the version of the group it was said of, and why.
    impossible: BTreeMap<GroupId, (u64, String)>,
    /// Of the last round.
    board: Option<Board>,
}

impl Default for GangScheduler {
    fn default() -> Self {
        Self {
            placer: Placer::new().with_score(LeastLoaded, 1.0),
            lost_grace: Self::LOST_GRACE,
            hold_after: Self::HOLD_AFTER,
            backoff: RestartBackoff::default(),
            impossible: BTreeMap::new(),
            board: None,
        }
    }
}

impl GangScheduler {
    /// Default of [`with_lost_grace`](Self::with_lost_grace).
    pub const LOST_GRACE: Duration = Duration::from_secs(10);
    /// Default of [`with_hold_after`](Self::with_hold_after).
    pub const HOLD_AFTER: Duration = Duration::from_secs(60);
    /// How many ended jobs of a gang's earlier attempts are kept to look at.
    pub const HISTORY: usize = 50;
    /// The most jobs a gang may have.
    pub const MAX_MEMBERS: u32 = 100_000;

    /// A gang scheduler with the defaults: it evens out load.
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

    /// How long a host may be lost (after its lease has ended) before the gangs on it count as failed.
    #[must_use]
    pub fn with_lost_grace(mut self, grace: Duration) -> Self {
        self.lost_grace = grace;
        self
    }

    /// How long a gang may be blocked before hosts are kept free for it.
    #[must_use]
    pub fn with_hold_after(mut self, after: Duration) -> Self {
        self.hold_after = after;
        self
    }

    /// The delays before a gang is tried anew.
    #[must_use]
    pub fn with_backoff(mut self, backoff: RestartBackoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Looks after what runs of a gang; says whether it is to be started now.
    fn tend(
        &self,
        round: &mut Round<'_>,
        group: &Arc<Group>,
        (count, retries): (u32, u32),
        context: &mut Context<'_>,
    ) -> bool {
        if round.retire(group, context) {
            return false;
        }
        let state = round.state;
        let mut status = round.status(group);
        let past = status.forgotten.first().copied().unwrap_or_default();
        let attempt = Attempt::of(state, group, number(past), millis(self.lost_grace), context);
        let mut changes = attempt.clear_earlier(Self::HISTORY, status.is_complete);
        let mut is_due = false;
        match attempt.outcome(count) {
            _ if status.is_complete => {}
            Outcome::Absent if past.failed > retries => {
                (status.failed, status.is_complete) = (count, attempt.is_clear());
            }
            Outcome::Absent => {
                let due = status.next_run_ms.unwrap_or_default();
                if attempt.is_clear() && due > context.now_ms() {
                    context.wake_at(due);
                }
                is_due = attempt.is_clear() && due <= context.now_ms();
                status.missing = count;
            }
            Outcome::Running { done } => {
                status = GroupStatus {
                    succeeded: done,
                    forgotten: status.forgotten,
                    ..GroupStatus::default()
                };
            }
            Outcome::Succeeded => {
                status = GroupStatus {
                    succeeded: count,
                    is_complete: true,
                    forgotten: status.forgotten,
                    ..GroupStatus::default()
                };
            }
            Outcome::Broken { why, is_failure } => {
                changes.extend(attempt.end());
                let past = Forgotten {
                    failed: past.failed.saturating_add(u32::from(is_failure)),
                    stopped: past.stopped.saturating_add(u32::from(!is_failure)),
                    ..past
                };
                let delay = self.backoff.delay_ms(number(past));
                status = GroupStatus {
                    missing: if past.failed > retries { 0 } else { count },
                    blocked: Some(describe(past, retries, &why)),
                    forgotten: vec![past],
                    next_run_ms: Some(context.now_ms().saturating_add(delay)),
                    ..GroupStatus::default()
                };
            }
        }
        round.date_completion(group, &mut status, context);
        changes.extend(round.note(group, status, context.now_ms()));
        let is_quiet = changes.is_empty();
        round.propose(group, changes);
        is_due && is_quiet
    }

    /// The transaction that starts all of a gang, or what keeps it from fitting.
    fn start(
        &self,
        round: &mut Round<'_>,
        group: &Arc<Group>,
        count: u32,
        context: &mut Context<'_>,
    ) -> Result<Transaction, String> {
        let state = round.state;
        if let Some((version, why)) = self.impossible.get(&group.id)
            && *version == state.group_version(&group.id)
        {
            return Err(format!("its {count} jobs cannot be started at once: {why}"));
        }
        if count > Self::MAX_MEMBERS {
            let most = Self::MAX_MEMBERS;
            return Err(format!(
                "a gang of {count} jobs is too large: use at most {most}"
            ));
        }
        let need = Need::new(&group.id, &group.spec).at(context.now_ms());
        let board = round.board_for(group);
        let mut tally = board.tally(state, &group.id);
        let placed = place_all(&self.placer, &need, board, &mut tally, count);
        let hosts = placed.map_err(|short| {
            round.discard_board();
            let why = round.reason(group, short.why);
            format!("only {} of {count} fit at once: {why}", short.fit)
        })?;
        let status = round.status(group);
        let attempt = number(status.forgotten.first().copied().unwrap_or_default());
        let mut changes: Vec<Change> = hosts
            .into_iter()
            .map(|host| {
                let job = context.new_job(group, host);
                Change::Start(Arc::new(Job { attempt, ..job }))
            })
            .collect();
        let started = GroupStatus {
            forgotten: status.forgotten,
            ..GroupStatus::default()
        };
        changes.extend(round.note(group, started, context.now_ms()));
        round.propose(group, changes);
        Ok(std::mem::take(&mut round.transaction).all_or_nothing())
    }

    /// Starts the first of the gangs that fits, in the order of their turns; notes why the others do not, and keeps
    /// hosts for the first of those that has waited for long.
    fn start_first(
        &self,
        round: &mut Round<'_>,
        mut due: Vec<(&Arc<Group>, u32)>,
        context: &mut Context<'_>,
    ) -> Option<Transaction> {
        let state = round.state;
        due.sort_by(|(a, _), (b, _)| {
            hold::turn(a, &round.status(a)).cmp(&hold::turn(b, &round.status(b)))
        });
        let mut can_hold = true;
        let mut notes = Vec::new();
        for (group, count) in due {
            let why = match self.start(round, group, count, context) {
                Ok(transaction) => return Some(transaction),
                Err(why) => why,
            };
            let present = round.status(group);
            let mut status = GroupStatus {
                missing: count,
                blocked: Some(why),
                held: Vec::new(),
                next_run_ms: None,
                ..present.clone()
            };
            let since_ms = match present.blocked {
                Some(_) => present.since_ms,
                None => context.now_ms(),
            };
            let hold_ms = since_ms.saturating_add(millis(self.hold_after));
            if context.now_ms() < hold_ms {
                context.wake_at(hold_ms);
            } else if can_hold && count <= Self::MAX_MEMBERS {
                status.held = hold::plan(&self.placer, state, group, count, &present.held);
                can_hold = status.held.is_empty();
            }
            notes.push((group, round.note(group, status, context.now_ms())));
        }
        for (group, note) in notes {
            round.propose(group, note.into_iter().collect());
        }
        None
    }
}

impl Scheduler for GangScheduler {
    fn name(&self) -> &'static str {
        "gang"
    }

    /// What runs is looked after first; where nothing is to be done about it, one gang is started.
    fn schedule(&mut self, state: &ClusterState, context: &mut Context<'_>) -> Transaction {
        self.impossible
            .retain(|group, (version, _)| state.group_version(group) == *version);
        let mut round = Round::on(state).with_board(self.board.take());
        let mut due = Vec::new();
        for group in round.groups() {
            if let GroupKind::Gang { count, retries } = group.kind
                && self.tend(&mut round, group, (count, retries), context)
            {
                due.push((group, count));
            }
        }
        round.clear_orphans();
        let mut start = None;
        if round.transaction.is_empty() {
            start = self.start_first(&mut round, due, context);
        }
        self.board = round.board.take();
        start.unwrap_or(round.transaction)
    }

    fn refused(&mut self, transaction: &Transaction, error: &Error) {
        if let (Mode::AllOrNothing, Error::Invalid { .. }) = (transaction.mode, error)
            && let Some(Change::ExpectGroup { group, version }) = transaction.changes.first()
        {
            let why = (*version, error.to_string());
            self.impossible.insert(group.clone(), why);
        }
    }
}
