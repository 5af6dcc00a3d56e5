//! What can be done with a platform: the operations behind every route of the API, for programs that embed it.

mod apps;
mod jobs;
mod logs;
mod releases;
mod routes;

use std::sync::Arc;

use flynn_router::RouteStore;
use flynn_sched::Cluster;

pub(crate) use self::jobs::jobs_of;
#[cfg(feature = "http")]
pub(crate) use self::releases::expand;
pub use self::{jobs::PLACEMENT_DEADLINE, routes::TCP_PORTS};
use crate::{Error, Result, model::App, store::Store, streams::JobStreams};

/// Apps, releases, formations, jobs, deployments and routes as operations, over a store and a cell.
///
/// It changes the desired state and answers questions; a [`Controller`](crate::Controller) makes the cell follow.
/// Clones are handles on the same platform.
#[derive(Debug, Clone)]
pub struct Platform {
    store: Arc<dyn Store>,
    cluster: Arc<dyn Cluster>,
    routes: Arc<dyn RouteStore>,
    streams: Option<Arc<dyn JobStreams>>,
    default_route_domain: Option<Arc<str>>,
}

impl Platform {
    /// A platform over these parts.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        cluster: Arc<dyn Cluster>,
        routes: Arc<dyn RouteStore>,
    ) -> Self {
        Self {
            store,
            cluster,
            routes,
            streams: None,
            default_route_domain: None,
        }
    }

    /// With the way to jobs' output; without it there are no logs and no attached jobs.
    #[must_use]
    pub fn with_streams(mut self, streams: Arc<dyn JobStreams>) -> Self {
        self.streams = Some(streams);
        self
    }

    /// Gives each new app of a user the route `<name>.<domain>`.
    #[must_use]
    pub fn with_default_route_domain(mut self, domain: &str) -> Self {
        self.default_route_domain = Some(domain.into());
        self
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The cell.
    #[must_use]
    pub fn cluster(&self) -> &Arc<dyn Cluster> {
        &self.cluster
    }

    /// The routes.
    #[must_use]
    pub fn route_store(&self) -> &Arc<dyn RouteStore> {
        &self.routes
    }

    /// The app with this id or name.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] names it.
    pub async fn app(&self, id_or_name: &str) -> Result<App> {
        let app = self.store.app(id_or_name).await?;
        app.ok_or_else(|| Error::missing(format_args!("app {id_or_name}")))
    }

    fn streams(&self) -> Result<&Arc<dyn JobStreams>> {
        self.streams.as_ref().ok_or_else(|| Error::Unavailable {
            why: "this controller has no way to the output of jobs: it was started without one"
                .to_owned(),
        })
    }
}

/// The `parent_ref` of an app's routes.
pub(crate) fn parent_ref(app: &str) -> String {
    format!("controller/apps/{app}")
}
