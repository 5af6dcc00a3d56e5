//! Moves running jobs that stand badly.

use std::{sync::Arc, time::Duration};

use crate::{
    ClusterState, Eviction, Transaction,
    clock::millis,
    rebalance::{Move, Rebalancer},
    scheduler::{Context, Scheduler},
    transaction::Change,
};

/// Moves jobs of services, a few at a time, where that makes the cell more even by more than it costs.
///
/// For each move it starts a job in the place where it should be and marks the old one as
/// [moving](Eviction::Moving); the [`ServiceScheduler`](super::ServiceScheduler), which must run as well, stops the old
/// one when as many as there should be are up without it. So the group never has less than before. All moves of a round
/// are committed together or not at all.
///
/// It is not part of any other scheduler: who wants it runs it. What it moves, and why, is logged, and stands in
/// [`Job::evicted`](crate::Job::evicted).
#[derive(Debug)]
pub struct RebalanceScheduler {
    rebalancer: Rebalancer,
    every: Duration,
    /// Not before this time again, in milliseconds since the Unix epoch.
    rests_until_ms: u64,
}

impl Default for RebalanceScheduler {
    fn default() -> Self {
        Self {
            rebalancer: Rebalancer::default(),
            every: Self::EVERY,
            rests_until_ms: 0,
        }
    }
}

impl RebalanceScheduler {
    /// Default of [`with_every`](Self::with_every).
    pub const EVERY: Duration = Duration::from_secs(10);

    /// With the defaults of [`Rebalancer`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How eagerly jobs are moved.
    #[must_use]
    pub fn with_rebalancer(mut self, rebalancer: Rebalancer) -> Self {
        self.rebalancer = rebalancer;
        self
    }

    /// How often the whole cell is looked at, at most; it takes a while in a large one.
    #[must_use]
    pub fn with_every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }
}

impl Scheduler for RebalanceScheduler {
    fn name(&self) -> &'static str {
        "rebalance"
    }

    fn schedule(&mut self, state: &ClusterState, context: &mut Context<'_>) -> Transaction {
        if context.now_ms() < self.rests_until_ms {
            context.wake_at(self.rests_until_ms);
            return Transaction::on(state);
        }
        self.rests_until_ms = context.now_ms().saturating_add(millis(self.every));
        let plan = self.rebalancer.plan(state, context.now_ms());
        plan.wake_at_ms
            .into_iter()
            .for_each(|ms| context.wake_at(ms));
        let mut transaction = Transaction::on(state).all_or_nothing();
        for planned in &plan.moves {
            tracing::info!(%planned, "moving a job");
            transaction = carry_out(state, planned, context, transaction);
        }
        transaction
    }
}

fn carry_out(
    state: &ClusterState,
    planned: &Move,
    context: &mut Context<'_>,
    transaction: Transaction,
) -> Transaction {
    let Some(group) = state.group(&planned.group) else {
        return transaction;
    };
    let mut why = planned.why.clone();
    why.truncate(why.floor_char_boundary(Eviction::WHY_MAX));
    let successor = context.new_job(group, planned.to.clone());
    transaction
        .with(Change::ExpectGroup {
            group: group.id.clone(),
            version: state.group_version(&group.id),
        })
        .with(Change::Start(Arc::new(successor)))
        .evict(planned.job.clone(), Eviction::Moving { why })
}
