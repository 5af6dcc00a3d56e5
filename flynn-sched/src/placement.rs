//! Where to put a job: filters say which hosts can take it, scores which of them is best, and [`Why`] explains both.
//!
//! ```text
//! ClusterState ──► Board (hosts, with what this round has claimed already)
//!                    │      Tally (where the group's jobs are)
//!                    ▼
//!          filters ──► scores × weights ──► best host ──► claimed on the Board
//! ```

mod board;
mod candidate;
mod claims;
mod filters;
mod index;
mod placer;
mod places;
mod plan;
mod points;
mod scores;
mod search;
mod tally;
mod tournament;
mod why;

use std::fmt;

use crate::{Domain, GroupId, JobSpec};

pub use board::Board;
pub use candidate::Candidate;
pub use filters::{
    Constraints, DistinctHosts, FixedPorts, FreeResources, NamedResources, NearAndApart,
    NearAndApartOnHosts, Schedulable, Taints,
};
pub use placer::Placer;
pub use scores::{
    AffinitiesToHosts, AffinitiesToPlaces, Alignment, AskedSpread, AskedSpreadOverHosts,
    AvoidFailures, BinPack, LeastLoaded, Locality, SpreadHosts, SpreadOver, SpreadZones, Untainted,
};
pub use search::Search;
pub use tally::Tally;
pub use why::{Ranked, Rejected, Why};

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Need<'a> {
    /// The group that the job will belong to.
    pub group: &'a GroupId,
    /// What the job is.
    pub spec: &'a JobSpec,
    /// When it would start, in milliseconds since the Unix epoch: reservations begin and end.
    pub now_ms: u64,
}

impl<'a> Need<'a> {
    /// A job of `group` like `spec`, at the epoch: say [`at`](Self::at) when.
    #[must_use]
    pub fn new(group: &'a GroupId, spec: &'a JobSpec) -> Self {
        Self {
            group,
            spec,
            now_ms: 0,
        }
    }

    /// The same at another time.
    #[must_use]
    pub fn at(mut self, now_ms: u64) -> Self {
        self.now_ms = now_ms;
        self
    }
}

/// Says which hosts can take a job.
pub trait Filter: fmt::Debug + Send + Sync {
    /// A short name for explanations.
    fn name(&self) -> &'static str;

    /// What [`admits`](Self::admits) looks at.
    fn reads(&self) -> Reads {
        Reads::Everything
    }

    /// Can the host take the job? Called for many hosts, so it should be cheap.
    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool;

    /// What a host that was not admitted lacks.
    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack;
}

/// What a host lacks.
#[derive(Debug, Clone, PartialEq)]
pub struct Lack {
    /// In a sentence fragment, such as `needs 60 MiB of memory, 40 MiB is free`.
    pub why: String,
    /// How far the host is from being admitted; only compared with other lacks of the same filter.
    pub distance: f64,
}

/// Says which of the hosts that can take a job is better.
pub trait Score: fmt::Debug + Send + Sync {
    /// A short name for explanations.
    fn name(&self) -> &'static str;

    /// What [`score`](Self::score) looks at.
    fn reads(&self) -> Reads {
        Reads::Everything
    }

    /// How good the host is, from 0 to 1; higher is better. What is less counts as 0, what is more as 1, and what is not
    /// a number as 0. The scale should not depend on the other hosts, so that weights mean the same in every cell. Scores
    /// are compared to 2⁻³²; what differs by less is equal.
    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64;
}

/// What a [`Filter`] or [`Score`] looks at. The less it is, the less often it is asked: the best host is then found
/// without looking at all of them. Saying too little makes choices wrong, so the default is everything.
///
/// All of them may look at these parts of the [`Need`]: the spec's `request`, `named`, `constraints`, `tolerations`,
/// `ports` (if it insists on one), `partition`, `namespace` and `expected`. Whoever looks at others, such as `metadata`,
/// reads everything, except as said below.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reads {
    /// What the host says of itself ([`Candidate::host`]), and whether it is lost.
    Host,
    /// The same, and the spec's `artifacts` and `volumes` as far as some host [holds](crate::Host::holds) them.
    Files,
    /// The same as `Host`, and what is promised on it: [`room`](Candidate::room), [`free`](Candidate::free),
    /// [`jobs`](Candidate::jobs), ports and named resources.
    Load,
    /// The group's jobs on the host (`group_jobs`, `group_active`, `group_failed`), and jobs that the spec's constraints
    /// and affinities name with [`Domain::Host`]; also the spec's `spread` and `affinities`. Nothing else of the host:
    /// hosts without such jobs must all be the same to it.
    Group,
    /// How many jobs of the group are in the host's place of this domain, and in the emptiest place:
    /// [`Candidate::group_in`], [`Candidate::fewest_in`]. Nothing else of the host.
    Place(Domain),
    /// The same for all domains that the spec's `spread`, `affinities` and constraints name, and [`Candidate::has_near`]
    /// in them. Nothing else of the host.
    Places,
    /// Anything. Every host is looked at for every job.
    Everything,
}
