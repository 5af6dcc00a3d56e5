//! Apps: unique names, partial changes, deletion.

use flynn_discovery::backend::{Condition, Key};
use serde_json::Value;

use super::{
    DiscoveryStore, NewEvent, Outcome, Stored, Txn, key, list_all, prefix, txn::pause, values,
};
use crate::{
    Error, Result,
    model::{
        App, AppDeletion, AppDeletionEvent, AppUpdate, DeploymentEvent, DeploymentStatus,
        EventKind, Release, Time,
    },
    store::{Deletion, DeploymentRecord},
};

impl DiscoveryStore {
    pub(super) async fn find_app(&self, id_or_name: &str) -> Result<Option<Stored<App>>> {
        let (Ok(by_id), Ok(by_name)) = (app_key(id_or_name), name_key(id_or_name)) else {
            return Ok(None);
        };
        if let Some(app) = self.read(&by_id).await? {
            return Ok(Some(app));
        }
        match self.read::<String>(&by_name).await? {
            Some(id) => self.read(&app_key(&id.value)?).await,
            None => Ok(None),
        }
    }

    pub(super) async fn write_app(&self, app: App) -> Result<App> {
        let name = name_key(&app.name)?;
        let mut txn = Txn::default();
        txn.expect(&name, Condition::Absent)
            .expect(&app_key(&app.id)?, Condition::Absent)
            .put(name, &app.id)
            .put(app_key(&app.id)?, &app)
            .event(NewEvent::new(EventKind::App, &app.id, &app.id, &app));
        match self.commit(&txn).await? {
            Outcome::Done(_) => Ok(app),
            Outcome::Stale(_) => Err(Error::Exists {
                what: format!("app {}", app.name),
            }),
        }
    }

    pub(super) async fn change_app(&self, app: &str, update: AppUpdate) -> Result<App> {
        for attempt in 0..Self::MAX_ATTEMPTS {
            let stored = self.existing_app(app).await?;
            let mut changed = stored.value.clone();
            if let Some(meta) = &update.meta {
                changed.meta.clone_from(meta);
            }
            if let Some(strategy) = &update.strategy {
                changed.strategy.clone_from(strategy);
            }
            if let Some(timeout) = update.deploy_timeout {
                changed.deploy_timeout = Some(timeout);
            }
            changed.updated_at = Some(Time::now());
            let mut txn = Txn::default();
            txn.unchanged(&stored)
                .put(stored.key.clone(), &changed)
                .event(NewEvent::new(
                    EventKind::App,
                    &changed.id,
                    &changed.id,
                    &changed,
                ));
            if let Outcome::Done(_) = self.commit(&txn).await? {
                return Ok(changed);
            }
            pause(attempt).await;
        }
        Err(contended(app))
    }

    /// Makes `txn` depend on the app not being deleted meanwhile.
    pub(super) async fn expect_alive(&self, txn: &mut Txn, app: &App) -> Result<()> {
        let mark = deletion_key(&app.id)?;
        if self.backend.get(&mark).await?.is_some() {
            return Err(Error::Conflict {
                why: format!("app {} is being deleted", app.name),
            });
        }
        txn.expect(&mark, Condition::Absent);
        Ok(())
    }

    pub(super) async fn mark_for_deletion(&self, app: &str) -> Result<()> {
        for attempt in 0..Self::MAX_ATTEMPTS {
            let stored = self.existing_app(app).await?;
            let id = &stored.value.id;
            let mark = deletion_key(id)?;
            if self.backend.get(&mark).await?.is_some() {
                return Ok(());
            }
            let mut txn = Txn::default();
            txn.unchanged(&stored).expect(&mark, Condition::Absent).put(
                mark,
                &Deletion {
                    app: id.clone(),
                    begun_at: Time::now(),
                },
            );
            for kind in ["formations", "scales"] {
                let prefix = prefix(format_args!("state/{kind}/{id}"))?;
                for entry in list_all(&*self.backend, &prefix).await? {
                    txn.delete(entry.key);
                }
            }
            let deploying = key(format_args!("state/deploying/{id}"))?;
            if let Some(open) = self.read::<String>(&deploying).await? {
                txn.unchanged(&open).delete(deploying);
                if let Some(record) = self.find_deployment(&open.value).await? {
                    let mut failed: DeploymentRecord = record.value.clone();
                    failed.deployment.status = DeploymentStatus::Failed;
                    failed.deployment.finished_at = Some(Time::now());
                    failed.deployment.error = Some("the app was deleted".to_owned());
                    let event = DeploymentEvent {
                        app: id.clone(),
                        deployment: open.value.clone(),
                        release: failed.deployment.new_release.clone(),
                        status: DeploymentStatus::Failed,
                        error: "the app was deleted".to_owned(),
                        ..DeploymentEvent::default()
                    };
                    txn.unchanged(&record)
                        .put(record.key.clone(), &failed)
                        .event(NewEvent::new(
                            EventKind::Deployment,
                            id,
                            &open.value,
                            &event,
                        ));
                }
            }
            if let Outcome::Done(_) = self.commit(&txn).await? {
                return Ok(());
            }
            pause(attempt).await;
        }
        Err(contended(app))
    }

    pub(super) async fn remove_app(&self, app: &str, routes: Vec<Value>) -> Result<()> {
        for attempt in 0..Self::MAX_ATTEMPTS {
            let Some(stored) = self.find_app(app).await? else {
                return Ok(());
            };
            let id = &stored.value.id;
            let releases = self
                .list::<Release>(&prefix(format!("state/releases/{id}"))?)
                .await?;
            let mut keys: Vec<Key> = Vec::new();
            for release in &releases {
                keys.push(release.key.clone());
                keys.push(key(format_args!("index/releases/{}", release.value.id))?);
            }
            let deployments = prefix(format_args!("state/deployments/{id}"))?;
            for record in self.list::<DeploymentRecord>(&deployments).await? {
                let deployment = &record.value.deployment.id;
                keys.push(key(format_args!("index/deployments/{deployment}"))?);
                keys.push(record.key);
            }
            for kind in ["state/formations", "state/scales", "jobs"] {
                let prefix = prefix(format_args!("{kind}/{id}"))?;
                let entries = list_all(&*self.backend, &prefix).await?;
                keys.extend(entries.into_iter().map(|entry| entry.key));
            }
            // All at once where it fits; else what is left is removed with the app in the last change.
            let mut txn = Txn::default();
            let mut keys = keys.into_iter();
            for key in keys.by_ref() {
                txn.delete(key);
                if txn.is_full() {
                    self.commit(&txn).await?;
                    txn = Txn::default();
                }
            }
            let deletion = AppDeletionEvent {
                app_deletion: Some(AppDeletion {
                    app: id.clone(),
                    deleted_routes: routes.clone(),
                    deleted_resources: Vec::new(),
                    deleted_releases: values(releases).iter().map(Release::without_env).collect(),
                }),
                error: String::new(),
            };
            txn.unchanged(&stored)
                .delete(stored.key.clone())
                .delete(name_key(&stored.value.name)?)
                .delete(key(format_args!("state/deploying/{id}"))?)
                .delete(deletion_key(id)?)
                .event(NewEvent::new(EventKind::AppDeletion, id, id, &deletion));
            if let Outcome::Done(_) = self.commit(&txn).await? {
                return Ok(());
            }
            pause(attempt).await;
        }
        Err(contended(app))
    }
}

pub(super) fn contended(app: &str) -> Error {
    Error::Contended {
        what: format!("app {app}"),
    }
}

pub(super) fn app_key(id: &str) -> Result<Key> {
    key(format_args!("state/apps/{id}"))
}

fn name_key(name: &str) -> Result<Key> {
    key(format_args!("state/names/{name}"))
}

fn deletion_key(app: &str) -> Result<Key> {
    key(format_args!("state/deletions/{app}"))
}
