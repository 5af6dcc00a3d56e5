//! The replicated state machine: the same entries in the same order give the same state on every member.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    log::{Position, StateChange},
    member::{MemberId, Membership},
    sessions::{Session, Sessions},
    wire::Request,
};
use crate::{
    Error, Result,
    backend::{
        Change, Entry, Key, LeaseId, Revision,
        kv::{Applied, Command, Header, KvState, LeaseInfo, Outcome},
    },
};

/// Keys and leases, who takes part, and which requests were carried out.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Machine {
    pub(crate) kv: KvState,
    pub(crate) membership: Membership,
    pub(crate) sessions: Sessions,
    /// The last entry that is part of this state.
    pub(crate) applied: Position,
}

/// What entries did, for the store, for watchers and for whoever keeps the leases' time.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) state: Vec<StateChange>,
    /// Of each commit that changed something.
    pub(crate) commits: Vec<(Revision, Vec<Change>)>,
    pub(crate) granted: Vec<(LeaseId, Duration)>,
    pub(crate) ended: Vec<LeaseId>,
}

impl Machine {
    /// The state a cluster begins with.
    pub(crate) fn initial(membership: Membership, applied: Position) -> Self {
        Self {
            membership,
            applied,
            ..Self::default()
        }
    }

    /// Notes that a request is carried out now; `false` when it was before.
    pub(crate) fn admit(&mut self, request: &Request) -> bool {
        let Ok(origin) = MemberId::new(request.origin) else {
            return false;
        };
        self.sessions
            .admit(origin, request.session, request.seq, request.floor)
    }

    /// Carries out one command.
    pub(crate) fn apply(&mut self, command: Command, changes: &mut Changes) -> Result<Outcome> {
        match &command {
            Command::Revoke { lease } => changes.end(*lease),
            Command::Expire { leases } => leases.iter().for_each(|lease| changes.end(*lease)),
            Command::Commit { .. } | Command::Grant { .. } => {}
        }
        let Applied {
            result,
            changes: committed,
        } = self.kv.apply(command);
        if let Ok(Outcome::Granted(lease)) = result
            && let Some(ttl) = self.kv.ttl(lease)
        {
            changes.granted.push((lease, ttl));
            changes.state.push(put_lease(lease, ttl));
        }
        if let Some((revision, commit)) = committed {
            changes
                .state
                .extend(commit.iter().map(|change| match change {
                    Change::Put(entry) => put_entry(entry),
                    Change::Delete(key) => StateChange::Delete(entry_key(key)),
                }));
            changes.commits.push((revision, commit));
        }
        result
    }

    /// Completes the changes of some entries: what is written once for all of them.
    pub(crate) fn seal(&self, changes: &mut Changes, origins: &[MemberId], has_new_members: bool) {
        changes.state.push(self.put_header());
        for origin in origins {
            changes.state.push(self.put_sessions(*origin));
        }
        if has_new_members {
            changes.state.push(self.put_membership());
        }
    }

    /// All of it, as a store or a snapshot holds it.
    pub(crate) fn export(&self) -> Vec<StateChange> {
        let leases = self.kv.leases().map(|l| put_lease(l.id, l.ttl()));
        let sessions = self.sessions.members().map(|m| self.put_sessions(m));
        [self.put_header(), self.put_membership()]
            .into_iter()
            .chain(leases)
            .chain(sessions)
            .chain(self.kv.entries().map(put_entry))
            .collect()
    }

    /// The state that [`export`](Self::export) or a store gave.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when a record cannot be read or records contradict each other.
    pub(crate) fn import(
        pairs: impl IntoIterator<Item = (Bytes, Bytes)>,
        applied: Position,
    ) -> Result<Self> {
        let mut machine = Self {
            applied,
            ..Self::default()
        };
        let mut header = Header::default();
        let mut entries = Vec::new();
        for (key, value) in pairs {
            let (Some(kind), rest) = (key.first(), key.slice(1.min(key.len())..)) else {
                return Err(unreadable(&key));
            };
            let id = || rest[..].try_into().map(u64::from_be_bytes).ok();
            let read = |_| unreadable(&key);
            match *kind {
                HEADER => {
                    let (revision, last_lease) = postcard::from_bytes(&value).map_err(read)?;
                    header.revision = revision;
                    header.last_lease = last_lease;
                }
                MEMBERSHIP => machine.membership = postcard::from_bytes(&value).map_err(read)?,
                LEASE => header.leases.push(LeaseInfo {
                    id: LeaseId(id().ok_or_else(|| unreadable(&key))?),
                    ttl_ms: postcard::from_bytes(&value).map_err(read)?,
                }),
                SESSIONS => {
                    let member = id().ok_or_else(|| unreadable(&key))?;
                    let sessions: Vec<Session> = postcard::from_bytes(&value).map_err(read)?;
                    machine.sessions.insert(MemberId::new(member)?, sessions);
                }
                ENTRY => entries.push(read_entry(&rest, &value).ok_or_else(|| unreadable(&key))?),
                _ => return Err(unreadable(&key)),
            }
        }
        machine.kv = KvState::import(header, entries)?;
        Ok(machine)
    }

    fn put_header(&self) -> StateChange {
        let header = (self.kv.revision(), self.kv.last_lease());
        StateChange::Put(vec![HEADER], encode(&header))
    }

    fn put_membership(&self) -> StateChange {
        StateChange::Put(vec![MEMBERSHIP], encode(&self.membership))
    }

    fn put_sessions(&self, member: MemberId) -> StateChange {
        StateChange::Put(
            numbered(SESSIONS, member.get()),
            encode(self.sessions.of(member)),
        )
    }
}

impl Changes {
    fn end(&mut self, lease: LeaseId) {
        self.ended.push(lease);
        self.state
            .push(StateChange::Delete(numbered(LEASE, lease.0)));
    }
}

/// A snapshot's data: the records one behind the other, each key and value with its length before it.
pub(crate) fn pack(records: &[StateChange]) -> Bytes {
    let mut bytes = BytesMut::new();
    for record in records {
        let StateChange::Put(key, value) = record else {
            continue;
        };
        for part in [key, value] {
            bytes.put_u32(u32::try_from(part.len()).expect("records are far below 4 GiB"));
            bytes.put_slice(part);
        }
    }
    bytes.freeze()
}

/// The records of a snapshot.
///
/// # Errors
///
/// [`Error::Protocol`] when the data ends within a record.
pub(crate) fn unpack(mut data: Bytes) -> Result<Vec<(Bytes, Bytes)>> {
    let mut part = || -> Option<Bytes> {
        let len = data.try_get_u32().ok()? as usize;
        (len <= data.len()).then(|| data.split_to(len))
    };
    let mut pairs = Vec::new();
    while let Some(key) = part() {
        let value = part().ok_or_else(|| Error::Protocol {
            why: "a snapshot that ends within a record".to_owned(),
        })?;
        pairs.push((key, value));
    }
    if data.is_empty() {
        Ok(pairs)
    } else {
        Err(Error::Protocol {
            why: "a snapshot that ends within a record".to_owned(),
        })
    }
}

fn put_entry(entry: &Entry) -> StateChange {
    let mut value = encode(&(entry.version, entry.created, entry.lease));
    value.extend_from_slice(&entry.value);
    StateChange::Put(entry_key(&entry.key), value)
}

fn read_entry(key: &[u8], value: &Bytes) -> Option<Entry> {
    let ((version, created, lease), rest) = postcard::take_from_bytes(value).ok()?;
    Some(Entry {
        key: Key::parse(std::str::from_utf8(key).ok()?).ok()?,
        value: value.slice_ref(rest),
        version,
        created,
        lease,
    })
}

fn put_lease(lease: LeaseId, ttl: Duration) -> StateChange {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    StateChange::Put(numbered(LEASE, lease.0), encode(&ttl_ms))
}

fn entry_key(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + key.as_str().len());
    bytes.push(ENTRY);
    bytes.extend_from_slice(key.as_str().as_bytes());
    bytes
}

fn numbered(kind: u8, number: u64) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes
}

fn encode<T: serde::Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain values in memory can always be encoded")
}

fn unreadable(key: &Bytes) -> Error {
    Error::Protocol {
        why: format!("record {key:?} of the state cannot be read"),
    }
}

const ENTRY: u8 = b'e';
const HEADER: u8 = b'h';
const LEASE: u8 = b'l';
const MEMBERSHIP: u8 = b'm';
const SESSIONS: u8 = b's';

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Op;

    #[test]
    fn a_state_survives_being_packed() {
        let peers = [super::super::member::Peer::new(
            MemberId::from_name("a"),
            "127.0.0.1:1",
        )];
        let mut machine =
            Machine::initial(Membership::initial(&peers), Position { index: 9, term: 2 });
        let mut changes = Changes::default();
        machine
            .apply(Command::Grant { ttl_ms: 1500 }, &mut changes)
            .unwrap();
        let ops = vec![
            Op::put(Key::parse("a/b").unwrap(), "value"),
            Op::Put {
                key: Key::parse("leased").unwrap(),
                value: Bytes::from_static(b"\0\xff"),
                lease: Some(LeaseId(1)),
            },
        ];
        let commit = Command::Commit {
            compares: vec![],
            ops,
        };
        machine.apply(commit, &mut changes).unwrap();
        machine.sessions.admit(MemberId::from_name("a"), 5, 3, 1);
        let packed = pack(&machine.export());
        let again = Machine::import(unpack(packed.clone()).unwrap(), machine.applied).unwrap();
        assert_eq!(again, machine);
        assert!(unpack(packed.slice(..packed.len() - 1)).is_err());
    }
}
