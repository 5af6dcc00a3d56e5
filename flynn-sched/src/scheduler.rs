#![doc = include_str!("scheduler/writing.md")]

mod attempt;
mod backoff;
mod batch;
#[cfg(feature = "cron")]
mod cron;
mod fairness;
mod gang;
mod hold;
mod ids;
mod leaving;
mod making_room;
mod omni;
mod progress;
mod rebalance;
mod reclaiming;
mod replicas;
mod retention;
mod roster;
mod service;
mod suspension;
mod together;

use std::{collections::BTreeSet, fmt, sync::Arc};

use crate::{
    ClusterState, Error, Group, GroupStatus, HostId, Job, JobId, JobStatus, Transaction,
    placement::Board, quota::Ledger, transaction::Change,
};

use hold::Hold;
use making_room::MakingRoom;

pub use backoff::RestartBackoff;
pub use batch::BatchScheduler;
#[cfg(feature = "cron")]
pub use cron::{CronScheduler, Timetable};
pub use gang::GangScheduler;
pub use ids::{JobIds, SeededIds};
pub use rebalance::RebalanceScheduler;
pub use service::ServiceScheduler;

/// Proposes; never acts.
///
/// A scheduler must be deterministic (same state and context, same proposal) and must come to rest: where nothing is
/// left to do, it proposes nothing. It is called again after every change of the cell and at the time it asked for.
/// Several may be in charge of different groups of one cell, and several copies of one scheduler may run at once if
/// they guard their proposals with [`Change::ExpectGroup`].
pub trait Scheduler: fmt::Debug + Send {
    /// A short name for logs.
    fn name(&self) -> &'static str;

    /// What to change about the cell now. An empty transaction is not committed.
    fn schedule(&mut self, state: &ClusterState, context: &mut Context<'_>) -> Transaction;

    /// Told when what was proposed was refused as a whole, before the next call. Conflicts need no answer: the next call
    /// sees the cell as it is now. A proposal that can never be carried out (too large for the cell's store, say) would
    /// be made again and again: remember it, and say so in the group's note. The default does nothing.
    fn refused(&mut self, transaction: &Transaction, error: &Error) {
        let _ = (transaction, error);
    }
}

/// What a scheduler may use beside the state: the time, new ids, and a wish to be woken.
#[derive(Debug)]
pub struct Context<'a> {
    now_ms: u64,
    ids: &'a mut dyn JobIds,
    wake_at_ms: Option<u64>,
}

impl<'a> Context<'a> {
    /// The context of one call.
    #[must_use]
    pub fn new(now_ms: u64, ids: &'a mut dyn JobIds) -> Self {
        Self {
            now_ms,
            ids,
            wake_at_ms: None,
        }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// An id that no other job has.
    pub fn new_job_id(&mut self) -> JobId {
        self.ids.next_id()
    }

    /// A new job of `group` on `host`.
    pub fn new_job(&mut self, group: &Group, host: HostId) -> Job {
        Job {
            id: self.new_job_id(),
            group: group.id.clone(),
            host,
            spec: Arc::clone(&group.spec),
            is_stopping: false,
            placed_at_ms: self.now_ms,
            attempt: 0,
            evicted: None,
            status: JobStatus::default(),
        }
    }

    /// Asks to be called at this time even if nothing has changed. The earliest wish counts.
    pub fn wake_at(&mut self, ms: u64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(ms, |earlier| earlier.min(ms)));
    }

    /// The earliest wish so far.
    #[must_use]
    pub fn wakes_at(&self) -> Option<u64> {
        self.wake_at_ms
    }
}

/// What one round proposes, group by group; and the board, which is only brought up to date when something must be placed.
struct Round<'s> {
    state: &'s ClusterState,
    /// The board of this round, or of an earlier one.
    board: Option<Board>,
    /// It shows this round's state and claims.
    is_fresh: bool,
    /// The hold that stands, and whether the board heeds it already.
    hold: Option<(Hold<'s>, bool)>,
    making_room: MakingRoom<'s>,
    ledger: Ledger<'s>,
    /// Jobs that this round has told to go for something more important: to their groups, which come later, they are
    /// gone, or they would be missed twice.
    going: BTreeSet<JobId>,
    transaction: Transaction,
}

impl<'s> Round<'s> {
    fn on(state: &'s ClusterState) -> Self {
        Self {
            state,
            board: None,
            is_fresh: false,
            hold: Hold::of(state).map(|hold| (hold, false)),
            making_room: MakingRoom::on(state),
            ledger: Ledger::on(state),
            going: BTreeSet::new(),
            transaction: Transaction::on(state),
        }
    }

    /// With the board of an earlier round, so that only what has changed must be looked at.
    fn with_board(mut self, kept: Option<Board>) -> Self {
        self.board = kept;
        self
    }

    /// The groups, by priority, then id.
    fn groups(&self) -> Vec<&'s Arc<Group>> {
        let mut groups: Vec<_> = self.state.groups().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.priority));
        groups
    }

    /// The board to place the group's jobs on. Hosts that are kept from the group have no room on it, and room that is being
    /// made for more important ones is taken; groups must come by priority, the highest first, since the board stays so
    /// for those that follow.
    fn board_for(&mut self, group: &Group) -> &mut Board {
        let board = match self.board.take() {
            Some(board) if self.is_fresh => board,
            Some(mut board) => {
                board.refresh(self.state);
                board
            }
            None => Board::of(self.state),
        };
        self.is_fresh = true;
        let board = self.board.insert(board);
        if let Some((hold, is_heeded)) = &mut self.hold
            && !*is_heeded
            && hold.excludes(group)
        {
            hold.apply(board);
            *is_heeded = true;
        }
        self.making_room.hold_from(group, board);
        board
    }

    /// Forgets what was claimed on the board.
    fn discard_board(&mut self) {
        self.is_fresh = false;
        self.making_room.forget_board();
        if let Some((_, is_heeded)) = &mut self.hold {
            *is_heeded = false;
        }
    }

    /// What the group's note says.
    fn status(&self, group: &Group) -> GroupStatus {
        let status = self.state.group_status(&group.id);
        status.map_or_else(GroupStatus::default, |status| GroupStatus::clone(status))
    }

    /// Why the group is not placed, with what was kept from it.
    fn reason(&self, group: &Group, why: String) -> String {
        match &self.hold {
            Some((hold, _)) if hold.excludes(group) => why + &hold.reason(),
            _ => why,
        }
    }

    /// Notes that a job is started in this round.
    fn count(&mut self, job: &Job) {
        self.making_room.started(&job.host, &job.spec);
        self.ledger.add(&job.spec);
    }

    /// Adds a group's changes behind a guard, so that two copies of a scheduler do not both make them.
    fn propose(&mut self, group: &Group, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.transaction.changes.push(Change::ExpectGroup {
                group: group.id.clone(),
                version: self.state.group_version(&group.id),
            });
            let going = changes.iter().filter_map(|change| match change {
                Change::Evict { job, why } if why.is_at_once() => Some(job.clone()),
                _ => None,
            });
            self.going.extend(going);
            self.transaction.changes.extend(changes);
        }
    }

    /// Stops what has no group any more, and removes what has stopped.
    fn clear_orphans(&mut self) {
        for job in self.state.orphans() {
            let host = self.state.host(&job.host);
            let is_lost = host.is_none_or(|host| host.lost_since_ms.is_some());
            if job.status.phase.is_final() || is_lost {
                self.transaction
                    .changes
                    .push(Change::Remove(job.id.clone()));
            } else if !job.is_stopping {
                self.transaction.changes.push(Change::Stop(job.id.clone()));
            }
        }
    }

    /// Removes reservations that have ended, and asks to be called when the next one ends: what they held back may be
    /// placed then, and the change wakes whoever waits for it.
    fn clear_reservations(&mut self, context: &mut Context<'_>) {
        for reservation in self.state.reservations_by_end().take(MAX_CLEARED) {
            if reservation.until_ms > context.now_ms() {
                context.wake_at(reservation.until_ms);
                return;
            }
            self.transaction.changes.push(Change::RemoveReservation {
                id: reservation.id.clone(),
                ending_by_ms: context.now_ms(),
            });
        }
    }

    /// The change that makes the group's note say `status`, if it does not yet. The time since when it is blocked is
    /// kept while it is.
    fn note(&self, group: &Group, mut status: GroupStatus, now_ms: u64) -> Option<Change> {
        let present = self.state.group_status(&group.id);
        if status.blocked.is_some() {
            status.since_ms = present
                .filter(|present| present.blocked.is_some())
                .map_or(now_ms, |present| present.since_ms);
        }
        let says_the_same = match present {
            Some(present) => **present == status,
            None => status == GroupStatus::default(),
        };
        (!says_the_same).then(|| Change::Note {
            group: group.id.clone(),
            status: Arc::new(status),
        })
    }
}

/// How many reservations that have ended one round clears away.
const MAX_CLEARED: usize = 64;
