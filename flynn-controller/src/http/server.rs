//! The server of the controller's API: thin handlers over a [`Platform`].

mod answer;
mod apps;
mod cors;
mod deployments;
mod events;
mod formations;
mod jobs;
mod keys;
mod logs;
mod releases;
mod routes;

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use flynn_discovery::http::{Health, presented_key, status_route};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use self::answer::Problem;
use crate::{
    Platform,
    auth::{Action, Authorizer, Resource},
};

/// The version that clients gate features on.
const VERSION: &str = "dev";

/// The server of the controller's API.
///
/// Its routes are an [`axum::Router`]: serve them with [`flynn_discovery::http::serve`].
#[derive(Clone)]
pub struct Server {
    platform: Platform,
    authorizer: Arc<dyn Authorizer>,
    /// Attached connections; they end with the server.
    attached: Arc<Mutex<JoinSet<()>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("platform", &self.platform)
            .field("authorizer", &self.authorizer)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// The API of a platform, for whom the authorizer lets in.
    #[must_use]
    pub fn new(platform: Platform, authorizer: Arc<dyn Authorizer>) -> Self {
        Self {
            platform,
            authorizer,
            attached: Arc::default(),
        }
    }

    /// The routes.
    pub fn into_router(self) -> Router {
        let platform = self.platform.clone();
        let status = status_route(VERSION, move || health(platform.clone()));
        Router::new()
            .route("/ping", get(|| async {}))
            .route("/apps", get(apps::list).post(apps::create))
            .route(
                "/apps/{app}",
                get(apps::one).post(apps::update).delete(apps::delete),
            )
            .route("/apps/{app}/meta", post(apps::set_meta))
            .route("/apps/{app}/log", get(logs::log))
            .route(
                "/artifacts",
                get(releases::artifacts).post(releases::create_artifact),
            )
            .route("/artifacts/{artifact}", get(releases::artifact))
            .route("/releases", get(releases::all).post(releases::create))
            .route("/releases/{release}", get(releases::one))
            .route("/apps/{app}/releases", get(releases::of_app))
            .route(
                "/apps/{app}/releases/{release}",
                get(releases::one_of_app).delete(releases::delete),
            )
            .route(
                "/apps/{app}/release",
                get(releases::current).put(releases::set_current),
            )
            .route("/formations", get(formations::all))
            .route("/apps/{app}/formations", get(formations::of_app))
            .route(
                "/apps/{app}/formations/{release}",
                get(formations::one)
                    .put(formations::replace)
                    .delete(formations::delete),
            )
            .route("/apps/{app}/scale/{release}", put(formations::scale))
            .route("/apps/{app}/jobs", get(jobs::of_app).post(jobs::run))
            .route("/apps/{app}/jobs/{job}", get(jobs::one).delete(jobs::kill))
            .route("/active-jobs", get(jobs::active))
            .route("/apps/{app}/deploy", post(deployments::create))
            .route("/apps/{app}/deployments", get(deployments::of_app))
            .route("/deployments/{deployment}", get(deployments::one))
            .route("/routes", get(routes::all))
            .route(
                "/apps/{app}/routes",
                get(routes::of_app).post(routes::create),
            )
            .route(
                "/apps/{app}/routes/{kind}/{route}",
                get(routes::one).put(routes::update).delete(routes::delete),
            )
            .route("/events", get(events::all))
            .route("/events/{event}", get(events::one))
            .route("/keys", get(keys::all).post(keys::add))
            .route("/keys/{key}", get(keys::one).delete(keys::delete))
            .fallback(|| async { StatusCode::NOT_FOUND })
            .with_state(self.clone())
            .merge(status)
            .layer(middleware::from_fn_with_state(self, authorize))
            .layer(middleware::from_fn(cors::allow))
    }
}

/// Every path but `/ping` needs a key; a wrong one is answered with a bare 401.
async fn authorize(State(server): State<Server>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path == "/ping" || request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    let Some(key) = presented_key(request.headers()) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let mut segments = path.split('/').skip(1);
    let kind = segments.next().unwrap_or_default();
    let app = segments.next().filter(|_| kind == "apps");
    let is_run =
        app.is_some() && segments.next() == Some("jobs") && request.method() == Method::POST;
    let action = match *request.method() {
        Method::GET | Method::HEAD => Action::Read,
        _ if is_run => Action::Run,
        _ => Action::Write,
    };
    let resource = Resource { kind, app };
    match server
        .authorizer
        .is_allowed(key.expose(), action, &resource)
        .await
    {
        Ok(true) => next.run(request).await,
        Ok(false) => StatusCode::UNAUTHORIZED.into_response(),
        Err(error) => Problem(error).into_response(),
    }
}

async fn health(platform: Platform) -> Health {
    // Cheap reads that need the store and the cell to answer.
    let store = platform.store().app("flynn-controller").await.map(|_| ());
    let cell = match platform.cluster().snapshot().await {
        Ok(_) => Ok(()),
        Err(error) => Err(crate::Error::from(error)),
    };
    match store.and(cell) {
        Ok(()) => Health::healthy(),
        Err(error) => Health::unhealthy(error.to_string()),
    }
}
