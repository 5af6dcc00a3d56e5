//! Jobs that start together or not at all.

mod moving;
mod room;
mod start;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    ClusterState, Error, Forgotten, Group, GroupId, GroupKind, GroupStatus, Preemptor, Transaction,
    clock::millis,
    placement::{Board, LeastLoaded, Placer},
    scheduler::{
        Context, RestartBackoff, Round, Scheduler,
        attempt::{Attempt, Cause, Outcome, describe, number},
        leaving::Push,
    },
    transaction::{Change, Mode},
};

/// Runs [`GroupKind::Gang`] groups: all `count` jobs are started in one transaction that is applied as a whole or not at
/// all, and run to completion.
///
/// The gang has succeeded when all its jobs ended with 0. When one fails or its host is lost, the others are stopped, and
/// once they have, the gang is started anew as a whole, after a delay, at most `retries` times. When somebody else stops
/// one of its jobs (an operator, or a group of higher priority that needs the room), the gang is started anew as well,
/// and that does not count as a retry. [`Job::attempt`](crate::Job::attempt) tells the attempts apart. To stop a gang for good, remove the
/// group.
///
/// A gang is never split. Where a host that it runs on drains, it may run to its end, or until
/// [the time to drain is over](crate::Host::drain_by_ms); where one gets a taint that evicts
/// ([`NoExecute`](crate::TaintEffect::NoExecute)) and that it does not tolerate, it stays until all of it fits elsewhere.
/// Then all its jobs are stopped in one transaction, and all are started anew, without a delay; that does not count as a
/// retry. A gang whose [`Group::max_unavailable`] is less than its jobs is not moved at all. Its note says what keeps it.
///
/// Gangs are tried by priority, then by how long they have waited; of their namespace's quota they ask for all at once.
/// [With preemption](Self::with_preemption), jobs go for a gang that is more important: all that must go for all of it
/// in one transaction, within their [budgets](crate::Budget), at most [`MAX_VICTIMS`](Self::MAX_VICTIMS), and only if the
/// whole gang fits then; otherwise nobody goes. A gang that itself went for something more important takes no room in
/// turn.
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
    preemptor: Option<Preemptor>,
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
            preemptor: None,
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
    /// How many jobs go for one gang at most.
    pub const MAX_VICTIMS: usize = 256;
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

    /// Makes room by this preemptor for gangs that it [serves](Preemptor::serves), of at most
    /// [`Nomination::MAX_OF_GROUP`](crate::Nomination::MAX_OF_GROUP) jobs. By default nothing is preempted for a gang.
    #[must_use]
    pub fn with_preemption(mut self, preemptor: Preemptor) -> Self {
        self.preemptor = Some(preemptor);
        self
    }

    /// Looks after what runs of a gang; says what is to be done with all of it.
    fn tend(
        &self,
        round: &mut Round<'_>,
        group: &Arc<Group>,
        (count, retries): (u32, u32),
        context: &mut Context<'_>,
    ) -> Next {
        if round.retire(group, context) {
            return Next::Nothing;
        }
        let state = round.state;
        let mut status = round.status(group);
        let past = status.forgotten.first().copied().unwrap_or_default();
        let attempt = Attempt::of(state, group, number(past), millis(self.lost_grace), context);
        let mut changes = attempt.clear_earlier(Self::HISTORY, status.is_complete);
        let mut next = Next::Nothing;
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
                if attempt.is_clear() && due <= context.now_ms() {
                    next = Next::Start;
                }
                status.missing = count;
            }
            Outcome::Running { done } => {
                next = attempt.push(state, context).map_or(next, Next::Move);
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
            Outcome::Broken { why, cause } => {
                changes.extend(attempt.end());
                let is_failure = cause == Cause::Failure;
                let past = Forgotten {
                    failed: past.failed.saturating_add(u32::from(is_failure)),
                    stopped: past.stopped.saturating_add(u32::from(!is_failure)),
                    ..past
                };
                let delay = match cause {
                    Cause::Failure | Cause::Stopped => self.backoff.delay_ms(number(past)),
                    Cause::Moved => 0,
                };
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
        // Of a gang that is to move, the note says whether it can.
        if !matches!(next, Next::Move(_)) {
            changes.extend(round.note(group, status, context.now_ms()));
        }
        let is_quiet = changes.is_empty();
        round.propose(group, changes);
        if is_quiet { next } else { Next::Nothing }
    }
}

impl Scheduler for GangScheduler {
    fn name(&self) -> &'static str {
        "gang"
    }

    /// What runs is looked after first; where nothing is to be done about it, one gang is moved or started.
    fn schedule(&mut self, state: &ClusterState, context: &mut Context<'_>) -> Transaction {
        self.impossible
            .retain(|group, (version, _)| state.group_version(group) == *version);
        let mut round = Round::on(state).with_board(self.board.take());
        let (mut due, mut pressed) = (Vec::new(), Vec::new());
        for group in round.groups() {
            if let GroupKind::Gang { count, retries } = group.kind {
                match self.tend(&mut round, group, (count, retries), context) {
                    Next::Nothing => {}
                    Next::Start => due.push((group, count)),
                    Next::Move(push) => pressed.push((group, count, push)),
                }
            }
        }
        round.clear_orphans();
        let mut whole = None;
        if round.transaction.is_empty() {
            whole = self
                .move_first(&mut round, pressed, context)
                .or_else(|| self.start_first(&mut round, due, context));
        }
        self.board = round.board.take();
        whole.unwrap_or(round.transaction)
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

/// What is to be done with all of a gang at once.
#[derive(Debug)]
enum Next {
    Nothing,
    /// Start it.
    Start,
    /// Stop it, to start it elsewhere.
    Move(Push),
}
