//! Formations and scale requests.

use std::sync::Arc;

use super::{a_release, an_app, counts, events_of, to};
use crate::{
    Error, Store,
    model::{App, AppUpdate, EventKind, ScaleState},
};

/// Types that are not named keep their counts.
pub async fn a_scale_request_merges_counts_and_tells_those_before(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let release = a_release(&*store, &app).await;
    store.scale(to(&release, &[("web", 1)])).await.unwrap();
    let mut request = to(&release, &[("worker", 2)]);
    request.new_tags = Some(
        [(
            "web".to_owned(),
            [("disk".to_owned(), "ssd".to_owned())].into(),
        )]
        .into(),
    );
    request.app = "blog".to_owned();
    let done = store.scale(request).await.unwrap();
    assert_eq!(done.old_processes, Some(counts(&[("web", 1)])));
    assert_eq!(
        (done.app.as_str(), done.state),
        (&*app.id, ScaleState::Pending)
    );
    let formation = store
        .formation(&app.id, &release.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(formation.processes, counts(&[("web", 1), ("worker", 2)]));
    assert_eq!(formation.tags["web"]["disk"], "ssd");
    let told = events_of(&*store, EventKind::Scale).await;
    assert_eq!(told[0].object_id, format!("{}:{}", app.id, release.id));
    assert_eq!(
        told[0].data["prev_processes"],
        serde_json::json!({"web": 1})
    );
    assert_eq!(
        told[0].data["processes"],
        serde_json::json!({"web": 1, "worker": 2})
    );
}

/// The message lists them, as existing clients expect.
pub async fn process_types_that_do_not_exist_are_refused(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let release = a_release(&*store, &app).await;
    let error = store
        .scale(to(&release, &[("web", 1), ("foo", 1), ("bar", 0)]))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "requested scale includes process types that do not exist in the release: bar, foo"
    );
    assert_eq!(store.formations(None).await.unwrap(), []);
}

/// Both kinds of event tell it, since existing clients wait for one of them only.
pub async fn a_second_scale_request_cancels_the_first(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let release = a_release(&*store, &app).await;
    let first = store.scale(to(&release, &[("web", 1)])).await.unwrap();
    let second = store.scale(to(&release, &[("web", 2)])).await.unwrap();
    let cancelled = events_of(&*store, EventKind::ScaleRequestCancelation).await;
    assert_eq!(cancelled.len(), 1);
    assert_eq!(cancelled[0].object_id, first.id);
    let told = events_of(&*store, EventKind::ScaleRequest).await;
    let told: Vec<(&str, &str)> = told
        .iter()
        .map(|e| (&*e.object_id, e.data["state"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            (&*second.id, "pending"),
            (&*first.id, "cancelled"),
            (&*first.id, "pending")
        ]
    );
    store.finish_scale(&first).await.unwrap();
    assert_eq!(
        events_of(&*store, EventKind::ScaleRequest).await.len(),
        3,
        "it is over already"
    );
}

/// However many say so.
pub async fn a_scale_request_is_finished_once(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "blog").await;
    let release = a_release(&*store, &app).await;
    let request = store.scale(to(&release, &[("web", 1)])).await.unwrap();
    futures::future::try_join_all((0..4).map(|_| store.finish_scale(&request)))
        .await
        .unwrap();
    let told = events_of(&*store, EventKind::ScaleRequest).await;
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].data["state"], "complete");
}

/// Unless something else of it runs.
pub async fn a_critical_app_is_not_scaled_to_nothing(store: Arc<impl Store + ?Sized>) {
    let app = an_app(&*store, "controller").await;
    let update = AppUpdate {
        meta: Some([(App::CRITICAL.to_owned(), "true".to_owned())].into()),
        ..AppUpdate::default()
    };
    store.update_app(&app.id, update).await.unwrap();
    let old = a_release(&*store, &app).await;
    let new = a_release(&*store, &app).await;
    store.scale(to(&old, &[("web", 1)])).await.unwrap();
    for refused in [
        store.scale(to(&old, &[("web", 0)])).await.map(|_| ()),
        store.delete_formation(&app.id, &old.id).await,
    ] {
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    store.scale(to(&new, &[("web", 1)])).await.unwrap();
    store.scale(to(&old, &[("web", 0)])).await.unwrap();
    store.delete_formation(&app.id, &old.id).await.unwrap();
    store.delete_formation(&app.id, &old.id).await.unwrap();
    assert_eq!(store.formation(&app.id, &old.id).await.unwrap(), None);
}
