//! Jobs that run to completion.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    ClusterState, Group, GroupKind, GroupStatus, Job, Namespace, Preemptor, Transaction,
    placement::{BinPack, Board, LeastLoaded, Need, Placer, SpreadHosts, Tally},
    scheduler::{
        Context, RestartBackoff, Round, Scheduler, fairness::Shares, making_room::Seats,
        progress::Progress, replicas::stop, roster::by_expendability,
    },
    transaction::Change,
};

/// Runs [`GroupKind::Batch`] groups to completion: `count` jobs, each tried anew at most `retries` times.
///
/// A job that ends with 0 has succeeded. One that ends otherwise, or whose host is lost, has failed and is followed by a
/// new job with the next [`Job::attempt`], after a delay. One that was stopped is given up; one that the cell took away
/// ([`Job::evicted`]) is run anew as the same attempt. When nothing is left to do,
/// the group's status says so; the group is removed [when its time is over](Group::keep), or by whoever wrote it.
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

    /// What a group needs now, before anything is placed.
    fn plan<'s>(
        &self,
        round: &Round<'s>,
        group: &'s Arc<Group>,
        (count, retries): (u32, u32),
        context: &mut Context<'_>,
    ) -> Plan<'s> {
        let state = round.state;
        let mut progress = Progress::of(self, state, group, context);
        let mut changes = std::mem::take(&mut progress.removals);
        let wanted = progress.wanted(count, retries);
        changes.extend(progress.forget_displaced(wanted.iter().sum()));
        self.stop_surplus(state, &progress, count, &mut changes);
        Plan {
            group,
            count,
            retries,
            missing: wanted.iter().sum(),
            wanted,
            progress,
            changes,
            tally: None,
            blocked: None,
            lacks_room: false,
            seats: round.making_room.seats(group, context),
        }
    }

    /// Places one job of the group; `false` if it has none left, or there is no room.
    fn place_one(
        &self,
        round: &mut Round<'_>,
        plan: &mut Plan<'_>,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(attempt) = plan.wanted.iter().position(|n| *n > 0) else {
            plan.tally = None;
            return false;
        };
        let group = plan.group;
        let state = round.state;
        if let Some(why) = round.ledger.exceeded(&group.spec) {
            plan.blocked = Some(why);
            plan.tally = None;
            return false;
        }
        let board = round.board_for(group);
        let tally = plan
            .tally
            .get_or_insert_with(|| board.tally(state, &group.id));
        let need = Need::new(&group.id, &group.spec).at(context.now_ms());
        let Some(host) = self.placer.place(&need, board, tally) else {
            let why = self.placer.why(&need, board, tally).to_string();
            plan.blocked = Some(round.reason(group, why));
            plan.lacks_room = true;
            plan.tally = None;
            return false;
        };
        let attempt_number = u32::try_from(attempt).unwrap_or(u32::MAX);
        plan.seats.take(&host);
        let job = context.new_job(group, host);
        round.count(&job);
        plan.changes.push(Change::Start(Arc::new(Job {
            attempt: attempt_number,
            ..job
        })));
        plan.wanted[attempt] -= 1;
        plan.missing -= 1;
        true
    }

    /// Proposes what was planned and placed, and notes how far the group is.
    fn conclude(&self, round: &mut Round<'_>, mut plan: Plan<'_>, context: &Context<'_>) {
        self.make_room(round, &mut plan, context);
        let Plan {
            group,
            count,
            retries,
            missing,
            progress,
            mut changes,
            mut blocked,
            seats,
            ..
        } = plan;
        let (succeeded, failed) = (progress.succeeded(), progress.given_up(retries));
        if failed > 0 {
            blocked = blocked.or_else(|| Some(progress.reason(failed, retries)));
        }
        let is_idle = progress.live.is_empty() && progress.waiting == 0 && missing == 0;
        let mut status = GroupStatus {
            missing,
            blocked,
            succeeded,
            failed,
            is_complete: is_idle && succeeded.saturating_add(failed) >= count,
            forgotten: progress.forgotten,
            nominated: round.making_room.keep(group, seats),
            ..GroupStatus::default()
        };
        round.date_completion(group, &mut status, context);
        changes.extend(round.note(group, status, context.now_ms()));
        round.propose(group, changes);
    }

    /// Preempts what is less important for jobs that no host can take.
    fn make_room(&self, round: &mut Round<'_>, plan: &mut Plan<'_>, context: &Context<'_>) {
        let preemptor = self.preemptor.as_ref();
        let serves = |preemptor: &&Preemptor| preemptor.serves(plan.group);
        let Some(preemptor) = preemptor.filter(serves).filter(|_| plan.lacks_room) else {
            plan.seats.limit(0);
            return;
        };
        let wanted = plan.missing.saturating_sub(plan.progress.displaced());
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        plan.seats.limit(wanted);
        let making = &mut round.making_room;
        let (evictions, no) = making.make_room(
            preemptor,
            plan.group,
            None,
            wanted,
            &mut plan.seats,
            context,
        );
        plan.changes.extend(evictions);
        match (no, &mut plan.blocked) {
            (Some(no), Some(why)) => *why = format!("{why}; {no}"),
            (None, blocked) if plan.seats.len() > 0 => *blocked = Some(plan.seats.describe()),
            _ => {}
        }
    }

    /// Stops jobs that are not needed any more, after the count was lowered.
    fn stop_surplus(
        &self,
        state: &ClusterState,
        progress: &Progress<'_>,
        count: u32,
        changes: &mut Vec<Change>,
    ) {
        let open = count.saturating_sub(progress.succeeded());
        let mut running: Vec<&Arc<Job>> = progress
            .live
            .iter()
            .copied()
            .filter(|job| !job.is_stopping)
            .collect();
        let surplus = running
            .len()
            .saturating_sub(usize::try_from(open).unwrap_or(usize::MAX));
        if surplus > 0 {
            by_expendability(state, &mut running);
            changes.extend(running[..surplus].iter().map(|job| stop(job)));
        }
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
                    plans.push(self.plan(&round, group, (count, retries), context));
                }
            }
            let in_line = plans.iter_mut().filter(|plan| plan.missing > 0);
            let in_line = in_line.map(|plan| (&*plan.group.spec, plan)).collect();
            shares.take_turns(in_line, |plan| {
                let places = left > 0 && self.place_one(&mut round, plan, context);
                left -= usize::from(places);
                places
            });
            for plan in plans {
                self.conclude(&mut round, plan, context);
            }
        }
        round.clear_orphans();
        self.board = round.board.take();
        round.transaction
    }
}

/// What one group needs in a round.
struct Plan<'s> {
    group: &'s Arc<Group>,
    count: u32,
    retries: u32,
    /// How many jobs to start, by attempt.
    wanted: Vec<u32>,
    /// The sum of them.
    missing: u32,
    progress: Progress<'s>,
    changes: Vec<Change>,
    /// Where its jobs are, while it is its turn.
    tally: Option<Tally>,
    blocked: Option<String>,
    /// It is room that lacks, nothing else.
    lacks_room: bool,
    seats: Seats,
}
