//! Room for a whole gang: who must go so that all of its jobs fit at once. Nobody goes for a part of it.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Group, JobId, Nomination,
    placement::{Board, Need},
    scheduler::{
        Context, GangScheduler, Round, attempt::number, making_room::was_preempted,
        together::place_all,
    },
    transaction::Change,
};

/// What is done to make room, and where.
#[derive(Debug, Default)]
pub(super) struct Clearing {
    pub(super) evictions: Vec<Change>,
    /// For each of the gang's jobs, the host on which it is to find room.
    pub(super) nominated: Vec<Nomination>,
}

impl GangScheduler {
    /// Makes room for a gang of which only `fit` jobs have room: of those who stay too long in what is reserved for it,
    /// or by preemption. Adds to `why` what comes of it.
    pub(super) fn clear(
        &self,
        round: &mut Round<'_>,
        group: &Arc<Group>,
        (count, fit): (u32, u32),
        why: &mut String,
        context: &mut Context<'_>,
    ) -> Clearing {
        let lacking = usize::try_from(count - fit).unwrap_or(usize::MAX);
        let (mut evictions, mut more) = (Vec::new(), String::new());
        let coming = round.reclaim(group, None, lacking, (&mut evictions, &mut more), context);
        if coming == lacking && self.fits_without(round, group, count, &evictions, context) {
            why.push_str(&more);
            return Clearing {
                evictions,
                nominated: Vec::new(),
            };
        }
        let seats = round.making_room.seats_together(group, context);
        if seats.len() > 0 {
            *why = seats.describe();
            return Clearing {
                evictions: Vec::new(),
                nominated: round.making_room.keep(group, seats),
            };
        }
        match self.preempt(round, group, count, context) {
            Ok(Some(clearing)) => clearing,
            Ok(None) => Clearing::default(),
            Err(no) => {
                why.push_str("; ");
                why.push_str(&no);
                Clearing::default()
            }
        }
    }

    /// Finds victims so that all of the gang fits when they have gone; `None` if nobody is preempted for it, or why it
    /// does not help.
    fn preempt(
        &self,
        round: &Round<'_>,
        group: &Arc<Group>,
        count: u32,
        context: &Context<'_>,
    ) -> Result<Option<Clearing>, String> {
        let preemptor = self.preemptor.as_ref();
        let Some(preemptor) = preemptor.filter(|preemptor| preemptor.serves(group)) else {
            return Ok(None);
        };
        let seats = usize::try_from(count).unwrap_or(usize::MAX);
        if seats > Nomination::MAX_OF_GROUP {
            let most = Nomination::MAX_OF_GROUP;
            return Err(format!("preemption is for gangs of at most {most} jobs"));
        }
        if was_displaced(round, group) {
            return Err("it went for something more important, and nobody goes for it".to_owned());
        }
        let state = round.state;
        let preemptor = preemptor.clone().at_most(Self::MAX_VICTIMS);
        let mut preemption = preemptor.round(state, context.now_ms());
        for other in state.nominated_groups() {
            if other.priority >= group.priority && other.id != group.id {
                let status = state.group_status(&other.id);
                let nominated = status.into_iter().flat_map(|status| &status.nominated);
                nominated.for_each(|seat| preemption.claim(&seat.host, &other.spec));
            }
        }
        let mut clearing = Clearing::default();
        for _ in 0..seats {
            let plan = preemption.find(group).map_err(|no| {
                if no.is_bounded {
                    format!(
                        "preemption does not help: more than {} jobs would have to go at once",
                        Self::MAX_VICTIMS
                    )
                } else {
                    no.to_string()
                }
            })?;
            clearing.evictions.extend(plan.evictions(group));
            clearing.nominated.push(Nomination {
                host: plan.host,
                victims: plan.victims,
                since_ms: context.now_ms(),
            });
        }
        if !self.fits_without(round, group, count, &clearing.evictions, context) {
            return Err("preemption does not help all of it at once".to_owned());
        }
        Ok(Some(clearing))
    }

    /// Would all of the gang fit if these had gone, and what has been told to stop?
    fn fits_without(
        &self,
        round: &Round<'_>,
        group: &Group,
        count: u32,
        evictions: &[Change],
        context: &Context<'_>,
    ) -> bool {
        let state = round.state;
        let going: BTreeSet<&JobId> = evictions
            .iter()
            .filter_map(|change| match change {
                Change::Evict { job, .. } => Some(job),
                _ => None,
            })
            .collect();
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

/// Did its last attempt end because its room was somebody else's?
fn was_displaced(round: &Round<'_>, group: &Group) -> bool {
    let past = round.status(group).forgotten.first().copied();
    let number = number(past.unwrap_or_default());
    let mut jobs = round.state.jobs_of(&group.id);
    jobs.any(|job| job.attempt.saturating_add(1) == number && was_preempted(job))
}
