//! Schedulers: they look at a snapshot and propose a transaction. [`Driver`](crate::driver::Driver) commits it.

mod backoff;
mod batch;
mod ids;
mod omni;
mod rebalance;
mod replicas;
mod roster;
mod service;
mod suspension;

use std::{fmt, sync::Arc};

use crate::{
    ClusterState, Group, GroupStatus, HostId, Job, JobId, JobStatus, Transaction, placement::Board,
    transaction::Change,
};

pub use backoff::RestartBackoff;
pub use batch::BatchScheduler;
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

/// What one round proposes, group by group; and the board that is only made when something must be placed.
struct Round<'s> {
    state: &'s ClusterState,
    board: Option<Board>,
    transaction: Transaction,
}

impl<'s> Round<'s> {
    fn on(state: &'s ClusterState) -> Self {
        Self {
            state,
            board: None,
            transaction: Transaction::on(state),
        }
    }

    /// The groups, by priority, then id.
    fn groups(&self) -> Vec<&'s Arc<Group>> {
        let mut groups: Vec<_> = self.state.groups().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.priority));
        groups
    }

    fn board(&mut self) -> &mut Board {
        self.board.get_or_insert_with(|| Board::of(self.state))
    }

    /// Adds a group's changes behind a guard, so that two copies of a scheduler do not both make them.
    fn propose(&mut self, group: &Group, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.transaction.changes.push(Change::ExpectGroup {
                group: group.id.clone(),
                version: self.state.group_version(&group.id),
            });
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
