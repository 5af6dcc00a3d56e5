//! Demand over time, in even steps.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The demand for a metric over time: one mean for each step of time in which something was seen, the oldest first, for a
/// bounded while.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    step_ms: u64,
    /// The number of the step since the epoch, the mean, and of how many samples. Single precision is plenty for demand,
    /// halves the size, and survives a JSON reader that rounds carelessly.
    steps: VecDeque<(u64, f32, u32)>,
}

impl History {
    /// How many steps are kept at most: two weeks of minutes.
    pub const MAX_STEPS: usize = 14 * 24 * 60;

    pub(super) fn record(&mut self, now_ms: u64, value: f64, step_ms: u64, span_ms: u64) {
        if self.step_ms != step_ms {
            // What was counted in other steps cannot be told apart any more.
            self.steps.clear();
            self.step_ms = step_ms;
        }
        let step = now_ms / step_ms.max(1);
        match self.steps.back_mut() {
            Some((last, mean, seen)) if *last == step => {
                *seen = seen.saturating_add(1);
                let weight = 1.0 / f64::from(*seen);
                *mean = narrow(f64::from(*mean) * (1.0 - weight) + value * weight);
            }
            // The clock stepped back: what is known stays.
            Some((last, ..)) if *last > step && *last - step <= span_ms / step_ms.max(1) => {}
            Some((last, ..)) if *last > step => {
                self.steps.clear();
                self.steps.push_back((step, narrow(value), 1));
            }
            _ => self.steps.push_back((step, narrow(value), 1)),
        }
        let oldest = step.saturating_sub(span_ms / step_ms.max(1));
        while self.steps.len() > Self::MAX_STEPS
            || self.steps.front().is_some_and(|(step, ..)| *step < oldest)
        {
            self.steps.pop_front();
        }
    }

    /// The length of a step, in milliseconds.
    #[must_use]
    pub fn step_ms(&self) -> u64 {
        self.step_ms
    }

    /// How many steps are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Is nothing known?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The steps that begin in this stretch of time, as the middle of each (in milliseconds since the Unix epoch) and its
    /// mean, the oldest first.
    pub fn between(&self, from_ms: u64, to_ms: u64) -> impl Iterator<Item = (u64, f64)> {
        let width = self.step_ms.max(1);
        let first = self
            .steps
            .partition_point(|(step, ..)| *step < from_ms.div_ceil(width));
        self.steps
            .range(first..)
            .take_while(move |(step, ..)| step.saturating_mul(width) < to_ms)
            .map(move |(step, mean, _)| {
                (
                    step.saturating_mul(width).saturating_add(width / 2),
                    f64::from(*mean),
                )
            })
    }

    /// The mean over the steps that begin in this stretch of time; `None` if none does.
    #[must_use]
    pub fn mean(&self, from_ms: u64, to_ms: u64) -> Option<f64> {
        let (sum, n) = self
            .between(from_ms, to_ms)
            .fold((0.0, 0.0), |(sum, n), (_, mean)| (sum + mean, n + 1.0));
        (n > 0.0).then(|| sum / n)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a float's cast saturates; see `History`"
)]
fn narrow(value: f64) -> f32 {
    value.clamp(0.0, f64::from(f32::MAX)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 60_000;

    #[test]
    fn steps_are_means_and_only_the_span_is_kept() {
        let mut history = History::default();
        for second in 0..7_200_u32 {
            let value = f64::from(second / 60) + f64::from(second % 2);
            history.record(u64::from(second) * 1000, value, STEP, 30 * STEP);
        }
        assert_eq!(history.len(), 31);
        let first = history.between(0, u64::MAX).next().unwrap();
        assert_eq!(first.0, 89 * STEP + STEP / 2);
        assert!((first.1 - 89.5).abs() < 1e-3, "{first:?}");
        let mean = history.mean(100 * STEP, 102 * STEP).unwrap();
        assert!((mean - 101.0).abs() < 1e-3, "{mean}");
        assert_eq!(history.mean(0, 89 * STEP), None);
    }

    #[test]
    fn however_long_it_lasts_and_however_the_clock_jumps_it_is_bounded_and_in_order() {
        let mut history = History::default();
        for n in 0..100_000_u64 {
            let now = if n % 1_000 == 999 {
                n * STEP / 2
            } else {
                n * STEP
            };
            history.record(now, f64::MAX, STEP, u64::MAX);
            assert!(history.len() <= History::MAX_STEPS);
        }
        let times: Vec<u64> = history.between(0, u64::MAX).map(|(ms, _)| ms).collect();
        assert!(times.is_sorted() && times.len() == History::MAX_STEPS);
        // A clock that was years ahead is not believed for ever.
        history.record(u64::MAX, 1.0, STEP, 30 * STEP);
        history.record(STEP, 2.0, STEP, 30 * STEP);
        assert_eq!(history.mean(0, u64::MAX), Some(2.0));
        history.record(2 * STEP, 3.0, 2 * STEP, 30 * STEP);
        assert_eq!(history.len(), 1, "steps of another length are not mixed");
    }
}
