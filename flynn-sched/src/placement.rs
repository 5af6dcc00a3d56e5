//! Where to put a job: filters say which hosts can take it, scores which of them is best, and [`Why`] explains both.
//!
//! ```text
//! ClusterState ──► Board (hosts, with what this round has claimed already)
//!                    │      Tally (where the group's jobs are)
//!                    ▼
//!          filters ──► scores × weights ──► best host ──► claimed on the Board
//! ```

mod board;
mod filters;
mod scores;
mod why;

use std::fmt;

use crate::{GroupId, HostId, JobSpec};

pub use board::{Board, Candidate, Tally};
pub use filters::{Constraints, DistinctHosts, FixedPorts, FreeResources, Schedulable};
pub use scores::{AvoidFailures, BinPack, LeastLoaded, SpreadHosts, SpreadZones};
pub use why::{Ranked, Rejected, Why};

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Need<'a> {
    /// The group that the job will belong to.
    pub group: &'a GroupId,
    /// What the job is.
    pub spec: &'a JobSpec,
}

/// Says which hosts can take a job.
pub trait Filter: fmt::Debug + Send + Sync {
    /// A short name for explanations.
    fn name(&self) -> &'static str;

    /// Can the host take the job? Called for every host, so it should be cheap.
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

    /// How good the host is; higher is better, on any scale. The [`Placer`] maps the worst candidate to 0 and the best
    /// to 1 before it weighs.
    fn score(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64;
}

/// Filters, then scores, then the best.
#[derive(Debug)]
pub struct Placer {
    filters: Vec<Box<dyn Filter>>,
    scores: Vec<(Box<dyn Score>, f64)>,
}

impl Default for Placer {
    /// What [`ServiceScheduler`](crate::scheduler::ServiceScheduler) uses: every filter that commits insist on; spread
    /// over hosts before zones before load, and away from hosts where jobs of the group failed.
    fn default() -> Self {
        Self::new()
            .with_score(SpreadHosts, 4.0)
            .with_score(AvoidFailures, 3.0)
            .with_score(SpreadZones, 2.0)
            .with_score(LeastLoaded, 1.0)
    }
}

impl Placer {
    /// A placer that knows what commits insist on, and prefers nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            filters: vec![
                Box::new(Schedulable),
                Box::new(Constraints),
                Box::new(DistinctHosts),
                Box::new(FixedPorts),
                Box::new(FreeResources),
            ],
            scores: Vec::new(),
        }
    }

    /// Adds a filter behind the others.
    #[must_use]
    pub fn with_filter(mut self, filter: impl Filter + 'static) -> Self {
        self.filters.push(Box::new(filter));
        self
    }

    /// Adds a score that counts `weight` times.
    #[must_use]
    pub fn with_score(mut self, score: impl Score + 'static, weight: f64) -> Self {
        self.scores.push((Box::new(score), weight));
        self
    }

    /// Chooses the best host and claims its room on the board, so that the next job of the round sees it taken.
    ///
    /// Equally good hosts are taken in the order of their number of jobs, then of their ids.
    #[must_use]
    pub fn place(&self, need: &Need<'_>, board: &mut Board, tally: &mut Tally) -> Option<HostId> {
        let slot = self.best(need, board, tally)?;
        board.claim(slot, need.spec, tally);
        Some(board.host(slot).id.clone())
    }

    /// Claims room on this one host, if it can take the job.
    ///
    /// # Errors
    ///
    /// The filter that does not admit it, and what it lacks; the host's absence is `schedulable`'s business.
    pub fn place_on(
        &self,
        host: &HostId,
        need: &Need<'_>,
        board: &mut Board,
        tally: &mut Tally,
    ) -> Result<(), (&'static str, Lack)> {
        let Some(slot) = board.slot(host) else {
            let why = "is not in the cluster".to_owned();
            return Err((Schedulable.name(), Lack { why, distance: 1.0 }));
        };
        let candidate = board.candidate(slot, tally);
        if let Some(filter) = self.rejecting(need, &candidate) {
            let filter = &self.filters[filter];
            return Err((filter.name(), filter.lack(need, &candidate)));
        }
        board.claim(slot, need.spec, tally);
        Ok(())
    }

    /// Explains where a job would go, or what it lacks.
    #[must_use]
    pub fn why(&self, need: &Need<'_>, board: &Board, tally: &Tally) -> Why {
        why::explain(self, need, board, tally)
    }

    /// The first filter that does not admit the candidate, by position.
    fn rejecting(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Option<usize> {
        self.filters
            .iter()
            .position(|filter| !filter.admits(need, candidate))
    }

    fn best(&self, need: &Need<'_>, board: &Board, tally: &Tally) -> Option<usize> {
        let admitted: Vec<usize> = (0..board.len())
            .filter(|slot| {
                self.rejecting(need, &board.candidate(*slot, tally))
                    .is_none()
            })
            .collect();
        let totals = self.totals(need, board, tally, &admitted);
        let better = |a: &usize, b: &usize| {
            // Slots are in the order of host ids.
            totals[*b]
                .total_cmp(&totals[*a])
                .then_with(|| board.jobs(admitted[*a]).cmp(&board.jobs(admitted[*b])))
                .then_with(|| a.cmp(b))
        };
        (0..admitted.len()).min_by(better).map(|at| admitted[at])
    }

    fn totals(
        &self,
        need: &Need<'_>,
        board: &Board,
        tally: &Tally,
        admitted: &[usize],
    ) -> Vec<f64> {
        let mut totals = vec![0.0; admitted.len()];
        for (score, weight) in &self.scores {
            let parts = normalised(score.as_ref(), need, board, tally, admitted);
            for (total, part) in totals.iter_mut().zip(parts) {
                *total += weight * part;
            }
        }
        totals
    }
}

/// The scores of the admitted slots, the worst as 0 and the best as 1; all 1 if they are equal.
fn normalised(
    score: &dyn Score,
    need: &Need<'_>,
    board: &Board,
    tally: &Tally,
    admitted: &[usize],
) -> Vec<f64> {
    let raw: Vec<f64> = admitted
        .iter()
        .map(|slot| score.score(need, &board.candidate(*slot, tally)))
        .collect();
    let worst = raw.iter().copied().fold(f64::INFINITY, f64::min);
    let best = raw.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = best - worst;
    raw.into_iter()
        .map(|score| {
            if range > 0.0 {
                (score - worst) / range
            } else {
                1.0
            }
        })
        .collect()
}
