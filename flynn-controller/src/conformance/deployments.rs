//! Deployments, and the claims that they are taken forward under.

use std::{sync::Arc, time::Duration};

use super::{a_release, an_app, counts, events_of, to};
use crate::{
    Error, Store,
    model::{App, Deployment, DeploymentEvent, DeploymentStatus, EventKind, Release},
    store::{Advance, Claim, DeploymentRecord, MAX_FINISHED_DEPLOYMENTS},
};

const TTL: Duration = Duration::from_secs(60);

/// An app whose first release runs, and a second one.
async fn two_releases(store: &(impl Store + ?Sized)) -> (App, Release, Release) {
    let app = an_app(store, "blog").await;
    let old = a_release(store, &app).await;
    let new = a_release(store, &app).await;
    store.create_deployment("blog", &old.id).await.unwrap();
    store.scale(to(&old, &[("web", 2)])).await.unwrap();
    (app, old, new)
}

async fn claimed(
    store: &(impl Store + ?Sized),
    deployment: &Deployment,
) -> (Claim, DeploymentRecord) {
    let name = format!("deployment-{}", deployment.id);
    let claim = store.claim(&name, "me", TTL).await.unwrap().unwrap();
    let record = store.deployment(&deployment.id).await.unwrap().unwrap();
    (claim, record)
}

fn half_way(record: &DeploymentRecord) -> Advance {
    let mut record = record.clone();
    record.deployment.status = DeploymentStatus::Running;
    Advance {
        record,
        old: Some(counts(&[("web", 1)])),
        new: Some(counts(&[("web", 1)])),
        events: vec![DeploymentEvent {
            status: DeploymentStatus::Running,
            ..DeploymentEvent::default()
        }],
    }
}

fn ended(record: &DeploymentRecord, status: DeploymentStatus) -> Advance {
    let mut record = record.clone();
    record.deployment.status = status;
    let old = (status == DeploymentStatus::Failed).then(|| record.deployment.processes.clone());
    Advance {
        record,
        old,
        new: None,
        events: vec![DeploymentEvent {
            status,
            ..DeploymentEvent::default()
        }],
    }
}

/// There is nothing to move; a deployment of the current release too.
pub async fn a_first_deployment_is_complete_at_once(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let release = a_release(&*store, &app).await;
    let deployment = store.create_deployment("blog", &release.id).await.unwrap();
    assert_eq!(deployment.status, DeploymentStatus::Complete);
    assert!(deployment.finished_at.is_some());
    assert_eq!(deployment.old_release, None);
    assert_eq!(
        store.app("blog").await.unwrap().unwrap().release,
        Some(release.id.clone())
    );
    assert_eq!(events_of(&*store, EventKind::AppRelease).await.len(), 1);
    let told = events_of(&*store, EventKind::Deployment).await;
    assert_eq!(told[0].data["status"], "complete");
    store.scale(to(&release, &[("web", 1)])).await.unwrap();
    let again = store.create_deployment("blog", &release.id).await.unwrap();
    assert_eq!(again.status, DeploymentStatus::Complete);
    let error = store.create_deployment("blog", &app.id).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

/// With the message existing clients know.
pub async fn only_one_deployment_of_an_app_runs(store: Arc<impl Store + ?Sized>) {
    let (app, old, new) = two_releases(&*store).await;
    let deployment = store.create_deployment("blog", &new.id).await.unwrap();
    assert_eq!(deployment.status, DeploymentStatus::Pending);
    assert_eq!(deployment.old_release, Some(old.id));
    assert_eq!(deployment.processes, counts(&[("web", 2)]));
    let error = store.create_deployment("blog", &new.id).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Cannot create deploy, there is already one in progress for this app."
    );
    let listed = store.deployments(&app.id).await.unwrap();
    assert_eq!(listed.first(), Some(&deployment), "newest first");
    assert_eq!(listed.len(), 2);
}

/// Its counts are the deployment's to change.
pub async fn a_release_that_is_being_deployed_is_not_scaled(store: Arc<impl Store + ?Sized>) {
    let (_, old, new) = two_releases(&*store).await;
    store.create_deployment("blog", &new.id).await.unwrap();
    for refused in [
        store.scale(to(&old, &[("web", 3)])).await.map(|_| ()),
        store.scale(to(&new, &[("web", 3)])).await.map(|_| ()),
        store.delete_formation("blog", &old.id).await,
        store.delete_release("blog", &new.id).await,
    ] {
        assert!(
            matches!(refused, Err(Error::Conflict { .. })),
            "{refused:?}"
        );
    }
}

/// One that was lost, and taken by another, is not enough.
pub async fn an_advance_needs_the_claim(store: Arc<impl Store + ?Sized>) {
    let (app, old, new) = two_releases(&*store).await;
    let deployment = store.create_deployment("blog", &new.id).await.unwrap();
    let (first, record) = claimed(&*store, &deployment).await;
    store.release_claim(first.clone()).await.unwrap();
    let (second, _) = claimed(&*store, &deployment).await;
    let error = store
        .advance_deployment(&first, half_way(&record))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::ClaimLost { .. }), "{error}");
    let untouched = store.formation(&app.id, &old.id).await.unwrap().unwrap();
    assert_eq!(untouched.processes, counts(&[("web", 2)]));
    store
        .advance_deployment(&second, half_way(&record))
        .await
        .unwrap();
    let moved = store.formation(&app.id, &new.id).await.unwrap().unwrap();
    assert_eq!(moved.processes, counts(&[("web", 1)]));
    let kept = store.deployment(&deployment.id).await.unwrap().unwrap();
    assert_eq!(kept.deployment.status, DeploymentStatus::Running);
}

/// And removes the old formation, in one change.
pub async fn a_complete_deployment_makes_its_release_current(store: Arc<impl Store + ?Sized>) {
    let (app, old, new) = two_releases(&*store).await;
    let deployment = store.create_deployment("blog", &new.id).await.unwrap();
    let (claim, record) = claimed(&*store, &deployment).await;
    store
        .advance_deployment(&claim, half_way(&record))
        .await
        .unwrap();
    store
        .advance_deployment(&claim, ended(&record, DeploymentStatus::Complete))
        .await
        .unwrap();
    assert_eq!(
        store.app("blog").await.unwrap().unwrap().release,
        Some(new.id.clone())
    );
    assert_eq!(store.formation(&app.id, &old.id).await.unwrap(), None);
    assert!(store.formation(&app.id, &new.id).await.unwrap().is_some());
    let again = store.advance_deployment(&claim, half_way(&record)).await;
    assert!(matches!(again, Err(Error::ClaimLost { .. })), "it is over");
    store.scale(to(&new, &[("web", 3)])).await.unwrap();
    let third = a_release(&*store, &app).await;
    assert!(store.create_deployment("blog", &third.id).await.is_ok());
}

/// And removes the new one; the old release stays the current one.
pub async fn a_failed_deployment_restores_the_old_formation(store: Arc<impl Store + ?Sized>) {
    let (app, old, new) = two_releases(&*store).await;
    let deployment = store.create_deployment("blog", &new.id).await.unwrap();
    let (claim, record) = claimed(&*store, &deployment).await;
    store
        .advance_deployment(&claim, half_way(&record))
        .await
        .unwrap();
    store
        .advance_deployment(&claim, ended(&record, DeploymentStatus::Failed))
        .await
        .unwrap();
    let restored = store.formation(&app.id, &old.id).await.unwrap().unwrap();
    assert_eq!(restored.processes, counts(&[("web", 2)]));
    assert_eq!(store.formation(&app.id, &new.id).await.unwrap(), None);
    assert_eq!(
        store.app("blog").await.unwrap().unwrap().release,
        Some(old.id)
    );
    assert_eq!(
        events_of(&*store, EventKind::Deployment).await[0].data["status"],
        "failed"
    );
    assert!(
        store.create_deployment("blog", &new.id).await.is_ok(),
        "it may be tried again"
    );
}

/// So whoever waits for it hears the end.
pub async fn a_deployment_of_a_deleted_app_has_failed(store: Arc<impl Store + ?Sized>) {
    let (_, _, new) = two_releases(&*store).await;
    let deployment = store.create_deployment("blog", &new.id).await.unwrap();
    let (claim, record) = claimed(&*store, &deployment).await;
    store.begin_deletion("blog").await.unwrap();
    let told = events_of(&*store, EventKind::Deployment).await;
    assert_eq!(
        (&told[0].data["status"], &told[0].data["error"]),
        (&"failed".into(), &"the app was deleted".into())
    );
    let late = store.advance_deployment(&claim, half_way(&record)).await;
    assert!(matches!(late, Err(Error::ClaimLost { .. })));
}

/// Those that ended, beyond a number.
pub async fn old_deployments_are_forgotten(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let release = a_release(&*store, &app).await;
    let first = store.create_deployment("blog", &release.id).await.unwrap();
    for _ in 0..MAX_FINISHED_DEPLOYMENTS {
        store.create_deployment("blog", &release.id).await.unwrap();
    }
    assert_eq!(
        store.deployments(&app.id).await.unwrap().len(),
        MAX_FINISHED_DEPLOYMENTS
    );
    assert!(store.deployment(&first.id).await.unwrap().is_none());
}

/// Until it is given back.
pub async fn one_holder_at_a_time_has_a_claim(store: Arc<impl Store + ?Sized>) {
    let attempts = (0..4).map(|_| store.claim("work", "me", TTL));
    let claims = futures::future::try_join_all(attempts).await.unwrap();
    let mut claims: Vec<Claim> = claims.into_iter().flatten().collect();
    assert_eq!(claims.len(), 1);
    let claim = claims.remove(0);
    assert!(
        store
            .claim("other-work", "me", TTL)
            .await
            .unwrap()
            .is_some()
    );
    store.renew(&claim).await.unwrap();
    store.release_claim(claim.clone()).await.unwrap();
    assert!(matches!(
        store.renew(&claim).await,
        Err(Error::ClaimLost { .. })
    ));
    let next = store.claim("work", "you", TTL).await.unwrap().unwrap();
    assert_ne!(next.token, claim.token);
}

/// And another may have it.
pub async fn a_claim_that_is_not_renewed_runs_out(store: Arc<impl Store + ?Sized>) {
    let claim = store
        .claim("work", "me", Duration::from_millis(100))
        .await
        .unwrap()
        .unwrap();
    let taken = async {
        loop {
            if let Some(claim) = store.claim("work", "you", TTL).await.unwrap() {
                return claim;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::DEADLINE, taken)
        .await
        .expect("the claim runs out");
    assert!(matches!(
        store.renew(&claim).await,
        Err(Error::ClaimLost { .. })
    ));
}
