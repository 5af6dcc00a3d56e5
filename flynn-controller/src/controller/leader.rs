//! What one controller at a time does for the whole platform.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flynn_sched::{ClusterState, GroupKind, Transaction, transaction::Change};
use serde_json::Value;

use super::{Work, claim::while_held, retry, until_stopped};
use crate::{
    Result,
    model::{Job, Time},
    platform::jobs_of,
    reconcile::{META_APP, RUN_OWNER, reconcile},
    store::Catalog,
    track::{is_settled, news},
};

/// How often to look though nothing was said to have changed: for what depends on time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the jobs of a deleted app are waited for.
const DELETION_PATIENCE: Duration = Duration::from_secs(30);

/// Leads whenever no other controller does.
pub(super) async fn lead(work: Work) {
    let mut backoff = retry();
    loop {
        let store = work.platform.store();
        match store.claim("leader", &work.holder, work.claim_ttl).await {
            Ok(Some(claim)) => {
                backoff.reset();
                tracing::info!(controller = %work.holder, "this controller leads");
                let stopped = work.stopped.clone();
                let leading = Leader::new(work.clone()).run();
                while_held(&**store, claim, work.claim_ttl, stopped, leading).await;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the lead cannot be claimed just now");
                backoff.wait().await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(work.claim_ttl / 4) => {}
            () = until_stopped(work.stopped.clone()) => return,
        }
    }
}

#[derive(Debug)]
struct Leader {
    work: Work,
    /// The jobs as last announced; read from the store when the lead begins.
    recorded: Option<BTreeMap<String, Job>>,
    /// Routes of deleted apps that were removed and are yet to be told of.
    removed_routes: BTreeMap<String, Vec<Value>>,
}

impl Leader {
    fn new(work: Work) -> Self {
        Self {
            work,
            recorded: None,
            removed_routes: BTreeMap::new(),
        }
    }

    async fn run(mut self) {
        let mut backoff = retry();
        loop {
            let catalog = self.work.catalog.borrow_and_update().clone();
            let state = self.work.state.borrow_and_update().clone();
            if let (Some(catalog), Some(state)) = (catalog, state) {
                match self.look(&catalog, &state).await {
                    Ok(()) => backoff.reset(),
                    Err(error) => {
                        tracing::warn!(%error, "a round of the controller failed; it is repeated");
                        // What was recorded is not known for sure.
                        self.recorded = None;
                        backoff.wait().await;
                        continue;
                    }
                }
            }
            // A channel that is closed says so for ever: the controller ends then.
            tokio::select! {
                Ok(()) = self.work.catalog.changed() => {}
                Ok(()) = self.work.state.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(&mut self, catalog: &Catalog, state: &ClusterState) -> Result<()> {
        self.reconcile(catalog, state).await?;
        self.announce(state).await?;
        self.finish_scales(catalog, state).await?;
        self.delete_apps(catalog, state).await?;
        self.forget_runs(catalog, state).await
    }

    async fn reconcile(&self, catalog: &Catalog, state: &ClusterState) -> Result<()> {
        self.commit(reconcile(catalog, state.groups())).await
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<()> {
        for batch in changes.chunks(500) {
            let transaction = Transaction {
                changes: batch.to_vec(),
                ..Transaction::default()
            };
            let committed = self.work.platform.cluster().commit(transaction).await?;
            for refused in committed.refused {
                // A change may hold secrets: only why it was refused is said.
                tracing::warn!(why = %refused.why, "the cell refused a change; it is tried again");
            }
        }
        Ok(())
    }

    async fn announce(&mut self, state: &ClusterState) -> Result<()> {
        let store = self.work.platform.store();
        let recorded = match &mut self.recorded {
            Some(recorded) => recorded,
            None => {
                let jobs = store.jobs(None).await?;
                let by_id = jobs
                    .into_iter()
                    .map(|job| (job.uuid.clone(), job))
                    .collect();
                self.recorded.insert(by_id)
            }
        };
        let news = news(recorded, state, Time::now());
        if news.is_empty() {
            return Ok(());
        }
        store.record_jobs(news.clone()).await?;
        for job in news {
            recorded.insert(job.uuid.clone(), job);
        }
        // Those that are over and gone from the cell are of no further interest.
        recorded.retain(|id, job| {
            job.state.is_active()
                || flynn_sched::JobId::parse(&**id).is_ok_and(|id| state.job(&id).is_some())
        });
        Ok(())
    }

    async fn finish_scales(&self, catalog: &Catalog, state: &ClusterState) -> Result<()> {
        let now_ms = Time::now().as_millis();
        let mut pending = catalog.pending_scales().peekable();
        // The cell must have heard of the requests before its jobs can tell that they are done.
        if pending.peek().is_none() || !reconcile(catalog, state.groups()).is_empty() {
            return Ok(());
        }
        for request in pending {
            let key = (request.app.clone(), request.release.clone());
            let (Some(formation), Some(release)) = (
                catalog.formations.get(&key),
                catalog.releases.get(&request.release),
            ) else {
                continue;
            };
            if is_settled(state, release, &formation.processes, now_ms) {
                self.work.platform.store().finish_scale(request).await?;
            }
        }
        Ok(())
    }

    async fn delete_apps(&mut self, catalog: &Catalog, state: &ClusterState) -> Result<()> {
        for deletion in catalog.deletions.values() {
            let app = &deletion.app;
            let removed = self.work.platform.remove_routes(app).await?;
            self.removed_routes
                .entry(app.clone())
                .or_default()
                .extend(removed);
            let waited_ms = Time::now()
                .as_millis()
                .saturating_sub(deletion.begun_at.as_millis());
            let patience_ms = DELETION_PATIENCE.as_millis();
            let has_jobs = jobs_of(state, app).any(|job| job.state.is_active());
            if has_jobs && u128::from(waited_ms) < patience_ms {
                continue;
            }
            let routes = self.removed_routes.remove(app).unwrap_or_default();
            if let Err(error) = self
                .work
                .platform
                .store()
                .finish_deletion(app, routes.clone())
                .await
            {
                self.removed_routes.insert(app.clone(), routes);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Removes one-off jobs that ended a while ago, and those of apps that are gone.
    async fn forget_runs(&self, catalog: &Catalog, state: &ClusterState) -> Result<()> {
        let now_ms = Time::now().as_millis();
        let history_ms = u64::try_from(self.work.run_history.as_millis()).unwrap_or(u64::MAX);
        let runs = state.groups().filter(|group| {
            group.owner == RUN_OWNER && matches!(group.kind, GroupKind::Batch { .. })
        });
        let mut gone: BTreeSet<flynn_sched::GroupId> = BTreeSet::new();
        for group in runs {
            let app = group.spec.metadata.get(META_APP);
            let has_app = app.is_some_and(|app| {
                catalog.apps.contains_key(app) && !catalog.deletions.contains_key(app)
            });
            let mut jobs = state.jobs_of(&group.id).peekable();
            let has_run = jobs.peek().is_some()
                || state
                    .group_status(&group.id)
                    .is_some_and(|status| status.is_complete);
            let is_old = jobs.all(|job| {
                job.status.phase.is_final()
                    && job.status.since_ms.saturating_add(history_ms) < now_ms
            });
            if !has_app || (has_run && is_old) {
                gone.insert(group.id.clone());
            }
        }
        self.commit(gone.into_iter().map(Change::RemoveGroup).collect())
            .await
    }
}
