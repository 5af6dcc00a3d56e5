//! Where the jobs of one group are.

use rustc_hash::FxHashMap;

use crate::{
    ClusterState, Domain, GroupId, JobSpec, Jobs, Phase,
    placement::{Board, places::number, plan::Plan},
    reservation::Claim,
};

/// Where the jobs of one group are, by host of a [`Board`], claims included.
#[derive(Debug, Clone)]
pub struct Tally {
    group: GroupId,
    epoch: u64,
    here: FxHashMap<u32, Here>,
    /// What the last need asked of the board.
    pub(super) plan: Option<Box<Plan>>,
}

/// The jobs of a group on one host.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Here {
    pub(super) present: u32,
    pub(super) active: u32,
    pub(super) failed: u32,
}

impl Tally {
    pub(super) fn of(board: &Board, state: &ClusterState, group: &GroupId) -> Self {
        let mut here: FxHashMap<u32, Here> = FxHashMap::default();
        for job in state.jobs_of(group) {
            let Some(at) = board.slot(&job.host) else {
                continue;
            };
            let slot = board.at(at);
            let here = here.entry(number(at)).or_default();
            let phase = job.status.phase;
            if phase.is_final() {
                let has_failed = matches!(phase, Phase::Crashed | Phase::Failed);
                here.failed += u32::from(has_failed && !job.is_stopping);
                continue;
            }
            here.present += 1;
            let stays = !job.is_stopping && !slot.is_lost && !slot.host.is_draining;
            here.active += u32::from(stays);
        }
        let mut tally = Self {
            group: group.clone(),
            epoch: board.epoch,
            here,
            plan: None,
        };
        for (at, more) in board.claims.of_group(group) {
            tally.count(at, more);
        }
        tally
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &GroupId {
        &self.group
    }

    /// Counts anew if the board has moved to another snapshot.
    pub(super) fn keep_up(&mut self, board: &Board) {
        if self.epoch != board.epoch {
            *self = Self::of(board, &board.state, &self.group);
        }
    }

    pub(super) fn here(&self, at: usize) -> Here {
        self.here.get(&number(at)).copied().unwrap_or_default()
    }

    /// Does any host have jobs of the group, or ended ones?
    pub(super) fn has_any(&self) -> bool {
        !self.here.is_empty()
    }

    /// Does the host have jobs of the group, or ended ones?
    pub(super) fn has(&self, at: usize) -> bool {
        self.here.contains_key(&number(at))
    }

    /// The hosts with jobs of the group, also those with only ended ones.
    pub(super) fn slots(&self) -> impl Iterator<Item = (usize, Here)> {
        self.here.iter().map(|(at, here)| (*at as usize, *here))
    }

    /// What others' reservations hold of the host.
    pub(super) fn held(&self, at: usize) -> Option<&Claim> {
        let held = &self.plan.as_ref()?.held;
        if held.is_empty() {
            return None;
        }
        held.get(&number(at))
    }

    /// A job of the group has been claimed (1) or released (-1) on the slot.
    pub(super) fn claim(&mut self, board: &Board, at: usize, spec: &JobSpec, more: i64) {
        self.count(at, more);
        if let Some(plan) = &mut self.plan {
            plan.claim(board, &self.group, at, spec, more);
        }
    }

    fn count(&mut self, at: usize, more: i64) {
        let here = self.here.entry(number(at)).or_default();
        here.present = plus(here.present, more);
        here.active = plus(here.active, more);
    }

    pub(super) fn in_place(&self, board: &Board, at: usize, domain: &Domain) -> u32 {
        if let Some(spread) = self.plan.as_ref().and_then(|plan| plan.spread(domain)) {
            return spread.at(at);
        }
        let place = domain.of(board.host(at));
        self.slots()
            .filter(|(other, _)| domain.of(board.host(*other)) == place)
            .map(|(_, here)| here.active)
            .sum()
    }

    pub(super) fn has_near(&self, board: &Board, at: usize, jobs: &Jobs, within: &Domain) -> bool {
        if let Some(near) = self.plan.as_ref().and_then(|plan| plan.near(jobs, within)) {
            return near.is_at(at);
        }
        let host = board.host(at);
        let place = within.of(host);
        let claimed =
            |(other, more): (usize, i64)| more > 0 && within.of(board.host(other)) == place;
        board.state.has_near(host, jobs, within) || board.claims.of_jobs(jobs).any(claimed)
    }

    pub(super) fn has_nowhere(&self, board: &Board, jobs: &Jobs, within: &Domain) -> bool {
        if let Some(near) = self.plan.as_ref().and_then(|plan| plan.near(jobs, within)) {
            return near.is_nowhere();
        }
        let known = i64::try_from(board.state.live(jobs).count()).unwrap_or(i64::MAX);
        let claimed: i64 = board.claims.of_jobs(jobs).map(|(_, more)| more).sum();
        known.saturating_add(claimed) <= 0
    }

    pub(super) fn kept_out(&self, at: usize) -> Option<&Domain> {
        let plan = self.plan.as_ref()?;
        let mut out = plan.kept_out.iter().filter(|near| near.is_at(at));
        out.next().map(|near| &near.within)
    }

    pub(super) fn is_kept_out(&self, at: usize, is_meant: fn(&Domain) -> bool) -> bool {
        self.plan.as_ref().is_some_and(|plan| {
            plan.kept_out
                .iter()
                .any(|near| is_meant(&near.within) && near.is_at(at))
        })
    }
}

pub(super) fn plus(count: u32, more: i64) -> u32 {
    let sum = i64::from(count).saturating_add(more).max(0);
    u32::try_from(sum).unwrap_or(u32::MAX)
}
