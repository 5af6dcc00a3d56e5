//! Brings a release to life while the one who pushed watches.

use std::{collections::HashSet, time::Duration};

use flynn_controller::{
    http::{Client, LogQuery},
    model::{
        App, Deployment, DeploymentEvent, DeploymentStatus, Formation, Job, JobState, Release,
    },
};
use flynn_router::Rule;
use futures::StreamExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    Console, Error, Result,
    release::{first_type, service_name},
};

/// Starts the first release of an app, and deploys the later ones.
#[derive(Debug, Clone)]
pub(crate) struct Deployer {
    pub(crate) controller: Client,
    /// The router's HTTP port, for the URL that is shown.
    pub(crate) http_port: u16,
    /// How long a push waits for a deployment that is under way.
    pub(crate) turn_timeout: Duration,
}

/// How bringing a release to life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Outcome {
    /// It serves.
    Live,
    /// Another deployment began first; nothing was changed.
    Overtaken,
}

impl Deployer {
    /// Waits until no deployment of the app is under way: one that somebody else began, or one whose controller died
    /// (after a power cut, say) and which the next takes up when the claim on it has run out.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when that takes too long; [`Error::Stopped`] when nobody waits any more.
    pub(crate) async fn wait_for_turn(
        &self,
        app: &App,
        console: &Console,
        over: &CancellationToken,
    ) -> Result<()> {
        let deadline = Instant::now() + self.turn_timeout;
        let mut is_told = false;
        while let Some(deployment) = self.under_way(app).await? {
            if Instant::now() >= deadline {
                let (name, waited) = (&app.name, self.turn_timeout);
                return Err(Error::refused(format!(
                    "deployment {} of {name} is still under way after {waited:?}: push again when it has ended, `flynn -a {name} deployment` shows how far it is",
                    deployment.id
                )));
            }
            if !is_told {
                is_told = true;
                let line = "-----> Waiting for the deployment under way to end...";
                console.line(line).await;
            }
            tokio::select! {
                () = sleep(POLL) => {}
                () = over.cancelled() => return Err(Error::Stopped { what: "the push" }),
            }
        }
        Ok(())
    }

    /// The deployment of the app that has not ended, if there is one.
    async fn under_way(&self, app: &App) -> Result<Option<Deployment>> {
        let deployments = match self.controller.deployments(&app.id).await {
            Ok(deployments) => deployments,
            // What is deleted is not deployed; whoever goes on with the app is told.
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => {
                let what = "the app's deployments could not be looked up";
                return Err(Error::upstream(what, error));
            }
        };
        let mut deployments = deployments.into_iter();
        Ok(deployments.find(|deployment| deployment.finished_at.is_none()))
    }

    /// Makes `release` the app's, in the place of `current`.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with a sentence when it does not come up; what served before serves still.
    pub(crate) async fn deploy(
        &self,
        app: &App,
        current: Option<&Release>,
        release: &Release,
        console: &Console,
        over: &CancellationToken,
    ) -> Result<Outcome> {
        let has_run = match current {
            Some(current) => self.has_formation(app, current).await?,
            None => false,
        };
        let brought_up = async {
            if has_run {
                self.roll(app, release, console).await
            } else {
                let started = self.start(app, current, release, console).await;
                started.map(|()| Outcome::Live)
            }
        };
        let outcome = tokio::select! {
            done = brought_up => done?,
            // The controller finishes what it began; nobody watches any more.
            () = over.cancelled() => return Err(Error::Stopped { what: "watching the deployment" }),
        };
        if outcome == Outcome::Live {
            console.line("=====> Application deployed").await;
            self.say_where(app, release, console).await;
        }
        Ok(outcome)
    }

    async fn has_formation(&self, app: &App, release: &Release) -> Result<bool> {
        self.controller
            .formation(&app.id, &release.id)
            .await
            .map(|formation| formation.is_some_and(|f| !f.processes.is_empty()))
            .map_err(|e| Error::upstream("the app's scale could not be looked up", e))
    }

    /// The first start of an app.
    async fn start(
        &self,
        app: &App,
        current: Option<&Release>,
        release: &Release,
        console: &Console,
    ) -> Result<()> {
        self.controller
            .set_release(&app.id, &release.id)
            .await
            .map_err(|e| Error::upstream("the release could not be made current", e))?;
        let Some(first) = first_type(release) else {
            let types: Vec<_> = release.processes.keys().map(String::as_str).collect();
            let name = &app.name;
            console
                .line(format!(
                    "=====> Nothing is started yet: choose with `flynn -a {name} scale {}=1`",
                    types.join("=1 ")
                ))
                .await;
            return Ok(());
        };
        console
            .line(format!("=====> Scaling initial release to {first}=1"))
            .await;
        let formation = Formation {
            app: app.id.clone(),
            release: release.id.clone(),
            processes: [(first.to_owned(), 1)].into(),
            ..Formation::default()
        };
        self.controller
            .put_formation(&formation)
            .await
            .map_err(|e| Error::upstream("the app could not be scaled", e))?;
        console
            .line(format!(
                "-----> Waiting for initial {first} job to start..."
            ))
            .await;
        match self.wait_for_first(app, release, first).await {
            Ok(()) => {
                console
                    .line(format!("=====> Initial {first} job started"))
                    .await;
                Ok(())
            }
            Err(error) => {
                self.show_log(app, release, console).await;
                self.take_back(app, current, release).await;
                Err(error)
            }
        }
    }

    async fn wait_for_first(&self, app: &App, release: &Release, first: &str) -> Result<()> {
        let seconds = app.deploy_timeout.unwrap_or(DEPLOY_TIMEOUT_S);
        let deadline = Instant::now() + Duration::from_secs(u64::from(seconds));
        let mut last = JobState::Pending;
        loop {
            match self.controller.jobs(&app.id).await {
                Ok(jobs) => {
                    let ours: Vec<_> = jobs
                        .iter()
                        .filter(|job| job.release == release.id && job.process_type == first)
                        .collect();
                    if ours.iter().any(|job| job.state == JobState::Up) {
                        return Ok(());
                    }
                    if let Some(why) = gave_up(&ours) {
                        return Err(Error::refused(format!(
                            "the {first} process does not stay up ({why}): mend it and push again; `flynn -a {} log` has all it wrote",
                            app.name
                        )));
                    }
                    last = ours.last().map_or(last, |job| job.state);
                }
                Err(error) if error.is_transient() => debug!(%error, "asking again"),
                Err(error) => return Err(Error::upstream("the app's jobs are not known", error)),
            }
            if Instant::now() >= deadline {
                let hint = match last {
                    JobState::Pending | JobState::Blocked => {
                        "no host could take it: see `flynn-host list`"
                    }
                    _ => "it must listen on the port that the variable PORT names",
                };
                return Err(Error::refused(format!(
                    "the {first} process did not come up within {seconds} s (it is {last}): {hint}"
                )));
            }
            sleep(POLL).await;
        }
    }

    /// After a failed first start: nothing of it goes on, and the next push is a first one again.
    async fn take_back(&self, app: &App, current: Option<&Release>, release: &Release) {
        if let Err(error) = self.controller.delete_formation(&app.id, &release.id).await {
            warn!(app = app.name, %error, "the failed release could not be stopped");
        }
        if let Some(current) = current
            && let Err(error) = self.controller.set_release(&app.id, &current.id).await
        {
            warn!(app = app.name, %error, "the release before could not be made current again");
        }
    }

    /// Replaces the release that runs.
    async fn roll(&self, app: &App, release: &Release, console: &Console) -> Result<Outcome> {
        console.line("-----> Deploying the release...").await;
        let deployment = match self.controller.deploy(&app.id, &release.id).await {
            Ok(deployment) => deployment,
            // Refused because of another, or begun without our hearing of it?
            Err(error) => match self.under_way(app).await? {
                Some(ours) if ours.new_release == release.id => ours,
                Some(_) => return Ok(Outcome::Overtaken),
                None => return Err(Error::upstream("the deployment could not begin", error)),
            },
        };
        let failure = match self.follow(&deployment, console).await? {
            Ending::Complete => return Ok(Outcome::Live),
            Ending::Failed(why) => why,
        };
        self.show_log(app, release, console).await;
        Err(Error::refused(format!(
            "the deployment failed ({failure}) and the release before it serves on: mend the app and push again"
        )))
    }

    /// Watches a deployment to its end, across lost connections.
    async fn follow(&self, deployment: &Deployment, console: &Console) -> Result<Ending> {
        let mut shown = HashSet::new();
        let mut lost = 0;
        loop {
            // A deployment of nothing is over at once, and a stream may have missed the end.
            match self.controller.deployment(&deployment.id).await {
                Ok(now) => {
                    if let Some(ending) = Ending::of(now.status, now.error.as_deref()) {
                        return Ok(ending);
                    }
                    lost = 0;
                }
                Err(error) if error.is_transient() && lost < MAX_LOST => lost += 1,
                Err(error) => {
                    return Err(Error::upstream("the deployment was lost sight of", error));
                }
            }
            match self.controller.deployment_events(deployment).await {
                Ok(mut events) => {
                    while let Some(Ok(event)) = events.next().await {
                        if let Some(line) = describe(&event)
                            && shown.insert(line.clone())
                        {
                            console.line(line).await;
                        }
                        if let Some(ending) = Ending::of(event.status, Some(&event.error)) {
                            return Ok(ending);
                        }
                    }
                }
                Err(error) => debug!(%error, "no events of the deployment"),
            }
            sleep(POLL).await;
        }
    }

    /// The last lines of a release that failed.
    async fn show_log(&self, app: &App, release: &Release, console: &Console) {
        let read = async {
            let jobs = self.controller.jobs(&app.id).await.unwrap_or_default();
            let ours: HashSet<_> = jobs
                .iter()
                .filter(|job| job.release == release.id)
                .map(|job| job.uuid.as_str())
                .collect();
            let query = LogQuery {
                lines: Some(LOG_LINES_READ),
                ..LogQuery::default()
            };
            let mut last = std::collections::VecDeque::new();
            if let Ok(mut log) = self.controller.log(&app.id, &query).await {
                while let Some(Ok(line)) = log.next().await {
                    // A job that is gone from the list may still be the one that failed.
                    let uuid = line.job_id.rsplit_once('-').map_or("", |_| &*line.job_id);
                    if !ours.is_empty() && !ours.iter().any(|ours| uuid.ends_with(ours)) {
                        continue;
                    }
                    if last.len() == LOG_LINES_SHOWN {
                        last.pop_front();
                    }
                    last.push_back(line.msg);
                }
            }
            last
        };
        let lines = timeout(LOG_TIMEOUT, read).await.unwrap_or_default();
        if lines.is_empty() {
            return;
        }
        console.line("       The last lines it wrote:").await;
        for line in lines {
            console.line(format!("       | {line}")).await;
        }
    }

    /// Shows the app's address.
    async fn say_where(&self, app: &App, release: &Release, console: &Console) {
        let Ok(routes) = self.controller.routes(&app.id).await else {
            return;
        };
        let web = service_name(&app.name, "web");
        for route in routes {
            match &route.rule {
                Rule::Http(http)
                    if route.service.as_str() == web && release.processes.contains_key("web") =>
                {
                    let port = match self.http_port {
                        80 => String::new(),
                        port => format!(":{port}"),
                    };
                    console
                        .line(format!("=====> http://{}{port}{}", http.domain, http.path))
                        .await;
                }
                Rule::Tcp { port } => {
                    console
                        .line(format!(
                            "=====> {} answers on the router's TCP port {port}",
                            route.service
                        ))
                        .await;
                }
                _ => {}
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Complete,
    Failed(String),
}

impl Ending {
    fn of(status: DeploymentStatus, error: Option<&str>) -> Option<Self> {
        match status {
            DeploymentStatus::Complete => Some(Self::Complete),
            DeploymentStatus::Failed => {
                let why = error.filter(|why| !why.is_empty());
                Some(Self::Failed(
                    why.unwrap_or("no reason was given").to_owned(),
                ))
            }
            _ => None,
        }
    }
}

/// Why a job that was to come up never will, if that is plain.
fn gave_up(jobs: &[&Job]) -> Option<String> {
    jobs.iter().find_map(|job| {
        let restarts = job.restarts.unwrap_or(0);
        // A crashed one is started again after a pause; that may help once, or twice.
        let is_over = matches!(job.state, JobState::Failed | JobState::Down);
        if !is_over && restarts < MAX_RESTARTS {
            return None;
        }
        Some(match (&job.host_error, job.exit_status) {
            (Some(error), _) => error.clone(),
            (None, Some(status)) => format!("exit status {status}"),
            (None, None) => "it ended".to_owned(),
        })
    })
}

fn describe(event: &DeploymentEvent) -> Option<String> {
    let state = event.job_state?;
    if event.job_type.is_empty() {
        return None;
    }
    Some(format!("       {} job {state}", event.job_type))
}

/// How often a first job may be started again before it is given up.
const MAX_RESTARTS: u32 = 2;

/// How long an app that does not say may take to come up, in seconds.
const DEPLOY_TIMEOUT_S: u32 = 120;

const POLL: Duration = Duration::from_millis(200);

/// How many times in a row the controller may be away while a deployment is followed: with its own tries, a minute.
const MAX_LOST: u32 = 60;

const LOG_LINES_READ: usize = 200;
const LOG_LINES_SHOWN: usize = 20;
const LOG_TIMEOUT: Duration = Duration::from_secs(5);
