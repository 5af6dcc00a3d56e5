//! Strict spreading, counted anew.

use std::collections::BTreeMap;

use flynn_sched::{ClusterState, Host, Job};

use super::{host_of, is_final};

/// A place as the judge names it.
fn place(over: &flynn_sched::Domain, host: &Host) -> Option<String> {
    match over {
        flynn_sched::Domain::Host => Some(host.id.to_string()),
        flynn_sched::Domain::Rack => host.rack.clone(),
        flynn_sched::Domain::Zone => host.zone.clone(),
        flynn_sched::Domain::Tag(key) => host.tags.get(key).cloned(),
        other => panic!("the judge does not know {other:?}"),
    }
}

/// Beside a job that has just started, no place that could take one like it is emptier than it may be. Only memory decides
/// which can.
pub(crate) fn assert_even(before: &ClusterState, started: &Job) {
    for wish in &started.spec.spread {
        let Some(most) = wish.max_skew else { continue };
        let mut counts: BTreeMap<Option<String>, (u32, bool)> = BTreeMap::new();
        for known in before.hosts() {
            let live = || {
                let here = before.jobs().filter(|job| job.host == known.host.id);
                here.filter(|job| !is_final(job.status.phase))
            };
            let used: u64 = live().map(|job| job.spec.request.memory_bytes).sum();
            let fits = used + started.spec.request.memory_bytes <= known.host.capacity.memory_bytes;
            let is_there = known.lost_since_ms.is_none() && !known.host.is_draining;
            let stays =
                live().filter(|job| is_there && job.group == started.group && !job.is_stopping);
            let entry = counts.entry(place(&wish.over, &known.host)).or_default();
            entry.0 += u32::try_from(stays.count()).unwrap();
            entry.1 |= fits && is_there;
        }
        let (there, _) = counts[&place(&wish.over, host_of(before, started))];
        let fewest = counts
            .values()
            .filter(|(_, fits)| *fits)
            .map(|(n, _)| *n)
            .min();
        let fewest = fewest.unwrap_or(there);
        assert!(
            there < fewest + most.max(1),
            "{} makes {:?} uneven: {there} beside {fewest}",
            started.id,
            wish.over
        );
    }
}
