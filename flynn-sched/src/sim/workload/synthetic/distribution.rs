//! Distributions.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1, StandardNormal};

/// How a quantity is distributed.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Distribution {
    /// Always the same.
    Constant(f64),
    /// Exponential, as the times between events that know nothing of each other.
    Exponential {
        /// Its mean.
        mean: f64,
    },
    /// Lognormal; what lies outside of the bounds is moved onto them.
    LogNormal {
        /// Half of what is drawn is below.
        median: f64,
        /// The standard deviation of the logarithm.
        sigma: f64,
        /// The least.
        least: f64,
        /// The most.
        most: f64,
    },
}

impl Distribution {
    /// [`Distribution::LogNormal`].
    #[must_use]
    pub const fn lognormal(median: f64, sigma: f64, least: f64, most: f64) -> Self {
        Self::LogNormal {
            median,
            sigma,
            least,
            most,
        }
    }

    /// So many times as much.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        match self {
            Self::Constant(value) => Self::Constant(value * factor),
            Self::Exponential { mean } => Self::Exponential {
                mean: mean * factor,
            },
            Self::LogNormal {
                median,
                sigma,
                least,
                most,
            } => Self::lognormal(median * factor, sigma, least * factor, most * factor),
        }
    }

    /// Never more than this. An exponential distribution has no bound and stays as it is.
    #[must_use]
    pub fn at_most(self, bound: f64) -> Self {
        match self {
            Self::Constant(value) => Self::Constant(value.min(bound)),
            Self::Exponential { .. } => self,
            Self::LogNormal {
                median,
                sigma,
                least,
                most,
            } => Self::lognormal(median, sigma, least.min(bound), most.min(bound)),
        }
    }

    /// The mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Constant(value) => value,
            Self::Exponential { mean } => mean,
            Self::LogNormal { .. } => {
                let (mut sum, mut weights) = (0.0, 0.0);
                for z in grid() {
                    sum += bell(z) * self.at(z);
                    weights += bell(z);
                }
                sum / weights
            }
        }
    }

    /// Are the numbers finite, not negative and in order?
    pub(super) fn is_sound(&self) -> bool {
        let is_amount = |value: f64| value.is_finite() && value >= 0.0;
        match *self {
            Self::Constant(value) => is_amount(value),
            Self::Exponential { mean } => is_amount(mean),
            Self::LogNormal {
                median,
                sigma,
                least,
                most,
            } => {
                is_amount(median)
                    && (0.0..=10.0).contains(&sigma)
                    && is_amount(least)
                    && is_amount(most)
                    && least <= most
            }
        }
    }

    /// Draws one.
    pub(super) fn sample(&self, rng: &mut ChaCha8Rng) -> f64 {
        match *self {
            Self::Constant(value) => value,
            Self::Exponential { mean } => {
                let one: f64 = Exp1.sample(rng);
                mean * one
            }
            Self::LogNormal { .. } => self.at(StandardNormal.sample(rng)),
        }
    }

    /// The lognormal at a point of the standard normal distribution.
    fn at(&self, z: f64) -> f64 {
        match *self {
            Self::Constant(value) => value,
            Self::Exponential { mean } => mean,
            Self::LogNormal {
                median,
                sigma,
                least,
                most,
            } => (median * (sigma * z).exp()).clamp(least, most),
        }
    }

    /// How much is left of what is under way at some moment: long ones are met more often, each at a random point.
    pub(super) fn remaining(&self) -> Remaining {
        let mut sum = 0.0;
        let cumulated = match self {
            Self::Constant(_) | Self::Exponential { .. } => Vec::new(),
            Self::LogNormal { .. } => grid()
                .map(|z| {
                    sum += bell(z) * self.at(z);
                    sum
                })
                .collect(),
        };
        Remaining {
            distribution: *self,
            cumulated,
        }
    }
}

/// See [`Distribution::remaining`].
pub(super) struct Remaining {
    distribution: Distribution,
    /// The weights of the points of the grid, summed up.
    cumulated: Vec<f64>,
}

impl Remaining {
    pub(super) fn sample(&self, rng: &mut ChaCha8Rng) -> f64 {
        match self.distribution {
            Distribution::Constant(value) => value * rng.random::<f64>(),
            Distribution::Exponential { .. } => self.distribution.sample(rng),
            Distribution::LogNormal { .. } => {
                let whole = self.cumulated.last().copied().unwrap_or_default();
                let point = rng.random::<f64>() * whole;
                let index = self.cumulated.partition_point(|sum| *sum < point);
                let z = grid().nth(index).unwrap_or_default();
                self.distribution.at(z) * rng.random::<f64>()
            }
        }
    }
}

/// Points of the standard normal distribution: from -8 to 8.
fn grid() -> impl Iterator<Item = f64> {
    (0..=GRID).map(|step| -8.0 + 16.0 * f64::from(step) / f64::from(GRID))
}

/// How many steps the grid has.
const GRID: u32 = 2_000;

/// The bell curve, but for a factor.
fn bell(z: f64) -> f64 {
    (-z * z / 2.0).exp()
}

/// `value` in steps of `step`, one step at least.
pub(super) fn rounded(value: f64, step: u64) -> u64 {
    let steps = scaled(value / to_f64(step) + 0.5, 1.0);
    steps.max(1).saturating_mul(step)
}

/// `value` times `factor` as a whole number; negative numbers become zero, too large ones the largest.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, which is what is wanted"
)]
pub(super) fn scaled(value: f64, factor: f64) -> u64 {
    (value * factor) as u64
}

#[expect(clippy::cast_precision_loss, reason = "steps are small")]
fn to_f64(step: u64) -> f64 {
    step as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::streams::{Purpose, stream};

    fn mean_of(count: u32, mut draw: impl FnMut() -> f64) -> f64 {
        (0..count).map(|_| draw()).sum::<f64>() / f64::from(count)
    }

    #[test]
    fn the_mean_that_is_computed_is_the_mean_of_what_is_drawn() {
        let mut rng = stream(1, Purpose::Machines);
        for distribution in [
            Distribution::Constant(3.0),
            Distribution::Exponential { mean: 2.5 },
            Distribution::lognormal(4.0, 1.0, 1.0, 50.0),
        ] {
            let drawn = mean_of(40_000, || distribution.sample(&mut rng));
            let error = (drawn / distribution.mean() - 1.0).abs();
            assert!(
                error < 0.03,
                "{distribution:?}: {drawn} instead of {}",
                distribution.mean()
            );
        }
    }

    #[test]
    fn what_is_left_has_the_mean_of_renewal_theory() {
        // E[X²] / 2 E[X]; for a lognormal without bounds that is exp(1.5 sigma²) median / 2.
        let mut rng = stream(2, Purpose::Machines);
        let distribution = Distribution::lognormal(10.0, 0.8, 0.0, 1e9);
        let expected = 10.0 * (1.5_f64 * 0.64).exp() / 2.0;
        let remaining = distribution.remaining();
        let drawn = mean_of(40_000, || remaining.sample(&mut rng));
        assert!(
            (drawn / expected - 1.0).abs() < 0.05,
            "{drawn} instead of {expected}"
        );
    }

    #[test]
    fn whole_numbers_do_not_wrap() {
        assert_eq!(scaled(-1.0, 1.0), 0);
        assert_eq!(scaled(f64::INFINITY, 1.0), u64::MAX);
        assert_eq!(scaled(f64::NAN, 1.0), 0);
        assert_eq!(rounded(0.0, 16), 16);
        assert_eq!(rounded(25.0, 16), 32);
    }
}
