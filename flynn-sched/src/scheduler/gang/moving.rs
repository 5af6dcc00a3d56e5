//! Moving a gang as a whole: all its jobs are told to go in one transaction, and it is started anew when they have gone.

use std::sync::Arc;

use crate::{
    Budget, Group, GroupStatus, Job, Transaction,
    placement::Need,
    scheduler::{Context, GangScheduler, Round, leaving::Push, together::place_all},
    transaction::Change,
};

impl GangScheduler {
    /// Stops the first of the gangs that must leave a host and can; notes why the others cannot.
    pub(super) fn move_first(
        &self,
        round: &mut Round<'_>,
        pressed: Vec<(&Arc<Group>, u32, Push)>,
        context: &Context<'_>,
    ) -> Option<Transaction> {
        let mut notes = Vec::new();
        for (group, count, push) in pressed {
            let running: Vec<&Arc<Job>> = round
                .state
                .jobs_of(&group.id)
                .filter(|job| !job.status.phase.is_final())
                .collect();
            let done = count.saturating_sub(u32::try_from(running.len()).unwrap_or(u32::MAX));
            let status = GroupStatus {
                succeeded: done,
                forgotten: round.status(group).forgotten,
                ..GroupStatus::default()
            };
            let keeps = budget_keeps(round, group, &running)
                .or_else(|| self.has_no_room(round, group, count, &running, &push, context));
            let Some(why) = keeps else {
                let evictions = running.iter().map(|job| Change::Evict {
                    job: job.id.clone(),
                    why: push.eviction(),
                });
                let mut changes: Vec<Change> = evictions.collect();
                changes.extend(round.note(group, status, context.now_ms()));
                round.propose(group, changes);
                let transaction = std::mem::take(&mut round.transaction);
                // What the cell's store cannot carry out at once goes in parts: it is broken off all the same.
                return Some(match self.impossible.get(&group.id) {
                    Some(_) => transaction,
                    None => transaction.all_or_nothing(),
                });
            };
            let blocked = Some(format!("{}, and it stays for now: {why}", push.why));
            let status = GroupStatus { blocked, ..status };
            notes.push((group, round.note(group, status, context.now_ms())));
        }
        for (group, note) in notes {
            round.propose(group, note.into_iter().collect());
        }
        None
    }

    /// Why it cannot be started elsewhere, if that matters.
    fn has_no_room(
        &self,
        round: &mut Round<'_>,
        group: &Arc<Group>,
        count: u32,
        running: &[&Arc<Job>],
        push: &Push,
        context: &Context<'_>,
    ) -> Option<String> {
        if push.is_overdue {
            return None;
        }
        let state = round.state;
        let board = round.board_for(group);
        let mut tally = board.tally(state, &group.id);
        for job in running {
            board.release(&job.host, &job.spec, &mut tally);
        }
        let need = Need::new(&group.id, &group.spec).at(context.now_ms());
        let placed = place_all(&self.placer, &need, board, &mut tally, count);
        round.discard_board();
        let short = placed.err()?;
        let why = round.reason(group, short.why);
        Some(format!(
            "only {} of {count} fit elsewhere at once: {why}",
            short.fit
        ))
    }
}

/// Why the group's budget does not let all of it go at once, if it does not.
fn budget_keeps(round: &Round<'_>, group: &Group, running: &[&Arc<Job>]) -> Option<String> {
    let state = round.state;
    let mut budget = Budget::of(state, group);
    running.iter().find_map(|job| {
        if budget.allows(state, job) {
            budget.take(state, job);
            return None;
        }
        let floor = budget.floor;
        Some(format!(
            "it moves as a whole or not at all, and no less than {floor} of its jobs are to be up"
        ))
    })
}
