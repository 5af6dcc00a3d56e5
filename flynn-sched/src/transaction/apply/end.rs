//! Jobs that are told to stop, and what is removed and forgotten.

use std::sync::Arc;

use crate::{HostId, Job, JobId};

use super::{Applying, No};

impl Applying<'_> {
    pub(super) fn stop(&mut self, id: &JobId) -> Result<(), No> {
        let Some(job) = self.state.job(id).cloned() else {
            return Ok(());
        };
        self.open(&job.group)?;
        self.unchanged(&job.host)?;
        if !job.is_stopping {
            let stopping = Job {
                is_stopping: true,
                ..(*job).clone()
            };
            self.budgets.remove(&job.group);
            self.state.put_job(Arc::new(stopping), self.revision, 0);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &JobId) -> Result<(), No> {
        let Some(job) = self.state.job(id).cloned() else {
            return Ok(());
        };
        self.open(&job.group)?;
        self.unchanged(&job.host)?;
        let is_lost = self
            .state
            .host(&job.host)
            .is_none_or(|host| host.lost_since_ms.is_some());
        if !job.status.phase.is_final() && !is_lost {
            return Err(No::conflict(
                &job.host,
                format!("job {id} is not at its end there: stop it first"),
            ));
        }
        self.budgets.remove(&job.group);
        self.state.remove_job(id, self.revision);
        Ok(())
    }

    pub(super) fn forget_host(&mut self, id: &HostId) -> Result<(), No> {
        let Some(host) = self.state.host(id) else {
            return Ok(());
        };
        if host.lost_since_ms.is_none() {
            return Err(No::conflict(id, "is alive"));
        }
        if !host.jobs.is_empty() {
            return Err(No::conflict(
                id,
                format!("has {} jobs: remove them first", host.jobs.len()),
            ));
        }
        self.state.remove_host(id, self.revision, 0);
        Ok(())
    }
}
