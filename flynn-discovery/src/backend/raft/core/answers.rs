//! How callers and peers get what is theirs.

use raft::eraftpb::{Message, MessageType};

use super::{Core, Effect, Ticket, requests::GivenUp, unavailable};
use crate::{
    Error, Result,
    backend::{
        LeaseId,
        kv::Outcome,
        raft::{
            member::MemberId,
            wire::{Frame, Refused},
        },
    },
};

impl Core {
    pub(super) fn take_refusal(&mut self, refused: &Refused, is_certain: bool) {
        if refused.session != self.settings.session {
            return;
        }
        for seq in &refused.seqs {
            if refused.why.is_empty() {
                self.requests.refused(*seq, is_certain);
            } else if let Some(Some(ticket)) = self.requests.finish(*seq) {
                let error = Error::Invalid {
                    what: "membership change".to_owned(),
                    why: refused.why.clone(),
                };
                self.answer(ticket, Err(error));
            }
        }
    }

    pub(super) fn renewed(&mut self, lease: LeaseId, is_alive: bool) {
        for ticket in self.renewals.finish(lease) {
            let result = if is_alive {
                Ok(None)
            } else {
                Err(Error::LeaseLost { lease })
            };
            self.answer(ticket, result);
        }
    }

    pub(super) fn expire(&mut self) {
        let given_up = self.requests.expire(self.ticks);
        self.give_up(given_up);
        for ticket in self.reads.expire(self.ticks) {
            let why = self.why_unavailable();
            self.answer(ticket, Err(unavailable(why)));
        }
        for ticket in self.renewals.expire(self.ticks) {
            let error = self.unknown("keep_alive");
            self.answer(ticket, Err(error));
        }
    }

    pub(super) fn give_up(&mut self, given_up: Vec<GivenUp>) {
        for GivenUp {
            ticket,
            is_ambiguous,
        } in given_up
        {
            let Some(ticket) = ticket else { continue };
            let error = if is_ambiguous {
                self.unknown("commit")
            } else {
                unavailable(self.why_unavailable())
            };
            self.answer(ticket, Err(error));
        }
    }

    /// Ends every call, because this core stops.
    pub(crate) fn give_up_all(&mut self) {
        let given_up = self.requests.give_up();
        self.give_up(given_up);
        for ticket in self.reads.expire(u64::MAX) {
            self.answer(ticket, Err(unavailable("it stops")));
        }
        for ticket in self.renewals.expire(u64::MAX) {
            self.answer(ticket, Err(unavailable("it stops")));
        }
    }

    pub(super) fn unknown(&self, operation: &'static str) -> Error {
        let ticks = u32::try_from(self.settings.request_ticks).unwrap_or(u32::MAX);
        Error::Unknown {
            operation,
            after: self.settings.tick.saturating_mul(ticks),
        }
    }

    pub(super) fn why_unavailable(&self) -> &'static str {
        match self.leader {
            None => "no leader is known: a majority of the voters must be up and reach each other",
            Some(_) => "the leader did not confirm in time that it leads",
        }
    }

    pub(super) fn answer(&mut self, ticket: Ticket, result: Result<Option<Outcome>>) {
        self.effects.push(Effect::Answer(ticket, result));
    }

    pub(super) fn send(&mut self, to: MemberId, frame: Frame) {
        self.effects.push(Effect::Send(to, frame));
    }

    pub(super) fn send_all(&mut self, messages: Vec<Message>) {
        for message in messages {
            let Ok(to) = MemberId::new(message.to) else {
                continue;
            };
            let message = Box::new(message);
            self.effects
                .push(if message.get_msg_type() == MessageType::MsgSnapshot {
                    Effect::SendSnapshot(to, message)
                } else {
                    Effect::Send(to, Frame::Raft(message))
                });
        }
    }
}
