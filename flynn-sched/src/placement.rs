//! Where to put a job: filters say which hosts can take it, scores which of them is best, and [`Why`] explains both.
//!
//! ```text
//! ClusterState ──► Board (hosts, with what this round has claimed already)
//!                    │      Tally (where the group's jobs are)
//!                    ▼
//!          filters ──► scores × weights ──► best host ──► claimed on the Board
//! ```
//!
//! # A filter and a score of your own
//!
//! A [`Filter`] answers whether a host can take a job, and says what a host lacks that cannot. A [`Score`] says how good a
//! host is, from 0 to 1, on a scale that does not depend on the other hosts. Suppose that hosts tell how warm they are in
//! the tag `celsius`, and that jobs may say in their request how little processor time they need:
//!
//! ```
//! use flynn_sched::{
//!     ClusterState, GroupId, Host, HostId, JobSpec, Resources,
//!     placement::{Board, Candidate, Filter, Lack, Need, Placer, Reads, Score},
//! };
//!
//! fn celsius(candidate: &Candidate<'_>) -> f64 {
//!     let tag = candidate.host.tags.get("celsius");
//!     tag.and_then(|text| text.parse().ok()).unwrap_or(20.0)
//! }
//!
//! /// No job that needs a core or more goes to a host of 80 °C.
//! #[derive(Debug)]
//! struct NotTooHot;
//!
//! impl Filter for NotTooHot {
//!     fn name(&self) -> &'static str {
//!         "not too hot"
//!     }
//!     // Only what the host says of itself, and the job's request: then it is asked anew only when a host speaks.
//!     fn reads(&self) -> Reads {
//!         Reads::Host
//!     }
//!     fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
//!         need.spec.request.cpu_millis < 1000 || celsius(candidate) < 80.0
//!     }
//!     fn lack(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
//!         let celsius = celsius(candidate);
//!         Lack {
//!             why: format!("is {celsius} °C warm, 80 is too much"),
//!             distance: celsius - 80.0,
//!         }
//!     }
//! }
//!
//! /// 1 for a host at 0 °C, 0 for one at 100 °C.
//! #[derive(Debug)]
//! struct Cool;
//!
//! impl Score for Cool {
//!     fn name(&self) -> &'static str {
//!         "cool"
//!     }
//!     fn reads(&self) -> Reads {
//!         Reads::Host
//!     }
//!     fn score(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
//!         1.0 - celsius(candidate) / 100.0
//!     }
//! }
//!
//! # fn main() -> flynn_sched::Result<()> {
//! let mut state = ClusterState::default();
//! for (id, celsius) in [("tick", "85"), ("trick", "60"), ("track", "40")] {
//!     let capacity = Resources { cpu_millis: 2000, ..Resources::default() };
//!     let mut host = Host::new(HostId::parse(id)?, capacity);
//!     host.tags.insert("celsius".into(), celsius.into());
//!     state = state.host_joined(host, 0)?;
//! }
//! let placer = Placer::default().with_filter(NotTooHot).with_score(Cool, 2.0);
//!
//! // Place three jobs of a core each. Boards and tallies are made from a snapshot and see what was claimed since.
//! let group = GroupId::parse("sums")?;
//! let spec = JobSpec { request: Resources { cpu_millis: 1500, ..Resources::default() }, ..JobSpec::default() };
//! let need = Need::new(&group, &spec);
//! let mut board = Board::of(&state);
//! let mut tally = board.tally(&state, &group);
//! let placed = placer.place_many(&need, 3, &mut board, &mut tally);
//! assert_eq!(placed, [HostId::parse("track")?, HostId::parse("trick")?]);
//! assert_eq!(
//!     placer.why(&need, &board, &tally).to_string(),
//!     "none of 3 hosts can take it (resources: 2, not too hot: 1); the nearest is tick: is 85 °C warm, 80 is too much"
//! );
//! # Ok(()) }
//! ```
//!
//! # How it is fast
//!
//! Jobs of one *shape* (the same request, constraints, tolerations, …) see every host alike, as long as it has no jobs of
//! their group. So the board keeps a tournament tree over the hosts for each shape that comes up again, and brings it up
//! to the hosts that have changed when the shape is asked for next. Hosts that are special to the group are put in with all
//! that is said of them while the group is placed; what depends on zones, racks or tags is added to the winner of each
//! class of hosts. The best host is then found in the logarithm of their number, and it is the same one that a look at all
//! of them ([`Search::Scan`]) finds: a property test compares the two. What a filter or score [reads](Reads) decides where
//! in this it is asked; one that does not say is asked about every host for every job.

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

    /// Could it keep any host from such a job? Asked once for many hosts: where the answer is no,
    /// [`admits`](Self::admits) is taken to be true of all of them. It may look at what `admits` may look at of the need.
    fn concerns(&self, need: &Need<'_>) -> bool {
        let _ = need;
        true
    }

    /// Can the host take the job? Called for many hosts, so it should be cheap.
    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool;

    /// What a host that was not admitted lacks.
    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack;

    /// The distance of what it [lacks](Self::lack). Asked of many hosts, where words are only wanted of the nearest: worth
    /// its own code where finding the words is slow.
    fn distance(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        self.lack(need, candidate).distance
    }
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
