//! The wall clock, for timestamps that people read and other hosts compare.

use std::time::{Duration, SystemTime};

/// The present, also for the times of files.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock; timers use tokio's"
)]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

fn since_epoch() -> Duration {
    wall()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

pub(crate) fn wall_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(feature = "process")]
pub(crate) fn wall_micros() -> u64 {
    u64::try_from(since_epoch().as_micros()).unwrap_or(u64::MAX)
}
