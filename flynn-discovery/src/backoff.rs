//! How long to wait before trying again.

use std::time::Duration;

/// The waits between attempts: each up to twice the one before, never more than a maximum, and jittered so that many
/// clients of one failed server do not come back in step.
///
/// ```
/// use std::time::Duration;
/// use flynn_discovery::Backoff;
///
/// let waits: Vec<Duration> = Backoff::new(Duration::from_millis(100), Duration::from_secs(1)).take(5).collect();
/// assert!(waits[0] <= Duration::from_millis(100) && waits[4] <= Duration::from_secs(1));
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits that start at about `first` and grow to about `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            next: first.min(max),
        }
    }

    /// Starts again, because an attempt succeeded.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.max);
    }

    /// Waits out the next wait.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.step()).await;
    }

    fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.max);
        jittered(wait)
    }
}

impl Default for Backoff {
    /// From 200 ms to 5 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(5))
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    /// Never `None`: whoever waits decides when to give up.
    fn next(&mut self) -> Option<Duration> {
        Some(self.step())
    }
}

/// A random time between half of `wait` and the whole of it.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_and_start_again_after_a_reset() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(500));
        for full in [100, 200, 400, 500, 500].map(ms) {
            let wait = backoff.next().unwrap();
            assert!(
                wait >= full / 2 && wait <= full,
                "{wait:?} is not within half of {full:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next().unwrap() <= ms(100));
    }

    #[test]
    fn it_never_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX / 4);
        assert!(backoff.nth(200).is_some());
    }
}
