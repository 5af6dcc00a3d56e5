//! Artifacts, releases, formations and deployments.

use super::Platform;
use crate::{
    Error, Result,
    model::{
        Artifact, Deployment, ExpandedFormation, Formation, Key, Release, ScaleRequest, ScaleState,
        Time, check_id, new_id,
    },
};

impl Platform {
    /// Registers an artifact; the one with this kind and URI is returned if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the field.
    pub async fn create_artifact(&self, artifact: Artifact) -> Result<Artifact> {
        let mut artifact = artifact;
        if artifact.uri.is_empty() {
            return Err(Error::invalid("uri", "must not be empty"));
        }
        if !["blob:", "http://", "https://", "file:///"]
            .iter()
            .any(|s| artifact.uri.starts_with(s))
        {
            return Err(Error::invalid(
                "uri",
                "must begin with blob:, http://, https:// or file:///",
            ));
        }
        if !matches!(
            artifact.kind.as_str(),
            Artifact::SLUG | Artifact::FLYNN | "docker"
        ) {
            return Err(Error::invalid("type", "must be file, flynn or docker"));
        }
        if let Some(hash) = artifact.hashes.get("sha256")
            && (hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(Error::invalid(
                "hashes",
                "has a sha256 that is not 64 hexadecimal digits",
            ));
        }
        if artifact.id.is_empty() {
            artifact.id = new_id();
        }
        check_id("id", &artifact.id)?;
        artifact.created_at = Some(Time::now());
        self.store.create_artifact(artifact).await
    }

    /// Creates a release: fills in what is missing and checks it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the field; also for an app or artifact that does not exist.
    pub async fn create_release(&self, release: Release) -> Result<Release> {
        let mut release = release;
        if release.app_id.is_empty() {
            return Err(Error::invalid("app_id", "must name the release's app"));
        }
        let app = self.store.app(&release.app_id).await?.ok_or_else(|| {
            Error::invalid(
                "app_id",
                format!("names {}, which does not exist", release.app_id),
            )
        })?;
        release.app_id = app.id;
        if release.id.is_empty() {
            release.id = new_id();
        }
        check_id("id", &release.id)?;
        if release.artifacts.is_empty() {
            release.artifacts.extend(release.legacy_artifact.take());
        }
        release.legacy_artifact = release.artifacts.first().cloned();
        release.check()?;
        for process in release.processes.values_mut() {
            process.resources.fill_defaults();
        }
        release.created_at = Some(Time::now());
        match self.store.create_release(release).await {
            Err(Error::NotFound { what }) => Err(Error::refused(format!("{what} does not exist"))),
            other => other,
        }
    }

    /// The current release of an app; `None` if it has none.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for an unknown app.
    pub async fn current_release(&self, app: &str) -> Result<Option<Release>> {
        match self.app(app).await?.release {
            Some(id) => self.store.release(&id).await,
            None => Ok(None),
        }
    }

    /// The release of an app with this id.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also for a release of another app.
    pub async fn release_of(&self, app: &str, release: &str) -> Result<Release> {
        let app = self.app(app).await?;
        let found = self.store.release(release).await?;
        found
            .filter(|release| release.app_id == app.id)
            .ok_or_else(|| Error::missing(format_args!("release {release}")))
    }

    /// Carries out a scale request; types that are not named keep their counts.
    ///
    /// # Errors
    ///
    /// See [`Store::scale`](crate::Store::scale).
    pub async fn scale(&self, request: ScaleRequest) -> Result<ScaleRequest> {
        let mut request = request;
        if request.state != ScaleState::Pending {
            return Err(Error::invalid("state", "must be pending"));
        }
        if request.new_processes.is_none() && request.new_tags.is_none() {
            return Err(Error::refused("new_processes or new_tags must be given"));
        }
        if request.id.is_empty() {
            request.id = new_id();
        }
        check_id("id", &request.id)?;
        self.store.scale(request).await
    }

    /// Sets the counts of a formation; types of the release that are not named go to zero.
    ///
    /// # Errors
    ///
    /// As [`scale`](Self::scale).
    pub async fn put_formation(&self, wanted: Formation) -> Result<Formation> {
        let app = self.app(&wanted.app).await?;
        let release = self.release_of(&app.id, &wanted.release).await?;
        let present = self
            .store
            .formation(&app.id, &release.id)
            .await?
            .unwrap_or_default();
        let mut processes = wanted.processes;
        for name in present.processes.keys() {
            processes.entry(name.clone()).or_insert(0);
        }
        let mut tags = wanted.tags;
        for name in present.tags.keys() {
            tags.entry(name.clone()).or_default();
        }
        let request = ScaleRequest {
            new_processes: Some(processes),
            new_tags: Some(tags),
            ..ScaleRequest::to(&app.id, &release.id, Default::default())
        };
        self.scale(request).await?;
        let formation = self.store.formation(&app.id, &release.id).await?;
        formation.ok_or_else(|| Error::missing("the formation"))
    }

    /// A formation with everything it refers to.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn expanded_formation(&self, app: &str, release: &str) -> Result<ExpandedFormation> {
        let app = self.app(app).await?;
        let formation = self.store.formation(&app.id, release).await?;
        let formation = formation.ok_or_else(|| Error::missing("the formation"))?;
        let release = self.release_of(&app.id, release).await?;
        let mut artifacts = Vec::new();
        for id in &release.artifacts {
            artifacts.extend(self.store.artifact(id).await?);
        }
        Ok(ExpandedFormation {
            app: Some(app),
            release: Some(release),
            artifacts,
            processes: formation.processes,
            tags: formation.tags,
            updated_at: formation.updated_at,
            ..ExpandedFormation::default()
        })
    }

    /// Deploys a release. When nothing of the app runs it is complete at once.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an unknown release or while another deployment of the app is running.
    pub async fn deploy(&self, app: &str, release: &str) -> Result<Deployment> {
        let app = self.app(app).await?;
        match self.store.create_deployment(&app.id, release).await {
            Err(Error::NotFound { what }) => Err(Error::refused(format!(
                "{what} does not exist in app {}",
                app.name
            ))),
            other => other,
        }
    }

    /// Adds an SSH key: one line of a `.pub` file.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what such a line looks like.
    pub async fn add_key(&self, line: &str) -> Result<Key> {
        let mut key = Key::parse(line)?;
        key.created_at = Some(Time::now());
        self.store.add_key(key).await
    }
}

/// A formation of a catalog with everything it refers to.
#[cfg(feature = "http")]
pub(crate) fn expand(catalog: &crate::Catalog, formation: &Formation) -> ExpandedFormation {
    let release = catalog.releases.get(&formation.release);
    let artifacts = release.iter().flat_map(|release| &release.artifacts);
    ExpandedFormation {
        app: catalog.apps.get(&formation.app).map(|app| (**app).clone()),
        release: release.map(|release| (**release).clone()),
        artifacts: artifacts
            .filter_map(|id| catalog.artifacts.get(id))
            .map(|artifact| (**artifact).clone())
            .collect(),
        processes: formation.processes.clone(),
        tags: formation.tags.clone(),
        updated_at: formation.updated_at,
        deleted: false,
        pending_scale_request: catalog
            .pending_scales()
            .find(|request| request.app == formation.app && request.release == formation.release)
            .map(|request| (**request).clone()),
    }
}
