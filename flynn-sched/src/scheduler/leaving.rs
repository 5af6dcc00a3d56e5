//! When a job that runs to its end must leave its host before that.
//!
//! ```text
//!  host drains ─────────────────► may run to its end ──► the time to drain is over ──┐
//!  host has a NoExecute taint ───────────────────────────────────────────────────────┴─► must go
//! ```
//!
//! A second copy would do the same work twice, so unlike jobs of services they are not replaced before they stop: they
//! are evicted ([`Eviction::Emptying`]), and run anew elsewhere once they have stopped. That counts neither as a failure
//! nor as an attempt.

use crate::{ClusterState, Eviction, Job, scheduler::Context};

/// Why a job must not stay for its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Push {
    pub(super) why: String,
    /// Its time is over, so it does not even wait until there is room elsewhere.
    pub(super) is_overdue: bool,
}

impl Push {
    /// What presses the job now, if something does. Asks to be called when something will.
    pub(super) fn on(state: &ClusterState, job: &Job, context: &mut Context<'_>) -> Option<Self> {
        if job.is_stopping || !state.is_pressed(job) {
            return None;
        }
        let host = state.host(&job.host)?;
        if host.lost_since_ms.is_some() {
            return None;
        }
        let host = &host.host;
        let by_ms = host.drain_by_ms.filter(|_| host.is_draining);
        if let Some(by_ms) = by_ms.filter(|by_ms| *by_ms > context.now_ms()) {
            context.wake_at(by_ms);
        } else if by_ms.is_some() {
            return Some(Self::because(
                format!("the time of host {} to drain is over", host.id),
                true,
            ));
        }
        let taint = host.drives_out(&job.spec)?;
        Some(Self::because(
            format!("host {} has the taint {taint}", host.id),
            false,
        ))
    }

    fn because(mut why: String, is_overdue: bool) -> Self {
        why.truncate(why.floor_char_boundary(Eviction::WHY_MAX));
        Self { why, is_overdue }
    }

    pub(super) fn eviction(&self) -> Eviction {
        Eviction::Emptying {
            why: self.why.clone(),
        }
    }
}
