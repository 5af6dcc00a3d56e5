//! Jobs that run again and again, by a timetable.

mod due;
mod runs;
mod timetable;

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    ClusterState, Cron, Group, GroupId, GroupKind, GroupStatus, Transaction,
    scheduler::{Context, Round, Scheduler},
    transaction::Change,
};

use due::{Decision, MAX_STARTS, decide};
use runs::{Run, Runs};

pub use timetable::Timetable;

/// Starts the runs of [`GroupKind::Cron`] groups when they are due, as batch groups for the
/// [`BatchScheduler`](crate::scheduler::BatchScheduler), and removes them when enough later ones have ended.
///
/// A run is started exactly once, whatever happens to schedulers: up to when a group's runs are decided on is written in
/// its [status](crate::GroupStatus::decided_ms), in one all-or-nothing transaction with the runs themselves, which also
/// writes the group anew. That changes the group's version, and the transaction expects the version of its snapshot: of
/// several copies of this scheduler, or of one that decides on old news, only the first is heard. A clock that is set
/// back repeats nothing, since what has been decided stays so; one that is set forward makes runs late, and
/// [`Missed`](crate::Missed) says what becomes of those. The runs of a group count from when a scheduler first saw it.
///
/// How the hours that clocks skip or repeat are understood is said at [`Timetable`].
#[derive(Debug, Default)]
pub struct CronScheduler {
    /// Expressions parsed already, and when they mean next.
    known: BTreeMap<GroupId, Known>,
}

#[derive(Debug)]
struct Known {
    expression: String,
    zone: String,
    timetable: Result<Timetable, String>,
    /// Up to when runs were decided on, and the first time after it.
    next: Option<(u64, Option<u64>)>,
}

impl CronScheduler {
    /// A cron scheduler.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decides on one group; notes what is to be noted, and gives what must be committed as a whole.
    fn group(
        &mut self,
        round: &mut Round<'_>,
        (group, cron): (&Arc<Group>, &Cron),
        runs: &[Run<'_>],
        context: &mut Context<'_>,
    ) -> Vec<Change> {
        let status = round.status(group);
        let idle = |why: String| GroupStatus {
            blocked: Some(why),
            last_run_ms: status.last_run_ms,
            ..GroupStatus::default()
        };
        let known = self.known(group, cron);
        let timetable = match &known.timetable {
            Ok(timetable) if !cron.is_suspended => timetable,
            Ok(_) => return note(round, group, idle("suspended".to_owned()), context),
            Err(why) => return note(round, group, idle(why.clone()), context),
        };
        let now_ms = context.now_ms();
        // A group that had no next run was idle: what would have been due meanwhile is not.
        let decided_ms = status.decided_ms.filter(|_| status.next_run_ms.is_some());
        let begins_ms = decided_ms.unwrap_or(now_ms);
        if known.next.is_none_or(|(decided, _)| decided != begins_ms) {
            known.next = Some((begins_ms, timetable.next_after(begins_ms)));
        }
        let next_ms = known.next.and_then(|(_, next)| next);
        let standing = |decided_ms, next_run_ms, last_run_ms| GroupStatus {
            decided_ms: Some(decided_ms),
            next_run_ms,
            last_run_ms,
            ..GroupStatus::default()
        };
        if decided_ms.is_none() {
            // From now on. As of everything that is decided, the first to say so is heard.
            let status = standing(begins_ms, next_ms, status.last_run_ms);
            return decided(round, group, Vec::new(), status);
        }
        if next_ms.is_none_or(|next| next > now_ms) {
            next_ms.into_iter().for_each(|next| context.wake_at(next));
            let status = standing(begins_ms, next_ms, status.last_run_ms);
            return note(round, group, status, context);
        }
        let is_active = runs.iter().any(|run| !run.is_complete);
        match decide(cron, timetable, begins_ms, now_ms, is_active) {
            Decision::Nothing | Decision::Wait => {
                let status = standing(begins_ms, next_ms, status.last_run_ms);
                note(round, group, status, context)
            }
            Decision::Decide {
                start,
                until_ms,
                replaces,
            } => {
                let mut changes = Vec::new();
                if replaces {
                    let active = runs.iter().filter(|run| !run.is_complete);
                    changes.extend(active.map(|run| Change::RemoveGroup(run.group.id.clone())));
                }
                for due_ms in &start {
                    let run = match runs::new_run(group, cron, *due_ms) {
                        Ok(run) => run,
                        Err(error) => return note(round, group, idle(error.to_string()), context),
                    };
                    // Unless somebody wrote it by hand.
                    if round.state.group(&run.id).is_none() {
                        changes.push(expect(round, &run.id));
                        changes.push(Change::PutGroup(Arc::new(run)));
                    }
                }
                let next_ms = timetable.next_after(until_ms);
                let last_run_ms = start.last().copied().or(status.last_run_ms);
                let status = standing(until_ms, next_ms, last_run_ms);
                decided(round, group, changes, status)
            }
        }
    }

    /// What is known of a group's expression, parsed if that is new.
    fn known(&mut self, group: &Group, cron: &Cron) -> &mut Known {
        let parse = || Known {
            expression: cron.expression.clone(),
            zone: cron.zone.clone(),
            timetable: Timetable::parse(&cron.expression, &cron.zone)
                .and_then(|timetable| runs::new_run(group, cron, 0).map(|_| timetable))
                .map_err(|error| error.to_string()),
            next: None,
        };
        let known = self.known.entry(group.id.clone()).or_insert_with(parse);
        if known.expression != cron.expression || known.zone != cron.zone {
            *known = parse();
        }
        known
    }
}

impl Scheduler for CronScheduler {
    fn name(&self) -> &'static str {
        "cron"
    }

    /// What may be done in part comes first; where there is nothing of it, what is due is started, as a whole.
    fn schedule(&mut self, state: &ClusterState, context: &mut Context<'_>) -> Transaction {
        let mut round = Round::on(state);
        let mut runs = Runs::of(state);
        self.known.retain(|id, _| state.group(id).is_some());
        let mut starts = Vec::new();
        for group in round.groups() {
            let GroupKind::Cron(cron) = &group.kind else {
                continue;
            };
            let runs = runs.take(&group.id);
            for change in runs::surplus(cron, &runs) {
                round.transaction.changes.push(change);
            }
            if starts.len() < MAX_STARTS {
                starts.extend(self.group(&mut round, (group, cron), &runs, context));
            }
        }
        round.transaction.changes.extend(runs.without_timetable());
        round.clear_orphans();
        if round.transaction.is_empty() {
            round.transaction.changes = starts;
            return round.transaction.all_or_nothing();
        }
        round.transaction
    }
}

/// Proposes what is to be noted, and nothing else.
fn note(
    round: &mut Round<'_>,
    group: &Group,
    status: GroupStatus,
    context: &Context<'_>,
) -> Vec<Change> {
    let note = round.note(group, status, context.now_ms());
    round.propose(group, note.into_iter().collect());
    Vec::new()
}

/// What must be committed as a whole when runs of a group were decided on. Writing the group anew gives it a new version:
/// nobody who has not seen this decides on the same runs.
fn decided(
    round: &Round<'_>,
    group: &Arc<Group>,
    runs: Vec<Change>,
    status: GroupStatus,
) -> Vec<Change> {
    let mut changes = vec![expect(round, &group.id)];
    changes.extend(runs);
    changes.push(Change::PutGroup(Arc::clone(group)));
    changes.push(Change::Note {
        group: group.id.clone(),
        status: Arc::new(status),
    });
    changes
}

fn expect(round: &Round<'_>, group: &GroupId) -> Change {
    Change::ExpectGroup {
        version: round.state.group_version(group),
        group: group.clone(),
    }
}
