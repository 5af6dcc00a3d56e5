//! Deployments: one at a time per app, taken forward by whoever holds the claim.

use flynn_discovery::backend::{Condition, Key, Revision};

use super::{
    DiscoveryStore, MAX_FINISHED_DEPLOYMENTS, NewEvent, Outcome, Stored, Txn,
    apps::contended,
    claims::claim_key,
    formations::{formation_key, scale_event},
    key, prefix,
    txn::pause,
};
use crate::{
    Error, Result,
    deploy::{DEFAULT_STRATEGY, DEFAULT_TIMEOUT, Rollout},
    model::{
        App, Counts, Deployment, DeploymentEvent, DeploymentStatus, EventKind, Formation, Scale,
        Tags, Time,
    },
    store::{Advance, Claim, DeploymentRecord},
};

impl DiscoveryStore {
    pub(super) async fn find_deployment(
        &self,
        id: &str,
    ) -> Result<Option<Stored<DeploymentRecord>>> {
        let Ok(index) = index_key(id) else {
            return Ok(None);
        };
        match self.read::<String>(&index).await? {
            Some(app) => self.read(&record_key(&app.value, id)?).await,
            None => Ok(None),
        }
    }

    pub(super) async fn write_deployment(&self, app: &str, release: &str) -> Result<Deployment> {
        for attempt in 0..Self::MAX_ATTEMPTS {
            let stored = self.existing_app(app).await?;
            let app = &stored.value;
            let release = self.release_of(&app.id, release).await?;
            let deploying = deploying_key(&app.id)?;
            if self.backend.get(&deploying).await?.is_some() {
                return Err(Error::refused(
                    "Cannot create deploy, there is already one in progress for this app.",
                ));
            }
            let mut txn = Txn::default();
            self.expect_alive(&mut txn, app).await?;
            txn.expect(&deploying, Condition::Absent)
                .expect(&release.key, Condition::Present)
                .unchanged(&stored);

            let formation = match &app.release {
                Some(old) => self.find_formation(&app.id, old).await?,
                None => None,
            };
            if let Some(formation) = &formation {
                txn.unchanged(formation);
            }
            let new_formation = self.find_formation(&app.id, &release.value.id).await?;
            let mut record = plan(app, &release.value.id, formation.map(|f| f.value));
            if let Some(existing) = &new_formation {
                txn.unchanged(existing);
                record.rollout.new.clone_from(&existing.value.processes);
            }
            self.trim(&mut txn, &app.id).await?;
            let deployment = &mut record.deployment;
            let nothing_runs = record.rollout.old.values().all(|count| *count == 0);
            if nothing_runs || deployment.old_release.as_ref() == Some(&deployment.new_release) {
                deployment.status = DeploymentStatus::Complete;
                deployment.finished_at = Some(Time::now());
                if app.release.as_ref() != Some(&deployment.new_release) {
                    self.switch(&mut txn, &stored, &release.value).await?;
                }
            } else {
                txn.put(deploying, &deployment.id);
            }
            let deployment = &record.deployment;
            txn.put(index_key(&deployment.id)?, &app.id)
                .put(record_key(&app.id, &deployment.id)?, &record)
                .event(status_event(deployment));
            if let Outcome::Done(_) = self.commit(&txn).await? {
                return Ok(record.deployment);
            }
            pause(attempt).await;
        }
        Err(contended(app))
    }

    /// Adds to `txn` that deployments which ended long ago are forgotten.
    async fn trim(&self, txn: &mut Txn, app: &str) -> Result<()> {
        let records = self
            .list::<DeploymentRecord>(&prefix(format!("state/deployments/{app}"))?)
            .await?;
        for old in records.into_iter().skip(MAX_FINISHED_DEPLOYMENTS - 1) {
            if old.value.deployment.status.is_final() && !txn.is_full() {
                txn.delete(index_key(&old.value.deployment.id)?)
                    .delete(old.key);
            }
        }
        Ok(())
    }

    pub(super) async fn write_advance(
        &self,
        claim: &Claim,
        advance: Advance,
    ) -> Result<DeploymentRecord> {
        let lost = || Error::ClaimLost {
            name: claim.name.clone(),
        };
        let claim_key = claim_key(&claim.name)?;
        for attempt in 0..Self::MAX_ATTEMPTS {
            let deployment = &advance.record.deployment;
            let record = self
                .find_deployment(&deployment.id)
                .await?
                .ok_or_else(lost)?;
            if record.value.deployment.status.is_final() {
                return Err(lost());
            }
            let mut txn = Txn::default();
            txn.expect(&claim_key, Condition::Version(Revision(claim.token)))
                .unchanged(&record)
                .put(record.key.clone(), &advance.record);
            for event in &advance.events {
                txn.event(NewEvent::new(
                    EventKind::Deployment,
                    &deployment.app,
                    &deployment.id,
                    event,
                ));
            }
            let app = &deployment.app;
            let new = &deployment.new_release;
            let old = deployment.old_release.as_deref();
            match deployment.status {
                DeploymentStatus::Complete => {
                    if let Some(old) = old {
                        self.drop_formation(&mut txn, app, old).await?;
                    }
                    self.write_counts(&mut txn, deployment, new, advance.new.as_ref())
                        .await?;
                    let stored = self.existing_app(app).await?;
                    let release = self.release_of(app, new).await?;
                    self.switch(&mut txn, &stored, &release.value).await?;
                    txn.delete(deploying_key(app)?);
                }
                DeploymentStatus::Failed => {
                    self.drop_formation(&mut txn, app, new).await?;
                    if let Some(old) = old {
                        self.write_counts(&mut txn, deployment, old, advance.old.as_ref())
                            .await?;
                    }
                    txn.delete(deploying_key(app)?);
                }
                DeploymentStatus::Pending | DeploymentStatus::Running => {
                    self.write_counts(&mut txn, deployment, new, advance.new.as_ref())
                        .await?;
                    if let Some(old) = old {
                        self.write_counts(&mut txn, deployment, old, advance.old.as_ref())
                            .await?;
                    }
                }
            }
            match self.commit(&txn).await? {
                Outcome::Done(_) => return Ok(advance.record),
                Outcome::Stale(key) if key == claim_key => return Err(lost()),
                Outcome::Stale(_) => pause(attempt).await,
            }
        }
        Err(Error::Contended {
            what: claim.name.clone(),
        })
    }

    async fn drop_formation(&self, txn: &mut Txn, app: &str, release: &str) -> Result<()> {
        if let Some(stored) = self.find_formation(app, release).await? {
            txn.unchanged(&stored);
            self.plan_removal(txn, &stored).await?;
        }
        Ok(())
    }

    /// Adds to `txn` that a release has these counts from now on.
    async fn write_counts(
        &self,
        txn: &mut Txn,
        deployment: &Deployment,
        release: &str,
        counts: Option<&Counts>,
    ) -> Result<()> {
        let Some(counts) = counts else { return Ok(()) };
        let app = &deployment.app;
        let key = formation_key(app, release)?;
        let now = Time::now();
        let mut formation = match self.find_formation(app, release).await? {
            Some(stored) => {
                txn.unchanged(&stored);
                stored.value
            }
            None => {
                txn.expect(&key, Condition::Absent);
                Formation {
                    app: app.clone(),
                    release: release.to_owned(),
                    created_at: Some(now),
                    ..Formation::default()
                }
            }
        };
        formation.tags = deployment.tags.clone();
        let scale = Scale {
            prev_processes: std::mem::replace(&mut formation.processes, counts.clone()),
            processes: counts.clone(),
            release: release.to_owned(),
        };
        formation.updated_at = Some(now);
        txn.put(key, &formation).event(scale_event(app, &scale));
        Ok(())
    }
}

/// The deployment of `release`, from the app's settings and the formation that is there.
fn plan(app: &App, release: &str, formation: Option<Formation>) -> DeploymentRecord {
    let (processes, tags): (Counts, Tags) =
        formation.map(|f| (f.processes, f.tags)).unwrap_or_default();
    let strategy = if app.strategy.is_empty() {
        DEFAULT_STRATEGY
    } else {
        &app.strategy
    };
    DeploymentRecord {
        rollout: Rollout {
            old: processes.clone(),
            ..Rollout::default()
        },
        deployment: Deployment {
            id: crate::model::new_id(),
            app: app.id.clone(),
            old_release: app.release.clone(),
            new_release: release.to_owned(),
            strategy: strategy.to_owned(),
            status: DeploymentStatus::Pending,
            processes,
            tags,
            timeout: Some(app.deploy_timeout.unwrap_or(DEFAULT_TIMEOUT)),
            batch_size: app
                .meta
                .get(App::BATCH_SIZE)
                .and_then(|size| size.parse().ok()),
            created_at: Some(Time::now()),
            ..Deployment::default()
        },
    }
}

fn status_event(deployment: &Deployment) -> NewEvent {
    let event = DeploymentEvent {
        app: deployment.app.clone(),
        deployment: deployment.id.clone(),
        release: deployment.new_release.clone(),
        status: deployment.status,
        ..DeploymentEvent::default()
    };
    NewEvent::new(
        EventKind::Deployment,
        &deployment.app,
        &deployment.id,
        &event,
    )
}

fn index_key(id: &str) -> Result<Key> {
    key(format_args!("index/deployments/{id}"))
}

fn record_key(app: &str, id: &str) -> Result<Key> {
    key(format_args!("state/deployments/{app}/{id}"))
}

fn deploying_key(app: &str) -> Result<Key> {
    key(format_args!("state/deploying/{app}"))
}
