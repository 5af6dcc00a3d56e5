//! Deployments: each is claimed by one controller, which takes it forward step by step.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flynn_sched::ClusterState;
use tokio::{sync::watch, task::JoinSet};

use super::{Work, claim::while_held, retry, until_stopped};
use crate::{
    Error, Result,
    deploy::{
        Action, DEFAULT_STRATEGY, DEFAULT_TIMEOUT, DeployStrategy, Plan, Rollout, Wait, observe,
        strategy,
    },
    model::{Deployment, DeploymentEvent, DeploymentStatus, JobState, Release, Time},
    store::{Advance, Claim, DeploymentRecord, Store},
};

/// How often to try to claim deployments that others have.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// The most deployments that one controller takes forward at once.
const MAX_AT_ONCE: usize = 64;

/// Claims deployments and takes them forward.
pub(super) async fn take(mut work: Work) {
    let mut running: JoinSet<String> = JoinSet::new();
    let mut ours: BTreeSet<String> = BTreeSet::new();
    loop {
        let catalog = work.catalog.borrow_and_update().clone().unwrap_or_default();
        let mut has_open = false;
        for record in catalog.open_deployments() {
            let id = &record.deployment.id;
            has_open = true;
            if ours.contains(id) || ours.len() >= MAX_AT_ONCE {
                continue;
            }
            let name = format!("deployment-{id}");
            match work
                .platform
                .store()
                .claim(&name, &work.holder, work.claim_ttl)
                .await
            {
                Ok(Some(claim)) => {
                    ours.insert(id.clone());
                    running.spawn(one(work.clone(), id.clone(), claim));
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "a deployment cannot be claimed just now"),
            }
        }
        tokio::select! {
            Ok(()) = work.catalog.changed() => {}
            Some(ended) = running.join_next() => match ended {
                Ok(id) => {
                    ours.remove(&id);
                }
                // A panic has lost the name with the task: whatever is open is claimed anew.
                Err(_) => ours.clear(),
            },
            () = tokio::time::sleep(TRY_EVERY), if has_open => {}
            () = until_stopped(work.stopped.clone()) => break,
        }
    }
    // Each gives its claim back.
    while running.join_next().await.is_some() {}
}

async fn one(work: Work, id: String, claim: Claim) -> String {
    let store = Arc::clone(work.platform.store());
    let driver = Driver {
        store: Arc::clone(&store),
        claim: claim.clone(),
        state: work.state.clone(),
    };
    let driven = driver.run(&id);
    match while_held(&*store, claim, work.claim_ttl, work.stopped, driven).await {
        Some(Err(Error::ClaimLost { .. })) | None => {
            tracing::info!(deployment = %id, "this controller leaves the deployment to others");
        }
        Some(Err(error)) => {
            tracing::error!(deployment = %id, %error, "the deployment cannot go on");
        }
        Some(Ok(())) => {}
    }
    id
}

struct Driver {
    store: Arc<dyn Store>,
    claim: Claim,
    state: watch::Receiver<Option<Arc<ClusterState>>>,
}

impl Driver {
    async fn run(mut self, id: &str) -> Result<()> {
        let Some(mut record) = patiently(|| self.store.deployment(id)).await? else {
            return Ok(());
        };
        let deployment = record.deployment.clone();
        let new = self.release(&deployment.new_release).await?;
        let old = match &deployment.old_release {
            Some(old) => self.release(old).await?,
            None => None,
        };
        let Some(new) = new else {
            let reason = format!("release {} does not exist any more", deployment.new_release);
            return self.fail(record, reason).await;
        };
        let strategy = strategy(&deployment.strategy, deployment.batch_size)
            .or_else(|| strategy(DEFAULT_STRATEGY, None))
            .expect("the default strategy exists");
        let plan = plan(&deployment, &*strategy);
        loop {
            let state = self.state.borrow_and_update().clone();
            let Some(state) = state else {
                self.wait(None).await?;
                continue;
            };
            let now_ms = Time::now().as_millis();
            let observed = observe(&state, old.as_ref(), &new, now_ms);
            let before = record.rollout.clone();
            match record.rollout.step(plan, now_ms, &observed) {
                Action::WakeAt(at_ms) => {
                    let wait = Duration::from_millis(at_ms.saturating_sub(now_ms).max(1));
                    self.wait(Some(wait)).await?;
                }
                Action::Scale => {
                    record.deployment.status = DeploymentStatus::Running;
                    let mut events = reached(&record.deployment, &before);
                    events.extend(begun(&record.deployment, &record.rollout));
                    let advance = Advance {
                        old: Some(record.rollout.old.clone()),
                        new: Some(record.rollout.new.clone()),
                        record,
                        events,
                    };
                    record = self.advance(advance).await?;
                }
                Action::Complete => {
                    let mut events = reached(&record.deployment, &before);
                    record.deployment.status = DeploymentStatus::Complete;
                    record.deployment.finished_at = Some(Time::now());
                    events.push(event(&record.deployment, &record.deployment.new_release));
                    let advance = Advance {
                        record,
                        old: None,
                        new: None,
                        events,
                    };
                    return self.advance(advance).await.map(|_| ());
                }
                Action::Fail { reason } => return self.fail(record, reason).await,
            }
        }
    }

    /// Restores the old counts, removes the new jobs and tells why.
    async fn fail(&self, mut record: DeploymentRecord, reason: String) -> Result<()> {
        let deployment = &mut record.deployment;
        deployment.status = DeploymentStatus::Failed;
        deployment.finished_at = Some(Time::now());
        deployment.error = Some(reason.clone());
        let mut failed = event(deployment, &deployment.new_release);
        failed.error = reason;
        let advance = Advance {
            old: Some(deployment.processes.clone()),
            new: None,
            record,
            events: vec![failed],
        };
        self.advance(advance).await.map(|_| ())
    }

    async fn advance(&self, advance: Advance) -> Result<DeploymentRecord> {
        patiently(|| self.store.advance_deployment(&self.claim, advance.clone())).await
    }

    async fn release(&self, id: &str) -> Result<Option<Release>> {
        patiently(|| self.store.release(id)).await
    }

    /// Waits until the cell has changed, for at most so long.
    async fn wait(&mut self, most: Option<Duration>) -> Result<()> {
        let most = most.unwrap_or(Duration::from_secs(3600));
        match tokio::time::timeout(most, self.state.changed()).await {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(_)) => Err(Error::Unavailable {
                why: "the controller ends".to_owned(),
            }),
        }
    }
}

/// Tries again while the store is out of reach. The claim runs out meanwhile, which ends this.
async fn patiently<T, F: Future<Output = Result<T>>>(ask: impl Fn() -> F) -> Result<T> {
    let mut backoff = retry();
    loop {
        match ask().await {
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "a deployment waits for the store");
                backoff.wait().await;
            }
            other => return other,
        }
    }
}

fn plan<'a>(deployment: &'a Deployment, strategy: &'a dyn DeployStrategy) -> Plan<'a> {
    Plan {
        strategy,
        goal: &deployment.processes,
        timeout: Duration::from_secs(deployment.timeout.unwrap_or(DEFAULT_TIMEOUT).into()),
    }
}

fn event(deployment: &Deployment, release: &str) -> DeploymentEvent {
    DeploymentEvent {
        app: deployment.app.clone(),
        deployment: deployment.id.clone(),
        release: release.to_owned(),
        status: deployment.status,
        ..DeploymentEvent::default()
    }
}

/// What to tell of a step that is over.
fn reached(deployment: &Deployment, step: &Rollout) -> Vec<DeploymentEvent> {
    match step.wait {
        Wait::Nothing => Vec::new(),
        Wait::Up => told(deployment, step, true, JobState::Up),
        Wait::Down => told(deployment, step, false, JobState::Down),
    }
}

/// What to tell of a step that begins.
fn begun(deployment: &Deployment, step: &Rollout) -> Vec<DeploymentEvent> {
    match step.wait {
        Wait::Up => told(deployment, step, true, JobState::Starting),
        Wait::Down | Wait::Nothing => told(deployment, step, false, JobState::Stopping),
    }
}

fn told(
    deployment: &Deployment,
    step: &Rollout,
    is_new: bool,
    state: JobState,
) -> Vec<DeploymentEvent> {
    let release = if is_new {
        &deployment.new_release
    } else {
        deployment
            .old_release
            .as_ref()
            .unwrap_or(&deployment.new_release)
    };
    let events = step.moving.iter().map(|name| {
        let mut event = event(deployment, release);
        event.status = DeploymentStatus::Running;
        event.job_type.clone_from(name);
        event.job_state = Some(state);
        event
    });
    events.collect()
}
