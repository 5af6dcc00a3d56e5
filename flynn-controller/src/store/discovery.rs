//! The store over any discovery backend.
//!
//! ```text
//! controller/state/apps/<app>                    App
//! controller/state/names/<name>                  the app's id: what makes names unique
//! controller/state/artifacts/<artifact>          Artifact
//! controller/state/artifact-uris/<sha256>        the artifact's id: what makes artifacts unique
//! controller/state/releases/<app>/<release>      Release
//! controller/state/formations/<app>/<release>    Formation
//! controller/state/scales/<app>/<release>        the formation's last ScaleRequest
//! controller/state/deployments/<app>/<id>        DeploymentRecord
//! controller/state/deploying/<app>               the id of the app's running deployment
//! controller/state/deletions/<app>               Deletion
//! controller/index/releases/<release>            the app's id
//! controller/index/deployments/<id>              the app's id
//! controller/jobs/<app>/<job>                    Job, as last announced
//! controller/keys/<fingerprint>                  Key
//! controller/claims/<name>                       who has it, under a lease
//! controller/event-seq                           the last event's number
//! controller/events/<number, 20 digits>          Event
//! ```

mod apps;
mod claims;
mod deployments;
mod events;
mod formations;
mod jobs;
mod keys;
mod releases;
mod txn;
mod view;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use flynn_discovery::{
    Backend,
    backend::{Entry, Key, Prefix, Revision, list_all},
};
use futures::stream::BoxStream;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::{
    events::EventHub,
    txn::{Outcome, Sequence, Txn},
};
use super::{
    Advance, Catalog, Claim, DeploymentRecord, EventFilter, MAX_EVENTS, MAX_FINISHED_DEPLOYMENTS,
    MAX_FINISHED_JOBS, NewEvent, Store,
};
use crate::{
    Error, Result,
    model::{
        self, App, AppUpdate, Artifact, Deployment, Event, Formation, Job, Release, ScaleRequest,
    },
};

/// The store over any discovery backend; over `MemoryBackend` it is the memory store.
#[derive(Debug, Clone)]
pub struct DiscoveryStore {
    backend: Arc<dyn Backend>,
    /// The number of the last event, as far as this process knows. Held while a change is committed, so that one
    /// process does not contend with itself.
    sequence: Arc<tokio::sync::Mutex<Sequence>>,
    hub: Arc<EventHub>,
}

impl DiscoveryStore {
    /// How often a change is tried while others change the same things.
    pub const MAX_ATTEMPTS: usize = 64;

    /// The store in `backend`.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            hub: Arc::new(EventHub::new(Arc::clone(&backend))),
            backend,
            sequence: Arc::default(),
        }
    }

    async fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<Stored<T>>> {
        self.backend
            .get(key)
            .await?
            .as_ref()
            .map(Stored::parse)
            .transpose()
    }

    /// All records under a prefix, newest first.
    async fn list<T: DeserializeOwned>(&self, prefix: &Prefix) -> Result<Vec<Stored<T>>> {
        let entries = list_all(&*self.backend, prefix).await?;
        let mut records: Vec<Stored<T>> =
            entries.iter().map(Stored::parse).collect::<Result<_>>()?;
        records.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.key.cmp(&b.key)));
        Ok(records)
    }

    /// The app with this id or name, or an error that names it.
    async fn existing_app(&self, id_or_name: &str) -> Result<Stored<App>> {
        self.find_app(id_or_name)
            .await?
            .ok_or_else(|| Error::missing(format_args!("app {id_or_name}")))
    }
}

/// A record as it was read.
#[derive(Debug, Clone)]
struct Stored<T> {
    key: Key,
    value: T,
    version: Revision,
    created: Revision,
}

impl<T: DeserializeOwned> Stored<T> {
    fn parse(entry: &Entry) -> Result<Self> {
        let value = serde_json::from_slice(&entry.value).map_err(|source| Error::Damaged {
            what: entry.key.to_string(),
            source,
        })?;
        Ok(Self {
            key: entry.key.clone(),
            value,
            version: entry.version,
            created: entry.created,
        })
    }
}

fn values<T>(records: Vec<Stored<T>>) -> Vec<T> {
    records.into_iter().map(|record| record.value).collect()
}

/// A key below `controller/`. What comes from outside and could not be part of a key cannot exist either.
fn key(path: impl std::fmt::Display) -> Result<Key> {
    Key::parse(format!("controller/{path}")).map_err(|_| Error::missing("what was asked for"))
}

fn prefix(path: impl std::fmt::Display) -> Result<Prefix> {
    Prefix::parse(format!("controller/{path}/")).map_err(|_| Error::missing("what was asked for"))
}

#[async_trait]
impl Store for DiscoveryStore {
    async fn create_app(&self, app: App) -> Result<App> {
        self.write_app(app).await
    }
    async fn app(&self, id_or_name: &str) -> Result<Option<App>> {
        Ok(self.find_app(id_or_name).await?.map(|stored| stored.value))
    }
    async fn apps(&self) -> Result<Vec<App>> {
        self.list(&prefix("state/apps")?).await.map(values)
    }
    async fn update_app(&self, app: &str, update: AppUpdate) -> Result<App> {
        self.change_app(app, update).await
    }
    async fn begin_deletion(&self, app: &str) -> Result<()> {
        self.mark_for_deletion(app).await
    }
    async fn finish_deletion(&self, app: &str, routes: Vec<Value>) -> Result<()> {
        self.remove_app(app, routes).await
    }
    async fn create_artifact(&self, artifact: Artifact) -> Result<Artifact> {
        self.write_artifact(artifact).await
    }
    async fn artifact(&self, id: &str) -> Result<Option<Artifact>> {
        let Ok(key) = key(format_args!("state/artifacts/{id}")) else {
            return Ok(None);
        };
        Ok(self.read(&key).await?.map(|stored| stored.value))
    }
    async fn artifacts(&self) -> Result<Vec<Artifact>> {
        self.list(&prefix("state/artifacts")?).await.map(values)
    }
    async fn create_release(&self, release: Release) -> Result<Release> {
        self.write_release(release).await
    }
    async fn release(&self, id: &str) -> Result<Option<Release>> {
        Ok(self.find_release(id).await?.map(|stored| stored.value))
    }
    async fn releases(&self, app: Option<&str>) -> Result<Vec<Release>> {
        self.list_of("releases", app).await
    }
    async fn set_release(&self, app: &str, release: &str) -> Result<Release> {
        self.make_current(app, release).await
    }
    async fn delete_release(&self, app: &str, release: &str) -> Result<()> {
        self.remove_release(app, release).await
    }
    async fn formation(&self, app: &str, release: &str) -> Result<Option<Formation>> {
        Ok(self
            .find_formation(app, release)
            .await?
            .map(|stored| stored.value))
    }
    async fn formations(&self, app: Option<&str>) -> Result<Vec<Formation>> {
        self.list_of("formations", app).await
    }
    async fn scale(&self, request: ScaleRequest) -> Result<ScaleRequest> {
        self.write_scale(request).await
    }
    async fn finish_scale(&self, request: &ScaleRequest) -> Result<()> {
        self.complete_scale(request).await
    }
    async fn delete_formation(&self, app: &str, release: &str) -> Result<()> {
        self.remove_formation(app, release).await
    }
    async fn create_deployment(&self, app: &str, release: &str) -> Result<Deployment> {
        self.write_deployment(app, release).await
    }
    async fn deployment(&self, id: &str) -> Result<Option<DeploymentRecord>> {
        Ok(self.find_deployment(id).await?.map(|stored| stored.value))
    }
    async fn deployments(&self, app: &str) -> Result<Vec<Deployment>> {
        let records: Vec<DeploymentRecord> = self.list_of("deployments", Some(app)).await?;
        Ok(records
            .into_iter()
            .map(|record| record.deployment)
            .collect())
    }
    async fn advance_deployment(
        &self,
        claim: &Claim,
        advance: Advance,
    ) -> Result<DeploymentRecord> {
        self.write_advance(claim, advance).await
    }
    async fn record_jobs(&self, jobs: Vec<Job>) -> Result<()> {
        self.write_jobs(jobs).await
    }
    async fn jobs(&self, app: Option<&str>) -> Result<Vec<Job>> {
        let prefix = match app {
            Some(app) => prefix(format_args!("jobs/{app}"))?,
            None => prefix("jobs")?,
        };
        self.list(&prefix).await.map(values)
    }
    async fn add_key(&self, key: model::Key) -> Result<model::Key> {
        self.write_key(key).await
    }
    async fn key(&self, id: &str) -> Result<Option<model::Key>> {
        let Ok(key) = key(format_args!("keys/{id}")) else {
            return Ok(None);
        };
        Ok(self.read(&key).await?.map(|stored| stored.value))
    }
    async fn keys(&self) -> Result<Vec<model::Key>> {
        self.list(&prefix("keys")?).await.map(values)
    }
    async fn delete_key(&self, id: &str) -> Result<()> {
        self.remove_key(id).await
    }
    async fn record(&self, event: NewEvent) -> Result<Event> {
        self.write_event(event).await
    }
    async fn event(&self, id: i64) -> Result<Option<Event>> {
        self.find_event(id).await
    }
    async fn events(&self, filter: &EventFilter) -> Result<Vec<Event>> {
        self.find_events(filter).await
    }
    fn watch_events(&self, after: Option<i64>) -> BoxStream<'static, Result<Event>> {
        self.follow_events(after)
    }
    fn watch(&self) -> BoxStream<'static, Result<Catalog>> {
        view::follow(&*self.backend)
    }
    async fn claim(&self, name: &str, holder: &str, ttl: Duration) -> Result<Option<Claim>> {
        self.take_claim(name, holder, ttl).await
    }
    async fn renew(&self, claim: &Claim) -> Result<()> {
        self.renew_claim(claim).await
    }
    async fn release_claim(&self, claim: Claim) -> Result<()> {
        self.drop_claim(&claim).await
    }
}
