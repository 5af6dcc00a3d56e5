//! Leaving alone, for a short and growing time, what refuses connections.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// What the router has learnt about an endpoint by using it.
#[derive(Debug)]
pub(super) struct Health {
    born: Instant,
    /// Connections refused in a row.
    strikes: AtomicU32,
    /// Milliseconds after `born`.
    ejected_until: AtomicU64,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            born: Instant::now(),
            strikes: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
        }
    }

    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until > 0 && self.millis(now) < until
    }

    pub(super) fn accepted(&self) {
        if self.strikes.load(Ordering::Relaxed) > 0 {
            self.strikes.store(0, Ordering::Relaxed);
            self.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn refused(&self, now: Instant) {
        // Many requests meet the same outage at once: it counts once for each time it was let in again.
        if self.is_ejected(now) {
            return;
        }
        let strikes = self.strikes.fetch_add(1, Ordering::Relaxed);
        let until = self.millis(now) + millis(ejection(strikes));
        self.ejected_until.store(until, Ordering::Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.born))
    }
}

/// How long an endpoint is left alone that was refused `strikes` times before this one.
fn ejection(strikes: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(10);
    FIRST.saturating_mul(1 << strikes.min(10)).min(LONGEST)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_refuses_is_left_alone_for_a_growing_time() {
        let health = Health::new();
        let now = Instant::now();
        assert!(!health.is_ejected(now));
        health.refused(now);
        assert!(health.is_ejected(now) && health.is_ejected(now + Duration::from_millis(499)));
        let again = now + Duration::from_millis(500);
        assert!(!health.is_ejected(again));
        health.refused(again);
        assert!(health.is_ejected(again + Duration::from_millis(999)));
        assert!(!health.is_ejected(again + Duration::from_secs(1)));
        assert_eq!(ejection(100), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn one_outage_met_by_many_requests_counts_once_and_success_forgets_it() {
        let health = Health::new();
        let now = Instant::now();
        (0..50).for_each(|_| health.refused(now));
        assert!(!health.is_ejected(now + Duration::from_millis(500)));
        health.accepted();
        assert!(!health.is_ejected(now));
        health.refused(now);
        assert!(!health.is_ejected(now + Duration::from_millis(500)));
    }
}
