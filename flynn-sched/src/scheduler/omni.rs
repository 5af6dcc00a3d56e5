//! `per_host` copies of a job on every host that can have it.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Group, GroupStatus, Host, HostId, Job, Taint, TaintEffect,
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
    let mut roster = Roster::of(state, group, millis(scheduler.lost_grace), context);
    roster.let_go(&round.going);
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
    let mut seats = round.making_room.seats(group, context);
    let mut displaced = roster.preempted(usize::MAX);
    for host in state.hosts() {
        let id = &host.host.id;
        let mut here = by_host.remove(id).unwrap_or_default();
        let wanted = wanted_on(group, per_host, &host.host, here.len());
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
        for n in (here.len() + held.count)..wanted {
            if let Some(why) = round.ledger.exceeded(&group.spec) {
                blocked.get_or_insert(why);
                break;
            }
            let board = round.board_for(group);
            let tally = tally.get_or_insert_with(|| board.tally(state, &group.id));
            if let Err((_, lack)) = scheduler.placer.place_on(id, &need, board, tally) {
                let mut why = format!("host {id}: {}", lack.why);
                let told = (&mut changes, &mut why);
                if round.reclaim(group, Some(id), wanted - n, told, context) == wanted - n {
                    blocked.get_or_insert(why);
                    break;
                }
                let patient = displaced.min(wanted - n);
                displaced -= patient;
                let preemptor = scheduler.preemptor.as_ref();
                let preemptor = preemptor.filter(|preemptor| preemptor.serves(group));
                let Some(preemptor) = preemptor.filter(|_| wanted - n > patient) else {
                    blocked.get_or_insert(why);
                    break;
                };
                let on_others = seats.len() - seats.on(id);
                let lacking = wanted - n - patient;
                let (evictions, no) = round.making_room.make_room(
                    preemptor,
                    group,
                    Some(id),
                    on_others.saturating_add(lacking),
                    &mut seats,
                    context,
                );
                changes.extend(evictions);
                blocked.get_or_insert_with(|| match no {
                    Some(no) => format!("{why}; {no}"),
                    None => format!("{why}; {}", seats.describe()),
                });
                break;
            }
            seats.take(id);
            let job = context.new_job(group, id.clone());
            round.count(&job);
            changes.push(Change::Start(Arc::new(job)));
            missing -= 1;
        }
    }
    if missing == 0 {
        seats.limit(0);
    }
    changes.extend(roster.forget_displaced(missing));
    let status = GroupStatus {
        missing: u32::try_from(missing).unwrap_or(u32::MAX),
        blocked,
        nominated: round.making_room.keep(group, seats),
        ..GroupStatus::default()
    };
    changes.extend(round.note(group, status, context.now_ms()));
    round.propose(group, changes);
}

/// How many jobs the host is meant to have. One without the tags, or that is to be emptied, is meant to have none; one
/// that only takes no new ones keeps those it has; one without room is meant to have them, and lacks it.
fn wanted_on(group: &Group, per_host: u32, host: &Host, here: usize) -> usize {
    let per_host = usize::try_from(per_host).unwrap_or(usize::MAX);
    if group.belongs_on(host) {
        return per_host;
    }
    let tolerations = &group.spec.tolerations;
    let evicts = |effect| effect == TaintEffect::NoExecute;
    let has_tags = group
        .spec
        .constraints
        .iter()
        .all(|constraint| constraint.admits(host));
    if has_tags
        && !host.is_draining
        && Taint::untolerated(&host.taints, tolerations, evicts).is_none()
    {
        per_host.min(here)
    } else {
        0
    }
}
