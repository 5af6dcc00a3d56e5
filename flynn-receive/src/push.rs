//! One push, from the client's first byte to the ref that changes, or does not.
//!
//! ```text
//! client ── git push ──► git receive-pack ── pre-receive ──► build ─► release ─► deploy
//!    ▲                          ▲   objects in quarantine                        │
//!    └── remote: -----> … ──────┴──── accepted, or refused with a sentence ◄─────┘
//! ```
//!
//! Everything happens before the ref changes, so that a push that fails can be pushed again.

use std::{collections::HashSet, process::ExitStatus, sync::Arc};

use async_trait::async_trait;
use flynn_controller::{
    http::Client,
    model::{App, Artifact, Release},
};
use parking_lot::Mutex;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Console, Error, ProcessGroup, Result,
    build::{BuildOrder, BuildRunner, Slug},
    deploy::{Deployer, Outcome},
    error::one_line,
    git::{Hook, Pushed, Repositories, deployable},
    release::next_release,
    script::Group,
    slug::Limits,
    ssh::{GitCommand, GitService, Pusher, Streams},
};

/// Takes pushes.
#[derive(Debug)]
pub(crate) struct Pushes {
    pub(crate) repositories: Repositories,
    pub(crate) controller: Client,
    pub(crate) runner: Arc<dyn BuildRunner>,
    pub(crate) deployer: Deployer,
    pub(crate) source_limits: Limits,
    /// The apps that are being pushed to.
    pub(crate) under_way: Arc<Mutex<HashSet<String>>>,
}

#[async_trait]
impl GitService for Pushes {
    async fn run(
        &self,
        pusher: &Pusher,
        command: GitCommand,
        mut streams: Streams,
        gone: CancellationToken,
    ) -> u32 {
        let GitCommand::ReceivePack { app } = command else {
            let why = "code is not kept to be fetched from here, only `git push` works: clone from where the app's repository lives";
            tell(&mut streams.stderr, why).await;
            return 1;
        };
        match self.prepare(&app).await {
            Ok(push) => self.receive(push, pusher, streams, gone).await,
            Err(error) => {
                info!(app, pusher = pusher.name, %error, "push refused");
                tell(&mut streams.stderr, &one_line(&error)).await;
                1
            }
        }
    }
}

/// A push that may begin.
struct Push {
    app: App,
    deployed: Option<String>,
    /// Held as long as the push goes on.
    _turn: Turn,
}

impl Pushes {
    async fn prepare(&self, name: &str) -> Result<Push> {
        let app = self.app(name).await?;
        if app.is_system() {
            return Err(Error::refused(format!(
                "app {name} is part of the platform and is not deployed with git push"
            )));
        }
        let turn = Turn::take(&self.under_way, &app)?;
        let current = self.current_release(&app).await?;
        Ok(Push {
            deployed: current.and_then(|release| release.meta.get("git.commit").cloned()),
            app,
            _turn: turn,
        })
    }

    async fn receive(
        &self,
        push: Push,
        pusher: &Pusher,
        mut streams: Streams,
        gone: CancellationToken,
    ) -> u32 {
        let app = &push.app.name;
        match self.run_git(&push, &mut streams, &gone).await {
            Ok(status) => {
                let code = status.code().and_then(|code| u32::try_from(code).ok());
                info!(app, pusher = pusher.name, ?code, "push ended");
                code.unwrap_or(1)
            }
            Err(error @ Error::Stopped { .. }) => {
                info!(app, pusher = pusher.name, %error, "push ended early");
                1
            }
            Err(error) => {
                let why = one_line(&error);
                warn!(app, pusher = pusher.name, why, "push failed");
                tell(&mut streams.stderr, &why).await;
                1
            }
        }
    }

    /// Runs `git receive-pack` between the client and the hook.
    async fn run_git(
        &self,
        push: &Push,
        streams: &mut Streams,
        gone: &CancellationToken,
    ) -> Result<ExitStatus> {
        let repository = self.repositories.of_app(&push.app.id).await?;
        repository.offer(push.deployed.as_deref()).await?;
        let dir = self.repositories.scratch("push")?;
        let hook = Hook::new(dir.path())?;
        let mut command = repository.receive_pack(dir.path());
        command.process_group(0);
        let mut git = command
            .spawn()
            .map_err(|e| Error::upstream("git could not be run", e))?;
        let mut group = Group::of(&git, ProcessGroup::Own);
        let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
            (git.stdin.take(), git.stdout.take(), git.stderr.take())
        else {
            unreachable!("all three were asked for");
        };

        let over = gone.child_token();
        let Streams {
            stdin: from_client,
            stdout: to_client,
            stderr: to_person,
        } = streams;
        let talking = async {
            let incoming = async {
                let _ = tokio::io::copy(from_client, &mut stdin).await;
                drop(stdin);
                // What is said to git ends before what git says; only the latter counts.
                std::future::pending::<()>().await;
            };
            let outgoing = async {
                let said = tokio::join!(
                    tokio::io::copy(&mut stdout, to_client),
                    tokio::io::copy(&mut stderr, to_person)
                );
                let _ = said;
                git.wait().await
            };
            tokio::select! {
                status = outgoing => status,
                () = incoming => unreachable!("it never ends"),
            }
        };
        let working = self.answer_hook(hook, push, &repository, &over);
        tokio::pin!(talking, working);
        let mut is_working = true;
        let status = loop {
            tokio::select! {
                status = &mut talking => break Some(status),
                () = &mut working, if is_working => is_working = false,
                () = gone.cancelled() => break None,
            }
        };
        // Without git nobody waits for the hook's answer: what it began is stopped, and has ended when this does.
        over.cancel();
        group.kill();
        if is_working {
            working.await;
        }
        match status {
            Some(status) => status.map_err(|e| Error::upstream("git could not be waited for", e)),
            None => Err(Error::Stopped { what: "the push" }),
        }
    }

    /// Waits for the hook, does what it asks for, and answers it.
    async fn answer_hook(
        &self,
        mut hook: Hook,
        push: &Push,
        repository: &crate::git::Repository,
        over: &CancellationToken,
    ) {
        let pushed = tokio::select! {
            pushed = hook.pushed() => pushed,
            () = over.cancelled() => return,
        };
        let (console, mut written) = Console::new();
        let work = async {
            let result = match pushed {
                Ok(pushed) => self.deploy(push, repository, pushed, &console, over).await,
                Err(error) => Err(error),
            };
            if let Err(error) = &result {
                console.line(format!(" !     {}", one_line(error))).await;
            }
            drop(console);
            result
        };
        let show = async {
            while let Some(bytes) = written.recv().await {
                tokio::select! {
                    shown = hook.show(&bytes) => if shown.is_err() { break },
                    () = over.cancelled() => break,
                }
            }
            // Nobody looks any more: what is written from now on must not wait.
            drop(written);
        };
        let (result, ()) = tokio::join!(work, show);
        if let Err(error) = &result {
            info!(app = push.app.name, %error, "push refused");
        }
        if let Err(error) = hook.end(result.is_ok()).await {
            warn!(%error, "the hook was not answered");
        }
    }

    async fn deploy(
        &self,
        push: &Push,
        repository: &crate::git::Repository,
        pushed: Pushed,
        console: &Console,
        over: &CancellationToken,
    ) -> Result<()> {
        let Push { app, .. } = push;
        let commit = deployable(&pushed.updates)?.new.clone();
        console
            .line(format!("-----> Building {}...", app.name))
            .await;
        let source = self.repositories.scratch("source")?;
        repository
            .checkout(&commit, &pushed.quarantine, source.path(), self.source_limits)
            .await
            .map_err(|error| match error {
                Error::TooLarge { limit, .. } => Error::refused(format!(
                    "the pushed files are more than the {limit} allowed: keep what is large out of the repository"
                )),
                error => error,
            })?;
        if source.path().join(".gitmodules").exists() {
            console
                .line(" !     Submodules are not fetched: what they hold is not part of this build")
                .await;
        }
        let current = self.current_release(app).await?;
        let order = BuildOrder {
            app_id: app.id.clone(),
            app_name: app.name.clone(),
            commit: commit.clone(),
            source: source.path().to_owned(),
            env: current
                .map(|release| (*release.env).clone())
                .unwrap_or_default(),
        };
        let slug = self.runner.build(order, console, over).await?;
        if over.is_cancelled() {
            return Err(Error::Stopped { what: "the push" });
        }
        self.release(app, &commit, &slug, console, over).await
    }

    async fn release(
        &self,
        app: &App,
        commit: &str,
        slug: &Slug,
        console: &Console,
        over: &CancellationToken,
    ) -> Result<()> {
        let artifact = Artifact::slug(
            format!("blob:{}", slug.name),
            slug.sha256.to_string(),
            slug.size,
        );
        for _ in 0..MAX_OVERTAKEN {
            // A release carries on the environment of the one before, so that must not change any more.
            self.deployer.wait_for_turn(app, console, over).await?;
            console.line("-----> Creating release...").await;
            // Both may have changed while the build ran.
            let app = self.app_by_id(app).await?;
            let current = self.current_release(&app).await?;
            let artifact = self
                .controller
                .create_artifact(&artifact)
                .await
                .map_err(|e| Error::upstream("the slug could not be made known", e))?;
            let release = next_release(
                &app.id,
                &app.name,
                current.as_ref(),
                slug,
                &artifact.id,
                commit,
            );
            let release = self
                .controller
                .create_release(&release)
                .await
                .map_err(|e| Error::upstream("the release could not be made", e))?;
            info!(app = app.name, release = release.id, commit, "released");
            let deployed = self
                .deployer
                .deploy(&app, current.as_ref(), &release, console, over)
                .await?;
            if deployed == Outcome::Live {
                return Ok(());
            }
        }
        let name = &app.name;
        Err(Error::refused(format!(
            "other deployments of {name} began first again and again: push again when they have ended, `flynn -a {name} deployment` shows them"
        )))
    }

    async fn app(&self, name: &str) -> Result<App> {
        self.controller.app(name).await.map_err(|error| {
            if error.is_not_found() {
                Error::refused(format!(
                    "app {name} does not exist; create it with `flynn create {name}`"
                ))
            } else {
                Error::upstream("the app could not be looked up", error)
            }
        })
    }

    async fn app_by_id(&self, app: &App) -> Result<App> {
        self.controller.app(&app.id).await.map_err(|error| {
            if error.is_not_found() {
                let name = &app.name;
                Error::refused(format!(
                    "app {name} was deleted while it was built; create it again with `flynn create {name}`"
                ))
            } else {
                Error::upstream("the app could not be looked up", error)
            }
        })
    }

    async fn current_release(&self, app: &App) -> Result<Option<Release>> {
        self.controller
            .current_release(&app.id)
            .await
            .map_err(|e| Error::upstream("the app's release could not be looked up", e))
    }
}

/// The turn of one push to an app; a second has to wait.
struct Turn {
    app_id: String,
    under_way: Arc<Mutex<HashSet<String>>>,
}

impl Turn {
    fn take(under_way: &Arc<Mutex<HashSet<String>>>, app: &App) -> Result<Self> {
        if !under_way.lock().insert(app.id.clone()) {
            return Err(Error::refused(format!(
                "another push to {} is under way: wait for it to end and push again",
                app.name
            )));
        }
        Ok(Self {
            app_id: app.id.clone(),
            under_way: Arc::clone(under_way),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.app_id);
    }
}

/// How often another deployment may begin between our look and our own.
const MAX_OVERTAKEN: u32 = 5;

/// Says a sentence to the one who pushed, before or beside what git says.
async fn tell(stderr: &mut (impl AsyncWrite + Unpin), why: &str) {
    let _ = stderr.write_all(format!("flynn: {why}\n").as_bytes()).await;
    let _ = stderr.flush().await;
}
