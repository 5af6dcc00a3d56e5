//! Reservations among others: one is written while a job starts where it claims, its holder starts, and it is removed or
//! prolonged while another clears it away.

use std::{sync::Arc, time::Duration};

use flynn_discovery::backend::{Compare, Op};

use super::{
    Cell, Trial, Troubles, group,
    mistakes::is_noticed,
    properties::{HELD, OWN, has},
    trials::{check, trial},
    units,
    wire::Message,
};
use crate::{
    Claim, ClusterState, GroupId, HostId, JobSpec, Jobs, Reservation, ReservationId, Transaction,
    transaction::Change,
};

/// What schedulers do about reservations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserving {
    /// Nothing.
    Nothing,
    /// The first reserves a host for a group without jobs, and gives the room back when a job of it is there.
    ForHolder,
    /// The first clears away what has ended, and the second prolongs what has not been cleared away.
    ClearAndProlong,
}

/// What a scheduler does about reservations before all else.
pub(super) fn reserving(state: &ClusterState, who: usize, trial: &Trial) -> Option<Transaction> {
    let known = state.reservation(&id());
    let change = match (trial.reserving, who) {
        (Reserving::ForHolder, 0) => {
            let holder = holder();
            let mut theirs = state.jobs_of(&holder);
            let is_there = theirs.any(|job| !job.status.phase.is_final());
            match known {
                None if !is_there => Change::PutReservation(Arc::new(reservation(UNTIL_MS))),
                Some(_) if is_there => Change::RemoveReservation {
                    id: id(),
                    ending_by_ms: u64::MAX,
                },
                _ => return None,
            }
        }
        (Reserving::ClearAndProlong, 0) if known?.until_ms == UNTIL_MS => {
            Change::RemoveReservation {
                id: id(),
                ending_by_ms: UNTIL_MS,
            }
        }
        (Reserving::ClearAndProlong, 1) if known?.until_ms == UNTIL_MS => {
            Change::PutReservation(Arc::new(reservation(LATER_MS)))
        }
        _ => return None,
    };
    let transaction = Transaction::on(state).with(change);
    // Not possible now: the scheduler does its other work.
    let applied = state.apply(&transaction).ok()?;
    (!applied.accepted.is_empty()).then_some(transaction)
}

pub(super) fn reservation(until_ms: u64) -> Reservation {
    let claim = Claim {
        resources: units(1),
        ..Claim::default()
    };
    Reservation {
        id: id(),
        holder: Jobs::Group(holder()),
        claims: [(HostId::parse("a").expect("it is an id"), claim)].into(),
        from_ms: FROM_MS,
        until_ms,
    }
}

fn id() -> ReservationId {
    ReservationId::parse("r").expect("it is an id")
}

fn holder() -> GroupId {
    GroupId::parse("holder").expect("it is an id")
}

/// One reserves what the other fills.
fn contended(spec: JobSpec) -> Trial {
    Trial {
        groups: vec![
            group("holder", 1, JobSpec::default()),
            group("web", 2, spec),
        ],
        reserving: Reserving::ForHolder,
        is_divided: true,
        room: 1,
        troubles: Troubles {
            elections: 1,
            lost_answers: 1,
            ..Troubles::default()
        },
        at_rest: |cell| {
            let live = cell.bare.iter().filter(|job| !job.is_final).count();
            live == 2 && (cell.facts.claims.is_empty() || !has(cell, "holder", 1))
        },
        ..trial()
    }
}

fn for_ever() -> JobSpec {
    JobSpec::default()
}

/// Gone before the reservation begins.
fn brief() -> JobSpec {
    JobSpec {
        expected: Some(Duration::from_millis(FROM_MS / 2)),
        ..JobSpec::default()
    }
}

/// Gone after the reservation has begun.
fn too_long() -> JobSpec {
    JobSpec {
        expected: Some(Duration::from_millis(FROM_MS + 1)),
        ..JobSpec::default()
    }
}

fn clearing() -> Trial {
    Trial {
        groups: vec![
            group("holder", 0, JobSpec::default()),
            group("web", 1, JobSpec::default()),
        ],
        reserving: Reserving::ClearAndProlong,
        always: |cell| {
            !is_prolonged(cell) || cell.facts.claims.iter().any(|c| c.until_ms > UNTIL_MS)
        },
        at_rest: |cell| {
            has(cell, "web", 1) && cell.facts.claims.iter().all(|c| c.until_ms > UNTIL_MS)
        },
        room: 2,
        ..contended(for_ever())
    }
}

fn few() -> Troubles {
    Troubles {
        lost_answers: 1,
        ..Troubles::default()
    }
}

/// Has somebody been told that the reservation lasts longer?
fn is_prolonged(cell: &Cell) -> bool {
    cell.reserved.iter().any(|until_ms| *until_ms > UNTIL_MS)
}

#[test]
fn what_is_reserved_while_others_start_is_not_given_away() {
    check(contended(for_ever()));
    check(Trial {
        troubles: few(),
        ..contended(too_long())
    });
}

#[test]
fn brief_jobs_use_reserved_room_whoever_commits_meanwhile() {
    check(Trial {
        at_rest: |cell| has(cell, "web", 2) || has(cell, "holder", 1) && has(cell, "web", 1),
        troubles: few(),
        ..contended(brief())
    });
}

#[test]
fn a_reservation_that_is_prolonged_is_not_cleared_away_by_one_who_has_not_seen_it() {
    check(clearing());
}

// Mistakes that must be noticed.

#[test]
fn a_protocol_that_does_not_compare_hosts_gives_away_what_is_reserved() {
    let keep = |compare: &Compare| !compare.key.as_str().starts_with("cell/seq/");
    is_noticed(
        Trial {
            keep,
            ..contended(for_ever())
        },
        HELD,
    );
}

fn is_seq(op: &Op) -> bool {
    matches!(op, Op::Put { key, .. } if key.as_str().starts_with("cell/seq/"))
}

#[test]
fn a_reservation_that_starts_do_not_see_is_given_away() {
    let spoil = |message: &mut Message| {
        if message.writes("cell/reservations/") {
            message.forget(is_seq);
        }
    };
    let trial = contended(for_ever());
    is_noticed(Trial { spoil, ..trial }, HELD);
}

#[test]
fn a_start_that_reservations_do_not_see_takes_what_they_hold() {
    let spoil = |message: &mut Message| {
        if !message.writes("cell/reservations/") {
            message.forget(is_seq);
        }
    };
    let trial = contended(for_ever());
    is_noticed(Trial { spoil, ..trial }, HELD);
}

#[test]
fn a_protocol_that_does_not_compare_reservations_clears_away_what_was_prolonged() {
    let keep = |compare: &Compare| !compare.key.as_str().starts_with("cell/reservations/");
    is_noticed(Trial { keep, ..clearing() }, OWN);
}

pub(super) const FROM_MS: u64 = 100;
pub(super) const UNTIL_MS: u64 = 200;
const LATER_MS: u64 = 300;
