//! Where apps, releases, formations and the rest are kept, and the record of what happened to them.

mod catalog;
mod discovery;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    catalog::{Catalog, Deletion},
    discovery::DiscoveryStore,
};
use crate::{
    Result,
    deploy::Rollout,
    model::{
        App, AppUpdate, Artifact, Counts, Deployment, DeploymentEvent, Event, EventKind, Formation,
        Job, Key, Release, ScaleRequest,
    },
};

/// The desired state of a platform, and the sequence of events that led to it.
///
/// Whatever changes is recorded as events in the same atomic change, so that whoever has seen all events knows all
/// changes. Several controllers may use one store at once.
///
/// # Contract
///
/// Each sentence below is a case of the conformance suite (feature `conformance`). Every method may fail with
/// [`Error::Store`](crate::Error::Store) when the store cannot be reached, and every change with
/// [`Error::Contended`](crate::Error::Contended) when others change the same thing all the time.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Creates an app whose fields were filled in and checked by the caller.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::Error::Exists) when the name or the id is taken.
    async fn create_app(&self, app: App) -> Result<App>;

    /// The app with this id or, if there is none, with this name.
    async fn app(&self, id_or_name: &str) -> Result<Option<App>>;

    /// All apps, newest first.
    async fn apps(&self) -> Result<Vec<App>>;

    /// Changes what `update` names and leaves the rest.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound).
    async fn update_app(&self, app: &str, update: AppUpdate) -> Result<App>;

    /// Begins to delete an app: its formations are gone at once, a running deployment has failed, and nothing new can
    /// be made of it. Beginning twice succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound).
    async fn begin_deletion(&self, app: &str) -> Result<()>;

    /// Removes an app whose deletion was begun, with all that belongs to it; its name is free then. `routes` are those
    /// that the caller removed before, for the event.
    async fn finish_deletion(&self, app: &str, routes: Vec<Value>) -> Result<()>;

    /// Registers an artifact; the one with this kind and URI is returned if there is one.
    async fn create_artifact(&self, artifact: Artifact) -> Result<Artifact>;

    /// One artifact.
    async fn artifact(&self, id: &str) -> Result<Option<Artifact>>;

    /// All artifacts, newest first.
    async fn artifacts(&self) -> Result<Vec<Artifact>>;

    /// Creates a release whose fields were filled in and checked by the caller. A release never changes.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound) names the app or artifact that is missing.
    async fn create_release(&self, release: Release) -> Result<Release>;

    /// One release.
    async fn release(&self, id: &str) -> Result<Option<Release>>;

    /// The releases of an app, or of all, newest first.
    async fn releases(&self, app: Option<&str>) -> Result<Vec<Release>>;

    /// Makes a release the current one of its app, without starting or stopping anything.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound).
    async fn set_release(&self, app: &str, release: &str) -> Result<Release>;

    /// Deletes a release with its formation.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) for the current release, [`Error::Conflict`](crate::Error::Conflict)
    /// for one that is being deployed.
    async fn delete_release(&self, app: &str, release: &str) -> Result<()>;

    /// One formation.
    async fn formation(&self, app: &str, release: &str) -> Result<Option<Formation>>;

    /// The formations of an app, or of all, newest first.
    async fn formations(&self, app: Option<&str>) -> Result<Vec<Formation>>;

    /// Carries out a scale request: merges its counts and tags into the formation, which is created if absent.
    /// A request for the same formation that is still pending is cancelled. The result tells the counts before.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound) for an unknown app or release, [`Error::Invalid`](crate::Error::Invalid)
    /// for process types that the release does not have, [`Error::Conflict`](crate::Error::Conflict) while the release
    /// is part of a running deployment.
    async fn scale(&self, request: ScaleRequest) -> Result<ScaleRequest>;

    /// Marks a scale request complete, if it is still pending.
    async fn finish_scale(&self, request: &ScaleRequest) -> Result<()>;

    /// Deletes a formation; deleting an absent one succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`](crate::Error::Conflict) while the release is part of a running deployment.
    async fn delete_formation(&self, app: &str, release: &str) -> Result<()>;

    /// Creates a deployment. Its strategy, timeout and batch size come from the app, its counts and tags from the
    /// formation of the current release. When nothing of the app runs it is complete at once, and its release current.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) while another one of the app is running.
    async fn create_deployment(&self, app: &str, release: &str) -> Result<Deployment>;

    /// One deployment.
    async fn deployment(&self, id: &str) -> Result<Option<DeploymentRecord>>;

    /// The deployments of an app, newest first; those that ended long ago are forgotten.
    async fn deployments(&self, app: &str) -> Result<Vec<Deployment>>;

    /// Takes a deployment a step further, if `claim` is still held and the deployment is not over.
    ///
    /// # Errors
    ///
    /// [`Error::ClaimLost`](crate::Error::ClaimLost); nothing is changed then.
    async fn advance_deployment(&self, claim: &Claim, advance: Advance)
    -> Result<DeploymentRecord>;

    /// Writes down how jobs are. A job whose record would not change causes no event.
    async fn record_jobs(&self, jobs: Vec<Job>) -> Result<()>;

    /// The recorded jobs of an app, or of all. Of those that are over, the newest [`MAX_FINISHED_JOBS`] of an app
    /// are kept.
    async fn jobs(&self, app: Option<&str>) -> Result<Vec<Job>>;

    /// Adds an SSH key; adding it again changes nothing.
    async fn add_key(&self, key: Key) -> Result<Key>;

    /// One SSH key.
    async fn key(&self, id: &str) -> Result<Option<Key>>;

    /// All SSH keys, newest first.
    async fn keys(&self) -> Result<Vec<Key>>;

    /// Removes an SSH key.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound).
    async fn delete_key(&self, id: &str) -> Result<()>;

    /// Records what happened to something that is kept elsewhere, such as a route.
    async fn record(&self, event: NewEvent) -> Result<Event>;

    /// One event.
    async fn event(&self, id: i64) -> Result<Option<Event>>;

    /// The events that fit, newest first. The newest [`MAX_EVENTS`] are kept.
    async fn events(&self, filter: &EventFilter) -> Result<Vec<Event>>;

    /// Follows the events, in order and without gaps: those after `after`, or from now on.
    ///
    /// [`Error::Lagged`](crate::Error::Lagged) ends the stream of a reader that does not keep up.
    fn watch_events(&self, after: Option<i64>) -> BoxStream<'static, Result<Event>>;

    /// Follows the desired state: the present one at once, then the newest after every change (a slow reader skips
    /// states, never the last). An `Err` item is the last.
    fn watch(&self) -> BoxStream<'static, Result<Catalog>>;

    /// Claims a piece of work for `ttl`; `None` while another has it.
    async fn claim(&self, name: &str, holder: &str, ttl: Duration) -> Result<Option<Claim>>;

    /// Keeps a claim for another `ttl`.
    ///
    /// # Errors
    ///
    /// [`Error::ClaimLost`](crate::Error::ClaimLost) when it ran out.
    async fn renew(&self, claim: &Claim) -> Result<()>;

    /// Gives a claim back.
    async fn release_claim(&self, claim: Claim) -> Result<()>;
}

/// How many events are kept.
pub const MAX_EVENTS: u64 = 10_000;

/// How many jobs of an app that are over are kept on record.
pub const MAX_FINISHED_JOBS: usize = 25;

/// How many deployments of an app that are over are kept on record.
pub const MAX_FINISHED_DEPLOYMENTS: usize = 50;

/// A deployment and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeploymentRecord {
    /// What clients see.
    pub deployment: Deployment,
    /// What the next step is decided from.
    #[serde(default)]
    pub rollout: Rollout,
}

/// A step of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The deployment as it is to be. When its status is complete, its release becomes the current one and the old
    /// formation is removed; when failed, the new formation is.
    pub record: DeploymentRecord,
    /// The counts of the old release, if they change.
    pub old: Option<Counts>,
    /// The counts of the new release, if they change.
    pub new: Option<Counts>,
    /// What to tell.
    pub events: Vec<DeploymentEvent>,
}

/// An event to record.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What kind of object it is about.
    pub kind: EventKind,
    /// The app it is about; may be empty.
    pub app: String,
    /// The object's identity.
    pub object_id: String,
    /// The object, or what became of it.
    pub data: Value,
}

impl NewEvent {
    /// An event about `object`.
    ///
    /// # Panics
    ///
    /// When the object cannot be JSON, which everything in [`model`](crate::model) can.
    #[must_use]
    pub fn new(
        kind: EventKind,
        app: impl Into<String>,
        object_id: impl Into<String>,
        object: &impl Serialize,
    ) -> Self {
        Self {
            kind,
            app: app.into(),
            object_id: object_id.into(),
            data: serde_json::to_value(object).expect("the model is JSON"),
        }
    }
}

/// Which events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Only those about this app (its id).
    pub app: Option<String>,
    /// Only these kinds; empty: all.
    pub kinds: Vec<EventKind>,
    /// Only those about this object.
    pub object_id: Option<String>,
    /// Only those before this one.
    pub before: Option<i64>,
    /// Only those after this one.
    pub since: Option<i64>,
    /// At most so many, the newest.
    pub count: Option<usize>,
}

impl EventFilter {
    /// Does `event` fit? (The count is not looked at.)
    #[must_use]
    pub fn admits(&self, event: &Event) -> bool {
        self.app.as_ref().is_none_or(|app| *app == event.app)
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self
                .object_id
                .as_ref()
                .is_none_or(|id| *id == event.object_id)
            && self.before.is_none_or(|id| event.id < id)
            && self.since.is_none_or(|id| event.id > id)
    }
}

/// The right to do a piece of work, for as long as it is renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What was claimed.
    pub name: String,
    /// Tells this claim from earlier and later ones of the same name; the store refuses work under an old one.
    pub token: u64,
    /// The lease that keeps it.
    pub lease: u64,
}
