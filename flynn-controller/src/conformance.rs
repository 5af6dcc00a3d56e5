//! The contract of a [`Store`], case by case. Run it on your own store:
//!
//! ```ignore
//! flynn_controller::store_conformance!(my_store, async { Arc::new(MyStore::new()) });
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a case that fails panics"
)]

mod deployments;
mod events;
mod formations;

pub use deployments::*;
pub use events::*;
pub use formations::*;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    Error, Store,
    model::{
        App, AppUpdate, Artifact, Counts, Event, EventKind, Job, JobState, Key, ProcessType,
        Release, ScaleRequest, Time, new_id,
    },
    store::EventFilter,
};

/// How long a case waits for an event.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Writes one test for each case, in a module `$name`, against what the future `$store` makes: an `Arc<dyn Store>` (or
/// of a type that implements it) that nobody else uses.
#[macro_export]
macro_rules! store_conformance {
    ($name:ident, $store:expr) => {
        $crate::store_conformance!(@cases $name, $store,
            an_app_is_found_by_id_and_by_name,
            of_many_apps_of_one_name_one_is_created,
            an_update_changes_only_what_it_names,
            a_deleted_app_leaves_its_name_free_and_nothing_behind,
            nothing_new_is_made_of_an_app_that_is_being_deleted,
            the_same_artifact_is_registered_once,
            a_release_needs_its_app_and_its_artifacts,
            the_current_release_cannot_be_deleted_and_others_can,
            values_of_variables_are_not_in_events,
            a_scale_request_merges_counts_and_tells_those_before,
            process_types_that_do_not_exist_are_refused,
            a_second_scale_request_cancels_the_first,
            a_scale_request_is_finished_once,
            a_critical_app_is_not_scaled_to_nothing,
            what_comes_from_outside_cannot_name_other_records,
            a_first_deployment_is_complete_at_once,
            only_one_deployment_of_an_app_runs,
            a_release_that_is_being_deployed_is_not_scaled,
            an_advance_needs_the_claim,
            a_complete_deployment_makes_its_release_current,
            a_failed_deployment_restores_the_old_formation,
            a_deployment_of_a_deleted_app_has_failed,
            old_deployments_are_forgotten,
            events_are_numbered_in_order,
            an_events_filter_is_heeded,
            a_watch_of_events_misses_nothing_and_says_nothing_twice,
            a_watch_from_now_on_has_no_past,
            the_catalog_follows_every_change,
            one_holder_at_a_time_has_a_claim,
            a_claim_that_is_not_renewed_runs_out,
            a_job_that_did_not_change_causes_no_event,
            old_jobs_that_are_over_are_forgotten,
            a_key_is_added_once_and_removed_once,
        );
    };
    (@cases $name:ident, $store:expr, $($case:ident,)*) => {
        mod $name {
            #[allow(unused_imports, reason = "the store's expression may need them")]
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    let store = $store.await;
                    $crate::conformance::$case(store).await;
                }
            )*
        }
    };
}

async fn an_app(store: &(impl Store + ?Sized), name: &str) -> App {
    let app = App {
        id: new_id(),
        created_at: Some(Time::now()),
        ..App::named(name)
    };
    store.create_app(app).await.unwrap()
}

async fn a_release(store: &(impl Store + ?Sized), app: &App) -> Release {
    let processes = ["web", "worker"].map(|name| (name.to_owned(), ProcessType::command([name])));
    let release = Release {
        id: new_id(),
        app_id: app.id.clone(),
        env: [("SECRET", "hunter2")].into(),
        processes: processes.into(),
        created_at: Some(Time::now()),
        ..Release::default()
    };
    store.create_release(release).await.unwrap()
}

fn counts(pairs: &[(&str, u32)]) -> Counts {
    pairs
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

fn to(release: &Release, pairs: &[(&str, u32)]) -> ScaleRequest {
    ScaleRequest {
        id: new_id(),
        ..ScaleRequest::to(&release.app_id, &release.id, counts(pairs))
    }
}

async fn events_of(store: &(impl Store + ?Sized), kind: EventKind) -> Vec<Event> {
    let filter = EventFilter {
        kinds: vec![kind],
        ..EventFilter::default()
    };
    store.events(&filter).await.unwrap()
}

/// By id, by name; not by anything else.
pub async fn an_app_is_found_by_id_and_by_name(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    assert_eq!(store.app(&app.id).await.unwrap(), Some(app.clone()));
    assert_eq!(store.app("blog").await.unwrap(), Some(app.clone()));
    assert_eq!(store.app("blo").await.unwrap(), None);
    let other = an_app(&*store, "shop").await;
    assert_eq!(store.apps().await.unwrap(), [other, app], "newest first");
    assert_eq!(events_of(&*store, EventKind::App).await.len(), 2);
}

/// However many try at once.
pub async fn of_many_apps_of_one_name_one_is_created(store: Arc<impl Store + ?Sized>) {
    let attempts = (0..8).map(|_| {
        store.create_app(App {
            id: new_id(),
            ..App::named("blog")
        })
    });
    let results = futures::future::join_all(attempts).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    for result in results.into_iter().filter_map(Result::err) {
        assert!(matches!(result, Error::Exists { .. }), "{result}");
    }
    assert_eq!(store.apps().await.unwrap().len(), 1);
}

/// What is absent from the update stays; an empty meta clears it.
pub async fn an_update_changes_only_what_it_names(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let meta: BTreeMap<String, String> = [("a".to_owned(), "1".to_owned())].into();
    let update = AppUpdate {
        meta: Some(meta.clone()),
        ..AppUpdate::default()
    };
    store.update_app("blog", update).await.unwrap();
    let update = AppUpdate {
        strategy: Some("one-by-one".to_owned()),
        deploy_timeout: Some(7),
        ..AppUpdate::default()
    };
    let changed = store.update_app(&app.id, update).await.unwrap();
    assert_eq!(
        (
            changed.meta,
            changed.strategy.as_str(),
            changed.deploy_timeout
        ),
        (meta, "one-by-one", Some(7))
    );
    let update = AppUpdate {
        meta: Some(BTreeMap::new()),
        ..AppUpdate::default()
    };
    assert!(
        store
            .update_app("blog", update.clone())
            .await
            .unwrap()
            .meta
            .is_empty()
    );
    assert!(matches!(
        store.update_app("nope", update).await,
        Err(Error::NotFound { .. })
    ));
}

/// Releases, formations, deployments and jobs go with the app; the event tells which releases.
pub async fn a_deleted_app_leaves_its_name_free_and_nothing_behind(
    store: Arc<impl Store + ?Sized>,
) {
    let app = an_app(&*store, "blog").await;
    let release = a_release(&*store, &app).await;
    let deployment = store.create_deployment(&app.id, &release.id).await.unwrap();
    store.scale(to(&release, &[("web", 1)])).await.unwrap();
    store
        .record_jobs(vec![job(&app, JobState::Up)])
        .await
        .unwrap();
    store.begin_deletion("blog").await.unwrap();
    store.begin_deletion("blog").await.unwrap();
    let route = serde_json::json!({"id": "r"});
    store
        .finish_deletion(&app.id, vec![route.clone()])
        .await
        .unwrap();
    store.finish_deletion(&app.id, Vec::new()).await.unwrap();

    assert_eq!(store.app("blog").await.unwrap(), None);
    assert_eq!(store.app(&app.id).await.unwrap(), None);
    assert_eq!(store.release(&release.id).await.unwrap(), None);
    assert_eq!(store.releases(None).await.unwrap(), []);
    assert_eq!(store.formations(None).await.unwrap(), []);
    assert!(store.deployment(&deployment.id).await.unwrap().is_none());
    assert_eq!(store.jobs(None).await.unwrap(), []);
    let told = events_of(&*store, EventKind::AppDeletion).await;
    assert_eq!(told.len(), 1, "told once");
    assert_eq!(
        (told[0].app.as_str(), told[0].object_id.as_str()),
        (&*app.id, &*app.id)
    );
    assert_eq!(
        told[0].data["app_deletion"]["deleted_routes"],
        serde_json::json!([route])
    );
    assert_eq!(
        told[0].data["app_deletion"]["deleted_releases"][0]["id"],
        *release.id
    );
    assert_ne!(an_app(&*store, "blog").await.id, app.id);
}

/// Neither releases nor formations nor deployments.
pub async fn nothing_new_is_made_of_an_app_that_is_being_deleted(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let release = a_release(&*store, &app).await;
    store.scale(to(&release, &[("web", 1)])).await.unwrap();
    store.begin_deletion(&app.id).await.unwrap();
    assert_eq!(
        store.formations(Some(&app.id)).await.unwrap(),
        [],
        "formations go at once"
    );
    let another = Release {
        id: new_id(),
        ..release.clone()
    };
    for error in [
        store.create_release(another).await.unwrap_err(),
        store.scale(to(&release, &[("web", 2)])).await.unwrap_err(),
        store
            .create_deployment(&app.id, &release.id)
            .await
            .unwrap_err(),
        store.set_release(&app.id, &release.id).await.unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "app blog is being deleted");
    }
}

/// The kind and the URI make an artifact.
pub async fn the_same_artifact_is_registered_once(store: Arc<impl Store + ?Sized>) {
    let artifact = || Artifact {
        id: new_id(),
        ..Artifact::slug("blob:a", "", 1)
    };
    let first = store.create_artifact(artifact()).await.unwrap();
    let again = store.create_artifact(artifact()).await.unwrap();
    assert_eq!(first, again);
    let mut other = artifact();
    other.kind = Artifact::FLYNN.to_owned();
    assert_ne!(store.create_artifact(other).await.unwrap().id, first.id);
    assert_eq!(store.artifacts().await.unwrap().len(), 2);
    assert_eq!(store.artifact(&first.id).await.unwrap(), Some(first));
    assert_eq!(events_of(&*store, EventKind::Artifact).await.len(), 2);
}

/// And one id is one release.
pub async fn a_release_needs_its_app_and_its_artifacts(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let first = a_release(&*store, &app).await;
    let second = a_release(&*store, &app).await;
    assert_eq!(
        store.releases(Some(&app.id)).await.unwrap(),
        [second.clone(), first.clone()]
    );
    let orphan = Release {
        id: new_id(),
        app_id: new_id(),
        ..Release::default()
    };
    assert!(matches!(
        store.create_release(orphan).await,
        Err(Error::NotFound { .. })
    ));
    let bare = Release {
        id: new_id(),
        app_id: app.id.clone(),
        artifacts: vec![new_id()],
        ..Release::default()
    };
    assert!(matches!(
        store.create_release(bare).await,
        Err(Error::NotFound { .. })
    ));
    let error = store.create_release(first.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(store.release(&first.id).await.unwrap(), Some(first));
}

/// Deleting takes the formation along.
pub async fn the_current_release_cannot_be_deleted_and_others_can(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let old = a_release(&*store, &app).await;
    let new = a_release(&*store, &app).await;
    store.set_release("blog", &old.id).await.unwrap();
    store.set_release("blog", &new.id).await.unwrap();
    let told = events_of(&*store, EventKind::AppRelease).await;
    assert_eq!(told[0].data["prev_release"]["id"], *old.id);
    assert_eq!(told[0].data["release"]["id"], *new.id);
    let error = store.delete_release("blog", &new.id).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot delete current app release");
    store.scale(to(&old, &[("web", 1)])).await.unwrap();
    store.delete_release("blog", &old.id).await.unwrap();
    assert_eq!(store.release(&old.id).await.unwrap(), None);
    assert_eq!(store.formations(Some(&app.id)).await.unwrap(), []);
    assert_eq!(
        events_of(&*store, EventKind::ReleaseDeletion).await.len(),
        1
    );
    assert!(matches!(
        store.delete_release("blog", &old.id).await,
        Err(Error::NotFound { .. })
    ));
}

/// Events are kept and shown to many.
pub async fn values_of_variables_are_not_in_events(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let release = a_release(&*store, &app).await;
    store.set_release("blog", &release.id).await.unwrap();
    store.create_deployment("blog", &release.id).await.unwrap();
    store.begin_deletion("blog").await.unwrap();
    store.finish_deletion(&app.id, Vec::new()).await.unwrap();
    for event in store.events(&EventFilter::default()).await.unwrap() {
        assert!(!event.data.to_string().contains("hunter2"), "{event:?}");
    }
}

/// Slashes, dots and the like name nothing.
pub async fn what_comes_from_outside_cannot_name_other_records(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let release = a_release(&*store, &app).await;
    let sneaky = format!("../releases/{}/{}", app.id, release.id);
    for name in ["", ".", "..", "a/b", "a b", "ä", &sneaky, &"x".repeat(600)] {
        assert_eq!(store.app(name).await.unwrap(), None, "{name:?}");
        assert_eq!(store.release(name).await.unwrap(), None, "{name:?}");
        assert_eq!(store.artifact(name).await.unwrap(), None, "{name:?}");
        assert_eq!(store.key(name).await.unwrap(), None, "{name:?}");
        assert!(store.deployment(name).await.unwrap().is_none(), "{name:?}");
        assert_eq!(
            store.formation(&app.id, name).await.unwrap(),
            None,
            "{name:?}"
        );
        assert!(matches!(
            store.set_release(&app.id, name).await,
            Err(Error::NotFound { .. })
        ));
        assert!(matches!(
            store
                .scale(ScaleRequest::to(name, &*release.id, Counts::new()))
                .await,
            Err(Error::NotFound { .. })
        ));
    }
}

fn job(app: &App, state: JobState) -> Job {
    let uuid = new_id();
    Job {
        id: format!("host1-{uuid}"),
        uuid,
        app: app.id.clone(),
        state,
        updated_at: Some(Time::now()),
        ..Job::default()
    }
}

/// Neither when it is recorded again nor among others that did.
pub async fn a_job_that_did_not_change_causes_no_event(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let mut one = job(&app, JobState::Starting);
    let two = job(&app, JobState::Up);
    store
        .record_jobs(vec![one.clone(), two.clone()])
        .await
        .unwrap();
    store
        .record_jobs(vec![one.clone(), two.clone()])
        .await
        .unwrap();
    one.state = JobState::Up;
    store
        .record_jobs(vec![one.clone(), two.clone()])
        .await
        .unwrap();
    let told = events_of(&*store, EventKind::Job).await;
    let mut told: Vec<(&str, &str)> = told
        .iter()
        .map(|e| (&*e.object_id, e.data["state"].as_str().unwrap()))
        .collect();
    told[1..].sort_by_key(|(id, _)| *id != one.uuid);
    assert_eq!(
        told,
        [
            (&*one.uuid, "up"),
            (&*one.uuid, "starting"),
            (&*two.uuid, "up")
        ]
    );
    assert_eq!(store.jobs(Some(&app.id)).await.unwrap().len(), 2);
}

/// Those that run are not.
pub async fn old_jobs_that_are_over_are_forgotten(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    store
        .record_jobs(vec![job(&app, JobState::Up)])
        .await
        .unwrap();
    for n in 0..40 {
        let mut over = job(&app, JobState::Crashed);
        over.updated_at = Some(Time::from_millis(1_000 + n));
        store.record_jobs(vec![over]).await.unwrap();
    }
    let kept = store.jobs(Some(&app.id)).await.unwrap();
    let (over, running): (Vec<_>, Vec<_>) = kept.iter().partition(|job| !job.state.is_active());
    assert_eq!(
        (over.len(), running.len()),
        (crate::store::MAX_FINISHED_JOBS, 1)
    );
    assert!(
        over.iter()
            .all(|job| job.updated_at >= Some(Time::from_millis(1_015))),
        "the newest stay"
    );
}

/// With an event each time.
pub async fn a_key_is_added_once_and_removed_once(store: Arc<impl Store + ?Sized>) {
    let line =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me";
    let key = store.add_key(Key::parse(line).unwrap()).await.unwrap();
    assert_eq!(store.add_key(key.clone()).await.unwrap(), key);
    assert_eq!(store.keys().await.unwrap(), std::slice::from_ref(&key));
    assert_eq!(store.key(&key.id).await.unwrap(), Some(key.clone()));
    store.delete_key(&key.id).await.unwrap();
    assert!(matches!(
        store.delete_key(&key.id).await,
        Err(Error::NotFound { .. })
    ));
    assert_eq!(store.keys().await.unwrap(), []);
    assert_eq!(events_of(&*store, EventKind::Key).await.len(), 1);
    assert_eq!(events_of(&*store, EventKind::KeyDeletion).await.len(), 1);
}
