//! What happens to a cell apart from transactions: hosts come, change, vanish and return, and report on their jobs.
//!
//! These are the pure operations behind [`LocalCluster`](crate::LocalCluster), public for those who bring a `Cluster` of
//! their own. Each gives a new state at the next revision.

use std::sync::Arc;

use crate::{Error, Host, HostId, JobId, JobStatus, Result};

use super::ClusterState;

impl ClusterState {
    /// The cell with `host` in it and alive: it joined, returned, or says something new about itself.
    ///
    /// # Errors
    ///
    /// [`Error::HostTaken`] when a host with this id and another incarnation is alive at another address.
    pub fn host_joined(&self, host: Host, now_ms: u64) -> Result<Self> {
        if let Some(known) = self.host(&host.id) {
            let is_other =
                known.host.incarnation != host.incarnation && known.host.addr != host.addr;
            if known.lost_since_ms.is_none() && is_other {
                return Err(Error::HostTaken {
                    host: host.id,
                    addr: known.host.addr.clone(),
                });
            }
        }
        let mut next = self.clone();
        next.revision += 1;
        next.put_host(Arc::new(host), next.revision, next.revision, now_ms);
        Ok(next)
    }

    /// The cell after `host` stopped renewing its lease. Its jobs stay listed until a scheduler removes them.
    #[must_use]
    pub fn host_lost(&self, host: &HostId, now_ms: u64) -> Self {
        if self.host(host).is_none_or(|h| h.lost_since_ms.is_some()) {
            return self.clone();
        }
        let mut next = self.clone();
        next.revision += 1;
        next.lose_host(host, next.revision, now_ms);
        next
    }

    /// The cell after `host` said how its jobs are. What it says of jobs that are not (or no longer) its own is dropped,
    /// and so is what contradicts an end that it reported earlier.
    #[must_use]
    pub fn reported(&self, host: &HostId, statuses: Vec<(JobId, JobStatus)>) -> Self {
        let mut next = self.clone();
        let revision = self.revision + 1;
        for (id, status) in statuses {
            if self.job(&id).is_some_and(|job| job.host == *host)
                && next.put_status(&id, status, revision)
            {
                next.revision = revision;
            }
        }
        next
    }
}
