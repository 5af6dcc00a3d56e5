//! The keys the controller accepts: their digests lie in the store, under `controller/auth/`, one entry for each.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use flynn_controller::auth::{Action, Authorizer, Resource, StaticKeys};
use flynn_discovery::{
    Backend, Backoff,
    backend::{Condition, Entry, Prefix, WatchEvent},
    http::Secret,
};
use futures::StreamExt as _;
use tokio::{sync::watch, task::JoinHandle};

const PREFIX: &str = "controller/auth/";

/// The keys in the store, followed as they change.
#[derive(Debug, Clone)]
pub struct BackendKeys(watch::Receiver<Option<StaticKeys>>);

impl BackendKeys {
    /// Follows the keys; the task goes on until it is aborted.
    #[must_use]
    pub fn follow(backend: Arc<dyn Backend>) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = watch::channel(None);
        let task = tokio::spawn(async move {
            let mut delays = Backoff::default();
            loop {
                if let Err(error) = follow(&*backend, &sender).await {
                    tracing::warn!(%error, "the controller's keys cannot be followed, trying again");
                }
                tokio::time::sleep(delays.next().unwrap_or_default()).await;
            }
        });
        (Self(receiver), task)
    }
}

#[async_trait]
impl Authorizer for BackendKeys {
    async fn is_allowed(
        &self,
        key: &str,
        action: Action,
        resource: &Resource<'_>,
    ) -> flynn_controller::Result<bool> {
        let mut receiver = self.0.clone();
        // Before the first look at the store nobody can be judged.
        let keys = match receiver.wait_for(Option::is_some).await {
            Ok(keys) => keys.clone(),
            Err(_) => None,
        };
        match keys {
            Some(keys) => keys.is_allowed(key, action, resource).await,
            None => Ok(false),
        }
    }
}

/// Lets the holder of a key in; only its digest is kept.
///
/// # Errors
///
/// When the store cannot be written.
pub async fn allow_key(backend: &Arc<dyn Backend>, name: &str, key: &Secret) -> Result<()> {
    let digest = StaticKeys::digest_of(key.expose());
    // Several keys may have one name: a repeated bootstrap makes new ones, and those given out before stay good.
    let short: String = digest.chars().take(12).collect();
    let path = Prefix::parse(PREFIX)?.key(format_args!("{name}-{short}"))?;
    backend.put(&path, digest.into(), Condition::Any).await?;
    Ok(())
}

async fn follow(backend: &dyn Backend, sender: &watch::Sender<Option<StaticKeys>>) -> Result<()> {
    let prefix = Prefix::parse(PREFIX)?;
    let mut events = backend.watch(&prefix);
    while let Some(event) = events.next().await {
        let entries = match event? {
            WatchEvent::Reset { entries, .. } => entries,
            // Keys change rarely: reading all of them again is simpler than keeping them in step.
            _ => flynn_discovery::backend::list_all(backend, &prefix).await?,
        };
        sender.send_replace(Some(keys_in(&entries)));
    }
    Ok(())
}

fn keys_in(entries: &[Entry]) -> StaticKeys {
    let digests = entries
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.value));
    StaticKeys::from_digests(digests).unwrap_or_else(|error| {
        tracing::error!(%error, "a key's digest in the store is damaged: nobody is let in until it is removed from {PREFIX}");
        StaticKeys::default()
    })
}
