//! Renewals of leases: what this member's callers asked, and, while it leads, every lease's time.
//!
//! A lease's deadline is in the leader's memory only. Renewals therefore cost no log entry, and a new leader gives
//! every lease its full time anew.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::Ticket;
use crate::backend::{LeaseId, deadlines::Deadlines};

/// Renewals that callers at this member wait for.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    pending: BTreeMap<LeaseId, Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    /// Callers the renewal under way is for, and the tick at which they give up.
    asked: Vec<(Ticket, u64)>,
    /// Callers that came later: an answer to an earlier question is none to theirs.
    waiting: Vec<(Ticket, u64)>,
    sent_at: Option<u64>,
}

impl Renewals {
    pub(crate) fn push(&mut self, lease: LeaseId, ticket: Ticket, deadline: u64) {
        let calls = self.pending.entry(lease).or_default();
        calls.waiting.push((ticket, deadline));
    }

    /// The leases to ask the leader about now.
    pub(crate) fn take(&mut self, now: u64) -> Vec<LeaseId> {
        let mut leases = Vec::new();
        for (lease, calls) in &mut self.pending {
            if calls.sent_at.is_none() {
                calls.asked.append(&mut calls.waiting);
                calls.sent_at = Some(now);
                leases.push(*lease);
            }
        }
        leases
    }

    /// The leader answered; these callers have their answer.
    pub(crate) fn finish(&mut self, lease: LeaseId) -> Vec<Ticket> {
        let Some(calls) = self.pending.get_mut(&lease) else {
            return Vec::new();
        };
        let answered = calls.asked.drain(..).map(|(ticket, _)| ticket).collect();
        calls.sent_at = None;
        if calls.waiting.is_empty() {
            self.pending.remove(&lease);
        }
        answered
    }

    /// What was sent at tick `before` or earlier is sent again.
    pub(crate) fn resend(&mut self, before: u64) {
        for calls in self.pending.values_mut() {
            if calls.sent_at.is_some_and(|at| at <= before) {
                calls.sent_at = None;
            }
        }
    }

    /// Removes the callers whose time is over.
    pub(crate) fn expire(&mut self, now: u64) -> Vec<Ticket> {
        let mut over = Vec::new();
        self.pending.retain(|_, calls| {
            for callers in [&mut calls.asked, &mut calls.waiting] {
                callers.retain(|(ticket, deadline)| {
                    let is_over = *deadline <= now;
                    if is_over {
                        over.push(*ticket);
                    }
                    !is_over
                });
            }
            !(calls.asked.is_empty() && calls.waiting.is_empty())
        });
        over
    }
}

/// The time of every lease, while this member leads.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    deadlines: Deadlines,
    /// Leases whose end was proposed and is not decided yet: they are neither renewed nor called lost.
    ending: HashSet<LeaseId>,
    /// The request that ends `ending`.
    request: Option<u64>,
}

impl Leases {
    /// This member leads from now on: every lease has its full time anew.
    pub(crate) fn restart(
        &mut self,
        leases: impl Iterator<Item = (LeaseId, Duration)>,
        now: Instant,
    ) {
        self.clear();
        for (lease, ttl) in leases {
            self.deadlines.insert(lease, ttl, now);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.deadlines.clear();
        self.ending.clear();
        self.request = None;
    }

    /// Gives every lease so much more time.
    pub(crate) fn postpone(&mut self, by: Duration) {
        self.deadlines.postpone(by);
    }

    pub(crate) fn granted(&mut self, lease: LeaseId, ttl: Duration, now: Instant) {
        self.deadlines.insert(lease, ttl, now);
    }

    pub(crate) fn ended(&mut self, lease: LeaseId) {
        self.deadlines.remove(lease);
        self.ending.remove(&lease);
    }

    /// Renews from `asked` on; `None` while its end is being decided, `false` when it is gone.
    pub(crate) fn renew(&mut self, lease: LeaseId, asked: Instant) -> Option<bool> {
        if self.ending.contains(&lease) {
            return None;
        }
        Some(self.deadlines.renew(lease, asked))
    }

    /// The request that ends leases, if it is still without an answer.
    pub(crate) fn request(&self) -> Option<u64> {
        self.request
    }

    /// The leases to end now; [`ends_by`](Self::ends_by) must follow if there are any.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<LeaseId> {
        self.ending.clear();
        self.request = None;
        self.deadlines.due(now).take(MAX_ENDING).collect()
    }

    pub(crate) fn ends_by(&mut self, request: u64, leases: &[LeaseId]) {
        self.request = Some(request);
        self.ending.extend(leases);
    }
}

/// How many leases one entry of the log ends at most.
const MAX_ENDING: usize = 1024;
