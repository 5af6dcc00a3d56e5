//! What demand will be.

use std::{fmt, time::Duration};

use crate::{Error, Result, clock::millis};

use super::{History, steps::Span};

/// Expects demand from what was seen so far. What an [`Autoscaler`](super::Autoscaler) makes of it only ever raises a
/// count: a forecast that is wrong costs jobs, never requests.
///
/// It must be a function of its arguments, so that two leaders decide alike.
pub trait Forecast: fmt::Debug + Send + Sync {
    /// A short name for explanations.
    fn name(&self) -> &'static str;

    /// How far back it looks. Demand is kept for that long.
    fn lookback(&self) -> Duration;

    /// The demand that is expected at `at_ms`, in the unit of the history; `None` if too little is known. Both times are
    /// milliseconds since the Unix epoch. What is not a finite number, or is negative, is ignored.
    fn expect(&self, history: &History, now_ms: u64, at_ms: u64) -> Option<f64>;
}

/// Demand goes on rising, or falling, as it did of late: the line of least squares through a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearTrend {
    window_ms: u64,
}

impl LinearTrend {
    /// Looks at a window of this length; 15 minutes suit a service whose jobs start within one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] unless the window is between a minute and a day.
    pub fn over(window: Duration) -> Result<Self> {
        let window_ms = millis(window);
        if (60_000..=24 * 3_600_000).contains(&window_ms) {
            return Ok(Self { window_ms });
        }
        Err(Error::Invalid {
            what: format!("window {} of a linear trend", Span(window_ms)),
            why: "give a minute to a day".to_owned(),
        })
    }
}

impl Forecast for LinearTrend {
    fn name(&self) -> &'static str {
        "linear trend"
    }

    fn lookback(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }

    /// `None` until three steps over half the window are known: a line through less is a guess.
    fn expect(&self, history: &History, now_ms: u64, at_ms: u64) -> Option<f64> {
        let from_ms = now_ms.saturating_sub(self.window_ms);
        // Times relative to the window's beginning, in seconds, keep the sums small.
        let x = |ms: u64| seconds(ms.saturating_sub(from_ms));
        let points: Vec<(f64, f64)> = history
            .between(from_ms, now_ms.saturating_add(1))
            .map(|(ms, y)| (x(ms), y))
            .collect();
        let (first, last) = (points.first()?.0, points.last()?.0);
        if points.len() < 3 || (last - first) * 2.0 < seconds(self.window_ms) {
            return None;
        }
        let n = f64::from(u32::try_from(points.len()).ok()?);
        let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / n;
        let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / n;
        let (mut covariance, mut variance) = (0.0, 0.0);
        for (x, y) in points {
            covariance += (x - mean_x) * (y - mean_y);
            variance += (x - mean_x) * (x - mean_x);
        }
        Some((mean_y + covariance / variance * (x(at_ms) - mean_x)).max(0.0))
    }
}

/// Demand will be what it was at the same time one period ago, and two, and more, the nearer ones counting more
/// (exponential smoothing over the periods), scaled by how today compares with them so far (between half and twice).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seasonal {
    period_ms: u64,
    periods: u32,
    smoothing: f64,
    width_ms: u64,
}

impl Seasonal {
    /// The same time yesterday, the day before and the day before that.
    #[must_use]
    pub fn daily() -> Self {
        Self {
            period_ms: 24 * 3_600_000,
            periods: 3,
            smoothing: 0.5,
            width_ms: 600_000,
        }
    }

    /// The same time a week ago: for load with a quiet Sunday.
    #[must_use]
    pub fn weekly() -> Self {
        Self {
            period_ms: 7 * 24 * 3_600_000,
            periods: 1,
            ..Self::daily()
        }
    }

    /// Any period, of which that many are looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the period is shorter than ten minutes, there are none, or they reach back more than two
    /// weeks.
    pub fn every(period: Duration, periods: u32) -> Result<Self> {
        let period_ms = millis(period);
        let all_ms = period_ms.saturating_mul(u64::from(periods));
        if period_ms < 600_000 || periods == 0 || all_ms > 14 * 24 * 3_600_000 {
            return Err(Error::Invalid {
                what: format!(
                    "seasonal forecast over {periods} periods of {}",
                    Span(period_ms)
                ),
                why: "give at least one period of at least 10 min, and at most two weeks of them"
                    .to_owned(),
            });
        }
        Ok(Self {
            period_ms,
            periods,
            smoothing: 0.5,
            width_ms: 600_000.min(period_ms / 10),
        })
    }

    /// How much the nearest period counts against all earlier ones, above 0 to 1. Default 0.5.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is outside of that.
    pub fn with_smoothing(mut self, smoothing: f64) -> Result<Self> {
        if smoothing > 0.0 && smoothing <= 1.0 {
            self.smoothing = smoothing;
            return Ok(self);
        }
        Err(Error::Invalid {
            what: format!("smoothing {smoothing} of a seasonal forecast"),
            why: "give a number above 0 and up to 1".to_owned(),
        })
    }

    /// The smoothed mean of what `of` gives for each period; `None` where it gives none.
    fn smooth(&self, of: impl Fn(u64) -> Option<f64>) -> Option<f64> {
        let (mut sum, mut weights, mut weight) = (0.0, 0.0, 1.0);
        for nth in 1..=self.periods {
            if let Some(value) = of(self.period_ms.saturating_mul(u64::from(nth))) {
                sum += weight * value;
                weights += weight;
            }
            weight *= 1.0 - self.smoothing;
        }
        (weights > 0.0).then(|| sum / weights)
    }
}

impl Forecast for Seasonal {
    fn name(&self) -> &'static str {
        "same time before"
    }

    fn lookback(&self) -> Duration {
        let all_ms = self.period_ms.saturating_mul(u64::from(self.periods));
        Duration::from_millis(all_ms.saturating_add(2 * self.width_ms))
    }

    /// `None` until one period has been seen at that time.
    fn expect(&self, history: &History, now_ms: u64, at_ms: u64) -> Option<f64> {
        let half = self.width_ms / 2;
        let around = |ms: u64| history.mean(ms.saturating_sub(half), ms.saturating_add(half));
        let lately = |ms: u64| history.mean(ms.saturating_sub(self.width_ms), ms.saturating_add(1));
        let expected = self.smooth(|back| around(at_ms.checked_sub(back)?))?;
        let before = self.smooth(|back| lately(now_ms.checked_sub(back)?));
        let level = match (lately(now_ms), before) {
            (Some(today), Some(before)) if before > 0.0 => (today / before).clamp(0.5, 2.0),
            _ => 1.0,
        };
        Some(expected * level)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of two weeks fit into 52 bits"
)]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
