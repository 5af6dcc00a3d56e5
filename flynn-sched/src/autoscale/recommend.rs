//! What a target asks for, before windows, steps and bounds.

use std::ops::RangeInclusive;

use super::{Measure, Observation, Policy, Target, observation::JobSample};

/// What the samples of one target say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    /// What is compared with the target.
    pub(super) value: f64,
    /// The demand in jobs: at least, and at most.
    pub(super) least: f64,
    pub(super) most: f64,
    /// The demand in the metric's own unit, where it can be summed.
    pub(super) demand: Option<f64>,
    /// For how many jobs there was no sample that counts.
    pub(super) unknown: u32,
}

/// What became of the samples of one target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Read {
    /// `None`: no sample counts.
    pub(super) reading: Option<Reading>,
    /// Samples that make no sense.
    pub(super) ignored: u32,
}

/// Reads the samples of a target.
///
/// Jobs without a sample that counts are taken for idle when the count would be raised and for busy up to the target when
/// it would be lowered, as Kubernetes does: demand is then known only as a range.
pub(super) fn read(target: &Target, policy: &Policy, seen: &Observation) -> Read {
    match target.measure {
        Measure::Average => average(target, policy, seen),
        Measure::Total | Measure::Level => whole(target, policy, seen),
    }
}

fn average(target: &Target, policy: &Policy, seen: &Observation) -> Read {
    let samples = seen.jobs.get(&target.metric);
    let (mut ignored, mut ready, mut warming, mut sum) = (0_u32, 0_u32, 0_u32, 0.0);
    for sample in samples.into_iter().flat_map(|samples| samples.values()) {
        match judge(sample.value, sample.at_ms, policy, seen) {
            Verdict::Counts if is_warm(sample, policy) => {
                ready = ready.saturating_add(1);
                sum += sample.value;
            }
            Verdict::Counts => warming = warming.saturating_add(1),
            Verdict::Stale => {}
            Verdict::Absurd => ignored = ignored.saturating_add(1),
        }
    }
    if ready == 0 {
        return Read {
            reading: None,
            ignored,
        };
    }
    // Finite samples may have an infinite sum.
    let sum = f64::min(sum, f64::MAX);
    let value = sum / f64::from(ready);
    let unknown = seen.count.saturating_sub(ready);
    let mut least = sum / target.value;
    // A job that merely idles is no reason to keep the last job: if that may go, totals decide.
    let can_go = policy.minimum() == 0 && least < 1.0 - policy.down().tolerance;
    if can_go && unknown == 0 {
        least = 0.0;
    }
    // Those that warm up do no work yet; the others do as much as their siblings.
    let silent = unknown.saturating_sub(warming);
    let reading = Reading {
        value,
        least,
        most: least + f64::from(unknown),
        demand: Some(f64::min(sum + value * f64::from(silent), f64::MAX)),
        unknown,
    };
    Read {
        reading: Some(reading),
        ignored,
    }
}

fn whole(target: &Target, policy: &Policy, seen: &Observation) -> Read {
    let Some(&(value, at_ms)) = seen.totals.get(&target.metric) else {
        return Read {
            reading: None,
            ignored: 0,
        };
    };
    let verdict = judge(value, at_ms, policy, seen);
    let share = value / target.value;
    let jobs = match target.measure {
        Measure::Total if value <= target.activation => Some(0.0),
        // Something is to be done: rounded up, by one job at least.
        Measure::Total => Some(share.max(f64::MIN_POSITIVE)),
        Measure::Average | Measure::Level if seen.count == 0 => None,
        Measure::Average | Measure::Level => Some(share * f64::from(seen.count)),
    };
    let reading = jobs
        .filter(|_| verdict == Verdict::Counts)
        .map(|jobs| Reading {
            value,
            least: jobs,
            most: jobs,
            demand: (target.measure == Measure::Total).then_some(value),
            unknown: 0,
        });
    Read {
        reading,
        ignored: u32::from(verdict == Verdict::Absurd),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Counts,
    Stale,
    Absurd,
}

fn judge(value: f64, at_ms: u64, policy: &Policy, seen: &Observation) -> Verdict {
    let age = policy.max_age_ms();
    if !value.is_finite() || value < 0.0 || at_ms > seen.now_ms.saturating_add(age) {
        Verdict::Absurd
    } else if at_ms.saturating_add(age) < seen.now_ms {
        Verdict::Stale
    } else {
        Verdict::Counts
    }
}

fn is_warm(sample: &JobSample, policy: &Policy) -> bool {
    sample
        .ready_since_ms
        .is_some_and(|since| since.saturating_add(policy.warm_up_ms()) <= sample.at_ms)
}

/// The count for a demand of this many jobs; the present one if it is within the tolerances or the range.
pub(super) fn count_for(demand: RangeInclusive<f64>, from: u32, policy: &Policy) -> u32 {
    let present = f64::from(from);
    if *demand.start() > present * (1.0 + policy.up().tolerance) {
        whole_jobs(*demand.start()).max(from)
    } else if *demand.end() < present * (1.0 - policy.down().tolerance) {
        whole_jobs(*demand.end()).min(from)
    } else {
        from
    }
}

/// Rounds up; what is above a whole number only by the error of the arithmetic is not.
#[expect(clippy::cast_possible_truncation, reason = "a float's cast saturates")]
#[expect(clippy::cast_sign_loss, reason = "demand is never negative")]
fn whole_jobs(demand: f64) -> u32 {
    (demand * (1.0 - 1e-9)).ceil() as u32
}
