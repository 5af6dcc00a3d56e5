//! Tells the cell how the jobs are.

use std::{collections::BTreeMap, sync::Arc};

use flynn_discovery::Backoff;
use flynn_sched::{HostId, HostLink, JobId, JobStatus};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Statuses that the cell does not know yet: the newest of each job, however long the store is away.
#[derive(Debug, Default)]
pub(super) struct Reports {
    pending: Mutex<Pending>,
    changed: Notify,
    sent: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    statuses: BTreeMap<JobId, JobStatus>,
    is_sending: bool,
}

impl Reports {
    pub(super) fn add(&self, id: JobId, status: JobStatus) {
        self.pending.lock().statuses.insert(id, status);
        self.changed.notify_one();
    }

    /// Waits until the cell knows all.
    pub(super) async fn flushed(&self) {
        loop {
            let sent = self.sent.notified();
            {
                let pending = self.pending.lock();
                if pending.statuses.is_empty() && !pending.is_sending {
                    return;
                }
            }
            sent.await;
        }
    }

    /// Sends what there is, batch by batch, for ever.
    pub(super) async fn run(self: Arc<Self>, host: HostId, link: Arc<dyn HostLink>) {
        let mut backoff = Backoff::default();
        loop {
            let batch = {
                let mut pending = self.pending.lock();
                pending.is_sending = !pending.statuses.is_empty();
                std::mem::take(&mut pending.statuses)
            };
            if batch.is_empty() {
                self.sent.notify_waiters();
                self.changed.notified().await;
                continue;
            }
            let statuses: Vec<_> = batch
                .iter()
                .map(|(id, status)| (id.clone(), status.clone()))
                .collect();
            match link.report(&host, statuses).await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(%error, jobs = batch.len(), "could not report, trying again");
                    {
                        let mut pending = self.pending.lock();
                        for (id, status) in batch {
                            pending.statuses.entry(id).or_insert(status);
                        }
                    }
                    backoff.wait().await;
                }
            }
        }
    }
}
