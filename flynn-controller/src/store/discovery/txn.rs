//! One change of the store: conditions, writes and the events that tell of them, all or nothing.

use std::time::Duration;

use flynn_discovery::backend::{Compare, Condition, Key, MAX_OPS, Op, Revision};
use serde::{Deserialize, Serialize};

use super::{DiscoveryStore, MAX_EVENTS, NewEvent, Stored, key};
use crate::{
    Error, Result,
    model::{Event, Time},
};

/// A change in the making.
#[derive(Debug, Default)]
pub(super) struct Txn {
    compares: Vec<Compare>,
    ops: Vec<Op>,
    events: Vec<NewEvent>,
}

impl Txn {
    pub(super) fn expect(&mut self, key: &Key, condition: Condition) -> &mut Self {
        self.compares.extend(condition.on(key));
        self
    }

    /// The record must still be as it was read.
    pub(super) fn unchanged<T>(&mut self, stored: &Stored<T>) -> &mut Self {
        self.expect(&stored.key, Condition::Version(stored.version))
    }

    pub(super) fn put(&mut self, key: Key, value: &impl Serialize) -> &mut Self {
        let value = serde_json::to_vec(value).expect("the model is JSON");
        self.ops.push(Op::put(key, value));
        self
    }

    pub(super) fn delete(&mut self, key: Key) -> &mut Self {
        self.ops.push(Op::delete(key));
        self
    }

    pub(super) fn event(&mut self, event: NewEvent) -> &mut Self {
        self.events.push(event);
        self
    }

    /// How many of the backend's operations it takes, with room for the events'.
    pub(super) fn len(&self) -> usize {
        self.compares.len() + self.ops.len() + 2 * self.events.len() + 2
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() + 64 >= MAX_OPS
    }
}

/// What became of a change.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was made.
    Done(Vec<Event>),
    /// This key was not as expected; nothing was changed. Read again.
    Stale(Key),
}

/// The number of the last event as far as this process knows, and the version of the key that holds it.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    known: Option<(u64, Condition)>,
}

/// How an event is stored: with the name of the transaction that wrote it, so that a transaction whose answer was lost
/// can be recognised.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredEvent {
    pub(super) txn: String,
    pub(super) event: Event,
}

impl DiscoveryStore {
    /// Makes a change with its events, numbered in the order of changes.
    ///
    /// The number of the last event is a key that every change compares and writes; whoever comes second tries again.
    /// So a change whose answer was lost can be tried again safely too: it cannot happen twice.
    pub(super) async fn commit(&self, txn: &Txn) -> Result<Outcome> {
        if txn.events.is_empty() {
            return match self
                .backend
                .commit(txn.compares.clone(), txn.ops.clone())
                .await
            {
                Ok(_) => Ok(Outcome::Done(Vec::new())),
                Err(flynn_discovery::Error::Conflict { key }) => Ok(Outcome::Stale(key)),
                Err(error) => Err(error.into()),
            };
        }
        let sequence_key = key("event-seq")?;
        let name = uuid::Uuid::new_v4().to_string();
        let mut sequence = self.sequence.lock().await;
        let mut in_doubt: Option<u64> = None;
        for attempt in 0..Self::MAX_ATTEMPTS {
            let (last, condition) = match sequence.known.take() {
                Some(known) => known,
                None => match self.read::<u64>(&sequence_key).await? {
                    Some(stored) => (stored.value, Condition::Version(stored.version)),
                    None => (0, Condition::Absent),
                },
            };
            let created_at = Some(Time::now());
            let events: Vec<Event> = (last + 1..)
                .zip(&txn.events)
                .map(|(id, event)| Event {
                    id: i64::try_from(id).expect("fewer than 2^63 events"),
                    app: event.app.clone(),
                    kind: event.kind,
                    object_id: event.object_id.clone(),
                    data: event.data.clone(),
                    created_at,
                })
                .collect();
            let next = last + txn.events.len() as u64;
            let mut compares = txn.compares.clone();
            compares.extend(condition.on(&sequence_key));
            let mut ops = txn.ops.clone();
            ops.push(Op::put(sequence_key.clone(), next.to_string()));
            for (id, event) in (last + 1..).zip(&events) {
                let stored = StoredEvent {
                    txn: name.clone(),
                    event: event.clone(),
                };
                let value = serde_json::to_vec(&stored).expect("an event is JSON");
                ops.push(Op::put(event_key(id)?, value));
                if let Some(expired) = id.checked_sub(MAX_EVENTS).filter(|id| *id > 0) {
                    ops.push(Op::delete(event_key(expired)?));
                }
            }
            match self.backend.commit(compares, ops).await {
                Ok(revision) => {
                    sequence.known = Some((next, version(revision)));
                    return Ok(Outcome::Done(events));
                }
                Err(flynn_discovery::Error::Conflict { key }) => {
                    if let Some(first) = in_doubt
                        && let Some(events) = self.written_by(&name, first).await?
                    {
                        return Ok(Outcome::Done(events));
                    }
                    if key != sequence_key {
                        return Ok(Outcome::Stale(key));
                    }
                }
                Err(flynn_discovery::Error::Unknown { .. }) if in_doubt.is_none() => {
                    in_doubt = Some(last + 1);
                    sequence.known = Some((last, condition));
                }
                Err(error) => return Err(error.into()),
            }
            pause(attempt).await;
        }
        Err(Error::Contended {
            what: "the sequence of events".to_owned(),
        })
    }

    /// The events that the transaction `name` wrote, if it wrote the one with the number `first`.
    async fn written_by(&self, name: &str, first: u64) -> Result<Option<Vec<Event>>> {
        let mut events = Vec::new();
        for id in first.. {
            match self.read::<StoredEvent>(&event_key(id)?).await? {
                Some(stored) if stored.value.txn == name => events.push(stored.value.event),
                Some(_) | None => break,
            }
        }
        Ok((!events.is_empty()).then_some(events))
    }
}

/// Waits a little before the next attempt, longer and more randomly the more there were.
pub(super) async fn pause(attempt: usize) {
    if attempt == 0 {
        return;
    }
    let most = 1_u64 << attempt.min(6);
    let millis = rand::random_range(0..=most);
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

pub(super) fn event_key(id: u64) -> Result<Key> {
    key(format_args!("events/{id:020}"))
}

fn version(revision: Revision) -> Condition {
    Condition::Version(revision)
}
