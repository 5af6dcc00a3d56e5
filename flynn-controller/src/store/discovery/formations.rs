//! Formations and the requests that change them.

use flynn_discovery::backend::{Condition, Key};

use super::{
    DiscoveryStore, NewEvent, Outcome, Stored, Txn, apps::contended, key, releases::release_key,
    txn::pause,
};
use crate::{
    Error, Result,
    model::{App, Counts, EventKind, Formation, Release, Scale, ScaleRequest, ScaleState, Time},
};

impl DiscoveryStore {
    pub(super) async fn find_formation(
        &self,
        app: &str,
        release: &str,
    ) -> Result<Option<Stored<Formation>>> {
        match formation_key(app, release) {
            Ok(key) => self.read(&key).await,
            Err(_) => Ok(None),
        }
    }

    pub(super) async fn write_scale(&self, request: ScaleRequest) -> Result<ScaleRequest> {
        for attempt in 0..Self::MAX_ATTEMPTS {
            let app = self.existing_app(&request.app).await?.value;
            let release = self.release_of(&app.id, &request.release).await?;
            let mut txn = Txn::default();
            self.expect_alive(&mut txn, &app).await?;
            self.expect_not_deploying(&mut txn, &app, &release.value.id)
                .await?;
            txn.expect(&release.key, Condition::Present);
            let stored = self.find_formation(&app.id, &release.value.id).await?;
            let request = self
                .plan_scale(
                    &mut txn,
                    &app,
                    &release.value,
                    stored.as_ref(),
                    request.clone(),
                )
                .await?;
            if let Outcome::Done(_) = self.commit(&txn).await? {
                return Ok(request);
            }
            pause(attempt).await;
        }
        Err(contended(&request.app))
    }

    /// Adds to `txn` what carries out a scale request.
    async fn plan_scale(
        &self,
        txn: &mut Txn,
        app: &App,
        release: &Release,
        stored: Option<&Stored<Formation>>,
        mut request: ScaleRequest,
    ) -> Result<ScaleRequest> {
        check_types(release, &request)?;
        let now = Time::now();
        let mut formation = stored.map_or_else(
            || Formation {
                app: app.id.clone(),
                release: release.id.clone(),
                created_at: Some(now),
                ..Formation::default()
            },
            |stored| stored.value.clone(),
        );
        request.app.clone_from(&app.id);
        request.release.clone_from(&release.id);
        request.state = ScaleState::Pending;
        request.old_processes = Some(formation.processes.clone());
        request.old_tags = Some(formation.tags.clone());
        request.created_at = Some(now);
        request.updated_at = Some(now);
        formation
            .processes
            .extend(request.new_processes.clone().unwrap_or_default());
        for (process, tags) in request.new_tags.clone().unwrap_or_default() {
            if tags.is_empty() {
                formation.tags.remove(&process);
            } else {
                formation.tags.insert(process, tags);
            }
        }
        formation.updated_at = Some(now);
        self.guard_critical(app, release, &formation).await?;

        let last_key = scale_key(&app.id, &release.id)?;
        match self.read::<ScaleRequest>(&last_key).await? {
            Some(last) => {
                txn.unchanged(&last);
                if last.value.state == ScaleState::Pending {
                    cancel(txn, last.value, now);
                }
            }
            None => {
                txn.expect(&last_key, Condition::Absent);
            }
        }
        let formation_key = formation_key(&app.id, &release.id)?;
        match stored {
            Some(stored) => txn.unchanged(stored),
            None => txn.expect(&formation_key, Condition::Absent),
        };
        let scale = Scale {
            prev_processes: request.old_processes.clone().unwrap_or_default(),
            processes: formation.processes.clone(),
            release: release.id.clone(),
        };
        txn.put(last_key, &request)
            .put(formation_key, &formation)
            .event(NewEvent::new(
                EventKind::ScaleRequest,
                &app.id,
                &request.id,
                &request,
            ))
            .event(scale_event(&app.id, &scale));
        Ok(request)
    }

    /// A critical app must not be scaled to nothing while nothing else of it runs.
    async fn guard_critical(&self, app: &App, release: &Release, next: &Formation) -> Result<()> {
        if !app.is_critical() || next.is_active() {
            return Ok(());
        }
        let formations: Vec<Formation> = self.list_of("formations", Some(&app.id)).await?;
        let was_active = formations
            .iter()
            .any(|f| f.release == release.id && f.is_active());
        let others_are = formations
            .iter()
            .any(|f| f.release != release.id && f.is_active());
        if was_active && !others_are {
            return Err(Error::refused(format!(
                "app {} is critical to the platform and cannot be scaled to nothing; 1 is the least",
                app.name
            )));
        }
        Ok(())
    }

    pub(super) async fn complete_scale(&self, request: &ScaleRequest) -> Result<()> {
        let Some(stored) = self
            .read::<ScaleRequest>(&scale_key(&request.app, &request.release)?)
            .await?
        else {
            return Ok(());
        };
        if stored.value.id != request.id || stored.value.state != ScaleState::Pending {
            return Ok(());
        }
        let mut done = stored.value.clone();
        done.state = ScaleState::Complete;
        done.updated_at = Some(Time::now());
        let mut txn = Txn::default();
        txn.unchanged(&stored)
            .put(stored.key.clone(), &done)
            .event(NewEvent::new(
                EventKind::ScaleRequest,
                &done.app,
                &done.id,
                &done,
            ));
        // Whoever changed it meanwhile has told so.
        self.commit(&txn).await.map(|_| ())
    }

    pub(super) async fn remove_formation(&self, app: &str, release: &str) -> Result<()> {
        for attempt in 0..Self::MAX_ATTEMPTS {
            let app = self.existing_app(app).await?.value;
            let Some(stored) = self.find_formation(&app.id, release).await? else {
                return Ok(());
            };
            let mut txn = Txn::default();
            self.expect_not_deploying(&mut txn, &app, release).await?;
            if let Some(target) = self.find_release(release).await? {
                let nothing = Formation::default();
                self.guard_critical(&app, &target.value, &nothing).await?;
            }
            txn.unchanged(&stored);
            self.plan_removal(&mut txn, &stored).await?;
            if let Outcome::Done(_) = self.commit(&txn).await? {
                return Ok(());
            }
            pause(attempt).await;
        }
        Err(contended(app))
    }

    /// Adds to `txn` that a formation goes, with its pending scale request.
    pub(super) async fn plan_removal(
        &self,
        txn: &mut Txn,
        stored: &Stored<Formation>,
    ) -> Result<()> {
        let Formation { app, release, .. } = &stored.value;
        let last_key = scale_key(app, release)?;
        if let Some(last) = self.read::<ScaleRequest>(&last_key).await? {
            txn.unchanged(&last).delete(last_key);
            if last.value.state == ScaleState::Pending {
                cancel(txn, last.value, Time::now());
            }
        }
        let scale = Scale {
            prev_processes: stored.value.processes.clone(),
            processes: Counts::new(),
            release: release.clone(),
        };
        txn.delete(stored.key.clone())
            .event(scale_event(app, &scale));
        Ok(())
    }

    /// Makes `txn` depend on `release` not being part of a running deployment.
    pub(super) async fn expect_not_deploying(
        &self,
        txn: &mut Txn,
        app: &App,
        release: &str,
    ) -> Result<()> {
        let deploying = key(format_args!("state/deploying/{}", app.id))?;
        let Some(open) = self.read::<String>(&deploying).await? else {
            txn.expect(&deploying, Condition::Absent);
            return Ok(());
        };
        if let Some(record) = self.find_deployment(&open.value).await? {
            let deployment = &record.value.deployment;
            let is_part = deployment.new_release == release
                || deployment.old_release.as_deref() == Some(release);
            if is_part {
                return Err(Error::Conflict {
                    why: format!(
                        "deployment {} of app {} is in progress; try again when it has ended",
                        deployment.id, app.name
                    ),
                });
            }
        }
        txn.unchanged(&open);
        Ok(())
    }
}

/// Adds to `txn` that a pending request was overtaken. Told in both ways: existing clients wait for one of them only.
fn cancel(txn: &mut Txn, mut request: ScaleRequest, now: Time) {
    request.state = ScaleState::Cancelled;
    request.updated_at = Some(now);
    for kind in [EventKind::ScaleRequestCancelation, EventKind::ScaleRequest] {
        txn.event(NewEvent::new(kind, &request.app, &request.id, &request));
    }
}

pub(super) fn scale_event(app: &str, scale: &Scale) -> NewEvent {
    let object_id = format!("{app}:{}", scale.release);
    NewEvent::new(EventKind::Scale, app, object_id, scale)
}

fn check_types(release: &Release, request: &ScaleRequest) -> Result<()> {
    let counts = request.new_processes.iter().flat_map(Counts::keys);
    let tags = request.new_tags.iter().flat_map(|tags| tags.keys());
    let mut unknown: Vec<&str> = counts
        .chain(tags)
        .filter(|name| !release.processes.contains_key(*name))
        .map(String::as_str)
        .collect();
    unknown.sort_unstable();
    unknown.dedup();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "requested scale includes process types that do not exist in the release: {}",
        unknown.join(", ")
    )))
}

pub(super) fn formation_key(app: &str, release: &str) -> Result<Key> {
    release_key(app, release)?;
    key(format_args!("state/formations/{app}/{release}"))
}

fn scale_key(app: &str, release: &str) -> Result<Key> {
    key(format_args!("state/scales/{app}/{release}"))
}
