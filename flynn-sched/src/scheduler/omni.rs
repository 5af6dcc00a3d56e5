//! `per_host` copies of a job on every host that can have it.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Group, GroupStatus, Host, HostId, Job,
    clock::millis,
    placement::{Need, Tally},
    scheduler::{
        Context, Round, ServiceScheduler,
        replicas::{describe, stop},
        roster::{Roster, by_expendability},
    },
    transaction::Change,
};

/// Proposes what brings the group nearer to `per_host` jobs on each matching host.
pub(super) fn schedule(
    scheduler: &ServiceScheduler,
    round: &mut Round<'_>,
    group: &Arc<Group>,
    per_host: u32,
    context: &mut Context<'_>,
) {
    let state = round.state;
    let roster = Roster::of(state, group, millis(scheduler.lost_grace), context);
    let mut changes = Vec::new();
    let mut by_host: BTreeMap<&HostId, Vec<&Arc<Job>>> = BTreeMap::new();
    for job in &roster.staying {
        by_host.entry(&job.host).or_default().push(job);
    }
    // A drained host's copy serves that host only: there is nothing to start elsewhere first. The same goes for a
    // copy of what the group no longer is, except that its successor should be placed in the same step.
    changes.extend(roster.leaving.iter().map(|job| stop(job)));
    scheduler.clear_lost(state, &roster, per_host == 0, context, &mut changes);
    // Every host has a history of its own.
    changes.extend(roster.trim(scheduler.history.max(2 * state.hosts().count())));

    let need = Need::new(&group.id, &group.spec).at(context.now_ms());
    let mut tally: Option<Tally> = None;
    let mut missing = 0;
    let mut blocked = None;
    for host in state.hosts() {
        let id = &host.host.id;
        let mut here = by_host.remove(id).unwrap_or_default();
        let wanted = if matches(group, &host.host) {
            per_host
        } else {
            0
        };
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        if here.len() > wanted {
            by_expendability(state, &mut here);
            changes.extend(here[..here.len() - wanted].iter().map(|job| stop(job)));
        }
        if here.len() >= wanted || !host.is_schedulable() {
            continue;
        }
        missing += wanted - here.len();
        let failures = roster.failures(group).filter(|job| job.host == *id);
        let held = scheduler.backoff.held(failures, context.now_ms());
        if let Some(until) = held.until_ms {
            context.wake_at(until);
            blocked.get_or_insert_with(|| describe(&held, &roster, group));
        }
        let board = round.board_for(group);
        let tally = tally.get_or_insert_with(|| board.tally(state, &group.id));
        for _ in (here.len() + held.count)..wanted {
            if let Err((_, lack)) = scheduler.placer.place_on(id, &need, board, tally) {
                blocked.get_or_insert_with(|| format!("host {id}: {}", lack.why));
                break;
            }
            let job = context.new_job(group, id.clone());
            changes.push(Change::Start(Arc::new(job)));
            missing -= 1;
        }
    }
    let status = GroupStatus {
        missing: u32::try_from(missing).unwrap_or(u32::MAX),
        blocked,
        ..GroupStatus::default()
    };
    changes.extend(round.note(group, status, context.now_ms()));
    round.propose(group, changes);
}

/// Is the host meant to have the group's jobs? A host without the tags is not; one without room is, and lacks it.
fn matches(group: &Group, host: &Host) -> bool {
    !host.is_draining
        && group
            .spec
            .constraints
            .iter()
            .all(|constraint| constraint.admits(host))
}
