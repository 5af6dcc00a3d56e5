//! Deployments over a real cell.

use flynn_controller::{
    Store,
    model::{
        App, AppUpdate, Deployment, DeploymentEvent, DeploymentStatus, EventKind, JobState, Release,
    },
};
use futures::StreamExt as _;

use crate::world::{DEADLINE, World, live, release_of, scale_to, up};

/// An app with this strategy whose first release runs `count` times.
async fn running(world: &World, strategy: &str, count: u32) -> (App, Release) {
    let app = App {
        strategy: strategy.to_owned(),
        ..App::named("blog")
    };
    let app = world.platform.create_app(app).await.unwrap();
    let first = world
        .platform
        .create_release(release_of(&app, "ok"))
        .await
        .unwrap();
    let deployment = world.platform.deploy("blog", &first.id).await.unwrap();
    assert_eq!(deployment.status, DeploymentStatus::Complete, "nothing ran");
    world.platform.scale(scale_to(&first, count)).await.unwrap();
    world
        .until_up(&first, "web", count.try_into().unwrap())
        .await;
    (app, first)
}

async fn ended(store: &dyn Store, deployment: &Deployment) -> Vec<DeploymentEvent> {
    let mut events = store.watch_events(Some(0));
    let mut seen = Vec::new();
    let done = async {
        loop {
            let event = events.next().await.unwrap().unwrap();
            if event.kind == EventKind::Deployment && event.object_id == deployment.id {
                let event: DeploymentEvent = serde_json::from_value(event.data).unwrap();
                let is_last = event.status.is_final();
                seen.push(event);
                if is_last {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, done)
        .await
        .expect("the deployment ends");
    seen
}

#[tokio::test]
async fn one_by_one_moves_all_jobs_and_is_never_below_the_count() {
    let world = World::with_hosts(2).await;
    let _controller = world.controller();
    let (_, old) = running(&world, "one-by-one", 3).await;
    let new = world
        .platform
        .create_release(release_of(
            &App {
                id: old.app_id.clone(),
                ..App::default()
            },
            "ok",
        ))
        .await
        .unwrap();
    let cluster = std::sync::Arc::clone(&world.cluster);
    let (old_seen, new_seen) = (old.clone(), new.clone());
    let least = tokio::spawn(async move {
        use flynn_sched::Cluster as _;
        let mut least = usize::MAX;
        let mut states = cluster.watch();
        while let Some(Ok(state)) = states.next().await {
            let sum = up(&state, &old_seen, "web") + up(&state, &new_seen, "web");
            least = least.min(sum);
            if up(&state, &new_seen, "web") == 3 && live(&state, &old_seen, "web") == 0 {
                break;
            }
        }
        least
    });
    let deployment = world.platform.deploy("blog", &new.id).await.unwrap();
    assert_eq!(deployment.status, DeploymentStatus::Pending);
    let events = ended(&**world.store(), &deployment).await;
    assert_eq!(events.last().unwrap().status, DeploymentStatus::Complete);
    let told: Vec<(bool, JobState)> = events
        .iter()
        .filter_map(|event| Some((event.release == new.id, event.job_state?)))
        .collect();
    let once = [
        (true, JobState::Starting),
        (true, JobState::Up),
        (false, JobState::Stopping),
        (false, JobState::Down),
    ];
    assert_eq!(told, [once, once, once].concat());
    world.until_up(&new, "web", 3).await;
    world.until_up(&old, "web", 0).await;
    assert_eq!(
        tokio::time::timeout(DEADLINE, least)
            .await
            .unwrap()
            .unwrap(),
        3
    );
    assert_eq!(
        world.platform.app("blog").await.unwrap().release,
        Some(new.id)
    );
}

#[tokio::test]
async fn all_at_once_moves_all_jobs() {
    let world = World::with_hosts(1).await;
    let _controller = world.controller();
    let (app, old) = running(&world, "all-at-once", 2).await;
    let new = world
        .platform
        .create_release(release_of(&app, "ok"))
        .await
        .unwrap();
    let deployment = world.platform.deploy("blog", &new.id).await.unwrap();
    ended(&**world.store(), &deployment).await;
    world.until_up(&new, "web", 2).await;
    world.until_up(&old, "web", 0).await;
    assert_eq!(
        world.store().formation(&app.id, &old.id).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn a_release_that_crashes_is_rolled_back_with_the_reason() {
    let world = World::with_hosts(1).await;
    let _controller = world.controller();
    for (strategy, name) in [("one-by-one", "blog"), ("all-at-once", "blog")] {
        if strategy == "all-at-once" {
            let update = AppUpdate {
                strategy: Some(strategy.to_owned()),
                ..AppUpdate::default()
            };
            world.platform.update_app(name, update).await.unwrap();
        } else {
            running(&world, strategy, 2).await;
        }
        let app = world.platform.app(name).await.unwrap();
        let old = world.platform.current_release(name).await.unwrap().unwrap();
        let new = world
            .platform
            .create_release(release_of(&app, "crash"))
            .await
            .unwrap();
        let deployment = world.platform.deploy(name, &new.id).await.unwrap();
        let events = ended(&**world.store(), &deployment).await;
        let last = events.last().unwrap();
        assert_eq!(last.status, DeploymentStatus::Failed);
        assert!(
            last.error
                .starts_with("web failed to start: exited with status 1 after 0.2 s (")
                && last
                    .error
                    .ends_with(" restarts); the old release still serves"),
            "{}",
            last.error
        );
        let record = world
            .store()
            .deployment(&deployment.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(record.deployment.error.as_ref(), Some(&last.error));
        world.until_up(&new, "web", 0).await;
        world.until_up(&old, "web", 2).await;
        assert_eq!(
            world.platform.app(name).await.unwrap().release,
            Some(old.id)
        );
    }
}

#[tokio::test]
async fn a_release_that_never_comes_up_is_rolled_back_when_its_time_is_over() {
    let world = World::with_hosts(1).await;
    let _controller = world.controller();
    let (app, old) = running(&world, "one-by-one", 1).await;
    let update = AppUpdate {
        deploy_timeout: Some(1),
        ..AppUpdate::default()
    };
    world.platform.update_app("blog", update).await.unwrap();
    let new = world
        .platform
        .create_release(release_of(&app, "hang"))
        .await
        .unwrap();
    let deployment = world.platform.deploy("blog", &new.id).await.unwrap();
    let events = ended(&**world.store(), &deployment).await;
    assert_eq!(
        events.last().unwrap().error,
        "web did not come up within 1 s, 0 of 1 is up: its jobs are still starting; \
         does it listen on the port in $PORT?; the old release still serves"
    );
    world.until_up(&old, "web", 1).await;
    world.until_up(&new, "web", 0).await;
}

#[tokio::test]
async fn when_a_controller_dies_in_a_deployment_another_goes_on() {
    let world = World::with_hosts(2).await;
    let first = world.controller();
    let (app, old) = running(&world, "one-by-one", 4).await;
    let new = world
        .platform
        .create_release(release_of(&app, "ok"))
        .await
        .unwrap();
    let deployment = world.platform.deploy("blog", &new.id).await.unwrap();
    let deployed = new.clone();
    world
        .until("the deployment is on its way", move |state| {
            up(state, &deployed, "web") >= 1
        })
        .await;
    // As kill -9 does: nothing is given back.
    drop(first);
    let moved = world
        .store()
        .formation(&app.id, &new.id)
        .await
        .unwrap()
        .unwrap()
        .processes["web"];
    assert!(moved < 4, "it was killed on the way");
    let _second = world.controller();
    let events = ended(&**world.store(), &deployment).await;
    assert_eq!(events.last().unwrap().status, DeploymentStatus::Complete);
    world.until_up(&new, "web", 4).await;
    world.until_up(&old, "web", 0).await;
    let starts = events
        .iter()
        .filter(|event| event.job_state == Some(JobState::Starting))
        .count();
    assert_eq!(starts, 4, "no step was taken twice: {events:?}");
}

#[tokio::test]
async fn two_controllers_at_once_do_everything_once() {
    let world = World::with_hosts(2).await;
    let _controllers = [world.controller(), world.controller()];
    let (app, old) = running(&world, "one-by-one", 2).await;
    let new = world
        .platform
        .create_release(release_of(&app, "ok"))
        .await
        .unwrap();
    let deployment = world.platform.deploy("blog", &new.id).await.unwrap();
    let events = ended(&**world.store(), &deployment).await;
    let starts = events
        .iter()
        .filter(|event| event.job_state == Some(JobState::Starting))
        .count();
    assert_eq!(starts, 2, "{events:?}");
    world.until_up(&new, "web", 2).await;
    world.until_up(&old, "web", 0).await;
}
