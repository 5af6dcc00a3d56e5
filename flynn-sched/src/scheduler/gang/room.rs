//! Room for a whole gang: who must go so that all of its jobs fit at once. Nobody goes for a part of it.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Group, JobId,
    placement::{Board, Need},
    scheduler::{Context, GangScheduler, Round, together::place_all},
    transaction::Change,
};

impl GangScheduler {
    /// Tells those to go who stayed too long in room that is reserved for the gang, if all of it fits then.
    pub(super) fn reclaim_all(
        &self,
        round: &Round<'_>,
        group: &Arc<Group>,
        (count, fit): (u32, u32),
        why: &mut String,
        context: &mut Context<'_>,
    ) -> Vec<Change> {
        let lacking = usize::try_from(count - fit).unwrap_or(usize::MAX);
        let (mut changes, mut more) = (Vec::new(), String::new());
        let coming = round.reclaim(group, None, lacking, (&mut changes, &mut more), context);
        let going: BTreeSet<&JobId> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Evict { job, .. } => Some(job),
                _ => None,
            })
            .collect();
        if coming < lacking || !self.fits_without(round, group, count, &going, context) {
            return Vec::new();
        }
        why.push_str(&more);
        changes
    }

    /// Would all of the gang fit if these jobs had gone, and what has been told to stop?
    fn fits_without(
        &self,
        round: &Round<'_>,
        group: &Group,
        count: u32,
        going: &BTreeSet<&JobId>,
        context: &Context<'_>,
    ) -> bool {
        let state = round.state;
        let mut later = state.clone();
        for job in state.jobs() {
            if job.is_stopping || going.contains(&job.id) {
                later.remove_job(&job.id, 0);
            }
        }
        let mut board = Board::of(&later);
        if let Some((hold, _)) = round.hold.filter(|(hold, _)| hold.excludes(group)) {
            hold.apply(&mut board);
        }
        for other in state.nominated_groups() {
            let status = state.group_status(&other.id);
            let nominated = status.into_iter().flat_map(|status| &status.nominated);
            if other.priority > group.priority {
                for nomination in nominated {
                    board.hold(&later, &other.id, &nomination.host, &other.spec);
                }
            }
        }
        let need = Need::new(&group.id, &group.spec).at(context.now_ms());
        let mut tally = board.tally(&later, &group.id);
        place_all(&self.placer, &need, &mut board, &mut tally, count).is_ok()
    }
}
