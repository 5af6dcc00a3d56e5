#![doc = include_str!("autoscale/autoscaling.md")]

mod decision;
mod forecast;
mod history;
mod observation;
mod policy;
mod recommend;
mod schedule;
mod state;
mod steps;
mod target;
mod weekly;

use std::time::Duration;

use crate::{Error, Result, clock::millis};

pub use decision::{Decision, Reason};
pub use forecast::{Forecast, LinearTrend, Seasonal};
pub use history::History;
pub use observation::{JobSample, Observation};
pub use policy::{Cooldown, Policy, PolicyBuilder};
pub use schedule::{Schedule, When};
pub use state::State;
pub use steps::{Pace, Select, Step};
pub use target::{Measure, Metric, Target};
pub use weekly::{Weekly, Zone};

use recommend::{Reading, count_for, read};
use steps::{MAX_SPAN_MS, Span};

/// Decides how many jobs a group should have, by a [`Policy`] and any [`Forecast`]s. It keeps nothing itself: what must be
/// remembered is in the [`State`].
#[derive(Debug)]
pub struct Autoscaler {
    policy: Policy,
    forecasts: Vec<(u64, Box<dyn Forecast>)>,
    lookback_ms: u64,
}

impl Autoscaler {
    /// How many forecasts there may be.
    pub const MAX_FORECASTS: usize = 8;

    /// An autoscaler that only reacts.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            forecasts: Vec::new(),
            lookback_ms: 0,
        }
    }

    /// Has jobs ready for the demand that is expected `horizon` from now, which should be about as long as a job takes to
    /// become useful. Of what is measured and all forecasts, what asks for the most jobs counts. Levels are not forecast.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the horizon is zero or more than a day, the forecast looks back over more than
    /// [`History::MAX_STEPS`] history steps, or there are more than [`Autoscaler::MAX_FORECASTS`].
    pub fn with_forecast(
        mut self,
        horizon: Duration,
        forecast: impl Forecast + 'static,
    ) -> Result<Self> {
        let (horizon_ms, lookback_ms) = (millis(horizon), millis(forecast.lookback()));
        let steps = lookback_ms / self.policy.history_step_ms();
        let most = u64::try_from(History::MAX_STEPS).unwrap_or(u64::MAX);
        let why = if !(1..=MAX_SPAN_MS).contains(&horizon_ms) {
            format!(
                "a horizon of {} cannot be: give 1 ms to a day",
                Span(horizon_ms)
            )
        } else if steps > most {
            format!(
                "it looks back over {steps} history steps, {most} are kept: make the steps longer"
            )
        } else if self.forecasts.len() >= Self::MAX_FORECASTS {
            format!("there are {} already", Self::MAX_FORECASTS)
        } else {
            self.lookback_ms = self.lookback_ms.max(lookback_ms);
            self.forecasts.push((horizon_ms, Box::new(forecast)));
            return Ok(self);
        };
        Err(Error::Invalid {
            what: format!("forecast {}", forecast.name()),
            why,
        })
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Decides. Call it at even intervals, shorter than the shortest window and period; 15 s is the custom.
    ///
    /// A pure function of its arguments: the same policy, state and observation give the same decision and the same state
    /// after it.
    #[must_use = "nothing happens before the group's count is written"]
    pub fn decide(&self, state: &mut State, seen: &Observation) -> Decision {
        let (policy, now_ms, from) = (&self.policy, seen.now_ms, seen.count);
        let within_policy = |count: u32| count.clamp(policy.minimum(), policy.maximum());
        state.at(now_ms);
        if state.peaks.extreme().is_none() {
            state.record_recommendation(policy, now_ms, within_policy(from));
        }
        state.record_count(policy, now_ms, from);
        let mut because = Vec::new();
        let asked = self.asked(state, seen, &mut because);
        let asked = cool_down(policy, state, seen, asked, &mut because);
        state.record_recommendation(policy, now_ms, within_policy(asked));
        let count = stabilise(policy, state, within_policy(asked), from, &mut because);
        let count = step(policy, state, now_ms, count, from, &mut because);
        let count = bound(policy, now_ms, (asked, count), &mut because);
        state.record_count(policy, now_ms, count);
        Decision {
            count,
            from,
            because,
        }
    }

    /// What targets and forecasts ask for.
    fn asked(&self, state: &mut State, seen: &Observation, because: &mut Vec<Reason>) -> u32 {
        let (policy, from) = (&self.policy, seen.count);
        let mut most = None;
        let mut is_missing = false;
        let mut ignored = 0_u32;
        for target in policy.targets() {
            let read = read(target, policy, seen);
            ignored = ignored.saturating_add(read.ignored);
            let Some(reading) = read.reading else {
                is_missing = true;
                let metric = target.metric.clone();
                because.push(Reason::Missing { metric });
                continue;
            };
            let count = count_for(reading.least..=reading.most, from, policy);
            most = most.max(Some(count));
            because.push(asked_by(target, &reading, count));
            if let Some(demand) = reading.demand.filter(|_| !self.forecasts.is_empty()) {
                let history = state
                    .demand
                    .entry(state::key(&target.metric, target.measure));
                let (step_ms, span_ms) = (policy.history_step_ms(), self.lookback_ms);
                history
                    .or_default()
                    .record(seen.now_ms, demand, step_ms, span_ms);
            }
        }
        if ignored > 0 {
            state.ignored = state.ignored.saturating_add(u64::from(ignored));
            because.push(Reason::Ignored { samples: ignored });
        }
        if policy.targets().is_empty() {
            because.push(Reason::NoTarget);
            return policy.minimum();
        }
        let mut asked = most.unwrap_or(from);
        if is_missing {
            asked = asked.max(from);
        }
        self.expected(state, seen, asked, because)
    }

    /// What forecasts ask for, if it is more.
    fn expected(
        &self,
        state: &State,
        seen: &Observation,
        mut asked: u32,
        because: &mut Vec<Reason>,
    ) -> u32 {
        for (horizon_ms, forecast) in &self.forecasts {
            let at_ms = seen.now_ms.saturating_add(*horizon_ms);
            for target in self.policy.targets() {
                let history = state.demand(&target.metric, target.measure);
                let demand = history.and_then(|known| forecast.expect(known, seen.now_ms, at_ms));
                let Some(demand) = demand.filter(|demand| demand.is_finite() && *demand >= 0.0)
                else {
                    continue;
                };
                let jobs = demand / target.value;
                let count = count_for(jobs..=jobs, seen.count, &self.policy);
                if count > asked {
                    asked = count;
                    because.push(Reason::Forecast {
                        forecast: forecast.name().to_owned(),
                        metric: target.metric.clone(),
                        horizon_ms: *horizon_ms,
                        demand,
                        count,
                    });
                }
            }
        }
        asked
    }
}

fn asked_by(target: &Target, reading: &Reading, count: u32) -> Reason {
    Reason::Asked {
        metric: target.metric.clone(),
        measure: target.measure,
        value: reading.value,
        target: target.value,
        count,
        unknown: reading.unknown,
    }
}

/// What a recent deployment leaves of what is asked for.
fn cool_down(
    policy: &Policy,
    state: &mut State,
    seen: &Observation,
    asked: u32,
    because: &mut Vec<Reason>,
) -> u32 {
    let told = seen.deployed_ms.map(|ms| ms.min(seen.now_ms));
    state.deployed_ms = state.deployed_ms.max(told);
    let Some(deployed_ms) = state.deployed_ms else {
        return asked;
    };
    let (until_ms, holds) = policy.cooldown(deployed_ms);
    let held = match holds {
        _ if seen.now_ms >= until_ms => asked,
        Cooldown::Down => asked.max(seen.count),
        Cooldown::Both => seen.count,
    };
    if held != asked {
        let ago_ms = seen.now_ms - deployed_ms;
        because.push(Reason::Deployed { ago_ms, holds });
    }
    held
}

/// Not below the highest recommendation of the window down, nor above the lowest of the window up.
fn stabilise(
    policy: &Policy,
    state: &State,
    asked: u32,
    from: u32,
    because: &mut Vec<Reason>,
) -> u32 {
    let peak = state.peaks.extreme().unwrap_or(asked);
    let trough = state.troughs.extreme().unwrap_or(asked);
    let count = if from < trough {
        trough
    } else if from > peak {
        peak
    } else {
        from
    };
    if asked < count {
        let window_ms = policy.down().window_ms;
        because.push(Reason::Peak {
            count: peak,
            window_ms,
        });
    } else if asked > count {
        let window_ms = policy.up().window_ms;
        because.push(Reason::Trough {
            count: trough,
            window_ms,
        });
    }
    count
}

/// No faster than the step limits allow. A limit never turns a count back.
fn step(
    policy: &Policy,
    state: &State,
    now_ms: u64,
    wanted: u32,
    from: u32,
    because: &mut Vec<Reason>,
) -> u32 {
    let (limit, count) = if wanted > from {
        let limit = policy.up().highest(&state.counts, now_ms, from);
        (
            limit,
            limit.map_or(wanted, |l| wanted.min(l.count.max(from))),
        )
    } else if wanted < from {
        let limit = policy.down().lowest(&state.counts, now_ms, from);
        (
            limit,
            limit.map_or(wanted, |l| wanted.max(l.count.min(from))),
        )
    } else {
        (None, wanted)
    };
    if let Some(limit) = limit.filter(|_| count != wanted) {
        because.push(Reason::Step {
            count,
            limit: limit.step,
        });
    }
    count
}

/// Within the bounds of the moment. They are orders: neither windows nor steps delay them.
fn bound(
    policy: &Policy,
    now_ms: u64,
    (asked, count): (u32, u32),
    because: &mut Vec<Reason>,
) -> u32 {
    let bounds = policy.bounds(now_ms);
    let (floor, by_floor) = bounds.floor;
    let (ceiling, by_ceiling) = bounds.ceiling;
    if count < floor || asked < floor && count == floor {
        let schedule = by_floor.map(ToOwned::to_owned);
        because.push(Reason::Floor {
            count: floor,
            schedule,
        });
    } else if count > ceiling || asked > ceiling && count == ceiling {
        let schedule = by_ceiling.map(ToOwned::to_owned);
        because.push(Reason::Ceiling {
            count: ceiling,
            schedule,
        });
    }
    count.clamp(floor, ceiling)
}
