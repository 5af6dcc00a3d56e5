//! `count` copies of a job somewhere: start what is missing, stop what is too much, move what must leave.

use std::sync::Arc;

use crate::{
    ClusterState, Group, GroupStatus, Job, Phase,
    clock::millis,
    placement::Need,
    scheduler::{
        Context, Round, ServiceScheduler,
        backoff::{Held, how_it_ended},
        roster::{Roster, by_expendability},
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
    let roster = Roster::of(state, group, millis(scheduler.lost_grace), context);
    let mut changes = Vec::new();

    stop_surplus(scheduler, state, &roster, count, context, &mut changes);
    release_leaving(state, &roster, count, &mut changes);
    scheduler.clear_lost(state, &roster, count == 0, context, &mut changes);
    changes.extend(roster.trim(scheduler.history));

    let missing = count.saturating_sub(roster.staying.len());
    let (placed, blocked) = if missing > 0 {
        start_missing(
            scheduler,
            round,
            group,
            &roster,
            missing,
            context,
            &mut changes,
        )
    } else {
        (0, None)
    };
    let status = GroupStatus {
        missing: u32::try_from(missing - placed).unwrap_or(u32::MAX),
        blocked,
        ..GroupStatus::default()
    };
    changes.extend(round.note(group, status, context.now_ms()));
    round.propose(group, changes);
}

/// Places missing jobs; says how many it placed, and why not all.
fn start_missing(
    scheduler: &ServiceScheduler,
    round: &mut Round<'_>,
    group: &Arc<Group>,
    roster: &Roster<'_>,
    missing: usize,
    context: &mut Context<'_>,
    changes: &mut Vec<Change>,
) -> (usize, Option<String>) {
    let state = round.state;
    let held = scheduler
        .backoff
        .held(roster.failures(group), context.now_ms());
    let wanted = missing.saturating_sub(held.count);
    let mut blocked = None;
    let mut placed = 0;
    if wanted > 0 {
        let board = round.board_for(group);
        let mut tally = board.tally(state, &group.id);
        let need = Need::new(&group.id, &group.spec).at(context.now_ms());
        while placed < wanted {
            let Some(host) = scheduler.placer.place(&need, board, &mut tally) else {
                blocked = Some(scheduler.placer.why(&need, board, &tally).to_string());
                break;
            };
            changes.push(Change::Start(Arc::new(context.new_job(group, host))));
            placed += 1;
        }
    }
    blocked = blocked.map(|why| round.reason(group, why));
    if missing > wanted {
        held.until_ms.into_iter().for_each(|ms| context.wake_at(ms));
        blocked = blocked.or_else(|| Some(describe(&held, roster, group)));
    }
    (placed, blocked)
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
