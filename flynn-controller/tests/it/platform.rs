//! Scaling, deleting and one-off jobs over a real cell, without HTTP.

use std::time::Duration;

use flynn_controller::{
    Error,
    model::{App, EventKind, JobState, NewJob, NewRoute},
};
use flynn_sched::Cluster as _;

use crate::world::{World, event_where, is_scaled, job_of, release_of, scale_to};

#[tokio::test]
async fn a_scaled_release_runs_and_the_request_is_told_complete() {
    let world = World::with_hosts(2).await;
    let _controller = world.controller();
    let app = world.platform.create_app(App::named("blog")).await.unwrap();
    let release = world
        .platform
        .create_release(release_of(&app, "ok"))
        .await
        .unwrap();
    let mut events = world.store().watch_events(Some(0));
    let request = world.platform.scale(scale_to(&release, 3)).await.unwrap();
    let done = event_where(&mut events, "the scale request completes", is_scaled).await;
    assert_eq!(done.object_id, request.id);
    world.until_up(&release, "web", 3).await;

    let mut events = world.store().watch_events(Some(done.id));
    world.platform.scale(scale_to(&release, 1)).await.unwrap();
    event_where(&mut events, "scaling down completes", is_scaled).await;
    world.until_up(&release, "web", 1).await;
}

#[tokio::test]
async fn what_becomes_of_jobs_is_told_as_events() {
    let world = World::with_hosts(1).await;
    let _controller = world.controller();
    let app = world.platform.create_app(App::named("blog")).await.unwrap();
    let release = world
        .platform
        .create_release(release_of(&app, "ok"))
        .await
        .unwrap();
    let mut events = world.store().watch_events(Some(0));
    world.platform.scale(scale_to(&release, 1)).await.unwrap();
    let up = event_where(&mut events, "a job is up", |event| {
        job_of(event).is_some_and(|(state, _)| state == JobState::Up)
    })
    .await;
    let (_, job) = job_of(&up).unwrap();
    assert_eq!(
        (
            job.app.as_str(),
            job.release.as_str(),
            job.process_type.as_str()
        ),
        (&*app.id, &*release.id, "web")
    );
    assert_eq!(job.id, format!("host0-{}", job.uuid));
    assert_eq!(up.object_id, job.uuid);
    world.platform.scale(scale_to(&release, 0)).await.unwrap();
    event_where(&mut events, "it is down", |event| {
        job_of(event).is_some_and(|(state, down)| state == JobState::Down && down.uuid == job.uuid)
    })
    .await;
    let listed = world.platform.jobs("blog").await.unwrap();
    assert_eq!(listed.len(), 1, "a job that is over is still listed");
    assert_eq!(listed[0].state, JobState::Down);
}

#[tokio::test]
async fn a_deleted_app_is_gone_with_jobs_and_routes_and_the_event_tells_so() {
    let world = World::with_hosts(1).await;
    let _controller = world.controller();
    let app = world.platform.create_app(App::named("blog")).await.unwrap();
    let release = world
        .platform
        .create_release(release_of(&app, "ok"))
        .await
        .unwrap();
    world.platform.scale(scale_to(&release, 2)).await.unwrap();
    world.until_up(&release, "web", 2).await;
    assert_eq!(
        world.platform.routes("blog").await.unwrap().len(),
        1,
        "the automatic one"
    );
    let mut events = world.store().watch_events(Some(0));
    world.platform.delete_app("blog").await.unwrap();
    let told = event_where(&mut events, "the deletion ends", |event| {
        event.kind == EventKind::AppDeletion
    })
    .await;
    assert_eq!(told.data["error"], "");
    assert_eq!(
        told.data["app_deletion"]["deleted_routes"][0]["domain"],
        "blog.example.com"
    );
    world.until_up(&release, "web", 0).await;
    assert!(matches!(
        world.platform.app("blog").await,
        Err(Error::NotFound { .. })
    ));
    assert!(world.platform.all_routes().await.unwrap().is_empty());
    world
        .until("no groups are left", |state| state.groups().count() == 0)
        .await;
}

#[tokio::test]
async fn a_one_off_job_runs_once_and_is_forgotten_after_a_while() {
    let world = World::with_hosts(1).await;
    let controller = flynn_controller::Controller::new(world.platform.clone())
        .with_run_history(Duration::from_millis(300))
        .start();
    world.platform.create_app(App::named("blog")).await.unwrap();
    let job = NewJob {
        args: vec!["finish".to_owned()],
        ..NewJob::default()
    };
    let placed = world.platform.run("blog", &job).await.unwrap();
    assert!(placed.id.starts_with("host0-") && placed.process_type.is_empty());
    let mut events = world.store().watch_events(Some(0));
    let told = event_where(&mut events, "it ends", |event| {
        job_of(event).is_some_and(|(state, job)| state == JobState::Down && job.uuid == placed.uuid)
    })
    .await;
    assert_eq!(told.data["exit_status"], 0);
    world
        .until("it is forgotten", |state| state.groups().count() == 0)
        .await;
    assert_eq!(
        world
            .platform
            .job("blog", &placed.id)
            .await
            .unwrap()
            .exit_status,
        Some(0)
    );
    controller.stop().await;
}

#[tokio::test]
async fn a_one_off_job_can_be_killed_by_either_of_its_names() {
    let world = World::with_hosts(1).await;
    let _controller = world.controller();
    world.platform.create_app(App::named("blog")).await.unwrap();
    let job = NewJob {
        args: vec!["ok".to_owned()],
        ..NewJob::default()
    };
    for pick in [
        |job: &flynn_controller::model::Job| job.id.clone(),
        |job: &flynn_controller::model::Job| job.uuid.clone(),
    ] {
        let placed = world.platform.run("blog", &job).await.unwrap();
        world.platform.kill("blog", &pick(&placed)).await.unwrap();
        let uuid = placed.uuid.clone();
        world
            .until("the job is over", move |state| {
                let job = state.job(&flynn_sched::JobId::parse(uuid.clone()).unwrap());
                job.is_none_or(|job| job.status.phase.is_final())
            })
            .await;
    }
    let error = world.platform.kill("blog", "host0-nope").await.unwrap_err();
    assert_eq!(error.to_string(), "job host0-nope does not exist");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_no_host_takes_is_refused_with_the_reason_and_leaves_nothing() {
    let world = World::with_hosts(0).await;
    world.platform.create_app(App::named("blog")).await.unwrap();
    let job = NewJob {
        args: vec!["ok".to_owned()],
        ..NewJob::default()
    };
    let error = world.platform.run("blog", &job).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("the job was not placed within 15 s: "),
        "{text}"
    );
    assert!(text.contains("host"), "{text}");
    assert_eq!(world.cluster.snapshot().await.unwrap().groups().count(), 0);
}

#[tokio::test]
async fn bad_one_off_jobs_are_refused_before_anything_is_started() {
    let world = World::with_hosts(1).await;
    let app = world.platform.create_app(App::named("blog")).await.unwrap();
    let other = world.platform.create_app(App::named("shop")).await.unwrap();
    let release = world
        .platform
        .create_release(release_of(&other, "ok"))
        .await
        .unwrap();
    let args = vec!["ok".to_owned()];
    for (job, why) in [
        (NewJob::default(), "args must name a command to run"),
        (
            NewJob {
                args: args.clone(),
                release: app.id.clone(),
                ..NewJob::default()
            },
            &*format!("release names {}, which does not exist", app.id),
        ),
        (
            NewJob {
                args,
                release: release.id,
                release_env: true,
                ..NewJob::default()
            },
            "release belongs to another app",
        ),
    ] {
        let error = world.platform.run("blog", &job).await.unwrap_err();
        assert_eq!(error.to_string(), why);
    }
    assert_eq!(world.cluster.snapshot().await.unwrap().groups().count(), 0);
}

#[tokio::test]
async fn tcp_routes_without_a_port_are_given_the_first_free_one() {
    let world = World::with_hosts(0).await;
    world.platform.create_app(App::named("echo")).await.unwrap();
    let mut ports = Vec::new();
    for _ in 0..3 {
        let route = world
            .platform
            .create_route("echo", NewRoute::tcp(None, "echo"))
            .await
            .unwrap();
        ports.push(route.rule.tcp_port().unwrap());
    }
    assert_eq!(ports, [3000, 3001, 3002]);
    let routes = world.platform.routes("echo").await.unwrap();
    let middle = routes
        .iter()
        .find(|r| r.rule.tcp_port() == Some(3001))
        .unwrap();
    world
        .platform
        .delete_route("echo", &middle.id)
        .await
        .unwrap();
    let route = world
        .platform
        .create_route("echo", NewRoute::tcp(None, "echo"))
        .await
        .unwrap();
    assert_eq!(route.rule.tcp_port(), Some(3001));
}
