//! Jobs that run to completion.

mod plan;

use std::{collections::BTreeMap, time::Duration};

use crate::{
    ClusterState, GroupKind, Namespace, Preemptor, Transaction,
    placement::{BinPack, Board, LeastLoaded, Placer, SpreadHosts},
    scheduler::{Context, RestartBackoff, Round, Scheduler, fairness::Shares},
};

use plan::Plan;

/// Runs [`GroupKind::Batch`] groups to completion: `count` jobs, each tried anew at most `retries` times.
///
/// A job that ends with 0 has succeeded. One that ends otherwise, or whose host is lost, has failed and is followed by a
/// new job with the next [`Job::attempt`](crate::Job::attempt), after a delay. One that was stopped is given up; one that the cell took away
/// ([`Job::evicted`](crate::Job::evicted)) is run anew as the same attempt. When nothing is left to do,
/// the group's status says so; the group is removed [when its time is over](crate::Group::keep), or by whoever wrote it.
///
/// A host that drains is given no new jobs, and those it has run to their end, or until
/// [its time to drain is over](crate::Host::drain_by_ms). Then, and at once where a host gets a taint that evicts
/// ([`NoExecute`](crate::TaintEffect::NoExecute)) and that they do not tolerate, they are stopped and run anew elsewhere,
/// as the same attempt; as many at a time as the group's [`Budget`](crate::Budget) allows. (Without
/// [`max_unavailable`](crate::Group::max_unavailable) that is all of them.)
///
/// Groups of a higher priority go first. Within a priority, namespaces take turns by dominant resource fairness: each
/// job that is placed is one of the namespace that has the least of the cell, measured by what it has most of and divided
/// by its [weight](Self::with_weight). However many groups one namespace writes, it cannot starve another.
#[derive(Debug)]
pub struct BatchScheduler {
    placer: Placer,
    pub(super) lost_grace: Duration,
    pub(super) history: usize,
    pub(super) backoff: RestartBackoff,
    preemptor: Option<Preemptor>,
    weights: BTreeMap<Namespace, u32>,
    /// Of the last round.
    board: Option<Board>,
}

impl Default for BatchScheduler {
    fn default() -> Self {
        Self {
            placer: Placer::new()
                .with_score(SpreadHosts, 1.0)
                .with_score(LeastLoaded, 2.0),
            lost_grace: Self::LOST_GRACE,
            history: Self::HISTORY,
            backoff: RestartBackoff::default(),
            preemptor: None,
            weights: BTreeMap::new(),
            board: None,
        }
    }
}

impl BatchScheduler {
    /// Default of [`with_lost_grace`](Self::with_lost_grace): longer than for services, since a batch job that runs
    /// twice may do its work twice.
    pub const LOST_GRACE: Duration = Duration::from_secs(10);
    /// Default of [`with_history`](Self::with_history).
    pub const HISTORY: usize = 50;
    /// How many jobs one round starts at most; the rest follow in the next ones.
    pub const MAX_STARTS: usize = 100_000;

    /// A batch scheduler with the defaults: it evens out load.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch scheduler that fills hosts one by one, so that others stay free for large jobs.
    #[must_use]
    pub fn packing() -> Self {
        Self::new().with_placer(Placer::new().with_score(BinPack, 1.0))
    }

    /// Places by these filters and scores.
    #[must_use]
    pub fn with_placer(mut self, placer: Placer) -> Self {
        self.placer = placer;
        self
    }

    /// How long a host may be lost before its jobs count as failed.
    #[must_use]
    pub fn with_lost_grace(mut self, grace: Duration) -> Self {
        self.lost_grace = grace;
        self
    }

    /// How many ended jobs of each group are kept to look at; of older ones only the counts are.
    #[must_use]
    pub fn with_history(mut self, history: usize) -> Self {
        self.history = history;
        self
    }

    /// The delays before a job is tried again.
    #[must_use]
    pub fn with_backoff(mut self, backoff: RestartBackoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Makes room by this preemptor for groups that it [serves](Preemptor::serves). By default nothing is preempted for a
    /// batch.
    #[must_use]
    pub fn with_preemption(mut self, preemptor: Preemptor) -> Self {
        self.preemptor = Some(preemptor);
        self
    }

    /// How much of the cell a namespace may have compared with others, where it is not enough for all; 1 unless this is
    /// said, and 0 counts as 1.
    #[must_use]
    pub fn with_weight(mut self, namespace: Namespace, weight: u32) -> Self {
        self.weights.insert(namespace, weight);
        self
    }
}

impl Scheduler for BatchScheduler {
    fn name(&self) -> &'static str {
        "batch"
    }

    fn schedule(&mut self, state: &ClusterState, context: &mut Context<'_>) -> Transaction {
        let mut round = Round::on(state).with_board(self.board.take());
        let mut shares = Shares::of(state, &self.weights);
        let mut left = Self::MAX_STARTS;
        for priority in round.groups().chunk_by(|a, b| a.priority == b.priority) {
            let mut plans: Vec<Plan<'_>> = Vec::new();
            for group in priority {
                if let GroupKind::Batch { count, retries } = group.kind
                    && !round.retire(group, context)
                {
                    plans.push(Plan::of(self, &round, group, (count, retries), context));
                }
            }
            let in_line = plans.iter_mut().filter(|plan| plan.missing > 0);
            let in_line = in_line.map(|plan| (&*plan.group.spec, plan)).collect();
            shares.take_turns(in_line, |plan| {
                let places = left > 0 && plan.place_one(self, &mut round, context);
                left -= usize::from(places);
                places
            });
            for plan in plans {
                plan.conclude(self, &mut round, context);
            }
        }
        round.clear_orphans();
        self.board = round.board.take();
        round.transaction
    }
}
