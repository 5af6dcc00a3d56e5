//! How many jobs of a group may be down because the cell wills it.

use crate::{ClusterState, Group, GroupKind, Host, Job, Phase, TaintEffect, taint::Taint};

/// How far a group is from its floor: the number of jobs below which the cell does not bring it by its own will.
///
/// The floor is what is wanted less [`Group::max_unavailable`]. Jobs that fail, hosts that are lost and jobs for which
/// there has never been room all use up the same budget, as in the disruption budgets of Kubernetes: what is down is
/// down, and nothing is added to it. It follows that a group which lacks more than its budget is left alone. A batch
/// or a gang without `max_unavailable` has no floor: nobody waits for an answer from its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// How many jobs the group should have. Of a batch: how many are there and not at their end.
    pub wanted: u32,
    /// How many of them must not be taken away.
    pub floor: u32,
    /// How many are up, on hosts that are there, and not told to stop.
    pub up: u32,
}

impl Budget {
    /// The budget of a group now. Looks at each of its jobs, unless it has no floor.
    #[must_use]
    pub fn of(state: &ClusterState, group: &Group) -> Self {
        let wanted = match group.kind {
            GroupKind::Service { count } => count,
            GroupKind::Omni { per_host } => {
                let hosts = state
                    .hosts()
                    .filter(|host| host.lost_since_ms.is_none() && group.belongs_on(&host.host));
                count(hosts.count()).saturating_mul(per_host)
            }
            GroupKind::Cron(_) => 0,
            _ if group.max_unavailable.is_none() => 0,
            GroupKind::Batch { .. } | GroupKind::Gang { .. } => {
                let live = state
                    .jobs_of(&group.id)
                    .filter(|job| !job.status.phase.is_final());
                count(live.count())
            }
        };
        let floor = wanted.saturating_sub(group.may_be_down(wanted));
        let up = if floor == 0 {
            0
        } else {
            let up = state.jobs_of(&group.id).filter(|job| is_up(state, job));
            count(up.count())
        };
        Self { wanted, floor, up }
    }

    /// May this job of the group be taken away now?
    ///
    /// A job that is not up yet may, if those that are up suffice. One that has failed and waits to be started again, or
    /// whose host is lost, is down already: to take it away costs nothing.
    #[must_use]
    pub fn allows(&self, state: &ClusterState, job: &Job) -> bool {
        if self.floor == 0 || job.status.phase == Phase::Restarting {
            return true;
        }
        if state
            .host(&job.host)
            .is_none_or(|host| host.lost_since_ms.is_some())
        {
            return true;
        }
        self.up.saturating_sub(u32::from(is_up(state, job))) >= self.floor
    }

    /// Counts the job out. `state` is the one before it was told to stop.
    pub fn take(&mut self, state: &ClusterState, job: &Job) {
        self.up = self.up.saturating_sub(u32::from(is_up(state, job)));
    }

    /// How many jobs that are up may be taken away now, at most. Without a floor, any number: [`u32::MAX`].
    #[must_use]
    pub fn left(&self) -> u32 {
        if self.floor == 0 {
            u32::MAX
        } else {
            self.up.saturating_sub(self.floor)
        }
    }
}

impl Group {
    /// How many of `wanted` jobs may be down by the cell's will.
    fn may_be_down(&self, wanted: u32) -> u32 {
        match self.max_unavailable {
            Some(max) => max,
            None => (wanted / TENTH).max(1),
        }
    }

    /// Is the host meant to have jobs of the group? One without the tags, with a taint that they do not bear or that is
    /// being drained is not; one without room is, and lacks it.
    pub(crate) fn belongs_on(&self, host: &Host) -> bool {
        !host.is_draining
            && Taint::untolerated(
                &host.taints,
                &self.spec.tolerations,
                TaintEffect::forbids_starts,
            )
            .is_none()
            && self
                .spec
                .constraints
                .iter()
                .all(|constraint| constraint.admits(host))
    }
}

fn is_up(state: &ClusterState, job: &Job) -> bool {
    job.status.phase == Phase::Up
        && !job.is_stopping
        && state
            .host(&job.host)
            .is_some_and(|host| host.lost_since_ms.is_none())
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Which part of a group may be down where nothing is said.
const TENTH: u32 = 10;
