//! The API through its client.

use flynn_controller::{
    http::{Client, EventQuery, Secret},
    model::{App, AppUpdate, Artifact, DeploymentStatus, EventKind, Formation, NewJob, Release},
};
use flynn_discovery::http::ClientError;
use futures::StreamExt as _;

use crate::world::{DEADLINE, World, event_where, is_scaled, release_of, scale_to};

pub(crate) fn code(error: &ClientError) -> (u16, &str) {
    match error {
        ClientError::Status { status, code, .. } => (status.as_u16(), code),
        ClientError::NotFound { .. } => (404, "bare"),
        ClientError::Denied { .. } => (401, ""),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_app_is_created_scaled_deployed_and_deleted() {
    let mut world = World::with_hosts(2).await;
    let _controller = world.controller();
    let client = world.client().await;
    let app = client.create_app(&App::named("blog")).await.unwrap();
    assert_eq!(
        (app.strategy.as_str(), app.deploy_timeout),
        ("all-at-once", Some(120))
    );
    let artifact = Artifact::slug("blob:slugs/a.tgz", "0".repeat(64), 7);
    let artifact = client.create_artifact(&artifact).await.unwrap();
    let mut release = release_of(&app, "ok");
    release.app_id = "blog".to_owned();
    release.artifacts = vec![artifact.id.clone()];
    let first = client.create_release(&release).await.unwrap();
    assert_eq!(first.app_id, app.id);
    assert_eq!(first.legacy_artifact, Some(artifact.id.clone()));
    assert_eq!(client.current_release("blog").await.unwrap(), None);
    let deployment = client.deploy("blog", &first.id).await.unwrap();
    assert_eq!(deployment.status, DeploymentStatus::Complete);
    assert_eq!(
        client.current_release("blog").await.unwrap(),
        Some(first.clone())
    );

    // As the receiver does it: subscribe, scale, wait.
    let query = EventQuery::of("blog").only(&[EventKind::Job, EventKind::ScaleRequest]);
    let mut events = client.events(&query, Some(0)).await.unwrap();
    let request = client.scale(&scale_to(&first, 2)).await.unwrap();
    let done = event_where(&mut events, "the scale completes", is_scaled).await;
    assert_eq!(done.object_id, request.id);
    world.until_up(&first, "web", 2).await;

    let second = client.create_release(&release).await.unwrap();
    let deployment = client.deploy("blog", &second.id).await.unwrap();
    assert_eq!(deployment.status, DeploymentStatus::Pending);
    let events = client.deployment_events(&deployment).await.unwrap();
    let events: Vec<_> = tokio::time::timeout(DEADLINE, events.collect::<Vec<_>>())
        .await
        .unwrap();
    let last = events.last().unwrap().as_ref().unwrap();
    assert_eq!(last.status, DeploymentStatus::Complete);
    assert_eq!(
        client.deployment(&deployment.id).await.unwrap().status,
        DeploymentStatus::Complete
    );
    assert_eq!(client.deployments("blog").await.unwrap().len(), 2);
    assert_eq!(client.releases("blog").await.unwrap().len(), 2);
    client.delete_release("blog", &first.id).await.unwrap();

    let query = EventQuery::of(&app.id).only(&[EventKind::AppDeletion]);
    let mut events = client.events(&query, Some(0)).await.unwrap();
    client.delete_app("blog").await.unwrap();
    event_where(&mut events, "the deletion ends", |_| true).await;
    assert!(client.app("blog").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_wrong_key_a_missing_one_and_an_unknown_path_are_refused() {
    let mut world = World::with_hosts(0).await;
    let endpoint = world.serve(world.platform.clone()).await;
    let wrong = Client::new(vec![endpoint.clone()], Secret::new("wrong")).unwrap();
    wrong.ping().await.unwrap();
    assert!(matches!(
        wrong.apps().await,
        Err(ClientError::Denied { .. })
    ));
    assert!(matches!(
        wrong.status().await,
        Err(ClientError::Denied { .. })
    ));
    let none = flynn_discovery::http::Client::new(vec![endpoint.clone()]).unwrap();
    let answer = none.get::<serde_json::Value>("/no-such-path").await;
    assert!(
        matches!(answer, Err(ClientError::Denied { .. })),
        "what exists is nobody's business"
    );
    let right = none.with_key(Secret::new(crate::world::KEY));
    let answer = right.get::<serde_json::Value>("/no-such-path").await;
    assert!(matches!(answer, Err(ClientError::NotFound { .. })));
}

#[tokio::test]
async fn missing_objects_are_bare_404s() {
    let mut world = World::with_hosts(0).await;
    let client = world.client().await;
    let app = client.create_app(&App::named("blog")).await.unwrap();
    let id = "00000000-0000-4000-8000-000000000000";
    let job = NewJob {
        args: vec!["x".to_owned()],
        ..NewJob::default()
    };
    for (what, error) in [
        ("app", client.app("nope").await.unwrap_err()),
        (
            "update",
            client
                .update_app("nope", &AppUpdate::default())
                .await
                .unwrap_err(),
        ),
        ("delete", client.delete_app("nope").await.unwrap_err()),
        ("artifact", client.artifact(id).await.unwrap_err()),
        ("release", client.release(id).await.unwrap_err()),
        ("jobs", client.jobs("nope").await.unwrap_err()),
        ("job", client.job("blog", id).await.unwrap_err()),
        ("kill", client.kill("blog", id).await.unwrap_err()),
        ("run", client.run("nope", &job).await.unwrap_err()),
        ("deployment", client.deployment(id).await.unwrap_err()),
        ("deploy", client.deploy("nope", id).await.unwrap_err()),
        (
            "route",
            client
                .route("blog", &format!("http/{id}"))
                .await
                .unwrap_err(),
        ),
        (
            "odd route",
            client.route("blog", "udp/x").await.unwrap_err(),
        ),
        ("event", client.event(99).await.unwrap_err()),
        ("key", client.delete_key(&"0".repeat(64)).await.unwrap_err()),
        (
            "scale",
            client
                .scale(&scale_to(
                    &Release {
                        app_id: app.id,
                        id: id.to_owned(),
                        ..Release::default()
                    },
                    1,
                ))
                .await
                .unwrap_err(),
        ),
    ] {
        assert_eq!(code(&error), (404, "bare"), "{what}: {error}");
    }
    assert_eq!(client.formation("blog", id).await.unwrap(), None);
    assert_eq!(client.key("nonsense").await.unwrap(), None);
}

#[tokio::test]
async fn bad_input_is_refused_with_the_field_and_what_would_be_right() {
    let mut world = World::with_hosts(0).await;
    let client = world.client().await;
    let app = client.create_app(&App::named("blog")).await.unwrap();
    let release = client
        .create_release(&release_of(&app, "ok"))
        .await
        .unwrap();
    let strategy = App {
        strategy: "sirenia".to_owned(),
        ..App::named("x")
    };
    let timeout = AppUpdate {
        deploy_timeout: Some(0),
        ..AppUpdate::default()
    };
    let mut bad_env = release_of(&app, "ok");
    bad_env.env = [("", "x")].into();
    let mut bad_type = release_of(&app, "ok");
    bad_type
        .processes
        .insert("a.b".to_owned(), Default::default());
    let unknown = Release {
        artifacts: vec!["nope".to_owned()],
        ..release_of(&app, "ok")
    };
    let hash = Artifact::slug("blob:x", "short", 1);
    for (error, status, message) in [
        (
            client
                .create_app(&App::named("Bad_Name"))
                .await
                .unwrap_err(),
            400,
            "name must be at most 100 of a-z and 0-9, in parts joined by single dashes",
        ),
        (
            client.create_app(&App::named("blog")).await.unwrap_err(),
            409,
            "app blog already exists",
        ),
        (
            client.create_app(&strategy).await.unwrap_err(),
            400,
            "strategy must be one of all-at-once, one-by-one, one-down-one-up, in-batches",
        ),
        (
            client.update_app("blog", &timeout).await.unwrap_err(),
            400,
            "deploy_timeout must be between 1 and 86400 seconds",
        ),
        (
            client
                .create_release(&Release::default())
                .await
                .unwrap_err(),
            400,
            "app_id must name the release's app",
        ),
        (
            client.create_release(&bad_env).await.unwrap_err(),
            400,
            "env has a variable whose name is empty or has '=' in it",
        ),
        (
            client.create_release(&bad_type).await.unwrap_err(),
            400,
            "processes has a type \"a.b\": use 1 to 63 letters, digits, dashes and underscores",
        ),
        (
            client.create_release(&unknown).await.unwrap_err(),
            400,
            "artifact nope does not exist",
        ),
        (
            client.create_artifact(&hash).await.unwrap_err(),
            400,
            "hashes has a sha256 that is not 64 hexadecimal digits",
        ),
        (
            client
                .create_artifact(&Artifact::slug("ftp://x", "", 1))
                .await
                .unwrap_err(),
            400,
            "uri must begin with blob:, http://, https:// or file:///",
        ),
        (
            client.deploy("blog", "nope").await.unwrap_err(),
            400,
            "release nope does not exist in app blog",
        ),
        (
            client.set_release("blog", "nope").await.unwrap_err(),
            400,
            "release nope does not exist in app blog",
        ),
        (
            client
                .put_formation(&Formation {
                    app: app.id.clone(),
                    release: release.id.clone(),
                    processes: [("foo".to_owned(), 1)].into(),
                    ..Formation::default()
                })
                .await
                .unwrap_err(),
            400,
            "requested scale includes process types that do not exist in the release: foo",
        ),
        (
            client.add_key("not a key").await.unwrap_err(),
            400,
            "key must be one line of a .pub file, such as \"ssh-ed25519 AAAA… you@example\"",
        ),
    ] {
        assert_eq!(
            (error.status().unwrap().as_u16(), error.to_string().as_str()),
            (status, message)
        );
    }
    assert_eq!(client.apps().await.unwrap().len(), 1, "nothing was created");
}

#[tokio::test]
async fn ssh_keys_are_found_by_fingerprint() {
    let mut world = World::with_hosts(0).await;
    let client = world.client().await;
    let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@example";
    let key = client.add_key(line).await.unwrap();
    assert_eq!(
        (key.comment.as_str(), client.add_key(line).await.unwrap()),
        ("me@example", key.clone())
    );
    for name in [
        key.id.clone(),
        key.fingerprint(),
        key.fingerprint().replace('+', "-").replace('/', "_"),
    ] {
        assert_eq!(
            client.key(&name).await.unwrap().as_ref(),
            Some(&key),
            "{name}"
        );
    }
    client.delete_key(&key.fingerprint()).await.unwrap();
    assert!(client.keys().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_stream_of_events_is_taken_up_where_it_was_left() {
    let mut world = World::with_hosts(0).await;
    let client = world.client().await;
    for n in 0..5 {
        client
            .create_app(&App::named(format!("app-{n}")))
            .await
            .unwrap();
    }
    let apps = EventQuery::default().only(&[EventKind::App]);
    let listed = client.list_events(&apps).await.unwrap();
    assert_eq!(listed.len(), 5);
    let third = &listed[2];
    let mut events = client.events(&apps, Some(third.id)).await.unwrap();
    let fourth = event_where(&mut events, "the fourth comes", |_| true).await;
    assert_eq!(fourth.id, listed[1].id);
    assert_eq!(client.event(fourth.id).await.unwrap(), fourth);

    let mut past = client
        .events(&apps.clone().with_past(), Some(0))
        .await
        .unwrap();
    assert_eq!(
        event_where(&mut past, "the past comes first", |_| true)
            .await
            .id,
        listed[4].id
    );

    let two = EventQuery {
        count: Some(2),
        ..apps.clone()
    };
    let mut newest = client.events(&two, None).await.unwrap();
    assert_eq!(
        event_where(&mut newest, "two of the past", |_| true)
            .await
            .id,
        listed[1].id
    );
    assert_eq!(
        event_where(&mut newest, "two of the past", |_| true)
            .await
            .id,
        listed[0].id
    );
    let mut live = client.events(&apps, Some(0)).await.unwrap();
    let created = client.create_app(&App::named("late")).await.unwrap();
    for stream in [&mut newest, &mut live] {
        assert_eq!(
            event_where(stream, "what is new", |_| true).await.object_id,
            created.id
        );
    }
}

#[tokio::test]
async fn active_formations_and_jobs_are_listed() {
    let mut world = World::with_hosts(1).await;
    let _controller = world.controller();
    let client = world.client().await;
    let app = client.create_app(&App::named("blog")).await.unwrap();
    let release = client
        .create_release(&release_of(&app, "ok"))
        .await
        .unwrap();
    assert!(client.active_formations().await.unwrap().is_empty());
    let formation = Formation {
        app: "blog".to_owned(),
        release: release.id.clone(),
        processes: [("web".to_owned(), 1)].into(),
        ..Formation::default()
    };
    let formation = client.put_formation(&formation).await.unwrap();
    assert_eq!(
        (formation.app.as_str(), formation.processes["web"]),
        (&*app.id, 1)
    );
    world.until_up(&release, "web", 1).await;
    let active = client.active_formations().await.unwrap();
    assert_eq!(active[0].app.as_ref().unwrap().name, "blog");
    assert_eq!(active[0].release.as_ref().unwrap().id, release.id);
    let expanded = client
        .expanded_formation("blog", &release.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(expanded.processes["web"], 1);
    assert_eq!(client.active_jobs().await.unwrap().len(), 1);
    assert_eq!(client.formations("blog").await.unwrap(), [formation]);
    client.delete_formation("blog", &release.id).await.unwrap();
    world.until_up(&release, "web", 0).await;
    assert!(
        client
            .delete_formation("blog", &release.id)
            .await
            .unwrap_err()
            .is_not_found()
    );
}
