//! The rules of reservations: what may be reserved, and what a start may not use.

use std::sync::Arc;

use crate::{
    HostState, Job, Named, Reservation, ReservationId,
    reservation::{Timeline, end_ms},
};

use super::{Applying, No, NoKind};

impl Applying<'_> {
    /// The job does not use what is held for others while it runs.
    pub(super) fn held_for_others(&self, job: &Job, host: &HostState) -> Result<(), No> {
        let id = &host.host.id;
        if !self.state.has_reservations_on(id) {
            return Ok(());
        }
        let (from_ms, until_ms) = (job.placed_at_ms, end_ms(job.placed_at_ms, &job.spec));
        let held = self
            .state
            .held_for_others(id, &job.group, &job.spec, from_ms);
        let free = host.free().saturating_sub(&held.resources);
        let shortage = free.shortage(&job.spec.request).or_else(|| {
            let mut taken = host.promised_named.clone();
            taken.add(&held.named);
            host.host.named.shortage(&taken, &job.spec.named)
        });
        let Some(shortage) = shortage else {
            return Ok(());
        };
        let theirs = self.state.reservations_on(id).filter(|reservation| {
            reservation.overlaps(from_ms, until_ms) && !reservation.holder.matches(&job.group)
        });
        let names: Vec<String> = theirs
            .map(|other| format!("{} (of {})", other.id, other.holder))
            .take(MAX_NAMES)
            .collect();
        Err(No::conflict(
            id,
            format!("{shortage} beside what is reserved: {}", names.join(", ")),
        ))
    }

    pub(super) fn put_reservation(&mut self, reservation: &Arc<Reservation>) -> Result<(), No> {
        if let Some(fault) = reservation.fault() {
            return Err(No::invalid(fault));
        }
        let count = self.state.reservations().len();
        if self.state.reservation(&reservation.id).is_none() && count >= Reservation::MAX_IN_CELL {
            return Err(No::invalid(format!(
                "the cell has {count} reservations, and {} is the most: remove some",
                Reservation::MAX_IN_CELL
            )));
        }
        for host in reservation.claims.keys() {
            self.claim(reservation, host)?;
        }
        self.state
            .put_reservation(Arc::clone(reservation), self.revision);
        Ok(())
    }

    /// What it claims on this host fits.
    fn claim(&self, reservation: &Reservation, id: &crate::HostId) -> Result<(), No> {
        self.unchanged(id)?;
        let Some(host) = self.state.host(id) else {
            return Err(No {
                host: Some(id.clone()),
                kind: NoKind::Unknown,
                why: "is not in the cluster".to_owned(),
            });
        };
        if host.lost_since_ms.is_some() {
            return Err(No::conflict(id, "is lost"));
        }
        if host.host.is_draining {
            return Err(No::conflict(id, "is draining"));
        }
        let (from_ms, until_ms) = (reservation.from_ms, reservation.until_ms);
        let timeline = Timeline::of(&self.state, host, 0).without(&reservation.id);
        if timeline.reservations().len() >= Reservation::MAX_PER_HOST {
            return Err(No::conflict(
                id,
                format!(
                    "has {} reservations, and that is the most",
                    Reservation::MAX_PER_HOST
                ),
            ));
        }
        if let Some(rival) = timeline.rival(&reservation.holder, from_ms, until_ms) {
            return Err(No::conflict(
                id,
                format!(
                    "reservation {} of {} shares jobs with it: give both the same holder, or other times",
                    rival.id, rival.holder
                ),
            ));
        }
        let claim = &reservation.claims[id];
        let (room, room_named) = timeline
            .room_for_claim(&reservation.holder, from_ms, until_ms)
            .clamped();
        let shortage = room
            .shortage(&claim.resources)
            .or_else(|| room_named.shortage(&Named::default(), &claim.named));
        match shortage {
            Some(shortage) => Err(No::conflict(id, format!("{shortage} in its window"))),
            None => Ok(()),
        }
    }

    pub(super) fn remove_reservation(&mut self, id: &ReservationId, ending_by_ms: u64) {
        let known = self.state.reservation(id);
        if known.is_some_and(|known| known.until_ms <= ending_by_ms) {
            self.state.remove_reservation(id, self.revision);
        }
    }
}

/// How many reservations a refusal names.
const MAX_NAMES: usize = 3;
