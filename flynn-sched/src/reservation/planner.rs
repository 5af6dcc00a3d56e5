//! Finds hosts and the earliest time for a reservation.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Claim, ClusterState, Constraint, Host, HostId, HostState, JobSpec, Jobs, Named, Reservation,
    ReservationId, Resources, Taint, TaintEffect, clock::millis,
};

use super::timeline::{Amounts, Timeline};

/// What is to be reserved: room for jobs side by side, for a time, some time.
#[derive(Debug, Clone)]
pub struct ReservationRequest<'a> {
    /// The id that the reservation is to have. If there is one with this id, it is replanned.
    pub id: ReservationId,
    /// Whose room it is to be.
    pub holder: Jobs,
    /// For how many jobs at once; 1 to [`MAX_COUNT`](Self::MAX_COUNT). Jobs of the holder that run already are among
    /// them where they run.
    pub count: u32,
    /// What each of them needs and where it may run. What it says of its neighbours is not looked at: they will have
    /// changed by then. Nor are its ports.
    pub spec: &'a JobSpec,
    /// The earliest time to begin, in milliseconds since the Unix epoch.
    pub from_ms: u64,
    /// How long it is to last.
    pub lasting: Duration,
    /// The latest time to begin, in milliseconds since the Unix epoch.
    pub latest_ms: u64,
}

impl ReservationRequest<'_> {
    /// For how many jobs one reservation can be planned.
    pub const MAX_COUNT: u32 = 100_000;

    /// What is wrong with it in itself.
    fn fault(&self) -> Option<String> {
        if self.lasting.as_millis() == 0 {
            return Some("it is to last no time: give it at least a millisecond".to_owned());
        }
        if !(1..=Self::MAX_COUNT).contains(&self.count) {
            return Some(format!(
                "it is for {} jobs: ask for 1 to {}",
                self.count,
                Self::MAX_COUNT
            ));
        }
        if self.spec.request == Resources::default() && self.spec.named.is_empty() {
            return Some("its jobs need nothing: say what they request".to_owned());
        }
        if self.latest_ms < self.from_ms {
            return Some(format!(
                "it is to begin by {} ms, which is before {} ms, its earliest time",
                self.latest_ms, self.from_ms
            ));
        }
        None
    }
}

/// Why nothing could be reserved, and how near it came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
#[non_exhaustive]
pub struct Unreservable {
    /// In a sentence.
    pub why: String,
    /// For how many jobs there is room at once, at the best time.
    pub most: u32,
}

/// Plans a reservation: the earliest time, at or after `from_ms` and now, at which there is room for all jobs for as long
/// as it is to last; spread evenly over the hosts that have room then.
///
/// It goes by the expected ends of the jobs that run, as commits do: put the answer into a transaction with
/// [`Change::PutReservation`](crate::transaction::Change::PutReservation), and it is refused only if the cell has moved
/// on. On a host with n jobs of known length and r reservations the search looks at n + 2r moments, and at n + r jobs and
/// claims for each.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use flynn_sched::{
///     ClusterState, GroupId, Host, HostId, JobSpec, Jobs, ReservationId, Resources, Transaction,
///     reservation::{ReservationRequest, reserve},
///     transaction::Change,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let capacity = Resources { cpu_millis: 4000, ..Resources::default() };
/// let state = ClusterState::default().host_joined(Host::new(HostId::parse("tick")?, capacity), 0)?;
/// // Room for three jobs of a core each, from 02:00 on, for an hour; by 06:00 at the latest.
/// let request = Resources { cpu_millis: 1000, ..Resources::default() };
/// let hour = 3_600_000;
/// let plan = reserve(
///     &state,
///     &ReservationRequest {
///         id: ReservationId::parse("nightly")?,
///         holder: Jobs::Group(GroupId::parse("report")?),
///         count: 3,
///         spec: &JobSpec { request, ..JobSpec::default() },
///         from_ms: 2 * hour,
///         lasting: Duration::from_secs(3600),
///         latest_ms: 6 * hour,
///     },
///     0, // now
/// )?;
/// assert_eq!((plan.from_ms, plan.until_ms), (2 * hour, 3 * hour));
/// let write = Transaction::on(&state).with(Change::PutReservation(Arc::new(plan)));
/// assert!(state.apply(&write)?.refused.is_empty());
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`Unreservable`] says in one sentence what was wrong with the request, or for how many there is room and what keeps
/// hosts away.
pub fn reserve(
    state: &ClusterState,
    request: &ReservationRequest<'_>,
    now_ms: u64,
) -> Result<Reservation, Unreservable> {
    let wrong = |why| Unreservable { why, most: 0 };
    if let Some(fault) = request.fault() {
        return Err(wrong(format!("reservation {}: {fault}", request.id)));
    }
    let from_ms = request.from_ms.max(now_ms);
    if request.latest_ms < from_ms {
        return Err(wrong(format!(
            "reservation {}: it is to begin by {} ms, and it is {now_ms} ms already",
            request.id, request.latest_ms
        )));
    }
    let mut away = Vec::new();
    let mut plans = Vec::new();
    for host in state.hosts() {
        match keeps_away(host, request.spec) {
            Some(why) => away.push((&host.host.id, why)),
            None => plans.push(HostPlan::of(state, host, request, from_ms, now_ms)),
        }
    }
    match earliest(&plans, request.count) {
        Ok((at_ms, counts)) => {
            let claims = spread(&plans, counts, request)?;
            Ok(Reservation {
                id: request.id.clone(),
                holder: request.holder.clone(),
                claims,
                from_ms: at_ms,
                until_ms: at_ms.saturating_add(millis(request.lasting)),
            })
        }
        Err((most, at_ms)) => Err(Unreservable {
            why: describe(request, from_ms, most, at_ms, plans.len(), &away),
            most,
        }),
    }
}

/// Why the host can take no job like this at any time, as far as it is known today.
fn keeps_away(host: &HostState, spec: &JobSpec) -> Option<String> {
    if host.lost_since_ms.is_some() {
        return Some("is lost".to_owned());
    }
    if host.host.is_draining {
        return Some("is draining".to_owned());
    }
    let host: &Host = &host.host;
    if let Some(taint) =
        Taint::untolerated(&host.taints, &spec.tolerations, TaintEffect::forbids_starts)
    {
        return Some(format!("has the taint {taint}"));
    }
    let whole = host.allocatable();
    if let Some(shortage) = whole.shortage(&spec.request) {
        return Some(format!("{shortage} when it is empty"));
    }
    if let Some(shortage) = host.named.shortage(&Named::default(), &spec.named) {
        return Some(format!("{shortage} when it is empty"));
    }
    let unmet = spec.constraints.iter().find(|c| !c.admits(host))?;
    Some(unmet.lack(host))
}

/// For how many jobs a host has room, depending on when they begin.
struct HostPlan<'s> {
    host: &'s HostId,
    /// From each of these times on, for this many; in order of time, the first at the request's beginning.
    steps: Vec<(u64, u32)>,
}

impl<'s> HostPlan<'s> {
    fn of(
        state: &'s ClusterState,
        host: &'s HostState,
        request: &ReservationRequest<'_>,
        from_ms: u64,
        now_ms: u64,
    ) -> Self {
        let timeline = Timeline::of(state, host, now_ms).without(&request.id);
        let lasting = millis(request.lasting);
        let need = Amounts::of(&request.spec.request, &request.spec.named);
        let is_single = request
            .spec
            .constraints
            .contains(&Constraint::DistinctHosts);
        let most = if is_single { 1 } else { request.count };
        // There is more room once something has ended, and less once a window of this length meets a reservation.
        let meets = |reservation: &Reservation| {
            let first = (reservation.from_ms + 1).saturating_sub(lasting);
            [first, reservation.until_ms]
        };
        let mut times: Vec<u64> = timeline
            .ends()
            .chain(timeline.reservations().flat_map(meets))
            .filter(|at_ms| from_ms < *at_ms && *at_ms <= request.latest_ms)
            .chain([from_ms])
            .collect();
        times.sort_unstable();
        times.dedup();
        let room = |at_ms: u64| {
            let until_ms = at_ms.saturating_add(lasting);
            let is_taken = timeline.reservations().len() >= Reservation::MAX_PER_HOST
                || timeline.rival(&request.holder, at_ms, until_ms).is_some();
            if is_taken {
                return 0;
            }
            timeline
                .room_for_claim(&request.holder, at_ms, until_ms)
                .times(&need, most)
        };
        let mut steps: Vec<(u64, u32)> = times.into_iter().map(|at| (at, room(at))).collect();
        steps.dedup_by_key(|(_, count)| *count);
        Self {
            host: &host.host.id,
            steps,
        }
    }
}

/// The earliest time at which there is room for `count` jobs, and for how many on each host then; or the most there is
/// room for, and when.
fn earliest(plans: &[HostPlan<'_>], count: u32) -> Result<(u64, Vec<u32>), (u32, u64)> {
    let mut events: Vec<(u64, usize, u32)> = Vec::new();
    for (at, plan) in plans.iter().enumerate() {
        events.extend(plan.steps.iter().map(|(ms, count)| (*ms, at, *count)));
    }
    events.sort_unstable();
    let mut counts = vec![0_u32; plans.len()];
    let mut sum = 0_u64;
    let mut best = (0_u64, 0_u64);
    for (n, (at_ms, host, room)) in events.iter().enumerate() {
        sum = sum - u64::from(counts[*host]) + u64::from(*room);
        counts[*host] = *room;
        let is_whole = events.get(n + 1).is_none_or(|(next, ..)| next != at_ms);
        if is_whole && sum >= u64::from(count) {
            return Ok((*at_ms, counts));
        }
        if is_whole && sum > best.0 {
            best = (sum, *at_ms);
        }
    }
    Err((u32::try_from(best.0).unwrap_or(u32::MAX), best.1))
}

/// One job to each host in turn, those with the most room first.
fn spread(
    plans: &[HostPlan<'_>],
    counts: Vec<u32>,
    request: &ReservationRequest<'_>,
) -> Result<BTreeMap<HostId, Claim>, Unreservable> {
    let mut rooms: Vec<(&HostId, u32, u32)> = plans
        .iter()
        .zip(counts)
        .filter(|(_, room)| *room > 0)
        .map(|(plan, room)| (plan.host, room, 0))
        .collect();
    rooms.sort_by_key(|(_, room, _)| std::cmp::Reverse(*room));
    rooms.truncate(Reservation::MAX_CLAIMS);
    let most = rooms.iter().map(|(_, room, _)| u64::from(*room)).sum();
    if u64::from(request.count) > most {
        return Err(Unreservable {
            why: format!(
                "reservation {}: {} jobs need more than {} hosts, and that is the most of one reservation: split it",
                request.id,
                request.count,
                Reservation::MAX_CLAIMS
            ),
            most: u32::try_from(most).unwrap_or(u32::MAX),
        });
    }
    let mut left = request.count;
    while left > 0 {
        for (_, room, taken) in &mut rooms {
            if left > 0 && *taken < *room {
                *taken += 1;
                left -= 1;
            }
        }
    }
    let claims = rooms.into_iter().filter(|(_, _, taken)| *taken > 0);
    let claims = claims.map(|(host, _, taken)| {
        let (resources, named) = Amounts::of(&request.spec.request, &request.spec.named)
            .scaled(taken)
            .clamped();
        (host.clone(), Claim { resources, named })
    });
    Ok(claims.collect())
}

fn describe(
    request: &ReservationRequest<'_>,
    from_ms: u64,
    most: u32,
    at_ms: u64,
    able: usize,
    away: &[(&HostId, String)],
) -> String {
    let mut why = format!(
        "reservation {}: at no time from {from_ms} to {} ms is there room for {} jobs",
        request.id, request.latest_ms, request.count
    );
    if most > 0 {
        why.push_str(&format!("; for {most} there is at {at_ms} ms"));
    }
    match away.first() {
        Some((host, reason)) => why.push_str(&format!(
            "; {} of {} hosts cannot take one: {host} {reason}",
            away.len(),
            able + away.len()
        )),
        None if able == 0 => why.push_str("; there are no hosts"),
        None => {}
    }
    why
}
