//! Which of the hosts that can take a job is better.

use crate::placement::{Candidate, Need, Score};

/// Few jobs of the group on one host.
#[derive(Debug, Clone, Copy)]
pub struct SpreadHosts;

impl Score for SpreadHosts {
    fn name(&self) -> &'static str {
        "spread over hosts"
    }

    fn score(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        -f64::from(candidate.group_active)
    }
}

/// Few jobs of the group in one zone.
#[derive(Debug, Clone, Copy)]
pub struct SpreadZones;

impl Score for SpreadZones {
    fn name(&self) -> &'static str {
        "spread over zones"
    }

    fn score(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        -f64::from(candidate.group_in_zone)
    }
}

/// Away from hosts where jobs of the group failed.
#[derive(Debug, Clone, Copy)]
pub struct AvoidFailures;

impl Score for AvoidFailures {
    fn name(&self) -> &'static str {
        "avoid failures"
    }

    fn score(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        -f64::from(candidate.group_failed)
    }
}

/// Much room left on the host: load is even.
#[derive(Debug, Clone, Copy)]
pub struct LeastLoaded;

impl Score for LeastLoaded {
    fn name(&self) -> &'static str {
        "least loaded"
    }

    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        -load_with(need, candidate)
    }
}

/// Little room left on the host: other hosts stay free for large jobs.
#[derive(Debug, Clone, Copy)]
pub struct BinPack;

impl Score for BinPack {
    fn name(&self) -> &'static str {
        "bin-pack"
    }

    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        load_with(need, candidate)
    }
}

/// The share of the host's scarcest resource that would be promised, the job included.
fn load_with(need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
    let capacity = &candidate.host.capacity;
    let free_after = candidate.free.saturating_sub(&need.spec.request);
    capacity
        .saturating_sub(&free_after)
        .dominant_share(capacity)
}
