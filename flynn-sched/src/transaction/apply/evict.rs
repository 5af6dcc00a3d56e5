//! When a job may be taken away from its host.

use std::sync::Arc;

use crate::{Budget, Eviction, Group, GroupId, GroupKind, Job, JobId, Overstay, Partition};

use super::{Applying, No};

impl Applying<'_> {
    pub(super) fn evict(&mut self, id: &JobId, why: &Eviction) -> Result<(), No> {
        let Some(job) = self.state.job(id).cloned() else {
            return Ok(());
        };
        self.open(&job.group)?;
        self.unchanged(&job.host)?;
        if job.is_stopping || job.status.phase.is_final() {
            return Ok(());
        }
        match why {
            Eviction::Preempted { by, priority } => self.preempt(&job, by, *priority)?,
            Eviction::Moving { why } | Eviction::Emptying { why }
                if why.len() > Eviction::WHY_MAX =>
            {
                return Err(No::invalid(format!(
                    "the reason of its move has {} bytes: use at most {}",
                    why.len(),
                    Eviction::WHY_MAX
                )));
            }
            Eviction::Moving { .. } => self.may_move(&job)?,
            Eviction::Emptying { .. } => self.empty(&job)?,
            Eviction::Overstayed(overstay) => self.overstay(&job, overstay)?,
        }
        let evicted = Job {
            is_stopping: why.is_at_once(),
            evicted: Some(why.clone()),
            ..(*job).clone()
        };
        // The budget has counted it out already: the next one need not be counted anew.
        self.state.put_job(Arc::new(evicted), self.revision, 0);
        Ok(())
    }

    /// May the job be preempted for this group? If so, its group's budget is one less.
    fn preempt(&mut self, job: &Job, by: &GroupId, priority: u8) -> Result<(), No> {
        self.open(by)?;
        let no = |why: String| Err(No::conflict(&job.host, why));
        let Some(winner) = self.state.group(by) else {
            return Err(No::group(by, "it is gone, and needs no room"));
        };
        if winner.priority != priority {
            return Err(No::group(
                by,
                format!("its priority is {}, not {priority}", winner.priority),
            ));
        }
        let is_protected =
            job.spec.partition == Partition::System && winner.spec.partition != Partition::System;
        if is_protected {
            return no(format!(
                "job {} is of the system and does not give way to others",
                job.id
            ));
        }
        let Some(group) = self.state.group(&job.group).cloned() else {
            // It has no group any more, and is to stop anyway.
            return Ok(());
        };
        if group.priority >= priority {
            return no(format!(
                "job {} has the priority {} and gives way to a higher one only, not to {priority}",
                job.id, group.priority
            ));
        }
        self.take_from(&group, job)
    }

    /// Must the job give way to this group, whose reservation it is in the way of? If so, its group's budget is one less.
    fn overstay(&mut self, job: &Job, overstay: &Overstay) -> Result<(), No> {
        let Overstay {
            by,
            reservation,
            at_ms,
        } = overstay;
        self.open(by)?;
        let Some(holder) = self.state.group(by) else {
            return Err(No::group(by, "it is gone, and needs no room"));
        };
        let known = self.state.reservation(reservation);
        let Some(known) = known.filter(|known| known.holder.matches(by)) else {
            return Err(No::conflict(
                &job.host,
                format!("no reservation {reservation} holds room for group {by}"),
            ));
        };
        if !self.state.has_overstayed(job, known, *at_ms) {
            return Err(No::conflict(
                &job.host,
                format!(
                    "job {} is not in the way of reservation {reservation} at {at_ms} ms after its expected end",
                    job.id
                ),
            ));
        }
        let is_protected =
            job.spec.partition == Partition::System && holder.spec.partition != Partition::System;
        if is_protected {
            return Err(No::conflict(
                &job.host,
                format!(
                    "job {} is of the system and does not give way to others",
                    job.id
                ),
            ));
        }
        // Without a group it is to stop anyway.
        let group = self.state.group(&job.group).cloned();
        group.map_or(Ok(()), |group| self.take_from(&group, job))
    }

    /// A job that runs to its end is not moved: the one in its place would do the same work beside it.
    fn may_move(&self, job: &Job) -> Result<(), No> {
        match self.state.group(&job.group) {
            Some(group) if group.kind.ends() => Err(No::invalid(format!(
                "group {} runs to completion, and its jobs are not moved: a second one would do the same work; drain or \
                 taint the host instead",
                group.id
            ))),
            _ => Ok(()),
        }
    }

    /// May the job be told to go because its host, or that of another of its gang, is being emptied? If so, its group's
    /// budget is one less.
    fn empty(&mut self, job: &Job) -> Result<(), No> {
        let group = self.state.group(&job.group).cloned();
        let is_gang = |group: &Arc<Group>| matches!(group.kind, GroupKind::Gang { .. });
        let is_due = if group.as_ref().is_some_and(is_gang) {
            let mut members = self.state.jobs_of(&job.group);
            members.any(|member| self.state.is_pressed(member))
        } else {
            self.state.is_pressed(job)
        };
        if !is_due {
            return Err(No::conflict(
                &job.host,
                format!(
                    "job {} may stay: the host neither drains by a set time nor has a taint that drives it out",
                    job.id
                ),
            ));
        }
        // Without a group it is to stop anyway.
        group.map_or(Ok(()), |group| self.take_from(&group, job))
    }

    /// The group's budget allows that the job goes, and is one less from then on.
    fn take_from(&mut self, group: &Group, job: &Job) -> Result<(), No> {
        let mut budget = self.budget(group);
        if !budget.allows(&self.state, job) {
            return Err(No::conflict(
                &job.host,
                format!(
                    "job {} is needed: of group {} {} are up, and no less than {} are to be",
                    job.id, group.id, budget.up, budget.floor
                ),
            ));
        }
        budget.take(&self.state, job);
        self.budgets.insert(group.id.clone(), budget);
        Ok(())
    }

    /// The group's budget, after the evictions of this transaction.
    fn budget(&self, group: &Group) -> Budget {
        self.budgets
            .get(&group.id)
            .copied()
            .unwrap_or_else(|| Budget::of(&self.state, group))
    }
}
