//! `count` copies of a job somewhere: start what is missing, stop what is too much, move what must leave.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Budget, ClusterState, Group, GroupStatus, Job, JobId, Phase,
    clock::millis,
    placement::Need,
    scheduler::{
        Context, Round, ServiceScheduler,
        backoff::{Held, how_it_ended},
        making_room::Seats,
        roster::{Roster, by_expendability, must_leave},
    },
    transaction::Change,
};

/// Proposes what brings the group nearer to `count`.
pub(super) fn schedule(
    scheduler: &ServiceScheduler,
    round: &mut Round<'_>,
    group: &Arc<Group>,
    count: u32,
    context: &mut Context<'_>,
) {
    let state = round.state;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut roster = Roster::of(state, group, millis(scheduler.lost_grace), context);
    roster.let_go(&round.going);
    let mut changes = Vec::new();

    stop_surplus(scheduler, state, &roster, count, context, &mut changes);
    release_leaving(state, &roster, count, &mut changes);
    scheduler.clear_lost(state, &roster, count == 0, context, &mut changes);
    changes.extend(roster.trim(scheduler.history));

    let missing = count.saturating_sub(roster.staying.len());
    changes.extend(roster.forget_displaced(missing));
    let mut seats = round.making_room.seats(group, context);
    let (placed, blocked) = if missing > 0 {
        let mut starting = Starting {
            scheduler,
            round,
            group,
            roster: &roster,
            seats: &mut seats,
            changes: &mut changes,
        };
        starting.start(missing, context)
    } else {
        seats.limit(0);
        (0, None)
    };
    let status = GroupStatus {
        missing: u32::try_from(missing - placed).unwrap_or(u32::MAX),
        blocked,
        nominated: round.making_room.keep(group, seats),
        ..GroupStatus::default()
    };
    changes.extend(round.note(group, status, context.now_ms()));
    round.propose(group, changes);
}

/// Starts missing jobs of a group.
struct Starting<'a, 's> {
    scheduler: &'a ServiceScheduler,
    round: &'a mut Round<'s>,
    group: &'a Arc<Group>,
    roster: &'a Roster<'s>,
    seats: &'a mut Seats,
    changes: &'a mut Vec<Change>,
}

impl Starting<'_, '_> {
    /// Places missing jobs; says how many it placed, and why not all.
    fn start(&mut self, missing: usize, context: &mut Context<'_>) -> (usize, Option<String>) {
        let (scheduler, group, roster) = (self.scheduler, self.group, self.roster);
        let held = scheduler
            .backoff
            .held(roster.failures(group), context.now_ms());
        let wanted = missing.saturating_sub(held.count);
        let (placed, mut blocked) = if wanted > 0 {
            self.place(wanted, context)
        } else {
            self.seats.limit(0);
            (0, None)
        };
        if missing > wanted {
            held.until_ms.into_iter().for_each(|ms| context.wake_at(ms));
            blocked = blocked.or_else(|| Some(describe(&held, roster, group)));
        }
        (placed, blocked)
    }

    fn place(&mut self, wanted: usize, context: &mut Context<'_>) -> (usize, Option<String>) {
        let (scheduler, group, state) = (self.scheduler, self.group, self.round.state);
        let mut tally = self.round.board_for(group).tally(state, &group.id);
        let need = Need::new(&group.id, &group.spec).at(context.now_ms());
        for placed in 0..wanted {
            if let Some(why) = self.round.ledger.exceeded(&group.spec) {
                self.seats.limit(0);
                return (placed, Some(why));
            }
            let board = self.round.board_for(group);
            let Some(host) = scheduler.placer.place(&need, board, &mut tally) else {
                let why = scheduler.placer.why_in_short(&need, board, &tally);
                let why = self.round.reason(group, why);
                let lacking = wanted - placed;
                let blocked = self.make_room(lacking, why, context);
                self.give_up(lacking);
                return (placed, Some(blocked));
            };
            self.seats.take(&host);
            let job = context.new_job(group, host);
            self.round.count(&job);
            self.changes.push(Change::Start(Arc::new(job)));
        }
        self.seats.limit(0);
        (wanted, None)
    }

    /// Frees what is reserved for jobs that no host can take, or preempts what is less important; says why they are not
    /// placed.
    fn make_room(&mut self, lacking: usize, mut why: String, context: &mut Context<'_>) -> String {
        let (group, roster) = (self.group, self.roster);
        let told = (&mut *self.changes, &mut why);
        let coming = self.round.reclaim(group, None, lacking, told, context);
        let lacking = lacking - coming;
        let Some(preemptor) = self.scheduler.preemptor.as_ref() else {
            self.seats.limit(0);
            return why;
        };
        if !preemptor.serves(group) {
            self.seats.limit(0);
            return why;
        }
        let patient = roster.preempted(lacking) + roster.movers(self.round.state, group);
        let wanted = lacking.saturating_sub(patient);
        self.seats.limit(wanted);
        let making = &mut self.round.making_room;
        let (evictions, no) = making.make_room(preemptor, group, None, wanted, self.seats, context);
        self.changes.extend(evictions);
        match no {
            Some(no) => format!("{why}; {no}"),
            None if self.seats.len() > 0 => self.seats.describe(),
            None => why,
        }
    }

    /// Lets jobs go from hosts that must be emptied although there is no room for them elsewhere, if their group says how
    /// many it can do without.
    fn give_up(&mut self, lacking: usize) {
        let (group, state) = (self.group, self.round.state);
        if group.max_unavailable.is_none() || self.seats.len() >= lacking {
            return;
        }
        let mut budget = Budget::of(state, group);
        let going: BTreeSet<&JobId> = self
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Stop(id) => Some(id),
                _ => None,
            })
            .collect();
        let mut stops = Vec::new();
        let mut leaving = self.roster.leaving.clone();
        by_expendability(state, &mut leaving);
        for job in leaving {
            if going.contains(&job.id) {
                budget.take(state, job);
            } else if stops.len() < lacking
                && must_leave(job, state.host(&job.host))
                && budget.allows(state, job)
            {
                budget.take(state, job);
                stops.push(stop(job));
            }
        }
        self.changes.extend(stops);
    }
}

/// Why failures hold jobs back. The text changes only with the failures, not with the time.
pub(super) fn describe(held: &Held, roster: &Roster<'_>, group: &Group) -> String {
    let last = roster.failures(group).last().map(how_it_ended);
    format!(
        "{} of its jobs ended by themselves lately, the last with: {}; the next is started after a delay",
        held.failures,
        last.unwrap_or_default()
    )
}

/// Stops what is more than `count`, the most expendable first.
fn stop_surplus(
    scheduler: &ServiceScheduler,
    state: &ClusterState,
    roster: &Roster<'_>,
    count: usize,
    context: &mut Context<'_>,
    changes: &mut Vec<Change>,
) {
    let surplus = roster.staying.len().saturating_sub(count);
    if surplus == 0 {
        return;
    }
    if count > 0 && awaits_confirmation(scheduler, state, &roster.staying, context) {
        return;
    }
    let mut staying = roster.staying.clone();
    by_expendability(state, &mut staying);
    changes.extend(staying[..surplus].iter().map(|job| stop(job)));
}

/// Is one of the jobs on a host that came back a moment ago and has not said yet how the job is? What the cell knows of
/// it may be long out of date; a healthy replacement must not be stopped for it.
fn awaits_confirmation(
    scheduler: &ServiceScheduler,
    state: &ClusterState,
    jobs: &[&Arc<Job>],
    context: &mut Context<'_>,
) -> bool {
    let now_ms = context.now_ms();
    let ends = jobs.iter().filter_map(|job| {
        let host = state.host(&job.host)?;
        let end = host.joined_ms.saturating_add(millis(scheduler.settle));
        let is_old = job.placed_at_ms < host.joined_ms;
        (is_old && now_ms < end && !state.is_confirmed(&job.id)).then_some(end)
    });
    let last = ends.max();
    last.into_iter().for_each(|end| context.wake_at(end));
    last.is_some()
}

/// Stops leaving jobs as far as those that stay are up in their place.
fn release_leaving(
    state: &ClusterState,
    roster: &Roster<'_>,
    count: usize,
    changes: &mut Vec<Change>,
) {
    let is_up = |job: &&&Arc<Job>| job.status.phase == Phase::Up;
    let (up, down): (Vec<_>, Vec<_>) = roster.leaving.iter().partition(is_up);
    let keep = count.saturating_sub(roster.staying.iter().filter(is_up).count());
    let mut up: Vec<&Arc<Job>> = up.into_iter().copied().collect();
    by_expendability(state, &mut up);
    let released = up.len().saturating_sub(keep);
    changes.extend(up[..released].iter().map(|job| stop(job)));
    if roster.staying.len() >= count {
        changes.extend(down.into_iter().map(|job| stop(job)));
    }
}

pub(super) fn stop(job: &Job) -> Change {
    Change::Stop(job.id.clone())
}
