//! Who must go from reserved room because they stayed longer than they said, and its holder is there.
//!
//! ```text
//!   expected end        reservation begins     the holder finds no room
//!        │                      │                        │
//!  ──────┴──────────────────────┴────────────────────────┴──► the job is evicted, the least important first
//!        └─ it stays on: nobody needs the room yet ──────┘
//! ```
//!
//! A job that was lent the room until a reservation begins ([`JobSpec::expected`](crate::JobSpec::expected)) may be
//! wrong about its length. While nobody needs the room it is left alone. When the reservation has begun and its holder
//! has a job that fits nowhere, as many go as that job needs: on the host where the most important of them matters
//! least, of these where they are the fewest. The reservation is a promise, so their priority does not protect them; the
//! [`Budget`] of their group does, and jobs of the system go for the system only.

use std::collections::BTreeMap;

use crate::{
    Budget, ClusterState, Eviction, Group, GroupId, HostId, HostState, Job, JobId, Overstay,
    Partition, Reservation, ReservationId, transaction::Change,
};

use super::{
    end_ms,
    timeline::{Amounts, Timeline},
};

/// How a holder comes to its room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reclaimed {
    /// For how many of its jobs the room that is reserved for it will be there when everything has stopped that was told
    /// to, those that are to go now included.
    pub coming: usize,
    /// Who is to go, and from whose room.
    pub overstayed: Vec<(JobId, ReservationId)>,
    /// When to look again, in milliseconds since the Unix epoch: a reservation begins, or a job in the room of one
    /// should have ended.
    pub look_again_ms: Option<u64>,
}

impl Reclaimed {
    /// The changes that tell them to go, for the holder's group.
    pub fn evictions(&self, group: &Group, now_ms: u64) -> impl Iterator<Item = Change> + use<'_> {
        let by = group.id.clone();
        let evict = move |(job, reservation): &(JobId, ReservationId)| Change::Evict {
            job: job.clone(),
            why: Eviction::Overstayed(Box::new(Overstay {
                by: by.clone(),
                reservation: reservation.clone(),
                at_ms: now_ms,
            })),
        };
        self.overstayed.iter().map(evict)
    }
}

/// Finds who must go so that `wanted` more jobs of the group, which fit nowhere now, find the room that is reserved for
/// them at `now_ms` (milliseconds since the Unix epoch); on this host, or on any.
///
/// Looks at the hosts that the group's reservations name, for each job that is to go at all jobs there; at nothing in a
/// cell without reservations.
#[must_use]
pub fn reclaim(
    state: &ClusterState,
    group: &Group,
    on: Option<&HostId>,
    wanted: usize,
    now_ms: u64,
) -> Reclaimed {
    let mut reclaimed = Reclaimed::default();
    if wanted == 0 || state.reservations().len() == 0 {
        return reclaimed;
    }
    let mut budgets = Budgets {
        state,
        known: BTreeMap::new(),
    };
    let mut rooms: Vec<Room<'_>> = Vec::new();
    for id in state.reserved_hosts() {
        let host = state.host(id).filter(|host| {
            let is_meant = on.is_none_or(|on| on == id);
            is_meant && host.is_schedulable() && group.belongs_on(&host.host)
        });
        let Some(host) = host else {
            continue;
        };
        look_again(&mut reclaimed, state, group, host, now_ms);
        rooms.extend(Room::of(state, group, host, wanted, now_ms));
    }
    reclaimed.coming = rooms.iter().map(|room| room.coming).sum();
    let mut plans: Vec<Option<Vec<&Job>>> = rooms
        .iter()
        .map(|room| room.one_more(&mut budgets))
        .collect();
    while reclaimed.coming < wanted {
        let cost = |victims: &Vec<&Job>| {
            let priorities = victims.iter().map(|job| priority(state, job));
            (priorities.max(), victims.len())
        };
        let cheapest = (0..rooms.len())
            .filter_map(|n| Some((cost(plans[n].as_ref()?), n)))
            .min();
        let Some((_, n)) = cheapest else {
            break;
        };
        let victims = plans[n].take().unwrap_or_default();
        // Another host's victims may have used up what their groups can do without.
        if budgets.take(&victims) {
            let room = &mut rooms[n];
            let from = room.reservation.id.clone();
            let ids = victims.iter().map(|job| (job.id.clone(), from.clone()));
            reclaimed.overstayed.extend(ids);
            room.gone.extend(victims.into_iter().map(|job| &job.id));
            room.coming += 1;
            reclaimed.coming += 1;
        }
        plans[n] = rooms[n].one_more(&mut budgets);
    }
    reclaimed
}

/// Notes when more could be reclaimed on this host.
fn look_again(
    reclaimed: &mut Reclaimed,
    state: &ClusterState,
    group: &Group,
    host: &HostState,
    now_ms: u64,
) {
    let id = &host.host.id;
    let mine = state.reservations_on(id).filter(|reservation| {
        reservation.holder.matches(&group.id) && reservation.until_ms > now_ms
    });
    let begins: Vec<u64> = mine.map(|reservation| reservation.from_ms).collect();
    let Some(first) = begins.iter().min() else {
        return;
    };
    let ends = state
        .jobs_on(id)
        .filter(|job| !job.is_stopping && !job.status.phase.is_final())
        .map(|job| end_ms(job.placed_at_ms, &job.spec).max(*first))
        .filter(|end| *end < u64::MAX);
    let next = begins.iter().copied().chain(ends).filter(|ms| *ms > now_ms);
    reclaimed.look_again_ms = next.chain(reclaimed.look_again_ms).min();
}

/// One host on which room is held for the group now.
struct Room<'s> {
    state: &'s ClusterState,
    group: &'s Group,
    host: &'s HostState,
    reservation: &'s Reservation,
    most: usize,
    now_ms: u64,
    /// For how many of the group's jobs there will be room.
    coming: usize,
    /// Who is to go.
    gone: Vec<&'s JobId>,
}

impl<'s> Room<'s> {
    fn of(
        state: &'s ClusterState,
        group: &'s Group,
        host: &'s HostState,
        most: usize,
        now_ms: u64,
    ) -> Option<Self> {
        let mut here = state.reservations_on(&host.host.id);
        let reservation = here.find(|reservation| {
            reservation.holder.matches(&group.id) && reservation.is_active(now_ms)
        })?;
        let mut room = Self {
            state,
            group,
            host,
            reservation,
            most,
            now_ms,
            coming: 0,
            gone: Vec::new(),
        };
        // Where there is room already and the job was not placed, it is not room that lacks.
        let is_room_lacking = room.times(&|_| false) == 0;
        room.coming = room.times(&|job| room.is_going(job));
        is_room_lacking.then_some(room)
    }

    fn is_going(&self, job: &Job) -> bool {
        job.is_stopping || self.gone.contains(&&job.id)
    }

    /// How many of the group's jobs have room, of that which is held for it, once these are gone.
    fn times(&self, is_gone: &dyn Fn(&Job) -> bool) -> usize {
        let timeline = Timeline::of(self.state, self.host, self.now_ms).without_jobs(is_gone);
        let spec = &self.group.spec;
        let need = Amounts::of(&spec.request, &spec.named);
        let end = end_ms(self.now_ms, spec);
        let most = u32::try_from(self.most).unwrap_or(u32::MAX);
        let rooms = [
            timeline.held_for(&self.group.id, self.now_ms),
            timeline.free_at(self.now_ms),
            timeline.room_for(&self.group.id, self.now_ms, end),
        ];
        let times = rooms.iter().map(|room| room.times(&need, most));
        usize::try_from(times.min().unwrap_or_default()).unwrap_or(usize::MAX)
    }

    /// Who must go for one more job; `None` if that does not help, or may not be.
    fn one_more(&self, budgets: &mut Budgets<'s>) -> Option<Vec<&'s Job>> {
        let mut overdue: Vec<&'s Job> = self
            .state
            .jobs_on(&self.host.host.id)
            .map(AsRef::as_ref)
            .filter(|job| !self.is_going(job) && self.may_go(job))
            .collect();
        let end = |job: &Job| end_ms(job.placed_at_ms, &job.spec);
        overdue.sort_by_key(|job| (priority(self.state, job), end(job)));
        let mut victims: Vec<&'s Job> = Vec::new();
        let wanted = self.coming + 1;
        let suffices = |victims: &[&Job]| {
            let is_gone =
                |job: &Job| self.is_going(job) || victims.iter().any(|victim| victim.id == job.id);
            self.times(&is_gone) >= wanted
        };
        if !suffices(&overdue) {
            return None;
        }
        let mut overdue = overdue.into_iter();
        while !suffices(&victims) {
            let next = overdue.find(|job| {
                let mut with: Vec<&Job> = victims.clone();
                with.push(job);
                budgets.allow(&with)
            })?;
            victims.push(next);
        }
        // Of those that were taken on the way some may be needless, the most important first.
        for n in (0..victims.len()).rev() {
            let spared = victims.remove(n);
            if !suffices(&victims) {
                victims.insert(n, spared);
            }
        }
        Some(victims)
    }

    fn may_go(&self, job: &Job) -> bool {
        let is_protected = job.spec.partition == Partition::System
            && self.group.spec.partition != Partition::System;
        !is_protected
            && self
                .state
                .has_overstayed(job, self.reservation, self.now_ms)
    }
}

impl ClusterState {
    /// Is the job in the way of this reservation although it should have ended: not its holder's, nor in room that is
    /// reserved for its own group?
    pub(crate) fn has_overstayed(&self, job: &Job, reservation: &Reservation, at_ms: u64) -> bool {
        let is_its_own = || {
            self.reservations_on(&job.host)
                .any(|other| other.is_active(at_ms) && other.holder.matches(&job.group))
        };
        !job.status.phase.is_final()
            && reservation.is_active(at_ms)
            && reservation.claims.contains_key(&job.host)
            && end_ms(job.placed_at_ms, &job.spec) <= at_ms
            && !is_its_own()
    }
}

fn priority(state: &ClusterState, job: &Job) -> u8 {
    state.group(&job.group).map_or(0, |group| group.priority)
}

/// What groups can do without, less what is to go already.
struct Budgets<'s> {
    state: &'s ClusterState,
    known: BTreeMap<&'s GroupId, Budget>,
}

impl<'s> Budgets<'s> {
    fn after(&mut self, victims: &[&Job]) -> Option<Vec<(&'s GroupId, Budget)>> {
        let state = self.state;
        let mut after: Vec<(&'s GroupId, Budget)> = Vec::new();
        for job in victims {
            // Without a group, nobody counts on it.
            let Some(group) = state.group(&job.group) else {
                continue;
            };
            let n = match after.iter().position(|(known, _)| **known == group.id) {
                Some(n) => n,
                None => {
                    let known = self.known.entry(&group.id);
                    let budget = *known.or_insert_with(|| Budget::of(state, group));
                    after.push((&group.id, budget));
                    after.len() - 1
                }
            };
            let (_, budget) = &mut after[n];
            if !budget.allows(state, job) {
                return None;
            }
            budget.take(state, job);
        }
        Some(after)
    }

    fn allow(&mut self, victims: &[&Job]) -> bool {
        self.after(victims).is_some()
    }

    fn take(&mut self, victims: &[&Job]) -> bool {
        let after = self.after(victims);
        let is_allowed = after.is_some();
        self.known.extend(after.into_iter().flatten());
        is_allowed
    }
}
