//! What a leader does with requests: batches of commands become entries, membership changes are checked.

use bytes::Bytes;
use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{
    self, ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, Message, MessageType,
};

use super::{Core, MAX_BATCH_BYTES, MAX_FORWARDED_BYTES};
use crate::{
    Error,
    backend::raft::{
        machine::Machine,
        member::{MAX_VOTERS, MemberChange, MemberId},
        wire::{Batch, Frame, Refused, Request},
    },
};

/// May this change be made now?
enum Verdict {
    Do(ConfChangeV2),
    /// It has the wished effect already.
    Done,
    /// Not yet; it is to be tried again.
    Later,
    /// Never, and why.
    Never(String),
}

impl Core {
    /// Turns the requests at hand into entries.
    pub(super) fn propose(&mut self, machine: &Machine) {
        if self.requests.is_idle() && self.forwarded.is_empty() {
            return;
        }
        self.forwarded_bytes = 0;
        let mut requests = std::mem::take(&mut self.forwarded);
        while !self.requests.is_idle() {
            requests.extend(self.requests.take(self.ticks, usize::MAX));
        }
        let (changes, commands): (Vec<_>, Vec<_>) = requests.into_iter().partition(|r| r.is_change);
        let entries = batches(&commands);
        if !entries.is_empty() && !self.append(entries) {
            self.refuse(commands, "");
        }
        for request in changes {
            self.propose_change(request, machine);
        }
    }

    pub(super) fn take_forwarded(&mut self, from: MemberId, requests: Vec<Request>) {
        if requests.iter().any(|r| r.origin != from.get()) {
            tracing::warn!(%from, "a member forwards another's requests; ignored");
            return;
        }
        let bytes: usize = requests.iter().map(|r| r.body.len()).sum();
        let is_full = self.forwarded_bytes + bytes > MAX_FORWARDED_BYTES;
        if !self.leads || (is_full && !self.forwarded.is_empty()) {
            self.refuse(requests, "");
            return;
        }
        self.forwarded_bytes += bytes;
        self.forwarded.extend(requests);
    }

    /// This member does not lead any more, and never logged these.
    pub(super) fn refuse_forwarded(&mut self) {
        self.forwarded_bytes = 0;
        let requests = std::mem::take(&mut self.forwarded);
        self.refuse(requests, "");
    }

    /// Tells the origins that these requests were not logged; with a reason, that they never will be.
    fn refuse(&mut self, requests: Vec<Request>, why: &str) {
        let mut by_origin: Vec<(u64, Refused)> = Vec::new();
        for request in requests {
            let same = |(origin, refused): &&mut (u64, Refused)| {
                *origin == request.origin && refused.session == request.session
            };
            if let Some((_, refused)) = by_origin.iter_mut().find(same) {
                refused.seqs.push(request.seq);
            } else {
                let refused = Refused {
                    session: request.session,
                    seqs: vec![request.seq],
                    why: why.to_owned(),
                };
                by_origin.push((request.origin, refused));
            }
        }
        for (origin, refused) in by_origin {
            match MemberId::new(origin) {
                Ok(origin) if origin == self.settings.me => self.take_refusal(&refused, true),
                Ok(origin) => self.send(origin, Frame::Refused(refused)),
                Err(_) => {}
            }
        }
    }

    fn append(&mut self, entries: Vec<Entry>) -> bool {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.settings.me.get();
        message.set_entries(entries.into());
        match self.node.raft.step(message) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "proposals refused");
                false
            }
        }
    }

    fn propose_change(&mut self, request: Request, machine: &Machine) {
        let verdict = match MemberChange::decode(&request.body) {
            Ok(change) => self.judge(&change, &request, machine),
            Err(error) => Verdict::Never(error.to_string()),
        };
        match verdict {
            Verdict::Do(mut change) => {
                change.set_context(Bytes::from(request.encode_to_vec()));
                let entry = match change.write_to_bytes() {
                    Ok(data) => Entry {
                        entry_type: eraftpb::EntryType::EntryConfChangeV2,
                        data: data.into(),
                        ..Entry::default()
                    },
                    Err(error) => return self.refuse(vec![request], &error.to_string()),
                };
                if !self.append(vec![entry]) {
                    self.refuse(vec![request], "");
                }
            }
            // An entry that changes nothing gives the origin its answer, in the order of the log.
            Verdict::Done => {
                let entries = batches(std::slice::from_ref(&request));
                if !self.append(entries) {
                    self.refuse(vec![request], "");
                }
            }
            Verdict::Later => self.refuse(vec![request], ""),
            Verdict::Never(why) => self.refuse(vec![request], &why),
        }
    }

    fn judge(&mut self, change: &MemberChange, request: &Request, machine: &Machine) -> Verdict {
        let membership = &machine.membership;
        let origin = MemberId::new(request.origin);
        let was_done = origin.is_ok_and(|origin| {
            machine
                .sessions
                .contains(origin, request.session, request.seq)
        });
        if was_done {
            return Verdict::Done;
        }
        // The consensus core would turn a second change at a time into an empty entry.
        if self.node.raft.has_pending_conf() || membership.is_joint() {
            return Verdict::Later;
        }
        let unknown = |id: &MemberId| Verdict::Never(format!("{id} is not a member"));
        let (kind, id) = match change {
            MemberChange::AddLearner(peer) => {
                if membership.addrs.get(&peer.id) == Some(&peer.addr) {
                    return Verdict::Done;
                }
                if membership.is_voter(peer.id) {
                    return Verdict::Never(format!(
                        "{} is a voter at another address: remove it first",
                        peer.id
                    ));
                }
                (ConfChangeType::AddLearnerNode, peer.id)
            }
            MemberChange::Promote(id) => {
                if !membership.contains(*id) {
                    return unknown(id);
                }
                if membership.is_voter(*id) {
                    return Verdict::Done;
                }
                if membership.voters.len() >= MAX_VOTERS {
                    return Verdict::Never(format!(
                        "there are {MAX_VOTERS} voters already, which is the most: demote one first"
                    ));
                }
                if !self.is_caught_up(*id) {
                    return Verdict::Later;
                }
                (ConfChangeType::AddNode, *id)
            }
            MemberChange::Demote(id) | MemberChange::Remove(id) => {
                let removes = matches!(change, MemberChange::Remove(_));
                if !membership.contains(*id) {
                    return if removes { Verdict::Done } else { unknown(id) };
                }
                let is_voter = membership.is_voter(*id);
                if !is_voter && !removes {
                    return Verdict::Done;
                }
                if is_voter && membership.voters.len() == 1 {
                    return Verdict::Never(format!("{id} is the last voter"));
                }
                if *id == self.settings.me {
                    // The next leader does it.
                    self.hand_over(machine);
                    return Verdict::Later;
                }
                if removes {
                    (ConfChangeType::RemoveNode, *id)
                } else {
                    (ConfChangeType::AddLearnerNode, *id)
                }
            }
        };
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = id.get();
        let mut change = ConfChangeV2::default();
        change.set_changes(vec![single].into());
        Verdict::Do(change)
    }

    /// Would this learner, as a voter, be of use at once?
    fn is_caught_up(&self, id: MemberId) -> bool {
        let last = self.node.raft.raft_log.last_index();
        self.node
            .raft
            .prs()
            .get(id.get())
            .is_some_and(|p| p.recent_active && p.matched + MAX_LAG >= last)
    }
}

/// As few entries as hold the requests in their order.
fn batches(requests: &[Request]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut batch = Batch::default();
    let mut bytes = 0;
    for request in requests {
        if bytes + request.body.len() > MAX_BATCH_BYTES && !batch.requests.is_empty() {
            entries.push(entry(&std::mem::take(&mut batch)));
            bytes = 0;
        }
        bytes += request.body.len();
        batch.requests.push(request.clone());
    }
    if !batch.requests.is_empty() {
        entries.push(entry(&batch));
    }
    entries
}

fn entry(batch: &Batch) -> Entry {
    Entry {
        data: batch.encode_to_vec().into(),
        ..Entry::default()
    }
}

/// How many entries a learner may lack when it is made a voter.
const MAX_LAG: u64 = 1000;

impl MemberChange {
    pub(super) fn encode(&self) -> Bytes {
        postcard::to_stdvec(self)
            .expect("plain values in memory can always be encoded")
            .into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        postcard::from_bytes(bytes).map_err(|error| Error::Protocol {
            why: format!("a membership change that cannot be read: {error}"),
        })
    }
}
