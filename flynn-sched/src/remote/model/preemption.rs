//! Preemption among others: schedulers that make room at the same time, and groups that are rewritten meanwhile.

use std::sync::Arc;

use flynn_discovery::backend::{Compare, Op};

use super::{
    Cell, Trial, Troubles, group,
    mistakes::is_noticed,
    properties::{OWN, UNFAIR, has},
    trials::{check, trial},
    wire::Message,
};
use crate::{
    ClusterState, Eviction, Group, GroupStatus, Job, JobSpec, Nomination, Transaction,
    remote::mirror::Mirror, transaction::Change,
};

/// Makes room for one job of a group that is more important than the default, unless it is being made already: takes
/// away the first job that the rules allow, or the last, so that two schedulers choose differently.
pub(super) fn make_room(
    mirror: &Mirror,
    so_far: &Transaction,
    group: &Group,
    who: usize,
) -> Option<Transaction> {
    let after = mirror.state.apply(so_far).ok()?.state;
    if group.priority <= Group::PRIORITY || is_being_made(&after, group) {
        return None;
    }
    let mut jobs: Vec<&Arc<Job>> = after.jobs().collect();
    if who == 1 {
        jobs.reverse();
    }
    jobs.into_iter().find_map(|job| {
        let why = Eviction::Preempted {
            by: group.id.clone(),
            priority: group.priority,
        };
        let evict = Transaction::on(&after).evict(job.id.clone(), why.clone());
        let evicted = after.apply(&evict.all_or_nothing()).ok()?.state;
        if job.is_stopping || !evicted.job(&job.id)?.is_stopping {
            return None;
        }
        let nomination = Nomination {
            host: job.host.clone(),
            victims: vec![job.id.clone()],
            since_ms: 0,
        };
        let evict = so_far.clone().evict(job.id.clone(), why);
        Some(evict.with(note(group, vec![nomination])))
    })
}

/// What the group's note says when a job of it has been started.
pub(super) fn settled(state: &ClusterState, group: &Group) -> Option<Change> {
    let is_noted = state.group_status(&group.id).is_some();
    is_noted.then(|| note(group, Vec::new()))
}

fn note(group: &Group, nominated: Vec<Nomination>) -> Change {
    let status = GroupStatus {
        nominated,
        ..GroupStatus::default()
    };
    Change::Note {
        group: group.id.clone(),
        status: Arc::new(status),
    }
}

fn is_being_made(state: &ClusterState, group: &Group) -> bool {
    let nominated = state.group_status(&group.id).into_iter();
    nominated
        .flat_map(|status| &status.nominated)
        .flat_map(|nomination| &nomination.victims)
        .filter_map(|victim| state.job(victim))
        .any(|victim| victim.is_stopping && !victim.status.phase.is_final())
}

fn of_priority(id: &str, count: u32, priority: u8, max_unavailable: u32) -> Group {
    Group {
        priority,
        max_unavailable: Some(max_unavailable),
        ..group(id, count, JobSpec::default())
    }
}

fn low(max_unavailable: u32) -> Group {
    of_priority("low", 2, Group::PRIORITY, max_unavailable)
}

fn big(id: &str) -> Group {
    of_priority(id, 1, 200, 0)
}

/// Two schedulers, each with a group for which one of the same two jobs has to go; only one may.
fn rivals() -> Trial {
    Trial {
        groups: vec![big("big0"), big("big1"), low(1)],
        placed: &[("a", "low"), ("b", "low")],
        is_divided: true,
        room: 1,
        troubles: Troubles {
            elections: 1,
            lost_answers: 1,
            ..Troubles::default()
        },
        at_rest: |cell| has(cell, "low", 1) && (has(cell, "big0", 1) != has(cell, "big1", 1)),
        ..trial()
    }
}

/// Two schedulers of the same group, for which either of two jobs may go.
fn of_one_mind() -> Trial {
    Trial {
        groups: vec![big("big0"), low(2)],
        is_divided: false,
        troubles: Troubles {
            crashes: 1,
            lost_answers: 1,
            ..Troubles::default()
        },
        always: |cell| evicted(cell) <= 1,
        at_rest: |cell| has(cell, "big0", 1) && has(cell, "low", 1),
        ..rivals()
    }
}

/// While one makes room for its group, the group becomes unimportant, or those that go are needed.
fn rewritten(groups: Vec<Group>) -> Trial {
    Trial {
        groups: vec![big("big0"), low(1)],
        rewrites: groups,
        is_divided: false,
        troubles: Troubles {
            rewrites: 1,
            elections: 1,
            ..Troubles::default()
        },
        at_rest: |_| true,
        ..rivals()
    }
}

fn demoted() -> Vec<Group> {
    vec![of_priority("big0", 1, Group::PRIORITY, 0)]
}

fn needed() -> Vec<Group> {
    vec![low(0)]
}

fn evicted(cell: &Cell) -> usize {
    cell.bare.iter().filter(|job| job.is_evicted).count()
}

#[test]
fn schedulers_that_preempt_at_the_same_time_leave_a_group_its_floor() {
    check(rivals());
}

#[test]
fn schedulers_of_one_group_preempt_no_more_for_it_than_it_needs() {
    check(of_one_mind());
}

#[test]
fn nobody_goes_for_a_group_that_became_unimportant_or_from_one_that_became_needed() {
    check(rewritten([demoted(), needed()].concat()));
}

// Mistakes that must be noticed.

#[test]
fn a_protocol_that_does_not_compare_the_group_preempted_from_breaks_its_floor() {
    let keep = |compare: &Compare| compare.key.as_str() != "cell/groupseq/low";
    is_noticed(Trial { keep, ..rivals() }, UNFAIR);
}

#[test]
fn a_preemption_that_is_not_seen_by_the_next_breaks_the_floor() {
    let spoil = |message: &mut Message| {
        message
            .forget(|op| matches!(op, Op::Put { key, .. } if key.as_str() == "cell/groupseq/low"));
    };
    is_noticed(Trial { spoil, ..rivals() }, UNFAIR);
}

#[test]
fn a_protocol_that_compares_neither_of_the_groups_takes_two_for_one() {
    // To compare either is enough, since both are written.
    let keep = |compare: &Compare| !compare.key.as_str().starts_with("cell/groupseq/");
    is_noticed(
        Trial {
            keep,
            ..of_one_mind()
        },
        OWN,
    );
}

#[test]
fn a_protocol_that_does_not_compare_the_groups_themselves_preempts_unfairly() {
    for (rewrites, keep) in [
        (
            demoted(),
            (|compare| compare.key.as_str() != "cell/groups/big0") as fn(&Compare) -> bool,
        ),
        (needed(), |compare| {
            compare.key.as_str() != "cell/groups/low"
        }),
    ] {
        is_noticed(
            Trial {
                keep,
                ..rewritten(rewrites)
            },
            UNFAIR,
        );
    }
}
