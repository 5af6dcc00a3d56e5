//! Which runs to start now. Pure: the timetable, what was decided so far and the time in, a decision out.

use std::time::Duration;

use crate::{Cron, Missed, Overlap, clock::millis, scheduler::cron::Timetable};

/// What to do about the runs that are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing is due.
    Nothing,
    /// Something is due and waits for an earlier run to end.
    Wait,
    /// These runs are to be started, the oldest first; whatever else was due until `until_ms` is not.
    Decide {
        /// When the runs were due.
        start: Vec<u64>,
        /// Up to when all is decided.
        until_ms: u64,
        /// The runs that have not ended are to be removed.
        replaces: bool,
    },
}

/// Decides on what came due after `decided_ms` and not later than `now_ms`, while an earlier run `is_active` or not.
pub(super) fn decide(
    cron: &Cron,
    timetable: &Timetable,
    decided_ms: u64,
    now_ms: u64,
    is_active: bool,
) -> Decision {
    let last_due = timetable.latest(decided_ms, now_ms, 1);
    let Some(&last_due) = last_due.last() else {
        return Decision::Nothing;
    };
    let not_before = |age: Duration| now_ms.saturating_sub(millis(age)).max(decided_ms);
    let oldest = cron.start_deadline.map_or(decided_ms, not_before);
    let all = usize::try_from(Cron::MAX_MADE_UP).unwrap_or(usize::MAX);
    let (oldest, limit) = match cron.missed {
        Missed::Skip => (not_before(cron.start_deadline.unwrap_or(ON_TIME)), all),
        Missed::RunOnce => (oldest, 1),
        Missed::RunAll { limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            (oldest, limit.min(all))
        }
    };
    // A run that is exactly as late as it may be is not too late.
    let oldest = oldest.saturating_sub(u64::from(oldest > decided_ms));
    let mut start = timetable.latest(oldest, now_ms, limit);
    let makes_up = matches!(cron.missed, Missed::RunAll { .. });
    let mut until_ms = last_due;
    match cron.overlap {
        Overlap::Forbid if start.is_empty() => {}
        Overlap::Forbid if makes_up && is_active => return Decision::Wait,
        Overlap::Forbid if is_active => start.clear(),
        Overlap::Forbid if makes_up => {
            start.truncate(1);
            until_ms = start[0];
        }
        Overlap::Forbid | Overlap::Replace => {
            start.drain(..start.len().saturating_sub(1));
        }
        Overlap::Allow => {
            start.truncate(MAX_STARTS);
            until_ms = start.last().copied().unwrap_or(last_due);
        }
    }
    Decision::Decide {
        replaces: cron.overlap == Overlap::Replace && !start.is_empty(),
        start,
        until_ms,
    }
}

/// How late a run may be and still count as on time, where the group does not say.
const ON_TIME: Duration = Duration::from_secs(60);
/// How many runs one transaction starts.
pub(super) const MAX_STARTS: usize = 16;
