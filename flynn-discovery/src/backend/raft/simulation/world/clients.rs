//! Clients of the invented world: what they ask, and what they make of the answers.

use rand::RngExt;

use super::{FOUNDERS, MEMBERS, REGISTERS, World};
use crate::{
    Error, Result,
    backend::{
        Compare, Condition, Key, Op, Revision,
        kv::{Command, Outcome},
        raft::{
            core::{Call, Ticket, encode_command},
            member::MemberChange,
            simulation::linearizability::{Call as Done, Operation},
        },
    },
};

#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) waits: Option<Waiting>,
    /// What it read last of each register: the value and its version.
    pub(super) known: [Option<(u64, Option<Revision>)>; REGISTERS],
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) member: usize,
    pub(super) register: usize,
    pub(super) operation: Operation,
    pub(super) called: u64,
}

impl World {
    /// A client asks some member that runs.
    pub(super) fn ask(&mut self, client: usize) {
        let member = self.random.random_range(0..MEMBERS);
        let Some(running) = &self.members[member].running else {
            return;
        };
        if running.machine.read().applied.index == 0 {
            return; // nobody's member yet
        }
        let register = self.random.random_range(0..REGISTERS);
        let known = self.clients[client].known[register];
        let (operation, call) = match (self.random.random_range(0..4), known) {
            (0, _) => {
                let value = self.new_value();
                (Operation::Write(value), write(register, value, vec![]))
            }
            (1, Some((expected, version))) => {
                let value = self.new_value();
                let condition = version.map_or(Condition::Absent, Condition::Version);
                let compare = Compare {
                    key: key(register),
                    condition,
                };
                let call = write(register, value, vec![compare]);
                (Operation::Swap(expected, value, true), call)
            }
            _ => (Operation::Read(0), Call::Read),
        };
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.clients[client].waits = Some(Waiting {
            ticket,
            member,
            register,
            operation,
            called: self.now,
        });
        self.turn(member, false, |replica| replica.core.call(ticket, call));
    }

    pub(super) fn new_value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    pub(super) fn answer(&mut self, ticket: Ticket, result: Result<Option<Outcome>>) {
        let waits = |c: &Client| c.waits.as_ref().is_some_and(|w| w.ticket == ticket);
        let Some(client) = self.clients.iter().position(waits) else {
            return; // a membership change
        };
        let Some(waiting) = self.clients[client].waits.take() else {
            return;
        };
        let Waiting {
            member,
            register,
            mut operation,
            called,
            ..
        } = waiting;
        let mut answered = Some(self.now);
        match (&mut operation, result) {
            (Operation::Read(value), Ok(_)) => {
                // As the backend does: read the state when the answer is there.
                let Some(running) = &self.members[member].running else {
                    return;
                };
                let machine = running.machine.read();
                let entry = machine.kv.get(&key(register));
                *value = value_of(entry.map(|e| &e.value[..]));
                self.clients[client].known[register] = Some((*value, entry.map(|e| e.version)));
            }
            (Operation::Write(value) | Operation::Swap(_, value, _), Ok(outcome)) => {
                let Some(Outcome::Committed(revision)) = outcome else {
                    panic!("a commit is answered with a revision");
                };
                self.clients[client].known[register] = Some((*value, Some(revision)));
            }
            (Operation::Swap(_, _, is_done), Err(Error::Conflict { .. })) => *is_done = false,
            // Certainly not carried out.
            (_, Err(Error::Unavailable { .. })) | (Operation::Read(_), Err(_)) => return,
            (_, Err(Error::Unknown { .. })) => {
                self.unknown += 1;
                answered = None;
            }
            (_, Err(error)) => panic!("{error}"),
        }
        if answered.is_some() {
            self.acknowledged += 1;
        }
        self.history[register].push(Done {
            operation,
            called,
            answered,
        });
    }

    pub(super) fn change_membership(&mut self) {
        if self.wiped.is_some() {
            return;
        }
        self.changed_at = self.now;
        let asked = self.random.random_range(0..MEMBERS);
        let i = self.random.random_range(0..MEMBERS);
        let peer = self.members[i].peer.clone();
        let change = match self.random.random_range(0..4) {
            0 | 1 if i >= FOUNDERS => MemberChange::AddLearner(peer),
            3 => MemberChange::Demote(peer.id),
            _ => MemberChange::Promote(peer.id),
        };
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let call = Call::Change(change);
        self.turn(asked, false, |replica| replica.core.call(ticket, call));
    }
}

pub(super) fn key(register: usize) -> Key {
    Key::parse(format!("register/{register}")).unwrap()
}

fn write(register: usize, value: u64, compares: Vec<Compare>) -> Call {
    let op = Op::put(key(register), value.to_string());
    let command = Command::Commit {
        compares,
        ops: vec![op],
    };
    Call::Command(encode_command(&command).unwrap())
}

pub(super) fn value_of(bytes: Option<&[u8]>) -> u64 {
    bytes.map_or(0, |b| std::str::from_utf8(b).unwrap().parse().unwrap())
}
