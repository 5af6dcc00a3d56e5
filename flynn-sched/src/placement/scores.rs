//! Which of the hosts that can take a job is better. Every score is between 0 and 1 and means the same whatever other
//! hosts there are, so that weights can be reasoned about.

use crate::{
    Affinity, Domain, JobSpec, Spread, Taint, TaintEffect,
    placement::{Candidate, Need, Reads, Score},
};

/// Few jobs of the group on one host: 1 on a host without one, ½ beside one, ⅓ beside two.
#[derive(Debug, Clone, Copy)]
pub struct SpreadHosts;

impl Score for SpreadHosts {
    fn name(&self) -> &'static str {
        "spread over hosts"
    }

    fn reads(&self) -> Reads {
        Reads::Group
    }

    fn score(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        evenness(&Domain::Host, candidate)
    }
}

/// Few jobs of the group in one zone: 1 in the emptiest zone that can take the job, ½ in one that has one job more, ⅓ in
/// one that has two more.
#[derive(Debug, Clone, Copy)]
pub struct SpreadZones;

impl Score for SpreadZones {
    fn name(&self) -> &'static str {
        "spread over zones"
    }

    fn reads(&self) -> Reads {
        Reads::Place(Domain::Zone)
    }

    fn score(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        evenness(&Domain::Zone, candidate)
    }
}

/// Few jobs of the group in one rack, or on hosts with the same value of a tag; as [`SpreadZones`] otherwise.
#[derive(Debug, Clone)]
pub struct SpreadOver(
    /// What counts as a place.
    pub Domain,
);

impl Score for SpreadOver {
    fn name(&self) -> &'static str {
        "spread over places"
    }

    fn reads(&self) -> Reads {
        Reads::Place(self.0.clone())
    }

    fn score(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        evenness(&self.0, candidate)
    }
}

/// What the job's [`spread`](JobSpec::spread) asks for, except over hosts: as [`SpreadZones`] for each, weighed as the
/// job says.
#[derive(Debug, Clone, Copy)]
pub struct AskedSpread;

impl Score for AskedSpread {
    fn name(&self) -> &'static str {
        "spread as asked"
    }

    fn reads(&self) -> Reads {
        Reads::Places
    }

    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        asked_spread(need.spec, candidate, |over| *over != Domain::Host)
    }
}

/// What the job's [`spread`](JobSpec::spread) asks for over hosts: the other part of [`AskedSpread`].
#[derive(Debug, Clone, Copy)]
pub struct AskedSpreadOverHosts;

impl Score for AskedSpreadOverHosts {
    fn name(&self) -> &'static str {
        "spread over hosts as asked"
    }

    fn reads(&self) -> Reads {
        Reads::Group
    }

    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        asked_spread(need.spec, candidate, |over| *over == Domain::Host)
    }
}

/// The job's [`affinities`](JobSpec::affinities) within racks, zones and tags: 1 if it is near all that it likes and away
/// from all that it dislikes, 0 if it is the other way round, and in between weighed as the job says.
#[derive(Debug, Clone, Copy)]
pub struct AffinitiesToPlaces;

impl Score for AffinitiesToPlaces {
    fn name(&self) -> &'static str {
        "affinity"
    }

    fn reads(&self) -> Reads {
        Reads::Places
    }

    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        affinity(need.spec, candidate, |within| *within != Domain::Host)
    }
}

/// The job's [`affinities`](JobSpec::affinities) on one host: the other part of [`AffinitiesToPlaces`].
#[derive(Debug, Clone, Copy)]
pub struct AffinitiesToHosts;

impl Score for AffinitiesToHosts {
    fn name(&self) -> &'static str {
        "affinity on the host"
    }

    fn reads(&self) -> Reads {
        Reads::Group
    }

    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        affinity(need.spec, candidate, |within| *within == Domain::Host)
    }
}

/// Away from hosts where jobs of the group failed: 1 where none did, ½ where one did, ⅓ where two did.
#[derive(Debug, Clone, Copy)]
pub struct AvoidFailures;

impl Score for AvoidFailures {
    fn name(&self) -> &'static str {
        "avoid failures"
    }

    fn reads(&self) -> Reads {
        Reads::Group
    }

    fn score(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        1.0 / (1.0 + f64::from(candidate.group_failed))
    }
}

/// Away from hosts with a taint that [prefers](TaintEffect::PreferNoSchedule) that and that the job does not tolerate: 0
/// there, 1 elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Untainted;

impl Score for Untainted {
    fn name(&self) -> &'static str {
        "untainted"
    }

    fn reads(&self) -> Reads {
        Reads::Host
    }

    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        let matters = |effect| effect == TaintEffect::PreferNoSchedule;
        let taint = Taint::untolerated(&candidate.host.taints, &need.spec.tolerations, matters);
        if taint.is_some() { 0.0 } else { 1.0 }
    }
}

/// Towards hosts that hold the job's files: the share of its artifacts (by SHA-256) and volumes that lie on the host
/// already; 0 for a job without any.
#[derive(Debug, Clone, Copy)]
pub struct Locality;

impl Score for Locality {
    fn name(&self) -> &'static str {
        "locality"
    }

    fn reads(&self) -> Reads {
        Reads::Files
    }

    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        if candidate.host.holds.is_empty() {
            return 0.0;
        }
        let (mut all, mut held) = (0_u32, 0_u32);
        for item in items(need.spec) {
            all += 1;
            held += u32::from(candidate.host.holds.contains(&item));
        }
        if all == 0 {
            0.0
        } else {
            f64::from(held) / f64::from(all)
        }
    }
}

/// Much room left on the host, so that load is even: the share of its scarcest resource that would be left.
#[derive(Debug, Clone, Copy)]
pub struct LeastLoaded;

impl Score for LeastLoaded {
    fn name(&self) -> &'static str {
        "least loaded"
    }

    fn reads(&self) -> Reads {
        Reads::Load
    }

    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        1.0 - load_with(need, candidate)
    }
}

/// Little room left on the host, so that others stay free for large jobs: the share of its scarcest resource that would
/// be promised.
#[derive(Debug, Clone, Copy)]
pub struct BinPack;

impl Score for BinPack {
    fn name(&self) -> &'static str {
        "bin-pack"
    }

    fn reads(&self) -> Reads {
        Reads::Load
    }

    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        load_with(need, candidate)
    }
}

/// Packs tighter than [`BinPack`]: the room that is left on the host has the shape of the request, so that no resource is
/// left without the others. It is the cosine of the angle between what is asked for and what is free, both as shares of
/// the host's room, and 0 for a host on which nothing is promised, so that it stays free for large jobs. (Grandl,
/// Ananthanarayanan, Kandula, Rao, Akella, "Multi-Resource Packing for Cluster Schedulers", SIGCOMM 2014.)
#[derive(Debug, Clone, Copy)]
pub struct Alignment;

impl Score for Alignment {
    fn name(&self) -> &'static str {
        "alignment"
    }

    fn reads(&self) -> Reads {
        Reads::Load
    }

    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        if candidate.free == candidate.room {
            return 0.0;
        }
        let asked = need.spec.request.shares(&candidate.room);
        let free = candidate.free.shares(&candidate.room);
        let dot = |a: &[f64; 3], b: &[f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
        let lengths = (dot(&asked, &asked) * dot(&free, &free)).sqrt();
        if lengths > 0.0 {
            dot(&asked, &free) / lengths
        } else {
            1.0
        }
    }
}

/// The share of the host's scarcest resource that would be promised, the job included.
fn load_with(need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
    let room = &candidate.room;
    let free_after = candidate.free.saturating_sub(&need.spec.request);
    room.saturating_sub(&free_after).dominant_share(room)
}

fn evenness(over: &Domain, candidate: &Candidate<'_>) -> f64 {
    let more = candidate
        .group_in(over)
        .saturating_sub(candidate.fewest_in(over));
    1.0 / (1.0 + f64::from(more))
}

fn asked_spread(
    spec: &JobSpec,
    candidate: &Candidate<'_>,
    is_meant: impl Fn(&Domain) -> bool,
) -> f64 {
    if spec.spread.is_empty() {
        return 0.0;
    }
    let weight = |spread: &Spread| f64::from(spread.weight);
    let all: f64 = spec.spread.iter().map(weight).sum();
    let meant = spec.spread.iter().filter(|spread| is_meant(&spread.over));
    let sum: f64 = meant
        .map(|spread| weight(spread) * evenness(&spread.over, candidate))
        .sum();
    if all > 0.0 { sum / all } else { 0.0 }
}

fn affinity(spec: &JobSpec, candidate: &Candidate<'_>, is_meant: impl Fn(&Domain) -> bool) -> f64 {
    if spec.affinities.is_empty() {
        return 0.0;
    }
    let strength = |wish: &Affinity| f64::from(wish.weight).abs();
    let all: f64 = spec.affinities.iter().map(strength).sum();
    let meant = spec.affinities.iter().filter(|wish| is_meant(&wish.within));
    let sum: f64 = meant
        .filter(|wish| candidate.has_near(&wish.to, &wish.within) == (wish.weight > 0))
        .map(strength)
        .sum();
    if all > 0.0 { sum / all } else { 0.0 }
}

/// What of a job may lie on a host already, as hosts name it.
pub(super) fn items(spec: &JobSpec) -> impl Iterator<Item = String> {
    let images = spec.artifacts.iter().filter_map(|artifact| {
        let sha256 = artifact.sha256.as_ref()?;
        Some(format!("image:{sha256}"))
    });
    let volumes = spec
        .volumes
        .iter()
        .map(|volume| format!("volume:{}/{}", volume.owner, volume.name));
    images.chain(volumes)
}
