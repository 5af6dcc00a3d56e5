//! What [`Cluster`](crate::Cluster) promises about reservations.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future;

use crate::{
    Claim, Eviction, Group, GroupKind, Job, JobSpec, Jobs, Named, Overstay, Reservation,
    ReservationId, Transaction,
    conformance::{Fixture, group, group_id, host, host_id, job, job_id, join, memory},
    transaction::Change,
};

fn reservation(id: &str, holder: &str, on: &str, memory_bytes: u64) -> Reservation {
    let claim = Claim {
        resources: memory(memory_bytes),
        named: Named::default(),
    };
    Reservation {
        id: ReservationId::parse(id).unwrap(),
        holder: Jobs::Group(group_id(holder)),
        claims: BTreeMap::from([(host_id(on), claim)]),
        from_ms: 0,
        until_ms: 1_000,
    }
}

fn put(reservation: Reservation) -> Change {
    Change::PutReservation(Arc::new(reservation))
}

fn remove(id: &str, ending_by_ms: u64) -> Change {
    Change::RemoveReservation {
        id: ReservationId::parse(id).unwrap(),
        ending_by_ms,
    }
}

/// A reservation can be read back, and is removed once it has ended and not before.
pub async fn a_reservation_can_be_read_back_and_is_removed_once_it_has_ended(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let write = Transaction::on(&state).with(put(reservation("r", "g", "a", 60)));
    let state = cell.cluster.commit(write).await.unwrap().state;
    let kept: Vec<_> = state.reservations().map(|r| (**r).clone()).collect();
    assert_eq!(kept, [reservation("r", "g", "a", 60)]);
    assert_eq!(state.reservations_on(&host_id("a")).count(), 1);
    for (ending_by_ms, left) in [(999, 1), (1_000, 0), (1_000, 0)] {
        let clear = Transaction::on(&state).with(remove("r", ending_by_ms));
        let committed = cell.cluster.commit(clear).await.unwrap();
        assert_eq!(committed.refused, vec![]);
        assert_eq!(committed.state.reservations().count(), left);
    }
}

/// What is reserved only the holder may use.
pub async fn what_is_reserved_only_the_holder_may_use(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let write = Transaction::on(&state)
        .with(put(reservation("r", "g", "a", 60)))
        .start(job("j1", "other", "a", 50))
        .start(job("j2", "other", "a", 40))
        .start(job("j3", "g", "a", 60))
        .with(put(reservation("r2", "other", "a", 41)));
    let committed = cell.cluster.commit(write).await.unwrap();
    let refused: Vec<_> = committed
        .refused
        .iter()
        .map(|r| (&r.host, &r.why))
        .collect();
    let a = Some(host_id("a"));
    assert_eq!(
        refused,
        [
            (
                &a,
                &"needs 50 B of memory, 40 B is free beside what is reserved: r (of group g)"
                    .to_owned()
            ),
            (
                &a,
                &"needs 41 B of memory, 40 B is free in its window".to_owned()
            ),
        ]
    );
    assert!(committed.refused.iter().all(|refused| refused.is_conflict));
}

/// Of two concurrent reservations of the same room one is refused.
pub async fn of_two_concurrent_reservations_of_the_same_room_one_is_refused(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let commit = |id: &str| {
        let write = Transaction::on(&state).with(put(reservation(id, id, "a", 60)));
        cell.cluster.commit(write)
    };
    let (one, two) = future::join(commit("r1"), commit("r2")).await;
    let refused = one.unwrap().refused.len() + two.unwrap().refused.len();
    assert_eq!(refused, 1);
    let state = cell.cluster.snapshot().await.unwrap();
    assert_eq!(state.reservations().count(), 1);
}

/// Of a reservation and a start for the same room one is refused.
pub async fn of_a_reservation_and_a_start_for_the_same_room_one_is_refused(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let reserve = Transaction::on(&state).with(put(reservation("r", "g", "a", 60)));
    let start = Transaction::on(&state).start(job("j", "other", "a", 60));
    let (one, two) = future::join(cell.cluster.commit(reserve), cell.cluster.commit(start)).await;
    let refused = one.unwrap().refused.len() + two.unwrap().refused.len();
    assert_eq!(refused, 1);
    let state = cell.cluster.snapshot().await.unwrap();
    assert_eq!(state.reservations().count() + state.jobs().count(), 1);
}

/// The room of a removed reservation is free again, and so is what a shortened one held.
pub async fn the_room_of_a_removed_reservation_is_free_again(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let write = Transaction::on(&state).with(put(reservation("r", "g", "a", 100)));
    let state = cell.cluster.commit(write).await.unwrap().state;
    let shrink = Transaction::on(&state)
        .with(put(reservation("r", "g", "a", 70)))
        .start(job("j1", "other", "a", 30));
    let committed = cell.cluster.commit(shrink).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    let free = Transaction::on(&committed.state)
        .with(remove("r", u64::MAX))
        .start(job("j2", "other", "a", 70));
    let committed = cell.cluster.commit(free).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    assert_eq!(committed.state.reservations_on(&host_id("a")).count(), 0);
}

/// Who stays too long in reserved room gives way to its holder, once the reservation has begun, and to nobody else.
pub async fn who_stays_too_long_gives_way_to_the_holder_and_to_nobody_else(cell: Fixture) {
    let _member = join(&cell, host("a", 100)).await;
    let state = cell.cluster.snapshot().await.unwrap();
    let lent = |id: &str, expected: Option<Duration>| {
        let job = job(id, "guests", "a", 40);
        let spec = JobSpec {
            expected,
            ..(*job.spec).clone()
        };
        Job {
            spec: spec.into(),
            placed_at_ms: 0,
            ..job
        }
    };
    let minute = Duration::from_secs(60);
    let write = Transaction::on(&state)
        .put_group(group("g", 1))
        .put_group(Group {
            kind: GroupKind::Batch {
                count: 2,
                retries: 0,
            },
            ..group("guests", 2)
        })
        .put_group(group("strangers", 1))
        .start(lent("late", Some(minute)))
        .start(lent("stays", None))
        .with(put(Reservation {
            from_ms: 70_000,
            until_ms: 90_000,
            ..reservation("r", "g", "a", 60)
        }));
    let committed = cell.cluster.commit(write).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    let overstayed = |by: &str, at_ms| {
        Eviction::Overstayed(Box::new(Overstay {
            by: group_id(by),
            reservation: ReservationId::parse("r").unwrap(),
            at_ms,
        }))
    };
    let wrong = [
        ("stays", "g", 80_000),
        ("late", "strangers", 80_000),
        ("late", "gone", 80_000),
        ("late", "g", 69_999),
        ("late", "g", 90_000),
    ];
    for (id, by, at_ms) in wrong {
        let evict = Transaction::on(&committed.state).evict(job_id(id), overstayed(by, at_ms));
        let committed = cell.cluster.commit(evict).await.unwrap();
        assert_eq!(committed.refused.len(), 1, "{id} for {by} at {at_ms}");
    }
    let evict = Transaction::on(&committed.state).evict(job_id("late"), overstayed("g", 70_000));
    let state = cell.cluster.commit(evict).await.unwrap().state;
    let late = state.job(&job_id("late")).unwrap();
    assert!(late.is_stopping);
    assert_eq!(late.evicted, Some(overstayed("g", 70_000)));
    assert!(!state.job(&job_id("stays")).unwrap().is_stopping);
}
