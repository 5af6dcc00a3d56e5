//! Hosts that are kept for a gang that has waited for long, so that small jobs cannot keep it out for ever.
//!
//! A gang needs room for all its jobs at the same moment. Where small jobs come and go, that moment may never come: each
//! time one ends, the next takes its place. So a gang that has been blocked for longer than a bound *holds* the hosts on
//! which it would fit if all jobs there that end by themselves, and are of no higher priority, had ended. The hosts are
//! written into its note ([`GroupStatus::held`](crate::GroupStatus::held)); every scheduler that places on a round's
//! board starts nothing there any more, except for groups of a higher priority. The jobs that run there end sooner or
//! later, and then the gang starts.
//!
//! Only one gang of a cell holds hosts at a time: the one of the highest priority, of those the one that has been blocked
//! for longest. So gangs do not wait for each other's hosts. A hold ends when the gang starts, is removed or is
//! outranked. A gang that would not fit even then (services fill the hosts, or there are too few) holds nothing.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use crate::{
    ClusterState, Group, GroupId, GroupKind, GroupStatus, HostId,
    placement::{Board, Need, Placer},
    scheduler::together::place_all,
};

/// The hold that stands in a state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold<'s> {
    group: &'s Group,
    hosts: &'s [HostId],
}

impl<'s> Hold<'s> {
    /// The hold that stands, if one does.
    pub(super) fn of(state: &'s ClusterState) -> Option<Self> {
        let holding = |(id, status): (&GroupId, &'s Arc<GroupStatus>)| {
            let group = state.group(id).filter(|group| is_gang(group))?;
            (!status.held.is_empty()).then_some((group, status))
        };
        let first = state
            .group_statuses()
            .filter_map(holding)
            .min_by_key(|(group, status)| turn(group, status));
        first.map(|(group, status)| Self {
            group,
            hosts: &status.held,
        })
    }

    /// Are the hosts kept from this group?
    pub(super) fn excludes(&self, group: &Group) -> bool {
        group.id != self.group.id && group.priority <= self.group.priority
    }

    /// Leaves no room on the held hosts.
    pub(super) fn apply(&self, board: &mut Board) {
        for host in self.hosts {
            board.fill(host);
        }
    }

    /// What to add to the reason why a group that is excluded is not placed.
    pub(super) fn reason(&self) -> String {
        let hosts = self.hosts.len();
        format!("; {hosts} of the hosts are kept for gang {}", self.group.id)
    }
}

/// The order in which gangs get their turn: the more important first, of those the one that has waited for longer. One
/// that has not been tried yet has not waited.
pub(super) fn turn<'g>(group: &'g Group, status: &GroupStatus) -> (Reverse<u8>, u64, &'g GroupId) {
    let since_ms = match status.blocked {
        Some(_) => status.since_ms,
        None => u64::MAX,
    };
    (Reverse(group.priority), since_ms, &group.id)
}

/// The hosts to keep for a gang: those it holds already if it would fit there in the end, or others; none if it would
/// not fit anywhere.
pub(super) fn plan(
    placer: &Placer,
    state: &ClusterState,
    group: &Group,
    count: u32,
    held: &[HostId],
) -> Vec<HostId> {
    let later = without_passing_jobs(state, group);
    let need = Need::new(&group.id, &group.spec);
    let fits = |board: &mut Board| {
        let mut tally = board.tally(&later, &group.id);
        place_all(placer, &need, board, &mut tally, count).ok()
    };
    if !held.is_empty() {
        let mut board = Board::of(&later);
        let held_hosts: BTreeSet<&HostId> = held.iter().collect();
        for host in later.hosts() {
            if !held_hosts.contains(&host.host.id) {
                board.fill(&host.host.id);
            }
        }
        if fits(&mut board).is_some() {
            return held.to_vec();
        }
    }
    let hosts = fits(&mut Board::of(&later)).unwrap_or_default();
    let distinct: BTreeSet<HostId> = hosts.into_iter().collect();
    distinct.into_iter().collect()
}

/// The state once all jobs have ended that do so by themselves and are of no higher priority than the gang.
fn without_passing_jobs(state: &ClusterState, gang: &Group) -> ClusterState {
    let mut later = state.clone();
    for group in state.groups() {
        if group.kind.ends() && group.priority <= gang.priority {
            for job in state.jobs_of(&group.id) {
                later.remove_job(&job.id, 0);
            }
        }
    }
    for job in state.jobs().filter(|job| job.is_stopping) {
        later.remove_job(&job.id, 0);
    }
    later
}

fn is_gang(group: &Group) -> bool {
    matches!(group.kind, GroupKind::Gang { .. })
}
