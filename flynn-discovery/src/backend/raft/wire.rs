//! What members say to each other: a mirror of the consensus core's messages, and our own frames around them.
//!
//! The core's own decoder never sees bytes from the network: this mirror limits recursion, takes `Bytes` without a copy
//! and refuses unknown enum values instead of panicking. It is byte-compatible with the core's schema.

use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb;

use crate::{Error, Result};

/// Everything one member can say to another once they know each other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    /// A message of the consensus core.
    Raft(Box<eraftpb::Message>),
    /// Requests for the leader's log.
    Forward(Vec<Request>),
    /// The requests with these numbers were not logged: the receiver does not lead, or not any more.
    Refused(Refused),
    /// Renewals for the leader's memory.
    KeepAlive(KeepAlive),
    /// What became of renewals.
    Kept(Kept),
    /// "You are no member any more."
    Removed,
    /// The sender's standing, or an answer to the receiver's.
    Standing(Standing),
    /// Nothing; says that the sender lives.
    Ping,
}

impl Frame {
    pub(crate) fn encode(self) -> Bytes {
        let body = match self {
            Self::Raft(message) => Body::Raft(from_message(*message)),
            Self::Forward(requests) => Body::Forward(Batch { requests }),
            Self::Refused(refused) => Body::Refused(refused),
            Self::KeepAlive(calls) => Body::KeepAlive(calls),
            Self::Kept(kept) => Body::Kept(kept),
            Self::Removed => Body::Removed(Empty {}),
            Self::Standing(standing) => Body::Standing(standing),
            Self::Ping => Body::Ping(Empty {}),
        };
        WFrame { body: Some(body) }.encode_to_vec().into()
    }

    /// # Errors
    ///
    /// [`Error::Protocol`] for bytes that are no frame.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self> {
        let refuse = |why: &str| Error::Protocol {
            why: format!("a frame of {why}"),
        };
        let frame = WFrame::decode(bytes).map_err(|e| refuse(&format!("unreadable bytes: {e}")))?;
        Ok(match frame.body {
            Some(Body::Raft(message)) => Self::Raft(Box::new(
                to_message(message).ok_or_else(|| refuse("an unknown kind of message"))?,
            )),
            Some(Body::Forward(batch)) => Self::Forward(batch.requests),
            Some(Body::Refused(refused)) => Self::Refused(refused),
            Some(Body::KeepAlive(calls)) => Self::KeepAlive(calls),
            Some(Body::Kept(kept)) => Self::Kept(kept),
            Some(Body::Removed(_)) => Self::Removed,
            Some(Body::Standing(standing)) => Self::Standing(standing),
            Some(Body::Ping(_)) => Self::Ping,
            None => return Err(refuse("an unknown kind")),
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct WFrame {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every frame is of the largest kind, and none is kept"
)]
enum Body {
    #[prost(message, tag = "1")]
    Raft(WMessage),
    #[prost(message, tag = "2")]
    Forward(Batch),
    #[prost(message, tag = "3")]
    Refused(Refused),
    #[prost(message, tag = "4")]
    KeepAlive(KeepAlive),
    #[prost(message, tag = "5")]
    Kept(Kept),
    #[prost(message, tag = "6")]
    Removed(Empty),
    #[prost(message, tag = "7")]
    Ping(Empty),
    #[prost(message, tag = "8")]
    Standing(Standing),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Empty {}

/// One request, as it travels and as it stands in the log.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Request {
    #[prost(fixed64, tag = "1")]
    pub(crate) origin: u64,
    /// The run of the origin's process.
    #[prost(fixed64, tag = "2")]
    pub(crate) session: u64,
    /// Its number within the session.
    #[prost(uint64, tag = "3")]
    pub(crate) seq: u64,
    /// The origin waits for no request below this number.
    #[prost(uint64, tag = "4")]
    pub(crate) floor: u64,
    /// A membership change, not a command.
    #[prost(bool, tag = "5")]
    pub(crate) is_change: bool,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) body: Bytes,
}

/// The data of an ordinary log entry.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Batch {
    #[prost(message, repeated, tag = "1")]
    pub(crate) requests: Vec<Request>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Refused {
    #[prost(fixed64, tag = "1")]
    pub(crate) session: u64,
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) seqs: Vec<u64>,
    /// If not empty, the request can never succeed, and this is why.
    #[prost(string, tag = "3")]
    pub(crate) why: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KeepAlive {
    #[prost(fixed64, tag = "1")]
    pub(crate) session: u64,
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) leases: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Kept {
    #[prost(fixed64, tag = "1")]
    pub(crate) session: u64,
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) renewed: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) lost: Vec<u64>,
}

/// See [`core::Standing`](super::core::Standing).
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Standing {
    /// The number of the sender's store.
    #[prost(fixed64, tag = "1")]
    pub(crate) store: u64,
    #[prost(bool, tag = "2")]
    pub(crate) is_proven: bool,
    /// The sender wants to hear of the receiver's.
    #[prost(bool, tag = "3")]
    pub(crate) asks: bool,
    /// The store by which the sender knows the receiver, once it has stored that; zero for none.
    #[prost(fixed64, tag = "4")]
    pub(crate) knows: u64,
    /// The sender was new when it heard that the receiver was, with its present store.
    #[prost(bool, tag = "5")]
    pub(crate) is_fellow: bool,
}

/// A log entry in the core's schema; also its form on disk.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WEntry {
    #[prost(int32, tag = "1")]
    pub(crate) entry_type: i32,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) index: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) data: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) context: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WConfState {
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    learners: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    voters_outgoing: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    learners_next: Vec<u64>,
    #[prost(bool, tag = "5")]
    auto_leave: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WSnapshotMetadata {
    #[prost(message, optional, tag = "1")]
    conf_state: Option<WConfState>,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint64, tag = "3")]
    term: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WSnapshot {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
    #[prost(message, optional, tag = "2")]
    metadata: Option<WSnapshotMetadata>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WMessage {
    #[prost(int32, tag = "1")]
    msg_type: i32,
    #[prost(uint64, tag = "2")]
    to: u64,
    #[prost(uint64, tag = "3")]
    from: u64,
    #[prost(uint64, tag = "4")]
    term: u64,
    #[prost(uint64, tag = "5")]
    log_term: u64,
    #[prost(uint64, tag = "6")]
    index: u64,
    #[prost(message, repeated, tag = "7")]
    entries: Vec<WEntry>,
    #[prost(uint64, tag = "8")]
    commit: u64,
    #[prost(message, optional, tag = "9")]
    snapshot: Option<WSnapshot>,
    #[prost(bool, tag = "10")]
    reject: bool,
    #[prost(uint64, tag = "11")]
    reject_hint: u64,
    #[prost(bytes = "bytes", tag = "12")]
    context: Bytes,
    #[prost(uint64, tag = "13")]
    request_snapshot: u64,
    #[prost(uint64, tag = "14")]
    deprecated_priority: u64,
    #[prost(uint64, tag = "15")]
    commit_term: u64,
    #[prost(int64, tag = "16")]
    priority: i64,
}

pub(crate) fn from_entry(entry: eraftpb::Entry) -> WEntry {
    WEntry {
        entry_type: entry.entry_type as i32,
        term: entry.term,
        index: entry.index,
        data: entry.data,
        context: entry.context,
    }
}

/// `None` for an unknown type of entry.
pub(crate) fn to_entry(entry: WEntry) -> Option<eraftpb::Entry> {
    use protobuf::ProtobufEnum;
    Some(eraftpb::Entry {
        entry_type: eraftpb::EntryType::from_i32(entry.entry_type)?,
        term: entry.term,
        index: entry.index,
        data: entry.data,
        context: entry.context,
        ..Default::default()
    })
}

fn from_message(mut message: eraftpb::Message) -> WMessage {
    let snapshot = message.snapshot.take().map(|mut snapshot| {
        let metadata = snapshot.metadata.take().map(|mut metadata| {
            let conf_state = metadata.conf_state.take().map(|conf| WConfState {
                voters: conf.voters,
                learners: conf.learners,
                voters_outgoing: conf.voters_outgoing,
                learners_next: conf.learners_next,
                auto_leave: conf.auto_leave,
            });
            WSnapshotMetadata {
                conf_state,
                index: metadata.index,
                term: metadata.term,
            }
        });
        WSnapshot {
            data: snapshot.data,
            metadata,
        }
    });
    WMessage {
        msg_type: message.msg_type as i32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.entries.into_iter().map(from_entry).collect(),
        commit: message.commit,
        snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        request_snapshot: message.request_snapshot,
        deprecated_priority: message.deprecated_priority,
        commit_term: message.commit_term,
        priority: message.priority,
    }
}

fn to_message(message: WMessage) -> Option<eraftpb::Message> {
    use protobuf::ProtobufEnum;
    let mut to = eraftpb::Message {
        msg_type: eraftpb::MessageType::from_i32(message.msg_type)?,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        request_snapshot: message.request_snapshot,
        deprecated_priority: message.deprecated_priority,
        commit_term: message.commit_term,
        priority: message.priority,
        ..Default::default()
    };
    let entries: Option<Vec<_>> = message.entries.into_iter().map(to_entry).collect();
    to.set_entries(entries?.into());
    if let Some(snapshot) = message.snapshot {
        let mut into = eraftpb::Snapshot {
            data: snapshot.data,
            ..Default::default()
        };
        if let Some(metadata) = snapshot.metadata {
            let meta = into.mut_metadata();
            meta.index = metadata.index;
            meta.term = metadata.term;
            if let Some(conf) = metadata.conf_state {
                let state = meta.mut_conf_state();
                state.voters = conf.voters;
                state.learners = conf.learners;
                state.voters_outgoing = conf.voters_outgoing;
                state.learners_next = conf.learners_next;
                state.auto_leave = conf.auto_leave;
            }
        }
        to.set_snapshot(into);
    }
    Some(to)
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;

    use super::*;

    fn message() -> eraftpb::Message {
        let mut message = eraftpb::Message {
            msg_type: eraftpb::MessageType::MsgAppend,
            to: 2,
            from: u64::MAX,
            term: 7,
            index: 9,
            commit: 8,
            context: Bytes::from_static(b"context"),
            priority: -3,
            ..Default::default()
        };
        let entry = eraftpb::Entry {
            entry_type: eraftpb::EntryType::EntryConfChangeV2,
            term: 7,
            index: 10,
            data: Bytes::from_static(b"data"),
            ..Default::default()
        };
        message.set_entries(vec![entry; 3].into());
        let metadata = message.mut_snapshot().mut_metadata();
        metadata.index = 5;
        metadata.mut_conf_state().voters = vec![1, 2, 3];
        message
    }

    #[test]
    fn the_mirror_is_byte_compatible_with_the_core() {
        let theirs = message();
        let ours = from_message(theirs.clone());
        let bytes = theirs.write_to_bytes().unwrap();
        assert_eq!(WMessage::decode(Bytes::from(bytes)).unwrap(), ours);
        let mut back = eraftpb::Message::default();
        back.merge_from_bytes(&ours.encode_to_vec()).unwrap();
        assert_eq!(back, theirs);
        assert_eq!(to_message(ours).unwrap(), theirs);
    }

    #[test]
    fn a_frame_survives_the_wire() {
        let frames = [
            Frame::Raft(Box::new(message())),
            Frame::Forward(vec![Request {
                origin: 1,
                session: 2,
                seq: 3,
                floor: 1,
                is_change: false,
                body: Bytes::from_static(b"x"),
            }]),
            Frame::Ping,
        ];
        for frame in frames {
            assert_eq!(Frame::decode(frame.clone().encode()).unwrap(), frame);
        }
    }

    #[test]
    fn unknown_enum_values_are_refused() {
        let mut ours = from_message(message());
        ours.msg_type = 99;
        let frame = WFrame {
            body: Some(Body::Raft(ours)),
        };
        let error = Frame::decode(frame.encode_to_vec().into()).unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
        assert!(Frame::decode(Bytes::from_static(b"\xff\xff\xff")).is_err());
    }
}
