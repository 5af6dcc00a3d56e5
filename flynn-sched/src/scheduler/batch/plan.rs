//! What becomes of one batch in a round: what it lacks, what must go, where its next job is placed, and what is said of
//! it.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Budget, ClusterState, Group, GroupStatus, Job, JobId,
    placement::{Need, Tally},
    scheduler::{
        BatchScheduler, Context, Round, leaving::Push, making_room::Seats, progress::Progress,
        replicas::stop, roster::by_expendability,
    },
    transaction::Change,
};

/// What one group needs in a round.
#[derive(Debug)]
pub(super) struct Plan<'s> {
    pub(super) group: &'s Arc<Group>,
    count: u32,
    retries: u32,
    /// How many jobs to start, by attempt.
    wanted: Vec<u32>,
    /// The sum of them.
    pub(super) missing: u32,
    progress: Progress<'s>,
    changes: Vec<Change>,
    /// Where its jobs are, while it is its turn.
    tally: Option<Tally>,
    blocked: Option<String>,
    /// It is room that lacks, nothing else.
    lacks_room: bool,
    seats: Seats,
}

impl<'s> Plan<'s> {
    /// What the group needs now, before anything is placed.
    pub(super) fn of(
        scheduler: &BatchScheduler,
        round: &Round<'s>,
        group: &'s Arc<Group>,
        (count, retries): (u32, u32),
        context: &mut Context<'_>,
    ) -> Self {
        let state = round.state;
        let mut progress = Progress::of(scheduler, state, group, context);
        let mut changes = std::mem::take(&mut progress.removals);
        let wanted = progress.wanted(count, retries);
        let missing = wanted.iter().sum();
        changes.extend(progress.forget_displaced(missing));
        let mut plan = Self {
            group,
            count,
            retries,
            wanted,
            missing,
            progress,
            changes,
            tally: None,
            blocked: None,
            lacks_room: false,
            seats: round.making_room.seats(group, context),
        };
        let surplus = plan.stop_surplus(state);
        plan.leave(state, &surplus, context);
        plan
    }

    /// Stops jobs that are not needed any more, after the count was lowered.
    fn stop_surplus(&mut self, state: &ClusterState) -> BTreeSet<&'s JobId> {
        let open = self.count.saturating_sub(self.progress.succeeded());
        let mut running: Vec<&'s Arc<Job>> = self
            .progress
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
        }
        running.truncate(surplus);
        self.changes.extend(running.iter().map(|job| stop(job)));
        running.into_iter().map(|job| &job.id).collect()
    }

    /// Evicts jobs that must not stay on their hosts until they end, as far as the group can do without them.
    fn leave(
        &mut self,
        state: &ClusterState,
        surplus: &BTreeSet<&JobId>,
        context: &mut Context<'_>,
    ) {
        let pressed: Vec<(&Arc<Job>, Push)> = self
            .progress
            .live
            .iter()
            .filter(|job| !surplus.contains(&job.id))
            .filter_map(|job| Some((*job, Push::on(state, job, context)?)))
            .collect();
        if pressed.is_empty() {
            return;
        }
        let mut budget = Budget::of(state, self.group);
        for job in &self.progress.live {
            if surplus.contains(&job.id) {
                budget.take(state, job);
            }
        }
        let mut kept = 0;
        for (job, push) in &pressed {
            if budget.allows(state, job) {
                budget.take(state, job);
                self.changes.push(Change::Evict {
                    job: job.id.clone(),
                    why: push.eviction(),
                });
            } else {
                kept += 1;
            }
        }
        if kept > 0 {
            let (_, push) = &pressed[0];
            self.blocked = Some(format!(
                "{kept} of its jobs are to leave their hosts ({}) and stay for now: {} are up, and no less than {} are to be",
                push.why, budget.up, budget.floor
            ));
        }
    }

    /// Places one job of the group; `false` if it has none left, or there is no room.
    pub(super) fn place_one(
        &mut self,
        scheduler: &BatchScheduler,
        round: &mut Round<'_>,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(attempt) = self.wanted.iter().position(|n| *n > 0) else {
            self.tally = None;
            return false;
        };
        let group = self.group;
        let state = round.state;
        if let Some(why) = round.ledger.exceeded(&group.spec) {
            self.blocked = Some(why);
            self.tally = None;
            return false;
        }
        let board = round.board_for(group);
        let tally = self
            .tally
            .get_or_insert_with(|| board.tally(state, &group.id));
        let need = Need::new(&group.id, &group.spec).at(context.now_ms());
        let Some(host) = scheduler.placer.place(&need, board, tally) else {
            let why = scheduler.placer.why_in_short(&need, board, tally);
            self.blocked = Some(round.reason(group, why));
            self.lacks_room = true;
            self.tally = None;
            return false;
        };
        let attempt_number = u32::try_from(attempt).unwrap_or(u32::MAX);
        self.seats.take(&host);
        let job = context.new_job(group, host);
        round.count(&job);
        self.changes.push(Change::Start(Arc::new(Job {
            attempt: attempt_number,
            ..job
        })));
        self.wanted[attempt] -= 1;
        self.missing -= 1;
        true
    }

    /// Proposes what was planned and placed, and notes how far the group is.
    pub(super) fn conclude(
        mut self,
        scheduler: &BatchScheduler,
        round: &mut Round<'_>,
        context: &mut Context<'_>,
    ) {
        self.make_room(scheduler, round, context);
        let Self {
            group,
            count,
            retries,
            missing,
            progress,
            mut changes,
            mut blocked,
            seats,
            ..
        } = self;
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

    /// Frees what is reserved for jobs that no host can take, or preempts what is less important.
    fn make_room(
        &mut self,
        scheduler: &BatchScheduler,
        round: &mut Round<'_>,
        context: &mut Context<'_>,
    ) {
        let mut missing = usize::try_from(self.missing).unwrap_or(usize::MAX);
        if let Some(why) = self.blocked.as_mut().filter(|_| self.lacks_room) {
            let told = (&mut self.changes, why);
            missing -= round.reclaim(self.group, None, missing, told, context);
        }
        let preemptor = scheduler.preemptor.as_ref();
        let preemptor = preemptor.filter(|preemptor| preemptor.serves(self.group));
        let Some(preemptor) = preemptor.filter(|_| self.lacks_room) else {
            self.seats.limit(0);
            return;
        };
        let displaced = usize::try_from(self.progress.displaced()).unwrap_or(usize::MAX);
        let wanted = missing.saturating_sub(displaced);
        self.seats.limit(wanted);
        let making = &mut round.making_room;
        let (evictions, no) = making.make_room(
            preemptor,
            self.group,
            None,
            wanted,
            &mut self.seats,
            context,
        );
        self.changes.extend(evictions);
        match (no, &mut self.blocked) {
            (Some(no), Some(why)) => *why = format!("{why}; {no}"),
            (None, blocked) if self.seats.len() > 0 => *blocked = Some(self.seats.describe()),
            _ => {}
        }
    }
}
