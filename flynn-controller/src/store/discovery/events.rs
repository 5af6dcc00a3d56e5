//! The sequence of events: reading it, and following it through one watch per process.

use std::{collections::VecDeque, sync::Arc};

use flynn_discovery::{
    Backend,
    backend::{Change, Entry, ListOptions, WatchEvent},
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
};

use super::{DiscoveryStore, EventFilter, NewEvent, Outcome, Stored, Txn, prefix, txn};
use crate::{Error, Result, model::Event};

/// How many events a subscriber may be behind before it is dropped.
const BUFFER: usize = 1000;

impl DiscoveryStore {
    pub(super) async fn write_event(&self, event: NewEvent) -> Result<Event> {
        let mut txn = Txn::default();
        txn.event(event);
        match self.commit(&txn).await? {
            Outcome::Done(events) => Ok(events.into_iter().next().expect("one event was written")),
            Outcome::Stale(key) => unreachable!("nothing was expected of {key}"),
        }
    }

    pub(super) async fn find_event(&self, id: i64) -> Result<Option<Event>> {
        let Ok(id) = u64::try_from(id) else {
            return Ok(None);
        };
        let stored = self.read::<txn::StoredEvent>(&txn::event_key(id)?).await?;
        Ok(stored.map(|stored| stored.value.event))
    }

    pub(super) async fn find_events(&self, filter: &EventFilter) -> Result<Vec<Event>> {
        let mut found = Vec::new();
        let mut after = filter.since.unwrap_or(0);
        loop {
            let (events, more) = page(&*self.backend, after).await?;
            let Some(last) = events.last() else { break };
            after = last.id;
            found.extend(events.into_iter().filter(|event| filter.admits(event)));
            if !more || filter.before.is_some_and(|before| after >= before) {
                break;
            }
        }
        found.reverse();
        found.truncate(filter.count.unwrap_or(usize::MAX));
        Ok(found)
    }

    pub(super) fn follow_events(&self, after: Option<i64>) -> BoxStream<'static, Result<Event>> {
        let store = self.clone();
        stream::once(async move { store.open(after).await })
            .flat_map(|opened| match opened {
                Ok(follow) => stream::unfold(Some(follow), next).boxed(),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            })
            .boxed()
    }

    async fn open(&self, after: Option<i64>) -> Result<Follow> {
        let live = self.hub.subscribe().await?;
        let seen = match after {
            Some(after) => after,
            None => self
                .read::<i64>(&super::key("event-seq")?)
                .await?
                .map_or(0, |s| s.value),
        };
        Ok(Follow {
            hub: Arc::clone(&self.hub),
            live,
            seen,
            backlog: VecDeque::new(),
            is_caught_up: false,
        })
    }
}

/// One subscriber: what was written before it came, page by page, then what the hub announces.
#[derive(Debug)]
struct Follow {
    hub: Arc<EventHub>,
    live: broadcast::Receiver<Arc<Event>>,
    seen: i64,
    backlog: VecDeque<Event>,
    is_caught_up: bool,
}

async fn next(follow: Option<Follow>) -> Option<(Result<Event>, Option<Follow>)> {
    let mut follow = follow?;
    loop {
        if let Some(event) = follow.backlog.pop_front() {
            follow.seen = event.id;
            return Some((Ok(event), Some(follow)));
        }
        if !follow.is_caught_up {
            match page(&*follow.hub.backend, follow.seen).await {
                Ok((events, more)) => {
                    follow.backlog.extend(events);
                    follow.is_caught_up = !more;
                    continue;
                }
                Err(error) => return Some((Err(error), None)),
            }
        }
        match follow.live.recv().await {
            Ok(event) if event.id > follow.seen => {
                follow.seen = event.id;
                return Some((Ok((*event).clone()), Some(follow)));
            }
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return Some((Err(Error::Lagged), None)),
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}

/// Follows the events once for all subscribers of a process.
#[derive(Debug)]
pub(super) struct EventHub {
    backend: Arc<dyn Backend>,
    announce: broadcast::Sender<Arc<Event>>,
    /// Begun with the first subscriber, ended with the store.
    task: Mutex<Option<Task>>,
}

#[derive(Debug)]
struct Task {
    handle: JoinHandle<()>,
    is_watching: watch::Receiver<bool>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl EventHub {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            announce: broadcast::Sender::new(BUFFER),
            task: Mutex::default(),
        }
    }

    /// Every event written after this returned is announced to the subscriber.
    async fn subscribe(&self) -> Result<broadcast::Receiver<Arc<Event>>> {
        let live = self.announce.subscribe();
        let mut is_watching = {
            let mut task = self.task.lock();
            if task.as_ref().is_none_or(|task| task.handle.is_finished()) {
                let (tell, is_watching) = watch::channel(false);
                let backend = Arc::clone(&self.backend);
                let handle = tokio::spawn(announce(backend, self.announce.clone(), tell));
                *task = Some(Task {
                    handle,
                    is_watching,
                });
            }
            let task = task.as_ref().expect("it was just begun");
            task.is_watching.clone()
        };
        match is_watching.wait_for(|is_watching| *is_watching).await {
            Ok(_) => Ok(live),
            Err(_) => Err(Error::Unavailable {
                why: "the events cannot be followed: the store refuses to be watched".to_owned(),
            }),
        }
    }
}

async fn announce(
    backend: Arc<dyn Backend>,
    announce: broadcast::Sender<Arc<Event>>,
    is_watching: watch::Sender<bool>,
) {
    let Ok(prefix) = prefix("events") else { return };
    let mut changes = backend.watch(&prefix);
    let mut head: Option<i64> = None;
    while let Some(event) = changes.next().await {
        let entries: Vec<Entry> = match event {
            Ok(WatchEvent::Reset { entries, .. }) => entries,
            Ok(WatchEvent::Changes { changes, .. }) => {
                let puts = changes.into_iter().filter_map(|change| match change {
                    Change::Put(entry) => Some(entry),
                    _ => None,
                });
                puts.collect()
            }
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(%error, "the events are no longer followed");
                return;
            }
        };
        // The first view is what subscribers read for themselves.
        let is_first = head.is_none();
        for entry in entries {
            match Stored::<txn::StoredEvent>::parse(&entry) {
                Ok(stored) if head.is_none_or(|head| stored.value.event.id > head) => {
                    head = Some(stored.value.event.id);
                    if !is_first {
                        // Nobody may be listening just now.
                        let _ = announce.send(Arc::new(stored.value.event));
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "an event is left out"),
            }
        }
        head.get_or_insert(0);
        is_watching.send_replace(true);
    }
}

/// The events after one, oldest first, and whether there are more.
async fn page(backend: &dyn Backend, after: i64) -> Result<(Vec<Event>, bool)> {
    let options = ListOptions {
        after: Some(txn::event_key(u64::try_from(after).unwrap_or(0))?),
        ..ListOptions::default()
    };
    let page = backend.list(&prefix("events")?, options).await?;
    let events = page
        .entries
        .iter()
        .map(|entry| Ok(Stored::<txn::StoredEvent>::parse(entry)?.value.event))
        .collect::<Result<_>>()?;
    Ok((events, page.more))
}
