//! What an autoscaler remembers between two decisions.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{History, Measure, Metric, Policy};

/// What an autoscaler remembers of one group: recent recommendations and counts, and the demand where something is
/// forecast. It is bounded, and serialisable: a leader that takes over reads it and carries on as if nothing had
/// happened.
///
/// The default knows nothing; the first decision takes the present count for what was recommended so far, as Kubernetes
/// does, so that a new leader without its predecessor's state lowers nothing at once.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub(super) last_ms: Option<u64>,
    /// The highest recommendations of the window down, the highest and oldest first.
    pub(super) peaks: Extremes,
    /// The lowest recommendations of the window up, the lowest and oldest first.
    pub(super) troughs: Extremes,
    pub(super) counts: Counts,
    pub(super) deployed_ms: Option<u64>,
    pub(super) demand: BTreeMap<String, History>,
    pub(super) ignored: u64,
}

impl State {
    /// How many samples were ignored since the beginning: not a number, infinite, negative, or from the future.
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// The demand for a metric that was seen so far, in its own unit and summed over the jobs; kept only where something
    /// is forecast.
    #[must_use]
    pub fn demand(&self, metric: &Metric, measure: Measure) -> Option<&History> {
        self.demand.get(&key(metric, measure))
    }

    /// The time of this decision: a clock that stepped back stands still for what is remembered, so that no window is
    /// lost.
    pub(super) fn at(&mut self, now_ms: u64) {
        if self.last_ms.is_some_and(|last| now_ms < last) {
            self.peaks.not_after(now_ms);
            self.troughs.not_after(now_ms);
            self.counts.not_after(now_ms);
            self.deployed_ms = self.deployed_ms.map(|ms| ms.min(now_ms));
        }
        self.last_ms = Some(now_ms);
    }

    pub(super) fn record_recommendation(&mut self, policy: &Policy, now_ms: u64, count: u32) {
        let (up, down) = (policy.up(), policy.down());
        self.peaks
            .record(now_ms, count, down.window_ms, |a, b| a >= b);
        self.troughs
            .record(now_ms, count, up.window_ms, |a, b| a <= b);
    }

    pub(super) fn record_count(&mut self, policy: &Policy, now_ms: u64, count: u32) {
        let (up, down) = (policy.up(), policy.down());
        let longest = up.longest_period_ms().max(down.longest_period_ms());
        self.counts.record(now_ms, count, longest);
    }
}

pub(super) fn key(metric: &Metric, measure: Measure) -> String {
    let measure = match measure {
        Measure::Average => "average",
        Measure::Total => "total",
        Measure::Level => "level",
    };
    format!("{measure} {metric}")
}

/// The recommendations of a window of which none is followed by a more extreme one: the first is the extreme of the
/// window. Times are kept to 1/128 of the window, so that there are never more than that; what is rounded stays a little
/// longer than the window, never shorter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Extremes(VecDeque<(u64, u32)>);

impl Extremes {
    fn record(&mut self, now_ms: u64, value: u32, window_ms: u64, beats: fn(u32, u32) -> bool) {
        let has_expired = |&(at, _): &(u64, u32)| at.saturating_add(window_ms) <= now_ms;
        while self.0.front().is_some_and(has_expired) || self.0.len() > MAX_EXTREMES {
            self.0.pop_front();
        }
        while self.0.back().is_some_and(|(_, old)| beats(value, *old)) {
            self.0.pop_back();
        }
        let width = (window_ms / 128).max(1);
        match self.0.back_mut() {
            // The older one counts for the new one's time too.
            Some(last) if last.0 / width == now_ms / width => last.0 = now_ms,
            _ => self.0.push_back((now_ms, value)),
        }
    }

    /// The extreme of the window.
    pub(super) fn extreme(&self) -> Option<u32> {
        self.0.front().map(|(_, value)| *value)
    }

    fn not_after(&mut self, now_ms: u64) {
        for (at, _) in &mut self.0 {
            *at = (*at).min(now_ms);
        }
    }
}

/// The counts that were in force, each until the next.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Counts(VecDeque<Stretch>);

/// From `since_ms` to the next stretch, the count was between `low` and `high`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Stretch {
    since_ms: u64,
    low: u32,
    high: u32,
}

impl Counts {
    pub(super) fn last(&self) -> Option<u32> {
        self.0.back().map(|stretch| stretch.high)
    }

    fn record(&mut self, now_ms: u64, count: u32, longest_ms: u64) {
        if self.last() != Some(count) {
            let (low, high) = (count, count);
            self.0.push_back(Stretch {
                since_ms: now_ms,
                low,
                high,
            });
        }
        // The first stretch ends where the second begins.
        while let Some(second) = self.0.get(1)
            && second.since_ms.saturating_add(longest_ms) <= now_ms
        {
            self.0.pop_front();
        }
        if self.0.len() > MAX_STRETCHES {
            self.thin();
        }
    }

    /// Joins the older half two by two: limits then hold a little longer than they must. The last stretch stays exact.
    fn thin(&mut self) {
        let older = self.0.len() / 2;
        let newer = self.0.split_off(older);
        let older: Vec<Stretch> = self.0.drain(..).collect();
        let join = |pair: &[Stretch]| Stretch {
            since_ms: pair[0].since_ms,
            low: pair.iter().map(|s| s.low).min().unwrap_or_default(),
            high: pair.iter().map(|s| s.high).max().unwrap_or_default(),
        };
        self.0.extend(older.chunks(2).map(join));
        self.0.extend(newer);
    }

    /// The stretches that reach into the last `period_ms`, the end of which is now.
    fn within(&self, now_ms: u64, period_ms: u64) -> impl Iterator<Item = &Stretch> {
        let ends = self.0.iter().skip(1).map(|next| next.since_ms).map(Some);
        self.0
            .iter()
            .zip(ends.chain([None]))
            .filter(move |(_, end)| end.is_none_or(|end| end.saturating_add(period_ms) > now_ms))
            .map(|(stretch, _)| stretch)
    }

    pub(super) fn lowest(&self, now_ms: u64, period_ms: u64) -> u32 {
        let lows = self.within(now_ms, period_ms).map(|stretch| stretch.low);
        lows.min().unwrap_or(u32::MAX)
    }

    pub(super) fn highest(&self, now_ms: u64, period_ms: u64) -> u32 {
        let highs = self.within(now_ms, period_ms).map(|stretch| stretch.high);
        highs.max().unwrap_or_default()
    }

    fn not_after(&mut self, now_ms: u64) {
        for stretch in &mut self.0 {
            stretch.since_ms = stretch.since_ms.min(now_ms);
        }
    }
}

/// One for each 1/128 of the window, and the two at its ends; more only come from a file that somebody wrote.
const MAX_EXTREMES: usize = 130;
/// How many stretches of counts are kept before the older ones are joined.
const MAX_STRETCHES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extreme_is_that_of_the_window_as_a_naive_list_says() {
        let (mut peaks, mut all) = (Extremes::default(), Vec::new());
        let mut seed = 7_u64;
        for step in 0..2_000_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = u32::try_from(seed >> 40).unwrap() % 50;
            // Every 10 s in a window of 10 min: rarer than the rounding.
            let now = step * 10_000;
            peaks.record(now, value, 600_000, |a, b| a >= b);
            all.push((now, value));
            let window = all.iter().filter(|(at, _)| at + 600_000 > now);
            assert_eq!(peaks.extreme(), window.map(|(_, value)| *value).max());
        }
    }

    #[test]
    fn however_often_it_is_asked_what_is_kept_is_bounded() {
        let (mut peaks, mut counts) = (Extremes::default(), Counts::default());
        for step in 0..100_000_u32 {
            let now = u64::from(step) * 7;
            peaks.record(now, 1_000_000 - step, 300_000, |a, b| a >= b);
            counts.record(now, step, 3_600_000);
            assert!(peaks.0.len() <= MAX_EXTREMES && counts.0.len() <= MAX_STRETCHES);
        }
        assert_eq!(
            counts.lowest(700_000, 3_600_000),
            0,
            "the limit still knows the beginning"
        );
        assert_eq!(counts.last(), Some(99_999));
    }
}
