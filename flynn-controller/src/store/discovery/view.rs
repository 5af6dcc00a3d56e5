//! The catalog, kept up to date by a watch.

use std::{collections::BTreeMap, sync::Arc};

use flynn_discovery::{
    Backend,
    backend::{Change, Entry, Key, Prefix, WatchEvent},
};
use futures::{StreamExt as _, stream, stream::BoxStream};
use serde::de::DeserializeOwned;

use super::{Catalog, prefix};
use crate::{Error, Result};

/// The present catalog at once, then the newest after every change.
pub(super) fn follow(backend: &dyn Backend) -> BoxStream<'static, Result<Catalog>> {
    let below = match prefix("state") {
        Ok(below) => below,
        Err(error) => return stream::once(async { Err(error) }).boxed(),
    };
    // Changes that came meanwhile are taken in one go: a slow reader sees the newest only.
    let changes = backend.watch(&below).ready_chunks(256);
    stream::unfold(
        Some((changes, Catalog::default(), below)),
        |state| async move {
            let (mut changes, mut catalog, below) = state?;
            for event in changes.next().await? {
                match event {
                    Ok(event) => apply(&mut catalog, &below, event),
                    Err(error) => return Some((Err(Error::Store(error)), None)),
                }
            }
            Some((Ok(catalog.clone()), Some((changes, catalog, below))))
        },
    )
    .boxed()
}

fn apply(catalog: &mut Catalog, below: &Prefix, event: WatchEvent) {
    match event {
        WatchEvent::Reset { entries, .. } => {
            *catalog = Catalog::default();
            for entry in entries {
                put(catalog, below, &entry);
            }
        }
        WatchEvent::Changes { changes, .. } => {
            for change in changes {
                match change {
                    Change::Put(entry) => put(catalog, below, &entry),
                    Change::Delete(key) => delete(catalog, below, &key),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn put(catalog: &mut Catalog, below: &Prefix, entry: &Entry) {
    let Some((kind, path)) = split(below, &entry.key) else {
        return;
    };
    let done = match kind {
        "apps" => insert(&mut catalog.apps, path.to_owned(), entry),
        "artifacts" => insert(&mut catalog.artifacts, path.to_owned(), entry),
        "releases" => insert(&mut catalog.releases, last(path), entry),
        "formations" => insert(&mut catalog.formations, pair(path), entry),
        "scales" => insert(&mut catalog.scales, pair(path), entry),
        "deployments" => insert(&mut catalog.deployments, last(path), entry),
        "deletions" => insert(&mut catalog.deletions, path.to_owned(), entry),
        _ => Ok(()),
    };
    if let Err(error) = done {
        // One damaged record must not stop the rest of the platform. The record may hold secrets: only where it is.
        tracing::error!(key = %entry.key, line = error.line(), column = error.column(), "a damaged record is left out");
    }
}

fn delete(catalog: &mut Catalog, below: &Prefix, key: &Key) {
    let Some((kind, path)) = split(below, key) else {
        return;
    };
    match kind {
        "apps" => drop(Arc::make_mut(&mut catalog.apps).remove(path)),
        "artifacts" => drop(Arc::make_mut(&mut catalog.artifacts).remove(path)),
        "releases" => drop(Arc::make_mut(&mut catalog.releases).remove(&last(path))),
        "formations" => drop(Arc::make_mut(&mut catalog.formations).remove(&pair(path))),
        "scales" => drop(Arc::make_mut(&mut catalog.scales).remove(&pair(path))),
        "deployments" => drop(Arc::make_mut(&mut catalog.deployments).remove(&last(path))),
        "deletions" => drop(Arc::make_mut(&mut catalog.deletions).remove(path)),
        _ => {}
    }
}

fn split<'k>(below: &Prefix, key: &'k Key) -> Option<(&'k str, &'k str)> {
    below.strip(key)?.split_once('/')
}

fn insert<K: Ord + Clone, T: DeserializeOwned + Clone>(
    map: &mut Arc<BTreeMap<K, Arc<T>>>,
    key: K,
    entry: &Entry,
) -> Result<(), serde_json::Error> {
    let value = serde_json::from_slice(&entry.value)?;
    Arc::make_mut(map).insert(key, Arc::new(value));
    Ok(())
}

fn last(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn pair(path: &str) -> (String, String) {
    let (app, release) = path.split_once('/').unwrap_or((path, ""));
    (app.to_owned(), release.to_owned())
}
