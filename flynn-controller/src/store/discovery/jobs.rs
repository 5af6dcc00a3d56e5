//! Jobs as they were last announced.

use std::collections::BTreeMap;

use flynn_discovery::backend::{Condition, Key};

use super::{
    DiscoveryStore, MAX_FINISHED_JOBS, NewEvent, Outcome, Stored, Txn, key, prefix, txn::pause,
};
use crate::{
    Error, Result,
    model::{EventKind, Job},
};

/// How many jobs are written in one change.
const BATCH: usize = 100;

impl DiscoveryStore {
    pub(super) async fn write_jobs(&self, jobs: Vec<Job>) -> Result<()> {
        let mut by_app: BTreeMap<&str, Vec<&Job>> = BTreeMap::new();
        for job in &jobs {
            by_app.entry(&job.app).or_default().push(job);
        }
        for (app, jobs) in by_app {
            for batch in jobs.chunks(BATCH) {
                self.write_batch(app, batch).await?;
            }
        }
        Ok(())
    }

    async fn write_batch(&self, app: &str, jobs: &[&Job]) -> Result<()> {
        for attempt in 0..Self::MAX_ATTEMPTS {
            let mut txn = Txn::default();
            let mut is_changed = false;
            for job in jobs {
                let key = job_key(app, &job.uuid)?;
                match self.read::<Job>(&key).await? {
                    Some(stored) if stored.value == **job => continue,
                    Some(stored) => txn.unchanged(&stored),
                    None => txn.expect(&key, Condition::Absent),
                };
                is_changed = true;
                txn.put(key, *job)
                    .event(NewEvent::new(EventKind::Job, app, &job.uuid, *job));
            }
            if !is_changed {
                return Ok(());
            }
            if jobs.iter().any(|job| !job.state.is_active()) {
                self.forget_finished(&mut txn, app, jobs).await?;
            }
            if let Outcome::Done(_) = self.commit(&txn).await? {
                return Ok(());
            }
            pause(attempt).await;
        }
        Err(Error::Contended {
            what: format!("the jobs of app {app}"),
        })
    }

    /// Adds to `txn` that all but the newest jobs that are over are forgotten.
    async fn forget_finished(&self, txn: &mut Txn, app: &str, jobs: &[&Job]) -> Result<()> {
        let mut finished: Vec<Stored<Job>> = self
            .list::<Job>(&prefix(format!("jobs/{app}"))?)
            .await?
            .into_iter()
            .filter(|stored| !stored.value.state.is_active())
            .filter(|stored| jobs.iter().all(|job| job.uuid != stored.value.uuid))
            .collect();
        finished.sort_by_key(|stored| std::cmp::Reverse(stored.value.updated_at));
        let newly = jobs.iter().filter(|job| !job.state.is_active()).count();
        for old in finished
            .into_iter()
            .skip(MAX_FINISHED_JOBS.saturating_sub(newly))
        {
            if !txn.is_full() {
                txn.delete(old.key);
            }
        }
        Ok(())
    }
}

fn job_key(app: &str, job: &str) -> Result<Key> {
    key(format_args!("jobs/{app}/{job}"))
}
