//! How the store's vocabulary looks on the wire: short JSON, values in base64.

use base64::{Engine, display::Base64Display, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::backend::{
    Capabilities, Change, Compare, Condition, Entry, Key, LeaseId, Op, Page, Revision, WatchEvent,
};

/// A value. JSON has no bytes, and an array of numbers would be four times as long.
#[derive(Debug, Clone)]
pub(crate) struct Base64(pub(crate) Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &BASE64_STANDARD))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Base64;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value in base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Base64, E> {
                BASE64_STANDARD
                    .decode(text)
                    .map(|bytes| Base64(bytes.into()))
                    .map_err(|e| E::custom(format!("a value is not base64: {e}")))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireEntry {
    key: Key,
    value: Base64,
    version: Revision,
    created: Revision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseId>,
}

impl From<Entry> for WireEntry {
    fn from(entry: Entry) -> Self {
        Self {
            key: entry.key,
            value: Base64(entry.value),
            version: entry.version,
            created: entry.created,
            lease: entry.lease,
        }
    }
}

impl From<WireEntry> for Entry {
    fn from(wire: WireEntry) -> Self {
        Self {
            key: wire.key,
            value: wire.value.0,
            version: wire.version,
            created: wire.created,
            lease: wire.lease,
        }
    }
}

/// The answer to `GET /kv/get`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) entry: Option<WireEntry>,
}

/// The answer to `GET /kv/list`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WirePage {
    entries: Vec<WireEntry>,
    revision: Revision,
    #[serde(default)]
    more: bool,
}

impl From<Page> for WirePage {
    fn from(page: Page) -> Self {
        Self {
            entries: page.entries.into_iter().map(Into::into).collect(),
            revision: page.revision,
            more: page.more,
        }
    }
}

impl From<WirePage> for Page {
    fn from(wire: WirePage) -> Self {
        Self {
            entries: wire.entries.into_iter().map(Into::into).collect(),
            revision: wire.revision,
            more: wire.more,
        }
    }
}

/// The body of `POST /kv/commit`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireCommit {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    compares: Vec<WireCompare>,
    ops: Vec<WireOp>,
}

impl WireCommit {
    pub(crate) fn new(compares: Vec<Compare>, ops: Vec<Op>) -> Self {
        Self {
            compares: compares.into_iter().map(Into::into).collect(),
            ops: ops.into_iter().map(Into::into).collect(),
        }
    }

    pub(crate) fn into_parts(self) -> (Vec<Compare>, Vec<Op>) {
        let compares = self.compares.into_iter().map(Into::into).collect();
        (compares, self.ops.into_iter().map(Into::into).collect())
    }
}

/// `{"key": "a", "is": "absent"}`, `{"key": "a", "is": {"version": 5}}`.
#[derive(Debug, Serialize, Deserialize)]
struct WireCompare {
    key: Key,
    is: WireCondition,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireCondition {
    Any,
    Absent,
    Present,
    Version(Revision),
}

impl From<Compare> for WireCompare {
    fn from(compare: Compare) -> Self {
        let is = match compare.condition {
            Condition::Any => WireCondition::Any,
            Condition::Absent => WireCondition::Absent,
            Condition::Present => WireCondition::Present,
            Condition::Version(version) => WireCondition::Version(version),
        };
        Self {
            key: compare.key,
            is,
        }
    }
}

impl From<WireCompare> for Compare {
    fn from(wire: WireCompare) -> Self {
        let condition = match wire.is {
            WireCondition::Any => Condition::Any,
            WireCondition::Absent => Condition::Absent,
            WireCondition::Present => Condition::Present,
            WireCondition::Version(version) => Condition::Version(version),
        };
        Self {
            key: wire.key,
            condition,
        }
    }
}

/// `{"put": {"key": "a", "value": "…"}}`, `{"delete": "a"}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireOp {
    Put {
        key: Key,
        value: Base64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease: Option<LeaseId>,
    },
    Delete(Key),
}

impl From<Op> for WireOp {
    fn from(op: Op) -> Self {
        match op {
            Op::Put { key, value, lease } => Self::Put {
                key,
                value: Base64(value),
                lease,
            },
            Op::Delete { key } => Self::Delete(key),
        }
    }
}

impl From<WireOp> for Op {
    fn from(wire: WireOp) -> Self {
        match wire {
            WireOp::Put { key, value, lease } => Self::Put {
                key,
                value: value.0,
                lease,
            },
            WireOp::Delete(key) => Self::Delete { key },
        }
    }
}

/// The answer to a commit.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) revision: Revision,
}

/// The body of `POST /kv/leases`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) ttl_ms: u64,
}

/// The answer to a grant.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Granted {
    pub(crate) lease: LeaseId,
}

/// The body of `POST /kv/leases/keepalive`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeepAlive {
    pub(crate) leases: Vec<LeaseId>,
}

/// The answer to it: those that are gone. The others live on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptAlive {
    #[serde(default)]
    pub(crate) lost: Vec<LeaseId>,
}

/// The answer to `GET /kv/capabilities`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireCapabilities {
    backend: String,
    is_durable: bool,
    linearizable_reads: bool,
    min_ttl_ms: u64,
    max_value_len: usize,
}

impl WireCapabilities {
    pub(crate) fn new(backend: &str, capabilities: Capabilities) -> Self {
        Self {
            backend: backend.to_owned(),
            is_durable: capabilities.is_durable,
            linearizable_reads: capabilities.linearizable_reads,
            min_ttl_ms: u64::try_from(capabilities.min_ttl.as_millis()).unwrap_or(u64::MAX),
            max_value_len: capabilities.max_value_len,
        }
    }
}

impl From<WireCapabilities> for Capabilities {
    fn from(wire: WireCapabilities) -> Self {
        Self {
            is_durable: wire.is_durable,
            linearizable_reads: wire.linearizable_reads,
            min_ttl: std::time::Duration::from_millis(wire.min_ttl_ms),
            max_value_len: wire.max_value_len,
        }
    }
}

/// One line of `GET /kv/watch`. An event that is long takes several; all but its last say `more`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WatchLine {
    Reset {
        revision: Revision,
        entries: Vec<WireEntry>,
        #[serde(default, skip_serializing_if = "is_false")]
        more: bool,
    },
    Changes {
        revision: Revision,
        changes: Vec<WireChange>,
        #[serde(default, skip_serializing_if = "is_false")]
        more: bool,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WireChange {
    Put(WireEntry),
    Delete(Key),
}

impl From<Change> for WireChange {
    fn from(change: Change) -> Self {
        match change {
            Change::Put(entry) => Self::Put(entry.into()),
            Change::Delete(key) => Self::Delete(key),
        }
    }
}

impl From<WireChange> for Change {
    fn from(wire: WireChange) -> Self {
        match wire {
            WireChange::Put(entry) => Self::Put(entry.into()),
            WireChange::Delete(key) => Self::Delete(key),
        }
    }
}

/// A line holds entries up to about this size, and one entry more.
const LINE_BYTES: usize = 256 * 1024;

/// Splits an event into lines.
pub(crate) fn lines(event: WatchEvent) -> Vec<WatchLine> {
    match event {
        WatchEvent::Reset { entries, revision } => chunks(entries, entry_size)
            .into_iter()
            .map(|(entries, more)| WatchLine::Reset {
                revision,
                entries: entries.into_iter().map(Into::into).collect(),
                more,
            })
            .collect(),
        WatchEvent::Changes { changes, revision } => chunks(changes, change_size)
            .into_iter()
            .map(|(changes, more)| WatchLine::Changes {
                revision,
                changes: changes.into_iter().map(Into::into).collect(),
                more,
            })
            .collect(),
    }
}

/// Runs of items of bounded size, each with whether more follow; one empty run for no items.
fn chunks<T>(items: Vec<T>, size: impl Fn(&T) -> usize) -> Vec<(Vec<T>, bool)> {
    let mut chunks = vec![(Vec::new(), false)];
    let mut bytes = 0;
    for item in items {
        if bytes > LINE_BYTES {
            bytes = 0;
            chunks.push((Vec::new(), false));
        }
        bytes += size(&item);
        if let Some((chunk, _)) = chunks.last_mut() {
            chunk.push(item);
        }
    }
    let last = chunks.len() - 1;
    for (_, more) in &mut chunks[..last] {
        *more = true;
    }
    chunks
}

fn entry_size(entry: &Entry) -> usize {
    64 + entry.key.as_str().len() + entry.value.len()
}

fn change_size(change: &Change) -> usize {
    match change {
        Change::Put(entry) => entry_size(entry),
        Change::Delete(key) => 16 + key.as_str().len(),
    }
}

/// Puts events together again.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    entries: Vec<Entry>,
    changes: Vec<Change>,
}

impl Assembly {
    /// Takes a line; gives the event it completes.
    pub(crate) fn add(&mut self, line: WatchLine) -> Option<WatchEvent> {
        match line {
            WatchLine::Reset {
                revision,
                entries,
                more,
            } => {
                self.entries.extend(entries.into_iter().map(Entry::from));
                (!more).then(|| WatchEvent::Reset {
                    entries: std::mem::take(&mut self.entries),
                    revision,
                })
            }
            WatchLine::Changes {
                revision,
                changes,
                more,
            } => {
                self.changes.extend(changes.into_iter().map(Change::from));
                (!more).then(|| WatchEvent::Changes {
                    changes: std::mem::take(&mut self.changes),
                    revision,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: usize, len: usize) -> Entry {
        Entry {
            key: Key::parse(format!("k{n:05}")).unwrap(),
            value: Bytes::from(vec![b'x'; len]),
            version: Revision(1),
            created: Revision(1),
            lease: n.is_multiple_of(2).then_some(LeaseId(7)),
        }
    }

    #[test]
    fn any_event_survives_the_way_over_the_wire() {
        let many: Vec<_> = (0..1000).map(|n| entry(n, 1000)).collect();
        for event in [
            WatchEvent::Reset {
                entries: vec![],
                revision: Revision(0),
            },
            WatchEvent::Reset {
                entries: many.clone(),
                revision: Revision(3),
            },
            WatchEvent::Changes {
                changes: many
                    .into_iter()
                    .flat_map(|e| [Change::Delete(e.key.clone()), Change::Put(e)])
                    .collect(),
                revision: Revision(4),
            },
        ] {
            let mut assembly = Assembly::default();
            let mut whole = None;
            for line in lines(event.clone()) {
                assert_eq!(whole, None, "only the last line completes an event");
                let text = serde_json::to_vec(&line).unwrap();
                assert!(text.len() < 2 * LINE_BYTES);
                whole = assembly.add(serde_json::from_slice(&text).unwrap());
            }
            assert_eq!(whole, Some(event));
        }
    }

    #[test]
    fn the_wire_is_short_and_readable() {
        let commit = WireCommit::new(
            vec![Compare {
                key: Key::parse("a").unwrap(),
                condition: Condition::Version(Revision(5)),
            }],
            vec![
                Op::put(Key::parse("a").unwrap(), "hi"),
                Op::delete(Key::parse("b/c").unwrap()),
            ],
        );
        assert_eq!(
            serde_json::to_string(&commit).unwrap(),
            r#"{"compares":[{"key":"a","is":{"version":5}}],"ops":[{"put":{"key":"a","value":"aGk="}},{"delete":"b/c"}]}"#
        );
    }
}
