//! The reservations of a cell, by id, by host and by their end.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::{HostId, Reservation, ReservationId};

use super::ClusterState;

/// All reservations. The indices hold exactly those that there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Reserved {
    by_id: OrdMap<ReservationId, Arc<Reservation>>,
    by_host: OrdMap<HostId, OrdSet<ReservationId>>,
    by_end: OrdSet<(u64, ReservationId)>,
}

impl ClusterState {
    /// All reservations, by id; also those that have ended and have not been cleared away yet.
    pub fn reservations(&self) -> impl ExactSizeIterator<Item = &Arc<Reservation>> {
        self.reserved.by_id.values()
    }

    /// One reservation.
    #[must_use]
    pub fn reservation(&self, id: &ReservationId) -> Option<&Arc<Reservation>> {
        self.reserved.by_id.get(id)
    }

    /// The reservations that name a host, by id.
    pub fn reservations_on(&self, host: &HostId) -> impl Iterator<Item = &Arc<Reservation>> {
        self.reserved
            .by_host
            .get(host)
            .into_iter()
            .flatten()
            .filter_map(|id| self.reservation(id))
    }

    /// Does a reservation name the host?
    #[must_use]
    pub fn has_reservations_on(&self, host: &HostId) -> bool {
        self.reserved.by_host.contains_key(host)
    }

    /// The hosts that reservations name, by id.
    pub(crate) fn reserved_hosts(&self) -> impl ExactSizeIterator<Item = &HostId> {
        self.reserved.by_host.keys()
    }

    /// The reservations in the order of their ends, the earliest first.
    pub fn reservations_by_end(&self) -> impl Iterator<Item = &Arc<Reservation>> {
        self.reserved
            .by_end
            .iter()
            .filter_map(|(_, id)| self.reservation(id))
    }

    /// Writes a reservation; the hosts that it names, or named, count as changed in `version`.
    pub(crate) fn put_reservation(&mut self, reservation: Arc<Reservation>, version: u64) {
        self.remove_reservation(&reservation.id, version);
        for host in reservation.claims.keys() {
            self.reserved
                .by_host
                .entry(host.clone())
                .or_default()
                .insert(reservation.id.clone());
            self.touch_host(host, version);
        }
        let end = (reservation.until_ms, reservation.id.clone());
        self.reserved.by_end.insert(end);
        self.reserved
            .by_id
            .insert(reservation.id.clone(), reservation);
    }

    pub(crate) fn remove_reservation(&mut self, id: &ReservationId, version: u64) {
        let Some(reservation) = self.reserved.by_id.remove(id) else {
            return;
        };
        self.reserved
            .by_end
            .remove(&(reservation.until_ms, id.clone()));
        for host in reservation.claims.keys() {
            if let Some(ids) = self.reserved.by_host.get_mut(host) {
                ids.remove(id);
                if ids.is_empty() {
                    self.reserved.by_host.remove(host);
                }
            }
            self.touch_host(host, version);
        }
    }
}
