//! How long to wait before a job that ended by itself is placed anew.

use std::time::Duration;

use crate::{Job, clock::millis};

/// Growing delays between placements of jobs that end by themselves. (A host restarts a job in place by itself; this is
/// about jobs that the host has given up.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartBackoff {
    /// The delay after the first failure; each further one doubles it. Default 1 s.
    pub base: Duration,
    /// The longest delay. Default 60 s.
    pub max: Duration,
    /// A failure older than this is forgotten. Default 10 min.
    pub window: Duration,
}

impl Default for RestartBackoff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
            window: Duration::from_secs(600),
        }
    }
}

/// What recent failures hold back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// How many jobs are not to be placed yet.
    pub(super) count: usize,
    /// When the first of them may be.
    pub(super) until_ms: Option<u64>,
    /// How many failures are remembered.
    pub(super) failures: usize,
}

impl RestartBackoff {
    /// The delay before attempt `n`, from 1.
    pub(super) fn delay_ms(&self, n: u32) -> u64 {
        let factor = 1_u64.checked_shl(n.saturating_sub(1)).unwrap_or(u64::MAX);
        millis(self.base)
            .saturating_mul(factor)
            .min(millis(self.max))
    }

    /// What these failures hold back: the n-th of them (from the oldest) holds one job for the n-th delay.
    pub(super) fn held<'j>(&self, failures: impl Iterator<Item = &'j Job>, now_ms: u64) -> Held {
        let mut ends: Vec<u64> = failures
            .map(|job| ended_ms(job).min(now_ms))
            .filter(|end| now_ms - end < millis(self.window))
            .collect();
        ends.sort_unstable();
        let mut held = Held {
            failures: ends.len(),
            ..Held::default()
        };
        for (end, n) in ends.into_iter().zip(1..) {
            let due = end.saturating_add(self.delay_ms(n));
            if due > now_ms {
                held.count += 1;
                held.until_ms = Some(held.until_ms.map_or(due, |until| until.min(due)));
            }
        }
        held
    }
}

/// When a final job ended, as far as is known.
pub(super) fn ended_ms(job: &Job) -> u64 {
    job.status.since_ms.max(job.placed_at_ms)
}

/// How it ended, in a few words.
pub(super) fn how_it_ended(job: &Job) -> String {
    match (&job.status.error, job.status.exit_status) {
        (Some(error), _) => error.clone(),
        (None, Some(status)) => format!("exit status {status}"),
        (None, None) => "no reason given".to_owned(),
    }
}
