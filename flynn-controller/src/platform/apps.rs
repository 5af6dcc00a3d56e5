//! Creating, changing and deleting apps.

use super::Platform;
use crate::{
    Error, Result,
    deploy::{DEFAULT_STRATEGY, DEFAULT_TIMEOUT, STRATEGIES},
    model::{App, AppUpdate, NewRoute, Time, check_id, check_name, new_id},
};

/// The longest time a step of a deployment may be given, in seconds.
const MAX_TIMEOUT: u32 = 24 * 60 * 60;

impl Platform {
    /// Creates an app: fills in what is missing (a name, too) and gives a user's app its route.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the field; [`Error::Exists`] when the name is taken.
    pub async fn create_app(&self, app: App) -> Result<App> {
        let mut app = app;
        let is_named = !app.name.is_empty();
        if app.id.is_empty() {
            app.id = new_id();
        }
        check_id("id", &app.id)?;
        if app.strategy.is_empty() {
            app.strategy = DEFAULT_STRATEGY.to_owned();
        }
        check_settings(Some(&app.strategy), app.deploy_timeout)?;
        app.deploy_timeout.get_or_insert(DEFAULT_TIMEOUT);
        app.release = None;
        app.created_at = Some(Time::now());
        app.updated_at = app.created_at;
        let app = loop {
            if !is_named {
                app.name = random_name();
            }
            check_name(&app.name)?;
            match self.store.create_app(app.clone()).await {
                Err(Error::Exists { .. }) if !is_named => {}
                other => break other?,
            }
        };
        if let Some(domain) = self
            .default_route_domain
            .as_ref()
            .filter(|_| !app.is_system())
        {
            let route = NewRoute::http(
                format!("{}.{domain}", app.name),
                format!("{}-web", app.name),
            );
            // The app is there; it can be given a route by hand.
            if let Err(error) = self.create_route(&app.id, route).await {
                tracing::warn!(app = %app.name, %error, "the app was created without its default route");
            }
        }
        Ok(app)
    }

    /// Changes what `update` names and leaves the rest.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the field; [`Error::NotFound`].
    pub async fn update_app(&self, app: &str, update: AppUpdate) -> Result<App> {
        check_settings(update.strategy.as_deref(), update.deploy_timeout)?;
        self.store.update_app(app, update).await
    }

    /// Begins to delete an app; an `app_deletion` event tells when it is done.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Invalid`] for an app that is critical to the platform.
    pub async fn delete_app(&self, app: &str) -> Result<()> {
        let app = self.app(app).await?;
        if app.is_critical() {
            return Err(Error::refused(format!(
                "app {} is critical to the platform and cannot be deleted",
                app.name
            )));
        }
        self.store.begin_deletion(&app.id).await
    }
}

fn check_settings(strategy: Option<&str>, timeout: Option<u32>) -> Result<()> {
    if let Some(name) = strategy
        && !STRATEGIES.contains(&name)
    {
        return Err(Error::invalid(
            "strategy",
            format!("must be one of {}", STRATEGIES.join(", ")),
        ));
    }
    if timeout.is_some_and(|seconds| seconds == 0 || seconds > MAX_TIMEOUT) {
        return Err(Error::invalid(
            "deploy_timeout",
            format!("must be between 1 and {MAX_TIMEOUT} seconds"),
        ));
    }
    Ok(())
}

/// Three words, such as `quiet-amber-otter`.
fn random_name() -> String {
    let pick = |words: &'static [&'static str]| words[rand::random_range(0..words.len())];
    format!("{}-{}-{}", pick(&MANNERS), pick(&COLOURS), pick(&ANIMALS))
}

const MANNERS: [&str; 24] = [
    "bold", "brave", "bright", "calm", "clever", "eager", "early", "fair", "gentle", "grand",
    "happy", "keen", "kind", "light", "lively", "lucky", "merry", "neat", "noble", "proud",
    "quick", "quiet", "steady", "warm",
];
const COLOURS: [&str; 24] = [
    "amber", "azure", "beige", "blue", "bronze", "coral", "cream", "crimson", "cyan", "golden",
    "green", "indigo", "ivory", "jade", "lilac", "lime", "olive", "pearl", "pink", "rose", "ruby",
    "silver", "teal", "violet",
];
const ANIMALS: [&str; 24] = [
    "badger", "bear", "beaver", "bison", "crane", "deer", "dolphin", "eagle", "falcon", "finch",
    "fox", "hare", "heron", "lynx", "marten", "moose", "otter", "owl", "raven", "seal", "sparrow",
    "swan", "trout", "wolf",
];
