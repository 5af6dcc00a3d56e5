//! What is reserved is there: the load of a host at each moment to come, counted anew.

use std::collections::BTreeSet;

use flynn_sched::{ClusterState, Host, Job, Reservation};

use super::{is_meant, live};

/// At no moment from `now_ms` on is a host to bear more than it can: the jobs that are expected to be there, and for every
/// holder what it has reserved beyond what its jobs use. Jobs that stay longer than they said do not count after their
/// time, and no host has become smaller.
pub(crate) fn assert_reserved(state: &ClusterState, now_ms: u64) {
    for known in state.hosts() {
        let host = &known.host;
        let claiming: Vec<&Reservation> = state
            .reservations()
            .map(AsRef::as_ref)
            .filter(|reservation| reservation.claims.contains_key(&host.id))
            .collect();
        let jobs: Vec<&Job> = live(state)
            .into_iter()
            .map(AsRef::as_ref)
            .filter(|job| job.host == host.id)
            .collect();
        let borders = claiming.iter().flat_map(|r| [r.from_ms, r.until_ms]);
        let ends = jobs.iter().map(|job| end_ms(job));
        let moments: BTreeSet<u64> = borders.chain(ends).chain([now_ms]).collect();
        for at_ms in moments.range(now_ms..) {
            assert_bears(host, &jobs, &claiming, *at_ms);
        }
    }
}

fn assert_bears(host: &Host, jobs: &[&Job], claiming: &[&Reservation], at_ms: u64) {
    let there: Vec<&Job> = jobs
        .iter()
        .copied()
        .filter(|job| end_ms(job) > at_ms)
        .collect();
    let active: Vec<&Reservation> = claiming
        .iter()
        .copied()
        .filter(|reservation| reservation.from_ms <= at_ms && at_ms < reservation.until_ms)
        .collect();
    for what in ["cpu", "memory", "disk", "gpu"] {
        let used: u128 = there.iter().map(|job| asked(job, what)).sum();
        let mut held = 0;
        let mut holders = Vec::new();
        for reservation in &active {
            if holders.contains(&&reservation.holder) {
                continue;
            }
            holders.push(&reservation.holder);
            let same = active.iter().filter(|r| r.holder == reservation.holder);
            let claimed: u128 = same.map(|r| claimed(r, host, what)).sum();
            let theirs = there
                .iter()
                .filter(|job| is_meant(&reservation.holder, &job.group));
            let theirs: u128 = theirs.map(|job| asked(job, what)).sum();
            held += claimed.saturating_sub(theirs);
        }
        let most = capacity(host, what);
        assert!(
            used + held <= most,
            "{} at {at_ms} ms: {used} of {what} used and {held} held of {most}",
            host.id
        );
    }
}

fn end_ms(job: &Job) -> u64 {
    let expected = job.spec.expected.map(|expected| expected.as_millis());
    expected.map_or(u64::MAX, |expected| {
        job.placed_at_ms + u64::try_from(expected).unwrap()
    })
}

fn asked(job: &Job, what: &str) -> u128 {
    let request = &job.spec.request;
    u128::from(match what {
        "cpu" => request.cpu_millis,
        "memory" => request.memory_bytes,
        "disk" => request.disk_bytes,
        name => super::amount(job, name),
    })
}

fn claimed(reservation: &Reservation, host: &Host, what: &str) -> u128 {
    let claim = &reservation.claims[&host.id];
    u128::from(match what {
        "cpu" => claim.resources.cpu_millis,
        "memory" => claim.resources.memory_bytes,
        "disk" => claim.resources.disk_bytes,
        name => claim
            .named
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |(_, n)| n),
    })
}

fn capacity(host: &Host, what: &str) -> u128 {
    let (has, kept, ratio) = (&host.capacity, &host.reserved, &host.overcommit);
    let may = |has: u64, kept: u64, percent: u32| {
        u128::from(has.saturating_sub(kept)) * u128::from(percent) / 100
    };
    match what {
        "cpu" => may(has.cpu_millis, kept.cpu_millis, ratio.cpu_percent),
        "memory" => may(has.memory_bytes, kept.memory_bytes, ratio.memory_percent),
        "disk" => may(has.disk_bytes, kept.disk_bytes, ratio.disk_percent),
        name => u128::from(
            host.named
                .iter()
                .find(|(n, _)| *n == name)
                .map_or(0, |(_, n)| n),
        ),
    }
}
