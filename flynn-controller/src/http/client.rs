//! The client of the controller's API.

use std::{collections::BTreeMap, fmt};

use flynn_discovery::http::{Client as Http, ClientError, Secret, Upgraded, segment};
use flynn_router::Route;
use futures::{StreamExt as _, stream::BoxStream};
use http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{ATTACH_PROTOCOL, EventQuery, LogQuery, query::log_path};
use crate::model::{
    App, AppUpdate, Artifact, Deployment, DeploymentEvent, Event, EventKind, ExpandedFormation,
    Formation, Job, Key, LogLine, NewJob, NewRoute, Release, ScaleRequest,
};

/// The client of the controller's API: one method per route. Apps are named by id or by name.
///
/// An app or another object that does not exist is an error with
/// [`is_not_found`](ClientError::is_not_found), except where a method answers with an `Option`.
#[derive(Clone)]
pub struct Client {
    http: Http,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client")
            .field(&self.http.endpoints())
            .finish()
    }
}

/// The result of a request.
type Answer<T> = Result<T, ClientError>;

/// What happens to a deployment; the last one says how it ended.
pub type DeploymentEvents = BoxStream<'static, Answer<DeploymentEvent>>;

#[expect(
    clippy::missing_errors_doc,
    reason = "each method is one request; ClientError says what can happen to it"
)]
impl Client {
    /// A client of the controllers at `endpoints`, each a URL like `http://127.0.0.1:80`. Does not connect yet.
    pub fn new(endpoints: Vec<String>, key: Secret) -> Answer<Self> {
        Http::new(endpoints).map(|http| Self::over(http.with_key(key)))
    }

    /// A client over one that was set up by the caller.
    #[must_use]
    pub fn over(http: Http) -> Self {
        Self {
            http: http.with_noun("controller"),
        }
    }

    /// Is anybody there? Needs no key.
    pub async fn ping(&self) -> Answer<()> {
        self.http.get("/ping").await
    }

    /// How the controller is, and its version.
    pub async fn status(&self) -> Answer<Value> {
        self.http.get("/.well-known/status").await
    }

    /// All apps, newest first.
    pub async fn apps(&self) -> Answer<Vec<App>> {
        self.http.get("/apps").await
    }

    /// One app.
    pub async fn app(&self, app: &str) -> Answer<App> {
        self.http.get(&of(app, "")).await
    }

    /// Creates an app; without a name it is given one.
    pub async fn create_app(&self, app: &App) -> Answer<App> {
        self.http.post("/apps", app).await
    }

    /// Changes what `update` names and leaves the rest.
    pub async fn update_app(&self, app: &str, update: &AppUpdate) -> Answer<App> {
        self.http.post(&of(app, ""), update).await
    }

    /// Replaces the meta of an app.
    pub async fn set_meta(&self, app: &str, meta: &BTreeMap<String, String>) -> Answer<App> {
        self.http
            .post(&of(app, "/meta"), &json!({ "meta": meta }))
            .await
    }

    /// Begins to delete an app; an event of kind [`EventKind::AppDeletion`] tells when it is done.
    pub async fn delete_app(&self, app: &str) -> Answer<()> {
        self.http.delete(&of(app, "")).await
    }

    /// Registers an artifact; the one with this kind and URI is returned if there is one.
    pub async fn create_artifact(&self, artifact: &Artifact) -> Answer<Artifact> {
        self.http.post("/artifacts", artifact).await
    }

    /// All artifacts, newest first.
    pub async fn artifacts(&self) -> Answer<Vec<Artifact>> {
        self.http.get("/artifacts").await
    }

    /// One artifact.
    pub async fn artifact(&self, id: &str) -> Answer<Artifact> {
        self.http.get(&format!("/artifacts/{}", segment(id))).await
    }

    /// Creates a release.
    pub async fn create_release(&self, release: &Release) -> Answer<Release> {
        self.http.post("/releases", release).await
    }

    /// The releases of an app, newest first.
    pub async fn releases(&self, app: &str) -> Answer<Vec<Release>> {
        self.http.get(&of(app, "/releases")).await
    }

    /// One release.
    pub async fn release(&self, id: &str) -> Answer<Release> {
        self.http.get(&format!("/releases/{}", segment(id))).await
    }

    /// The current release of an app; `None` if it has none (or does not exist).
    pub async fn current_release(&self, app: &str) -> Answer<Option<Release>> {
        found(self.http.get(&of(app, "/release")).await)
    }

    /// Makes a release the current one, without starting or stopping anything.
    pub async fn set_release(&self, app: &str, release: &str) -> Answer<Release> {
        self.http
            .put(&of(app, "/release"), &json!({ "id": release }))
            .await
    }

    /// Deletes a release that is not the current one.
    pub async fn delete_release(&self, app: &str, release: &str) -> Answer<()> {
        self.http
            .delete(&of(app, &format!("/releases/{}", segment(release))))
            .await
    }

    /// The formations of an app.
    pub async fn formations(&self, app: &str) -> Answer<Vec<Formation>> {
        self.http.get(&of(app, "/formations")).await
    }

    /// The formation of a release; `None` if it was never scaled.
    pub async fn formation(&self, app: &str, release: &str) -> Answer<Option<Formation>> {
        found(self.http.get(&formation(app, release)).await)
    }

    /// The formation of a release with everything it refers to.
    pub async fn expanded_formation(
        &self,
        app: &str,
        release: &str,
    ) -> Answer<Option<ExpandedFormation>> {
        found(
            self.http
                .get(&format!("{}?expand=true", formation(app, release)))
                .await,
        )
    }

    /// All formations with a count above zero.
    pub async fn active_formations(&self) -> Answer<Vec<ExpandedFormation>> {
        self.http.get("/formations?active=true").await
    }

    /// Replaces the counts of a formation; [`scale`](Self::scale) tells more.
    pub async fn put_formation(&self, wanted: &Formation) -> Answer<Formation> {
        self.http
            .put(&formation(&wanted.app, &wanted.release), wanted)
            .await
    }

    /// Deletes a formation: its jobs stop.
    pub async fn delete_formation(&self, app: &str, release: &str) -> Answer<()> {
        self.http.delete(&formation(app, release)).await
    }

    /// Asks for other counts. The jobs follow; an event of kind [`EventKind::ScaleRequest`] with the request's id as
    /// object and the state `complete` tells when they have.
    pub async fn scale(&self, request: &ScaleRequest) -> Answer<ScaleRequest> {
        let path = of(
            &request.app,
            &format!("/scale/{}", segment(&request.release)),
        );
        self.http.put(&path, request).await
    }

    /// The jobs of an app, newest first, those that are over included.
    pub async fn jobs(&self, app: &str) -> Answer<Vec<Job>> {
        self.http.get(&of(app, "/jobs")).await
    }

    /// One job, by id or UUID.
    pub async fn job(&self, app: &str, job: &str) -> Answer<Job> {
        self.http
            .get(&of(app, &format!("/jobs/{}", segment(job))))
            .await
    }

    /// The jobs of all apps that run or are about to.
    pub async fn active_jobs(&self) -> Answer<Vec<Job>> {
        self.http.get("/active-jobs").await
    }

    /// Runs a one-off job; returns when a host has it.
    pub async fn run(&self, app: &str, job: &NewJob) -> Answer<Job> {
        self.http.post(&of(app, "/jobs"), job).await
    }

    /// Runs a one-off job attached: the connection carries its standard streams in attach frames.
    pub async fn run_attached(&self, app: &str, job: &NewJob) -> Answer<Upgraded> {
        self.http
            .upgrade(Method::POST, &of(app, "/jobs"), ATTACH_PROTOCOL, job)
            .await
    }

    /// Stops a job. One that belongs to a formation is replaced.
    pub async fn kill(&self, app: &str, job: &str) -> Answer<()> {
        self.http
            .delete(&of(app, &format!("/jobs/{}", segment(job))))
            .await
    }

    /// Deploys a release. When nothing of the app runs it is complete at once.
    pub async fn deploy(&self, app: &str, release: &str) -> Answer<Deployment> {
        self.http
            .post(&of(app, "/deploy"), &json!({ "id": release }))
            .await
    }

    /// The deployments of an app, newest first.
    pub async fn deployments(&self, app: &str) -> Answer<Vec<Deployment>> {
        self.http.get(&of(app, "/deployments")).await
    }

    /// One deployment.
    pub async fn deployment(&self, id: &str) -> Answer<Deployment> {
        self.http
            .get(&format!("/deployments/{}", segment(id)))
            .await
    }

    /// What has happened to a deployment and what happens next, until it has ended.
    pub async fn deployment_events(&self, deployment: &Deployment) -> Answer<DeploymentEvents> {
        let query = EventQuery::of(&deployment.app)
            .only(&[EventKind::Deployment])
            .about(&deployment.id)
            .with_past();
        let events = self.events(&query, None).await?;
        let events = events.map(|event| {
            let data = event?.data;
            serde_json::from_value::<DeploymentEvent>(data).map_err(|error| ClientError::Protocol {
                noun: "controller".to_owned(),
                request: "GET /events".to_owned(),
                why: error.to_string(),
            })
        });
        let until_final = futures::stream::unfold(Some(events), |events| async {
            let mut events = events?;
            let event = events.next().await?;
            let goes_on = matches!(&event, Ok(event) if !event.status.is_final());
            Some((event, goes_on.then_some(events)))
        });
        Ok(until_final.boxed())
    }

    /// All routes, newest first.
    pub async fn all_routes(&self) -> Answer<Vec<Route>> {
        self.http.get("/routes").await
    }

    /// The routes of an app, newest first.
    pub async fn routes(&self, app: &str) -> Answer<Vec<Route>> {
        self.http.get(&of(app, "/routes")).await
    }

    /// Creates a route.
    pub async fn create_route(&self, app: &str, route: &NewRoute) -> Answer<Route> {
        self.http.post(&of(app, "/routes"), route).await
    }

    /// One route; its id is written `type/uuid`.
    pub async fn route(&self, app: &str, id: &str) -> Answer<Route> {
        self.http.get(&route(app, id)).await
    }

    /// Changes a route; domain, path and port stay.
    pub async fn update_route(&self, app: &str, changed: &Route) -> Answer<Route> {
        self.http
            .put(&route(app, &changed.id.to_string()), changed)
            .await
    }

    /// Deletes a route; its id is written `type/uuid`.
    pub async fn delete_route(&self, app: &str, id: &str) -> Answer<()> {
        self.http.delete(&route(app, id)).await
    }

    /// Follows the events: those after `last_event_id`, or from now on. A stream that broke can be taken up with the
    /// id of the last event that was seen.
    pub async fn events(
        &self,
        query: &EventQuery,
        last_event_id: Option<i64>,
    ) -> Answer<BoxStream<'static, Answer<Event>>> {
        self.http.events(&query.path(), last_event_id).await
    }

    /// Lists events, newest first.
    pub async fn list_events(&self, query: &EventQuery) -> Answer<Vec<Event>> {
        self.http.get(&query.path()).await
    }

    /// One event.
    pub async fn event(&self, id: i64) -> Answer<Event> {
        self.http.get(&format!("/events/{id}")).await
    }

    /// What the jobs of an app wrote, in the order of time, and what they write from now on if the query says so.
    pub async fn log(
        &self,
        app: &str,
        query: &LogQuery,
    ) -> Answer<BoxStream<'static, Answer<LogLine>>> {
        self.http.lines(&log_path(query, app)).await
    }

    /// Adds an SSH key: one line of a `.pub` file.
    pub async fn add_key(&self, line: &str) -> Answer<Key> {
        self.http.post("/keys", &json!({ "key": line })).await
    }

    /// All SSH keys, newest first.
    pub async fn keys(&self) -> Answer<Vec<Key>> {
        self.http.get("/keys").await
    }

    /// One SSH key by id or fingerprint; `None` if it may not push.
    pub async fn key(&self, id: &str) -> Answer<Option<Key>> {
        found(self.http.get(&format!("/keys/{}", segment(id))).await)
    }

    /// Removes an SSH key.
    pub async fn delete_key(&self, id: &str) -> Answer<()> {
        self.http.delete(&format!("/keys/{}", segment(id))).await
    }
}

fn of(app: &str, rest: &str) -> String {
    format!("/apps/{}{rest}", segment(app))
}

fn formation(app: &str, release: &str) -> String {
    of(app, &format!("/formations/{}", segment(release)))
}

fn route(app: &str, id: &str) -> String {
    let (kind, uuid) = id.split_once('/').unwrap_or(("http", id));
    of(app, &format!("/routes/{}/{}", segment(kind), segment(uuid)))
}

fn found<T: DeserializeOwned>(answer: Answer<T>) -> Answer<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
