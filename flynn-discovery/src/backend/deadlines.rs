//! When leases end: kept beside a [`KvState`](super::kv::KvState), by whoever owns the clock.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::LeaseId;

/// The deadlines of leases, ordered. It reads no clock: every method that needs the time is given it.
#[derive(Debug, Default)]
pub struct Deadlines {
    by_lease: HashMap<LeaseId, Deadline>,
    /// The same deadlines, the next one first.
    queue: BTreeSet<(Instant, LeaseId)>,
}

#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: Instant,
    ttl: Duration,
    /// How often it was postponed since it was granted or renewed.
    postponed: u8,
}

impl Deadlines {
    /// How often a lease is postponed between two renewals.
    pub const MAX_POSTPONED: u8 = 8;

    /// No deadlines.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `lease` the time `ttl` from `now` on.
    pub fn insert(&mut self, lease: LeaseId, ttl: Duration, now: Instant) {
        let deadline = Deadline {
            at: now + ttl,
            ttl,
            postponed: 0,
        };
        if let Some(previous) = self.by_lease.insert(lease, deadline) {
            self.queue.remove(&(previous.at, lease));
        }
        self.queue.insert((deadline.at, lease));
    }

    /// Gives `lease` its full time from `now` on; `false` when there is no such lease.
    ///
    /// A deadline that is later already stays: `now` may be when the renewal was asked for, and the lease have been
    /// [postponed](Self::postpone) since.
    pub fn renew(&mut self, lease: LeaseId, now: Instant) -> bool {
        let Some(deadline) = self.by_lease.get_mut(&lease) else {
            return false;
        };
        self.queue.remove(&(deadline.at, lease));
        deadline.at = deadline.at.max(now + deadline.ttl);
        deadline.postponed = 0;
        self.queue.insert((deadline.at, lease));
        true
    }

    /// Gives every lease so much more time, because for so long nobody could have renewed it.
    ///
    /// A lease is given that at most [`MAX_POSTPONED`](Self::MAX_POSTPONED) times between two renewals: whoever lets so
    /// many occasions pass is gone, and an owner of the clock that is held up all the time must not keep it for ever.
    pub fn postpone(&mut self, by: Duration) {
        for (lease, deadline) in &mut self.by_lease {
            if deadline.postponed < Self::MAX_POSTPONED {
                self.queue.remove(&(deadline.at, *lease));
                deadline.at += by;
                deadline.postponed += 1;
                self.queue.insert((deadline.at, *lease));
            }
        }
    }

    /// Forgets `lease`.
    pub fn remove(&mut self, lease: LeaseId) {
        if let Some(deadline) = self.by_lease.remove(&lease) {
            self.queue.remove(&(deadline.at, lease));
        }
    }

    /// Forgets every lease.
    pub fn clear(&mut self) {
        self.by_lease.clear();
        self.queue.clear();
    }

    /// The leases whose time is over at `now`, the longest overdue first; they stay until they are removed.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = LeaseId> {
        self.queue
            .iter()
            .take_while(move |(at, _)| *at <= now)
            .map(|(_, lease)| *lease)
    }

    /// When the next lease is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// How many leases there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_lease.len()
    }

    /// Are there no leases?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_lease.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_overdue_lease_is_due_first_and_a_renewed_one_is_not() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut deadlines = Deadlines::new();
        deadlines.insert(LeaseId(1), 2 * second, now);
        deadlines.insert(LeaseId(2), second, now);
        deadlines.insert(LeaseId(3), 5 * second, now);
        assert_eq!(deadlines.next(), Some(now + second));
        let due = |d: &Deadlines, at| d.due(at).map(|l| l.0).collect::<Vec<_>>();
        assert_eq!(due(&deadlines, now + 3 * second), [2, 1]);
        assert!(deadlines.renew(LeaseId(2), now + second));
        assert_eq!(due(&deadlines, now + second), Vec::<u64>::new());
        deadlines.postpone(2 * second);
        assert_eq!(deadlines.next(), Some(now + 4 * second));
        assert_eq!(due(&deadlines, now + 4 * second), [1, 2]);
        deadlines.remove(LeaseId(1));
        assert!(!deadlines.renew(LeaseId(1), now));
        assert_eq!(due(&deadlines, now + 4 * second), [2]);
        assert_eq!(deadlines.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_never_takes_time_away() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut deadlines = Deadlines::new();
        deadlines.insert(LeaseId(1), second, now);
        deadlines.postpone(60 * second);
        assert!(deadlines.renew(LeaseId(1), now));
        assert_eq!(deadlines.next(), Some(now + 61 * second));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_renew_is_not_postponed_for_ever() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut deadlines = Deadlines::new();
        deadlines.insert(LeaseId(1), second, now);
        for _ in 0..100 {
            deadlines.postpone(second);
        }
        let most = u32::from(Deadlines::MAX_POSTPONED);
        assert_eq!(deadlines.next(), Some(now + (1 + most) * second));
        deadlines.renew(LeaseId(1), now + 20 * second);
        deadlines.postpone(second);
        assert_eq!(deadlines.next(), Some(now + 22 * second));
    }
}
