//! When a job may be taken away from its host.

use std::sync::Arc;

use crate::{Budget, Eviction, Group, GroupId, Job, JobId, Partition};

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
            Eviction::Moving { why } if why.len() > Eviction::WHY_MAX => {
                return Err(No::invalid(format!(
                    "the reason of its move has {} bytes: use at most {}",
                    why.len(),
                    Eviction::WHY_MAX
                )));
            }
            Eviction::Moving { .. } => {}
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
        let budget = self.budget(&group);
        if !budget.allows(&self.state, job) {
            return no(format!(
                "job {} is needed: of group {} {} are up, and no less than {} are to be",
                job.id, group.id, budget.up, budget.floor
            ));
        }
        let mut budget = budget;
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
