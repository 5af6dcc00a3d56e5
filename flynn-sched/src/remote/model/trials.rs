//! The trials: what may go wrong, and that nothing does.

use flynn_discovery::backend::Key;
use stateright::{Checker, Model};

use super::{Cell, Trial, Troubles, group, properties::has, reservations::Reserving};
use crate::{
    Constraint, Domain, GroupId, JobSpec, Jobs,
    remote::plan::{Limits, Size},
};

/// One service and one gang that fill both hosts.
pub(super) fn trial() -> Trial {
    Trial {
        groups: vec![
            group("gang", 2, JobSpec::default()),
            group("web", 2, JobSpec::default()),
        ],
        placed: &[],
        rewrites: Vec::new(),
        reserving: Reserving::Nothing,
        is_divided: false,
        room: 2,
        limits: Limits::of_attempt(0),
        troubles: Troubles::default(),
        keep: |_| true,
        is_founding: false,
        spoil: |_| (),
        tears: false,
        at_rest: |cell| has(cell, "web", 2) && has(cell, "gang", 2),
        always: |_| true,
    }
}

pub(super) fn check(trial: Trial) {
    let checker = trial.checker().spawn_bfs().join();
    checker.assert_properties();
    // A trial in which little happens shows little.
    assert!(
        checker.unique_state_count() > 200,
        "{} states",
        checker.unique_state_count()
    );
}

#[test]
fn schedulers_whose_answers_are_lost_neither_lose_nor_double_a_claim() {
    check(Trial {
        troubles: Troubles {
            lost_answers: 2,
            ..Troubles::default()
        },
        ..trial()
    });
}

#[test]
fn a_new_leader_of_the_store_loses_no_claim_and_doubles_none() {
    check(Trial {
        troubles: Troubles {
            elections: 1,
            lost_answers: 1,
            ..Troubles::default()
        },
        ..trial()
    });
}

#[test]
fn a_scheduler_that_crashes_is_carried_on_from() {
    check(Trial {
        troubles: Troubles {
            crashes: 2,
            ..Troubles::default()
        },
        ..trial()
    });
}

#[test]
fn transactions_in_parts_are_as_safe_as_whole_ones() {
    check(Trial {
        groups: vec![
            group("api", 2, JobSpec::default()),
            group("web", 1, JobSpec::default()),
        ],
        limits: ONE_BY_ONE,
        troubles: Troubles {
            lost_answers: 1,
            ..Troubles::default()
        },
        at_rest: |cell| has(cell, "web", 1) && has(cell, "api", 2),
        ..trial()
    });
}

/// Every change is a commit of its own, if it is large enough.
const ONE_BY_ONE: Limits = {
    let size = Size {
        ops: 1,
        bytes: 1 << 20,
    };
    Limits {
        in_turn: size,
        beside: size,
    }
};

/// Each scheduler has a group of its own, and together they want twice of what there is.
pub(super) fn crowded() -> Trial {
    Trial {
        groups: vec![
            group("api", 2, JobSpec::default()),
            group("web", 2, JobSpec::default()),
        ],
        is_divided: true,
        room: 1,
        troubles: Troubles {
            elections: 1,
            lost_answers: 1,
            ..Troubles::default()
        },
        at_rest: |cell| cell.bare.len() == 2,
        ..trial()
    }
}

#[test]
fn schedulers_of_different_groups_share_the_last_room_and_leave_none() {
    check(crowded());
}

/// As [`crowded`], and nothing is guarded: every start goes beside the others.
pub(super) fn beside() -> Trial {
    Trial {
        groups: vec![
            group("free-api", 2, JobSpec::default()),
            group("free-web", 2, JobSpec::default()),
        ],
        limits: ONE_BY_ONE,
        troubles: Troubles {
            lost_answers: 1,
            ..Troubles::default()
        },
        ..crowded()
    }
}

#[test]
fn starts_beside_each_other_share_the_last_room_and_leave_none() {
    check(beside());
}

#[test]
fn starts_beside_each_other_survive_a_new_leader_of_the_store() {
    check(Trial {
        groups: vec![
            group("free-api", 2, JobSpec::default()),
            group("web", 1, JobSpec::default()),
        ],
        troubles: Troubles {
            elections: 1,
            ..Troubles::default()
        },
        ..beside()
    });
}

/// The groups are written with the first starts of their jobs.
pub(super) fn founding() -> Trial {
    Trial {
        groups: vec![
            group("free-api", 1, JobSpec::default()),
            group("free-web", 1, JobSpec::default()),
        ],
        room: 2,
        is_founding: true,
        troubles: Troubles::default(),
        always: |cell| cell.bare.iter().all(|job| is_founded(cell, &job.group)),
        at_rest: |cell| has(cell, "free-api", 1) && has(cell, "free-web", 1),
        ..beside()
    }
}

fn is_founded(cell: &Cell, group: &str) -> bool {
    let key = Key::parse(format!("cell/groups/{group}")).expect("it is a key");
    cell.store.get(&key).is_some()
}

#[test]
fn no_job_is_there_before_its_group_is() {
    check(founding());
}

#[test]
fn a_host_that_is_lost_and_returns_ends_with_the_right_count() {
    check(Trial {
        groups: vec![group("web", 2, JobSpec::default())],
        troubles: Troubles {
            losses: 1,
            ..Troubles::default()
        },
        room: 1,
        at_rest: |cell| has(cell, "web", 2),
        ..trial()
    });
}

#[test]
fn a_job_that_ends_is_replaced_once() {
    check(Trial {
        groups: vec![group("web", 2, JobSpec::default())],
        troubles: Troubles {
            ends: 1,
            crashes: 1,
            lost_answers: 1,
            ..Troubles::default()
        },
        at_rest: |cell| has(cell, "web", 2),
        ..trial()
    });
}

/// Two groups of which the one keeps the other out of its zone; both hosts are in one zone.
pub(super) fn apart(jobs: Jobs) -> Trial {
    let constraint = Constraint::Apart {
        jobs,
        within: Domain::Zone,
    };
    let spec = JobSpec {
        constraints: vec![constraint],
        ..JobSpec::default()
    };
    Trial {
        groups: vec![group("shy", 1, spec), group("web", 1, JobSpec::default())],
        troubles: Troubles {
            elections: 1,
            lost_answers: 1,
            ..Troubles::default()
        },
        is_divided: true,
        always: |cell| !(has(cell, "shy", 1) && has(cell, "web", 1)),
        at_rest: |cell| has(cell, "shy", 1) || has(cell, "web", 1),
        ..trial()
    }
}

pub(super) fn by_id() -> Jobs {
    Jobs::Group(GroupId::parse("web").expect("it is an id"))
}

#[test]
fn jobs_that_keep_others_out_of_their_zone_never_share_it_with_them() {
    check(apart(by_id()));
    check(apart(Jobs::Prefix("we".to_owned())));
}
