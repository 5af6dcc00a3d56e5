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

    pub(super) fn why_unavailable(&self) -> String {
        if self.leader.is_some() {
            return "the leader did not confirm in time that it leads".to_owned();
        }
        // Who calls elections in vain is heard by those who are there, and answered.
        let patience = 4 * self.settings.election_ticks as u64;
        let answers = |id: &MemberId| {
            let is_heard = |at: &u64| at + patience >= self.ticks;
            *id == self.settings.me || self.heard.get(id).is_some_and(is_heard)
        };
        no_leader(&self.voters, answers)
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

/// Says what is missing when no leader is known: who answers, how many are needed, and what to do.
fn no_leader(voters: &[(MemberId, String)], answers: impl Fn(&MemberId) -> bool) -> String {
    let (here, missing): (Vec<_>, Vec<_>) = voters.iter().partition(|(id, _)| answers(id));
    let needed = voters.len() / 2 + 1;
    let names = |members: &[&(MemberId, String)]| {
        let names: Vec<&str> = members.iter().map(|(_, addr)| &**addr).collect();
        names.join(", ")
    };
    if voters.is_empty() {
        return "this member has not found the others yet; try again in a moment".to_owned();
    }
    if here.len() >= needed {
        return format!(
            "the store has no leader at the moment, but {} of its {} voters answer and will elect one; try again in a moment",
            here.len(),
            voters.len()
        );
    }
    format!(
        "the store has no majority: {needed} of its {} voters are needed, but only {} ({}) answered lately; start {} again",
        voters.len(),
        here.len(),
        if here.is_empty() {
            "none".to_owned()
        } else {
            names(&here)
        },
        names(&missing)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_missing_is_named_with_how_many_are_needed() {
        let voters: Vec<_> = ["a:1", "b:1", "c:1"]
            .map(|addr| (MemberId::from_name(addr), addr.to_owned()))
            .into();
        let only = |here: &'static [&'static str]| {
            let here: Vec<_> = here.iter().map(|addr| MemberId::from_name(addr)).collect();
            no_leader(&voters, |id| here.contains(id))
        };
        assert_eq!(
            only(&["b:1"]),
            "the store has no majority: 2 of its 3 voters are needed, but only 1 (b:1) answered lately; start a:1, c:1 again"
        );
        assert!(only(&[]).contains("only 0 (none)"), "{}", only(&[]));
        assert!(only(&["a:1", "b:1"]).contains("2 of its 3 voters answer"));
        assert!(no_leader(&[], |_| true).contains("has not found the others"));
    }
}
