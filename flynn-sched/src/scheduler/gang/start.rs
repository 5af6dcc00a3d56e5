//! Starting all jobs of a gang in one transaction.

use std::sync::Arc;

use crate::{
    Group, GroupStatus, Job, Transaction,
    clock::millis,
    placement::Need,
    scheduler::{
        Context, GangScheduler, Round, attempt::number, gang::room::Clearing, hold,
        together::place_all,
    },
    transaction::Change,
};

/// Why a gang is not started.
#[derive(Debug)]
enum Short {
    /// It is not room that lacks.
    Barred(String),
    /// Only `fit` of its jobs have room at once.
    NoRoom { fit: u32, why: String },
}

impl GangScheduler {
    /// The transaction that starts all of a gang, or what keeps it from that.
    fn start(
        &self,
        round: &mut Round<'_>,
        group: &Arc<Group>,
        count: u32,
        context: &mut Context<'_>,
    ) -> Result<Transaction, Short> {
        let state = round.state;
        if let Some((version, why)) = self.impossible.get(&group.id)
            && *version == state.group_version(&group.id)
        {
            return Err(Short::Barred(format!(
                "its {count} jobs cannot be started at once: {why}"
            )));
        }
        if count > Self::MAX_MEMBERS {
            let most = Self::MAX_MEMBERS;
            return Err(Short::Barred(format!(
                "a gang of {count} jobs is too large: use at most {most}"
            )));
        }
        if let Some(why) = round.ledger.exceeded_by(&group.spec, count) {
            return Err(Short::Barred(why));
        }
        let need = Need::new(&group.id, &group.spec).at(context.now_ms());
        let board = round.board_for(group);
        let mut tally = board.tally(state, &group.id);
        let placed = place_all(&self.placer, &need, board, &mut tally, count);
        let hosts = placed.map_err(|short| {
            round.discard_board();
            let why = round.reason(group, short.why);
            let fit = short.fit;
            Short::NoRoom {
                why: format!("only {fit} of {count} fit at once: {why}"),
                fit,
            }
        })?;
        let status = round.status(group);
        let attempt = number(status.forgotten.first().copied().unwrap_or_default());
        let mut changes: Vec<Change> = hosts
            .into_iter()
            .map(|host| {
                let job = context.new_job(group, host);
                Change::Start(Arc::new(Job { attempt, ..job }))
            })
            .collect();
        let started = GroupStatus {
            forgotten: status.forgotten,
            ..GroupStatus::default()
        };
        changes.extend(round.note(group, started, context.now_ms()));
        round.propose(group, changes);
        Ok(std::mem::take(&mut round.transaction).all_or_nothing())
    }

    /// Starts the first of the gangs that fits, in the order of their turns; makes room for the others where it may,
    /// notes why they are not started, and keeps hosts for the first of those that has waited for long.
    pub(super) fn start_first(
        &self,
        round: &mut Round<'_>,
        mut due: Vec<(&Arc<Group>, u32)>,
        context: &mut Context<'_>,
    ) -> Option<Transaction> {
        let state = round.state;
        due.sort_by(|(a, _), (b, _)| {
            hold::turn(a, &round.status(a)).cmp(&hold::turn(b, &round.status(b)))
        });
        let mut can_hold = true;
        let mut notes = Vec::new();
        for (group, count) in due {
            let mut clearing = Clearing::default();
            let (why, fit) = match self.start(round, group, count, context) {
                Ok(transaction) => return Some(transaction),
                Err(Short::Barred(why)) => (why, None),
                Err(Short::NoRoom { fit, mut why }) => {
                    clearing = self.clear(round, group, (count, fit), &mut why, context);
                    (why, Some(fit))
                }
            };
            let present = round.status(group);
            let mut status = GroupStatus {
                missing: count,
                blocked: Some(why),
                held: Vec::new(),
                nominated: clearing.nominated,
                next_run_ms: None,
                ..present.clone()
            };
            if !clearing.evictions.is_empty() {
                // Nobody goes unless all of them do.
                let mut changes = clearing.evictions;
                changes.extend(round.note(group, status, context.now_ms()));
                round.propose(group, changes);
                return Some(std::mem::take(&mut round.transaction).all_or_nothing());
            }
            let since_ms = match present.blocked {
                Some(_) => present.since_ms,
                None => context.now_ms(),
            };
            let hold_ms = since_ms.saturating_add(millis(self.hold_after));
            if context.now_ms() < hold_ms {
                context.wake_at(hold_ms);
            } else if can_hold && fit.is_some() {
                status.held = hold::plan(&self.placer, state, group, count, &present.held);
                can_hold = status.held.is_empty();
            }
            notes.push((group, round.note(group, status, context.now_ms())));
        }
        for (group, note) in notes {
            round.propose(group, note.into_iter().collect());
        }
        None
    }
}
