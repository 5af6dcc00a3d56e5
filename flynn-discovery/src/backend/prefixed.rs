//! A backend within a backend: everything below a namespace.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};

use super::{
    Backend, Capabilities, Change, Compare, Condition, Entry, Key, LeaseId, ListOptions, Op, Page,
    Prefix, Revision, WatchEvent,
};
use crate::{Error, Result};

/// Puts a namespace before every key, so that several users of one store do not see each other.
///
/// Revisions and leases are those of the whole store.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> flynn_discovery::Result<()> {
/// use std::sync::Arc;
/// use flynn_discovery::backend::{Backend, Condition, Key, MemoryBackend, Prefix, PrefixedBackend};
///
/// let store: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
/// let blue = PrefixedBackend::new(Arc::clone(&store), Prefix::parse("blue/")?);
/// blue.put(&Key::parse("color")?, "#00f".into(), Condition::Any).await?;
/// assert!(store.get(&Key::parse("blue/color")?).await?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PrefixedBackend {
    inner: Arc<dyn Backend>,
    namespace: Prefix,
}

impl PrefixedBackend {
    /// The part of `inner` below `namespace`.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>, namespace: Prefix) -> Self {
        Self { inner, namespace }
    }

    fn outer(&self, key: &Key) -> Result<Key> {
        self.namespace.key(key)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Backend for PrefixedBackend {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let entry = self.inner.get(&self.outer(key)?).await?;
        entry
            .map(|entry| inner_entry(&self.namespace, entry))
            .transpose()
    }

    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<Page> {
        let after = options.after.as_ref().map(|key| self.outer(key));
        let options = ListOptions {
            after: after.transpose()?,
            ..options
        };
        let page = self
            .inner
            .list(&self.namespace.prefix(prefix)?, options)
            .await?;
        Ok(Page {
            entries: inner_entries(&self.namespace, page.entries)?,
            ..page
        })
    }

    async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Revision> {
        let compares = compares
            .into_iter()
            .map(|compare| {
                Ok(Compare {
                    key: self.outer(&compare.key)?,
                    ..compare
                })
            })
            .collect::<Result<_>>()?;
        let ops = ops
            .into_iter()
            .map(|op| {
                Ok(match op {
                    Op::Put { key, value, lease } => Op::Put {
                        key: self.outer(&key)?,
                        value,
                        lease,
                    },
                    Op::Delete { key } => Op::Delete {
                        key: self.outer(&key)?,
                    },
                })
            })
            .collect::<Result<_>>()?;
        self.in_namespace(self.inner.commit(compares, ops).await)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.inner.revoke(lease).await
    }

    fn watch(&self, prefix: &Prefix) -> BoxStream<'static, Result<WatchEvent>> {
        let namespace = self.namespace.clone();
        match namespace.prefix(prefix) {
            Ok(prefix) => self
                .inner
                .watch(&prefix)
                .map(move |event| inner_event(&namespace, event?))
                .boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn put(&self, key: &Key, value: Bytes, condition: Condition) -> Result<Revision> {
        let put = self.inner.put(&self.outer(key)?, value, condition).await;
        self.in_namespace(put)
    }

    async fn delete(&self, key: &Key, condition: Condition) -> Result<Revision> {
        let deleted = self.inner.delete(&self.outer(key)?, condition).await;
        self.in_namespace(deleted)
    }
}

impl PrefixedBackend {
    /// The answer with the caller's name of the key in it.
    fn in_namespace<T>(&self, answer: Result<T>) -> Result<T> {
        match answer {
            Err(Error::Conflict { key }) => Err(Error::Conflict {
                key: inner_key(&self.namespace, &key)?,
            }),
            other => other,
        }
    }
}

fn inner_key(namespace: &Prefix, key: &Key) -> Result<Key> {
    match namespace.strip(key) {
        Some(rest) => Key::parse(rest),
        None => Err(Error::Protocol {
            why: format!("the store answered with {key}, which is not below {namespace}"),
        }),
    }
}

fn inner_entry(namespace: &Prefix, entry: Entry) -> Result<Entry> {
    Ok(Entry {
        key: inner_key(namespace, &entry.key)?,
        ..entry
    })
}

fn inner_entries(namespace: &Prefix, entries: Vec<Entry>) -> Result<Vec<Entry>> {
    entries
        .into_iter()
        .map(|entry| inner_entry(namespace, entry))
        .collect()
}

fn inner_event(namespace: &Prefix, event: WatchEvent) -> Result<WatchEvent> {
    Ok(match event {
        WatchEvent::Reset { entries, revision } => WatchEvent::Reset {
            entries: inner_entries(namespace, entries)?,
            revision,
        },
        WatchEvent::Changes { changes, revision } => WatchEvent::Changes {
            changes: changes
                .into_iter()
                .map(|change| {
                    Ok(match change {
                        Change::Put(entry) => Change::Put(inner_entry(namespace, entry)?),
                        Change::Delete(key) => Change::Delete(inner_key(namespace, &key)?),
                    })
                })
                .collect::<Result<_>>()?,
            revision,
        },
    })
}
