//! Routes of apps through the API's client.

use flynn_controller::{
    http::EventQuery,
    model::{App, EventKind, NewRoute},
};
use flynn_discovery::http::ClientError;

use crate::{api::code, world::World};

#[tokio::test]
async fn an_app_without_a_name_is_given_one_and_a_user_app_a_route() {
    let mut world = World::with_hosts(0).await;
    let client = world.client().await;
    let app = client.create_app(&App::default()).await.unwrap();
    assert_eq!(app.name.split('-').count(), 3, "{}", app.name);
    let routes = client.routes(&app.name).await.unwrap();
    assert_eq!(routes.len(), 1);
    assert_eq!(
        routes[0].rule.as_http().unwrap().domain.as_str(),
        format!("{}.example.com", app.name)
    );
    assert_eq!(routes[0].service.as_str(), format!("{}-web", app.name));
    assert!(routes[0].drain_backends);
    let mut system = App::named("router");
    system
        .meta
        .insert(App::SYSTEM.to_owned(), "true".to_owned());
    client.create_app(&system).await.unwrap();
    assert!(client.routes("router").await.unwrap().is_empty());
    assert_eq!(client.all_routes().await.unwrap().len(), 1);
}

#[tokio::test]
async fn routes_are_made_changed_and_removed_and_what_stands_in_the_way_is_named() {
    let mut world = World::with_hosts(0).await;
    let client = world.client().await;
    client.create_app(&App::named("blog")).await.unwrap();
    client.create_app(&App::named("shop")).await.unwrap();
    let new = NewRoute::http("www.example.org", "blog-web");
    let root = client.create_route("blog", &new).await.unwrap();
    let error = client.create_route("shop", &new).await.unwrap_err();
    let ClientError::Status { detail, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(detail.as_ref().unwrap()["id"], root.id.uuid.to_string());
    assert_eq!(
        (code(&error), error.to_string().as_str()),
        ((409, "conflict"), "Duplicate route")
    );

    let path = NewRoute {
        path: "/api".to_owned(),
        ..new.clone()
    };
    let below = client.create_route("blog", &path).await.unwrap();
    assert_eq!(below.rule.as_http().unwrap().path.as_str(), "/api/");
    let error = client
        .delete_route("blog", &root.id.to_string())
        .await
        .unwrap_err();
    assert_eq!(
        (code(&error).0, error.to_string().as_str()),
        (400, "Route has dependent routes")
    );
    assert!(
        client
            .route("shop", &root.id.to_string())
            .await
            .unwrap_err()
            .is_not_found()
    );

    let mut changed = below.clone();
    changed.leader = true;
    assert!(client.update_route("blog", &changed).await.unwrap().leader);
    let elsewhere = NewRoute::http("other.example.org", "blog-web");
    let moved: flynn_router::Route = {
        let mut value = serde_json::to_value(elsewhere).unwrap();
        value["id"] = below.id.uuid.to_string().into();
        serde_json::from_value(value).unwrap()
    };
    assert!(
        client
            .update_route("blog", &moved)
            .await
            .unwrap_err()
            .is_not_found()
    );

    for (bad, status, message) in [
        (
            NewRoute {
                path: "api".to_owned(),
                ..new.clone()
            },
            400,
            "Invalid route",
        ),
        (
            NewRoute {
                path: "/x".to_owned(),
                ..NewRoute::http("nobody.example.org", "blog-web")
            },
            400,
            "Invalid route",
        ),
        (
            NewRoute {
                port: 8080,
                ..NewRoute::http("p.example.org", "blog-web")
            },
            400,
            "Invalid route",
        ),
        (
            NewRoute {
                drain_backends: false,
                ..NewRoute::http("d.example.org", "blog-web")
            },
            400,
            "Invalid route",
        ),
        (
            NewRoute {
                tls_cert: "PEM".to_owned(),
                ..NewRoute::http("t.example.org", "blog-web")
            },
            400,
            "Invalid route",
        ),
        (
            NewRoute::http("s.example.org", ""),
            400,
            "service must name the service that answers",
        ),
        (
            NewRoute::tcp(Some(443), "blog-web"),
            409,
            "Port reserved for HTTP/HTTPS traffic",
        ),
    ] {
        let error = client.create_route("blog", &bad).await.unwrap_err();
        assert_eq!(error.status().unwrap().as_u16(), status, "{error}");
        assert!(error.to_string().starts_with(message), "{error}");
    }
    client
        .delete_route("blog", &below.id.to_string())
        .await
        .unwrap();
    client
        .delete_route("blog", &root.id.to_string())
        .await
        .unwrap();
    use EventKind::{Route, RouteDeletion};
    let kinds: Vec<EventKind> = client
        .list_events(&EventQuery::of("blog").only(&[Route, RouteDeletion]))
        .await
        .unwrap()
        .iter()
        .map(|event| event.kind)
        .collect();
    assert_eq!(
        kinds,
        [RouteDeletion, RouteDeletion, Route, Route, Route, Route]
    );
}
