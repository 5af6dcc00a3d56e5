//! What committed entries do, the same on every member.

use bytes::Bytes;
use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType};

use super::Core;
use crate::{
    Error, Result,
    backend::{
        kv::{Command, Outcome},
        raft::{
            machine::{Changes, Machine},
            member::{MemberChange, MemberId},
            view::position,
            wire::{Batch, Frame, Request},
        },
    },
};

impl Core {
    /// Applies committed entries, in order, and answers the callers at this member. Did they change who takes part?
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when an entry cannot be read. The member must stop then: it would diverge.
    pub(crate) fn apply(
        &mut self,
        machine: &mut Machine,
        entries: Vec<Entry>,
        changes: &mut Changes,
    ) -> Result<bool> {
        if entries.is_empty() {
            return Ok(false);
        }
        let mut origins = Vec::new();
        let mut has_new_members = false;
        let (granted, ended) = (changes.granted.len(), changes.ended.len());
        for entry in entries {
            let at = position(&entry);
            if at.index <= machine.applied.index {
                continue; // a snapshot was newer
            }
            match entry.entry_type {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => {
                    let batch = Batch::decode(entry.data).map_err(|e| unreadable(at.index, &e))?;
                    for request in batch.requests {
                        self.apply_request(machine, &request, at.index, changes)?;
                        note(&mut origins, &request);
                    }
                }
                // Nobody proposes these.
                EntryType::EntryConfChange => return Err(unreadable(at.index, &"an old kind")),
                EntryType::EntryConfChangeV2 => {
                    has_new_members = true;
                    self.apply_change(machine, &entry, &mut origins)?;
                }
            }
            machine.applied = at;
        }
        machine.seal(changes, &origins, has_new_members);
        if self.leads {
            for (lease, ttl) in &changes.granted[granted..] {
                self.leases.granted(*lease, *ttl, self.now);
            }
            for lease in &changes.ended[ended..] {
                self.leases.ended(*lease);
            }
        }
        Ok(has_new_members)
    }

    fn apply_request(
        &mut self,
        machine: &mut Machine,
        request: &Request,
        index: u64,
        changes: &mut Changes,
    ) -> Result<()> {
        if !machine.admit(request) {
            return Ok(());
        }
        let result = if request.is_change {
            Ok(Outcome::Committed(machine.kv.revision()))
        } else {
            let command: Command =
                postcard::from_bytes(&request.body).map_err(|e| unreadable(index, &e))?;
            machine.apply(command, changes)
        };
        self.finish_request(request, result);
        Ok(())
    }

    fn apply_change(
        &mut self,
        machine: &mut Machine,
        entry: &Entry,
        origins: &mut Vec<MemberId>,
    ) -> Result<()> {
        let unreadable = |e: &dyn std::fmt::Display| unreadable(entry.index, e);
        // The end of a joint configuration has no data.
        let mut change = ConfChangeV2::default();
        change
            .merge_from_bytes(&entry.data)
            .map_err(|e| unreadable(&e))?;
        let request = if change.context.is_empty() {
            None
        } else {
            let context = Bytes::copy_from_slice(&change.context);
            Some(Request::decode(context).map_err(|e| unreadable(&e))?)
        };
        if let Some(request) = &request {
            note(origins, request);
            if !machine.admit(request) {
                return Ok(());
            }
        }
        let state = match self.node.apply_conf_change(&change) {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!(%error, "membership change refused");
                if let Some(request) = &request {
                    let error = Error::Invalid {
                        what: "membership change".to_owned(),
                        why: error.to_string(),
                    };
                    self.finish_request(request, Err(error));
                }
                return Ok(());
            }
        };
        if let Some(request) = &request
            && let MemberChange::AddLearner(peer) = MemberChange::decode(&request.body)?
        {
            machine.membership.removed.retain(|id| *id != peer.id);
            machine.membership.addrs.insert(peer.id, peer.addr);
        }
        let before: Vec<MemberId> = machine.membership.addrs.keys().copied().collect();
        machine.membership.set(&state);
        self.node.mut_store().set_conf_state(state);
        for id in before {
            if !machine.membership.contains(id) {
                tracing::info!(member = %id, "member removed");
                self.send(id, Frame::Removed);
            }
        }
        if let Some(request) = &request {
            self.finish_request(request, Ok(Outcome::Committed(machine.kv.revision())));
        }
        Ok(())
    }

    /// Answers the caller, if it is at this member and in this session.
    fn finish_request(&mut self, request: &Request, result: Result<Outcome>) {
        let is_ours =
            request.origin == self.settings.me.get() && request.session == self.settings.session;
        if is_ours && let Some(Some(ticket)) = self.requests.finish(request.seq) {
            self.answer(ticket, result.map(Some));
        }
    }
}

fn note(origins: &mut Vec<MemberId>, request: &Request) {
    if let Ok(origin) = MemberId::new(request.origin)
        && !origins.contains(&origin)
    {
        origins.push(origin);
    }
}

fn unreadable(index: u64, error: &dyn std::fmt::Display) -> Error {
    Error::Protocol {
        why: format!("log entry {index} cannot be read: {error}"),
    }
}
