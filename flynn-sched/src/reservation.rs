//! Reservations: room on hosts that is kept for some jobs during a time to come.
//!
//! ```text
//!  room of a host
//!    ▲ ┌──────────────┬──────────────────┬───────────
//!    │ │ a short job: │ held for the     │
//!    │ │ gone in time │ holder's jobs    │ free again
//!    │ ├──────────────┴──────────────────┴───────────
//!    │ │ jobs that run for as long as they are wanted
//!    └─┴──────────────┴──────────────────┴──────────► time
//!                    from               until
//! ```
//!
//! A transaction writes them ([`Change::PutReservation`](crate::transaction::Change::PutReservation)), and [`reserve`]
//! finds hosts and the earliest time for one. From then on two things hold, unless the host vanishes, shrinks, or a job
//! stays longer than the [`expected`](crate::JobSpec::expected) time it was placed with:
//!
//! - What is reserved on a host for one moment, beside the jobs that will be there, never exceeds what it has.
//! - A job is started only where, for as long as it will run, it does not use what is held for others. A job with an
//!   expected time that ends before a reservation begins may use the room until then (backfilling). A job without one
//!   is taken to stay for ever, and so is one that should have ended already.
//!
//! The holder's jobs use the reserved room, and what they use already counts against it: a reservation says what they
//! *together* are to find on the host. A reservation does not start or stop anything by itself, and holds no ports. When
//! its holder comes and somebody is still in the room who should have ended, the schedulers here make that one go:
//! [`reclaim`] says whom.

mod overdue;
mod planner;
mod timeline;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ClusterState, GroupId, HostId, JobSpec, Jobs, Named, ReservationId, Resources};

pub use overdue::{Reclaimed, reclaim};
pub use planner::{ReservationRequest, Unreservable, reserve};

pub(crate) use timeline::Timeline;

/// Room on hosts that is kept for some jobs from one time to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Its identity.
    pub id: ReservationId,
    /// Whose room it is. On one host and at one time, two holders must not share jobs unless they are the same.
    pub holder: Jobs,
    /// How much is held on which host; 1 to [`MAX_CLAIMS`](Self::MAX_CLAIMS) hosts.
    pub claims: BTreeMap<HostId, Claim>,
    /// When it begins, in milliseconds since the Unix epoch.
    pub from_ms: u64,
    /// The first moment at which it holds nothing any more, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// What a reservation holds on one host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// Of the divisible resources.
    pub resources: Resources,
    /// Of named resources.
    #[serde(skip_serializing_if = "Named::is_empty")]
    pub named: Named,
}

impl Claim {
    /// Is it nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.resources == Resources::default() && self.named.is_empty()
    }
}

impl Reservation {
    /// How many hosts one reservation may name. (A commit of the store has room for a thousand hosts.)
    pub const MAX_CLAIMS: usize = 1_000;
    /// How many named resources one claim may hold.
    pub const MAX_NAMED: usize = 64;
    /// How many reservations may hold room on one host, now or later.
    pub const MAX_PER_HOST: usize = 64;
    /// How many reservations a cell keeps.
    pub const MAX_IN_CELL: usize = 10_000;

    /// Does it hold its room at this time?
    #[must_use]
    pub fn is_active(&self, at_ms: u64) -> bool {
        self.from_ms <= at_ms && at_ms < self.until_ms
    }

    /// Does it hold its room at any time in this window?
    #[must_use]
    pub fn overlaps(&self, from_ms: u64, until_ms: u64) -> bool {
        self.from_ms < until_ms && from_ms < self.until_ms
    }

    /// What is wrong with it in itself, and what would be right, in a sentence; `None` if nothing is.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let (from, until) = (self.from_ms, self.until_ms);
        if from >= until {
            return Some(format!(
                "it ends at {until} ms, which is not after its beginning at {from} ms: give it a later end"
            ));
        }
        if self.claims.len() > Self::MAX_CLAIMS {
            return Some(format!(
                "it names {} hosts, and {} is the most: split it",
                self.claims.len(),
                Self::MAX_CLAIMS
            ));
        }
        if self.claims.is_empty() {
            return Some("it claims nothing on any host: say how much it holds where".to_owned());
        }
        self.claims.iter().find_map(|(host, claim)| {
            let names = claim.named.iter().count();
            if claim.is_empty() {
                Some(format!(
                    "it claims nothing on host {host}: leave the host out"
                ))
            } else if names > Self::MAX_NAMED {
                Some(format!(
                    "it claims {names} named resources on host {host}, and {} is the most",
                    Self::MAX_NAMED
                ))
            } else {
                None
            }
        })
    }
}

impl ClusterState {
    /// What of a host's free room is held for others while a job of this group and spec, placed now, would run.
    ///
    /// Take it from what is free, and what is left is what a commit lets the job have. Of named resources only those
    /// are told that the job asks for. Nothing is held on a host without reservations, and that is found at once.
    #[must_use]
    pub fn held_for_others(
        &self,
        host: &HostId,
        group: &GroupId,
        spec: &JobSpec,
        now_ms: u64,
    ) -> Claim {
        if !self.has_reservations_on(host) {
            return Claim::default();
        }
        let Some(host) = self.host(host) else {
            return Claim::default();
        };
        let timeline = Timeline::of(self, host, now_ms);
        let room = timeline.room_for(group, now_ms, end_ms(now_ms, spec));
        let free = host.free();
        let held = |free: u64, room: u128| free.saturating_sub(room.try_into().unwrap_or(u64::MAX));
        let [cpu, memory, disk] = room.divisible;
        let mut claim = Claim {
            resources: Resources {
                cpu_millis: held(free.cpu_millis, cpu),
                memory_bytes: held(free.memory_bytes, memory),
                disk_bytes: held(free.disk_bytes, disk),
            },
            named: Named::default(),
        };
        for (name, _) in spec.named.iter() {
            let taken = host.promised_named.amount(name);
            let free = host.host.named.amount(name).saturating_sub(taken);
            let room = room.named.get(name).copied().unwrap_or_default();
            claim.named.set(name, held(free, room));
        }
        claim
    }
}

/// When a job placed at this time is expected to be gone; the end of time if that is not known.
pub(crate) fn end_ms(placed_at_ms: u64, spec: &JobSpec) -> u64 {
    let Some(expected) = spec.expected else {
        return u64::MAX;
    };
    placed_at_ms.saturating_add(crate::clock::millis(expected))
}

/// Could a job belong to both?
pub(crate) fn share_jobs(a: &Jobs, b: &Jobs) -> bool {
    match (a, b) {
        (Jobs::Group(group), jobs) | (jobs, Jobs::Group(group)) => jobs.matches(group),
        (Jobs::Prefix(a), Jobs::Prefix(b)) => {
            a.starts_with(b.as_str()) || b.starts_with(a.as_str())
        }
    }
}
