//! What would happen to a cell if hosts were lost, drained or added, or groups scaled: the real schedulers, on a copy.
//!
//! ```text
//! ClusterState ──► CellSnapshot ──JSON──► CellSnapshot ──► ClusterState        (or straight from a live cell)
//!                                                               │
//!                    "lose zone b" ──► Hypothesis::imagine ─────┤
//!                                                               ▼
//!                            schedulers ──► Rested::run (until nothing is left to do) ──► Outcome
//! ```
//!
//! ```
//! use flynn_sched::{ClusterState, Group, GroupId, GroupKind, Host, HostId, JobSpec, Resources, Transaction};
//! use flynn_sched::{scheduler::ServiceScheduler, what_if::{Hypothesis, Options, Rested, what_if}};
//! use std::time::Duration;
//!
//! # fn main() -> flynn_sched::Result<()> {
//! // Three hosts of 4 GiB in two zones, and five copies of a job of 2 GiB.
//! let now_ms = 1_700_000_000_000;
//! let mut cell = ClusterState::default();
//! for (id, zone) in [("h1", "a"), ("h2", "a"), ("h3", "b")] {
//!     let capacity = Resources { cpu_millis: 4000, memory_bytes: 4 << 30, disk_bytes: 0 };
//!     let host = Host { zone: Some(zone.into()), ..Host::new(HostId::parse(id)?, capacity) };
//!     cell = cell.host_joined(host, now_ms)?;
//! }
//! let request = Resources { cpu_millis: 500, memory_bytes: 2 << 30, disk_bytes: 0 };
//! let spec = JobSpec { request, ..JobSpec::default() };
//! let web = Group::new(GroupId::parse("web")?, GroupKind::Service { count: 5 }, spec);
//! cell = cell.apply(&Transaction::on(&cell).put_group(web))?.state;
//! let mut services = ServiceScheduler::new();
//! let cell = Rested::run(&cell, now_ms, Duration::from_secs(60), &mut [&mut services]).state;
//!
//! let hypotheses = Hypothesis::parse_all("lose zone b")?;
//! let outcome = what_if(&cell, &hypotheses, &mut [&mut services], &Options::at(now_ms))?;
//! assert_eq!(outcome.unplaced[0].missing, 1);
//! assert_eq!(outcome.to_string(), "\
//! if lose zone b:
//! jobs: 1 moved, 0 started, 0 stopped, 1 displaced
//!   web      1 moved from h3 to h2
//!   web      1 displaced from h3
//! without a place:
//!   web      1 (0 before): none of 3 hosts can take it (schedulable: 1, resources: 2); the nearest is h1: needs 2 GiB of memory, 0 B is free
//! 1 more host like h1 would place all of it
//! promised on the hosts that take jobs:
//!   zone  hosts   cpu           memory
//!   a     2       19 % -> 25 %  75 % -> 100 %
//!   b     1 -> 0  25 % -> -     100 % -> -
//!   all   3 -> 2  21 % -> 25 %  83 % -> 100 %
//! the tightest is memory: 100 % is promised
//! done after 2 s, if every job started and stopped at once
//! ");
//! # Ok(()) }
//! ```
//!
//! What it does not know: how busy jobs really are, how long they take to start, and which of them would fail.

mod hypothesis;
mod imagine;
mod outcome;
mod parse;
mod redact;
mod report;
mod rest;
mod room;
mod snapshot;

use std::time::Duration;

use crate::{ClusterState, Error, Host, HostId, Result, Scheduler};

pub use hypothesis::{Hosts, Hypothesis, NewHost, Shape};
pub use outcome::{Fate, JobChange, Outcome, Unplaced};
pub use rest::Rested;
pub use room::{HostsNeeded, Room};
pub use snapshot::CellSnapshot;

use room::{missing, usual_host};

/// How to look into the future.
#[derive(Debug, Clone)]
pub struct Options {
    now_ms: u64,
    horizon: Duration,
    like: Option<HostId>,
}

impl Options {
    /// Default of [`with_horizon`](Self::with_horizon): longer than the graces and delays that schedulers keep, shorter
    /// than the time after which they forget hosts.
    pub const HORIZON: Duration = Duration::from_secs(300);

    /// It happens at this time, in milliseconds since the Unix epoch: that of the snapshot.
    #[must_use]
    pub fn at(now_ms: u64) -> Self {
        Self {
            now_ms,
            horizon: Self::HORIZON,
            like: None,
        }
    }

    /// How far to look.
    #[must_use]
    pub fn with_horizon(mut self, horizon: Duration) -> Self {
        self.horizon = horizon;
        self
    }

    /// The host that more are like, where more are needed. Default: the one that most hosts are like.
    #[must_use]
    pub fn with_like(mut self, host: HostId) -> Self {
        self.like = Some(host);
        self
    }
}

/// What would happen to `state` if all `hypotheses` came true at once, one after the other, and these schedulers saw to it.
///
/// What they have not done yet about `state` itself is part of what would happen: without hypotheses the outcome is what
/// is about to happen anyway, and nothing if the cell is at rest. Give the schedulers that run on the real cell, in the
/// order of their importance; groups that none of them is in charge of stay as they are.
///
/// # Errors
///
/// [`Error::Invalid`] when a hypothesis names what is not in the cell; [`Error::UnknownHost`] when
/// [`with_like`](Options::with_like) does.
pub fn what_if(
    state: &ClusterState,
    hypotheses: &[Hypothesis],
    schedulers: &mut [&mut dyn Scheduler],
    options: &Options,
) -> Result<Outcome> {
    let now_ms = options.now_ms;
    let like = match &options.like {
        None => None,
        Some(host) => match state.host(host) {
            Some(known) => Some(Host::clone(&known.host)),
            None => return Err(Error::UnknownHost { host: host.clone() }),
        },
    };
    let mut imagined = state.clone();
    for hypothesis in hypotheses {
        imagined = hypothesis.imagine(&imagined, now_ms)?;
    }
    let rested = Rested::run(&imagined, now_ms, options.horizon, schedulers);
    let like = like.or_else(|| usual_host(&imagined).cloned());
    let needed = match like {
        Some(like) if missing(&rested.state) > 0 => Some(HostsNeeded::search(
            &rested,
            &like,
            options.horizon,
            schedulers,
        )?),
        _ => None,
    };
    Ok(Outcome::of(state, now_ms, hypotheses, rested, needed))
}
