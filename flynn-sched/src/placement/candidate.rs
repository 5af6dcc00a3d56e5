//! A host as filters and scores see it.

use std::borrow::Cow;

use crate::{
    Domain, Host, JobSpec, Jobs, Named, Resources,
    placement::{Board, Tally, plan::Floors},
};

/// A host as filters and scores see it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'b> {
    /// The host.
    pub host: &'b Host,
    /// Is it gone for now?
    pub is_lost: bool,
    /// What may be promised on it: [`Host::allocatable`].
    pub room: Resources,
    /// What is left to promise, after the claims of this round and what is reserved for others.
    pub free: Resources,
    /// How many jobs it has, of all groups.
    pub jobs: usize,
    /// How many jobs of the group are on it and not at their end, stopping ones included.
    pub group_jobs: u32,
    /// How many of them are meant to stay.
    pub group_active: u32,
    /// How many jobs of the group failed on it, as far as the cell remembers.
    pub group_failed: u32,
    slot: usize,
    board: &'b Board,
    tally: &'b Tally,
    floors: Option<&'b Floors>,
}

impl<'b> Candidate<'b> {
    pub(super) fn on(
        board: &'b Board,
        at: usize,
        tally: &'b Tally,
        floors: Option<&'b Floors>,
    ) -> Self {
        let slot = board.at(at);
        let here = tally.here(at);
        let free = slot.free();
        Self {
            host: &slot.host,
            is_lost: slot.is_lost,
            room: slot.room,
            free: match tally.held(at) {
                Some(held) => free.saturating_sub(&held.resources),
                None => free,
            },
            jobs: slot.jobs as usize,
            group_jobs: here.present,
            group_active: here.active,
            group_failed: here.failed,
            slot: at,
            board,
            tally,
            floors,
        }
    }

    /// The same as if it had nothing to do with the group.
    pub(super) fn by_itself(board: &'b Board, at: usize, tally: &'b Tally) -> Self {
        let slot = board.at(at);
        Self {
            host: &slot.host,
            is_lost: slot.is_lost,
            room: slot.room,
            free: slot.free(),
            jobs: slot.jobs as usize,
            group_jobs: 0,
            group_active: 0,
            group_failed: 0,
            slot: at,
            board,
            tally,
            floors: None,
        }
    }

    /// A fixed port of `spec` that a job on the host has.
    #[must_use]
    pub fn port_clash(&self, spec: &JobSpec) -> Option<u16> {
        self.board
            .at(self.slot)
            .with_ports
            .iter()
            .find_map(|other| spec.port_clash(other))
    }

    /// Are the named resources of `spec` free?
    #[must_use]
    pub fn has_named(&self, spec: &JobSpec) -> bool {
        self.host.named.fits(&self.taken_named(), &spec.named)
    }

    /// Which of the named resources of `spec` are not free, in a sentence fragment.
    #[must_use]
    pub fn named_shortage(&self, spec: &JobSpec) -> Option<String> {
        self.host.named.shortage(&self.taken_named(), &spec.named)
    }

    fn taken_named(&self) -> Cow<'b, Named> {
        let promised = &self.board.at(self.slot).promised_named;
        match self.tally.held(self.slot) {
            Some(held) => {
                let mut taken = promised.clone();
                taken.add(&held.named);
                Cow::Owned(taken)
            }
            None => Cow::Borrowed(promised),
        }
    }

    /// How many jobs of the group are meant to stay in the host's place.
    #[must_use]
    pub fn group_in(&self, domain: &Domain) -> u32 {
        match domain {
            Domain::Host => self.group_active,
            domain => self.tally.in_place(self.board, self.slot, domain),
        }
    }

    /// How many are in that place of the domain which has the fewest, among the places that can take the job. For
    /// [`Domain::Host`], and before it is known which can, it is 0.
    #[must_use]
    pub fn fewest_in(&self, domain: &Domain) -> u32 {
        match (domain, self.floors) {
            (Domain::Host, _) | (_, None) => 0,
            (domain, Some(floors)) => floors.of(self.tally, domain),
        }
    }

    /// Is one of the jobs in the host's place? Jobs claimed in this round are there too.
    #[must_use]
    pub fn has_near(&self, jobs: &Jobs, within: &Domain) -> bool {
        self.tally.has_near(self.board, self.slot, jobs, within)
    }

    /// Is none of the jobs anywhere in the cell, claims of this round included?
    pub(super) fn has_nowhere(&self, jobs: &Jobs, within: &Domain) -> bool {
        self.tally.has_nowhere(self.board, jobs, within)
    }

    /// A domain within which a job that is there keeps the group's jobs out of the host's place.
    #[must_use]
    pub fn kept_out_within(&self) -> Option<&'b Domain> {
        self.tally.kept_out(self.slot)
    }

    pub(super) fn is_kept_out_within(&self, is_meant: fn(&Domain) -> bool) -> bool {
        self.tally.is_kept_out(self.slot, is_meant)
    }
}
