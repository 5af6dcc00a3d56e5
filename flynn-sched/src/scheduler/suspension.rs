//! When many hosts vanish at once, it is more likely that the observer is cut off than that they all died: replacing all
//! their jobs would start a storm on those that are left.

use std::time::Duration;

use crate::{ClusterState, clock::millis};

/// When to hold still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspension {
    /// Losses that are no further apart belong together.
    pub(super) window: Duration,
    /// How long to hold still after the last of them.
    pub(super) grace: Duration,
}

/// Hosts that vanished together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MassFailure {
    pub(super) vanished: usize,
    pub(super) of: usize,
    pub(super) until_ms: u64,
}

impl Suspension {
    /// The mass failure that is going on, if there is one: at least two hosts, and more than half of those that were
    /// there, vanished within the window, less than the grace ago, and not all of them are back.
    ///
    /// A host that had returned before the last of the others was missed does not count: hosts that go and come one after
    /// the other are being restarted, not cut off, and the jobs of the next one must not wait.
    pub(super) fn check(&self, state: &ClusterState, now_ms: u64) -> Option<MassFailure> {
        let last = state.hosts().filter_map(|host| host.lost_since_ms).max()?;
        let window = millis(self.window);
        let together = last.saturating_sub(window)..=last.saturating_add(window);
        let (mut vanished, mut of) = (0, 0);
        for host in state.hosts() {
            // Those that are back already count as well: the others may be just behind them.
            let gone_ms = host
                .lost_since_ms
                .or_else(|| host.returned_from_ms.filter(|_| host.joined_ms >= last));
            let has_vanished = gone_ms.is_some_and(|ms| together.contains(&ms));
            vanished += usize::from(has_vanished);
            of += usize::from(has_vanished || host.lost_since_ms.is_none());
        }
        let until_ms = last.saturating_add(millis(self.grace));
        (vanished >= 2 && vanished * 2 > of && now_ms < until_ms).then_some(MassFailure {
            vanished,
            of,
            until_ms,
        })
    }
}
