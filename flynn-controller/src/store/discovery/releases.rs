//! Artifacts and releases, which never change.

use flynn_discovery::backend::{Condition, Key};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{
    DiscoveryStore, NewEvent, Outcome, Stored, Txn,
    apps::{app_key, contended},
    key, prefix,
    txn::pause,
    values,
};
use crate::{
    Error, Result,
    model::{
        AppRelease, Artifact, EventKind, Release, ReleaseDeletion, ReleaseDeletionEvent, Time,
    },
};

impl DiscoveryStore {
    /// The records of a kind that belong to an app, or all of them, newest first.
    pub(super) async fn list_of<T: DeserializeOwned>(
        &self,
        kind: &str,
        app: Option<&str>,
    ) -> Result<Vec<T>> {
        let prefix = match app {
            Some(app) => prefix(format_args!("state/{kind}/{app}"))?,
            None => prefix(format_args!("state/{kind}"))?,
        };
        self.list(&prefix).await.map(values)
    }

    pub(super) async fn write_artifact(&self, artifact: Artifact) -> Result<Artifact> {
        let mut hash = Sha256::new();
        hash.update(&artifact.kind);
        hash.update([0]);
        hash.update(&artifact.uri);
        let unique = key(format_args!(
            "state/artifact-uris/{}",
            hex::encode(hash.finalize())
        ))?;
        for attempt in 0..Self::MAX_ATTEMPTS {
            if let Some(id) = self.read::<String>(&unique).await?
                && let Some(existing) = self.read(&artifact_key(&id.value)?).await?
            {
                return Ok(existing.value);
            }
            let own = artifact_key(&artifact.id)?;
            let mut txn = Txn::default();
            txn.expect(&unique, Condition::Absent)
                .expect(&own, Condition::Absent)
                .put(unique.clone(), &artifact.id)
                .put(own.clone(), &artifact)
                .event(NewEvent::new(
                    EventKind::Artifact,
                    "",
                    &artifact.id,
                    &artifact,
                ));
            match self.commit(&txn).await? {
                Outcome::Done(_) => return Ok(artifact),
                Outcome::Stale(key) if key == own => {
                    return Err(Error::Exists {
                        what: format!("artifact {}", artifact.id),
                    });
                }
                Outcome::Stale(_) => pause(attempt).await,
            }
        }
        Err(Error::Contended {
            what: format!("artifact {}", artifact.uri),
        })
    }

    pub(super) async fn find_release(&self, id: &str) -> Result<Option<Stored<Release>>> {
        let Ok(index) = key(format_args!("index/releases/{id}")) else {
            return Ok(None);
        };
        match self.read::<String>(&index).await? {
            Some(app) => self.read(&release_key(&app.value, id)?).await,
            None => Ok(None),
        }
    }

    /// A release of this app, or an error that names it.
    pub(super) async fn release_of(&self, app: &str, release: &str) -> Result<Stored<Release>> {
        self.read(&release_key(app, release)?)
            .await?
            .ok_or_else(|| Error::missing(format_args!("release {release}")))
    }

    pub(super) async fn write_release(&self, release: Release) -> Result<Release> {
        let app = self.existing_app(&release.app_id).await?.value;
        let own = release_key(&app.id, &release.id)?;
        let index = key(format_args!("index/releases/{}", release.id))?;
        let mut txn = Txn::default();
        self.expect_alive(&mut txn, &app).await?;
        txn.expect(&index, Condition::Absent);
        for artifact in &release.artifacts {
            let known = artifact_key(artifact)?;
            if self.backend.get(&known).await?.is_none() {
                return Err(Error::missing(format_args!("artifact {artifact}")));
            }
            txn.expect(&known, Condition::Present);
        }
        txn.put(index.clone(), &app.id)
            .put(own, &release)
            .event(NewEvent::new(
                EventKind::Release,
                &app.id,
                &release.id,
                &release.without_env(),
            ));
        match self.commit(&txn).await? {
            Outcome::Done(_) => Ok(release),
            Outcome::Stale(key) if key == index => Err(Error::Exists {
                what: format!("release {}", release.id),
            }),
            Outcome::Stale(_) => Err(contended(&app.name)),
        }
    }

    pub(super) async fn make_current(&self, app: &str, release: &str) -> Result<Release> {
        for attempt in 0..Self::MAX_ATTEMPTS {
            let stored = self.existing_app(app).await?;
            let target = self.release_of(&stored.value.id, release).await?;
            let mut txn = Txn::default();
            self.expect_alive(&mut txn, &stored.value).await?;
            txn.unchanged(&target);
            self.switch(&mut txn, &stored, &target.value).await?;
            if let Outcome::Done(_) = self.commit(&txn).await? {
                return Ok(target.value);
            }
            pause(attempt).await;
        }
        Err(contended(app))
    }

    /// Adds to `txn` that `release` becomes the current one of its app.
    pub(super) async fn switch(
        &self,
        txn: &mut Txn,
        stored: &Stored<crate::model::App>,
        release: &Release,
    ) -> Result<()> {
        let mut app = stored.value.clone();
        let previous = match &app.release {
            Some(id) => self.read::<Release>(&release_key(&app.id, id)?).await?,
            None => None,
        };
        app.release = Some(release.id.clone());
        app.updated_at = Some(Time::now());
        let told = AppRelease {
            prev_release: previous.map(|stored| stored.value.without_env()),
            release: release.without_env(),
        };
        txn.unchanged(stored)
            .put(app_key(&app.id)?, &app)
            .event(NewEvent::new(
                EventKind::AppRelease,
                &app.id,
                &release.id,
                &told,
            ));
        Ok(())
    }

    pub(super) async fn remove_release(&self, app: &str, release: &str) -> Result<()> {
        for attempt in 0..Self::MAX_ATTEMPTS {
            let stored = self.existing_app(app).await?;
            let id = &stored.value.id;
            let target = self.release_of(id, release).await?;
            if stored.value.release.as_deref() == Some(&target.value.id) {
                return Err(Error::refused("cannot delete current app release"));
            }
            let mut txn = Txn::default();
            self.expect_not_deploying(&mut txn, &stored.value, &target.value.id)
                .await?;
            let deletion = ReleaseDeletionEvent {
                release_deletion: Some(ReleaseDeletion {
                    app: id.clone(),
                    release: target.value.id.clone(),
                    ..ReleaseDeletion::default()
                }),
                error: String::new(),
            };
            txn.unchanged(&stored)
                .unchanged(&target)
                .delete(target.key.clone())
                .delete(key(format_args!("index/releases/{}", target.value.id))?)
                .delete(key(format_args!(
                    "state/formations/{id}/{}",
                    target.value.id
                ))?)
                .delete(key(format_args!("state/scales/{id}/{}", target.value.id))?)
                .event(NewEvent::new(
                    EventKind::ReleaseDeletion,
                    id,
                    &target.value.id,
                    &deletion,
                ));
            if let Outcome::Done(_) = self.commit(&txn).await? {
                return Ok(());
            }
            pause(attempt).await;
        }
        Err(contended(app))
    }
}

pub(super) fn artifact_key(id: &str) -> Result<Key> {
    key(format_args!("state/artifacts/{id}"))
        .map_err(|_| Error::missing(format_args!("artifact {id}")))
}

pub(super) fn release_key(app: &str, release: &str) -> Result<Key> {
    key(format_args!("state/releases/{app}/{release}"))
        .map_err(|_| Error::missing(format_args!("release {release}")))
}
