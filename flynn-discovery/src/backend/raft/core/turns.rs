//! Turns: what has gathered goes out together, what is committed is applied, what must be written is written.

use std::mem;

use raft::eraftpb::{Entry, Snapshot};

use super::{Core, Effect, MAX_FORWARD_BYTES, reads::Waiter, standing::May};
use crate::backend::raft::{
    log::{HardState, Position},
    machine::Machine,
    wire::{Frame, KeepAlive},
};

/// What the consensus core wants done before it goes on.
#[derive(Debug)]
pub(crate) struct Turn {
    ready: raft::Ready,
    /// Replaces state and log, before anything else.
    pub(crate) snapshot: Option<Snapshot>,
    /// To be applied; they are on a majority's disks.
    pub(crate) committed: Vec<Entry>,
    /// To be written, together with the hard state, and synced if `must_sync`.
    pub(crate) entries: Vec<Entry>,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) must_sync: bool,
}

impl Core {
    /// Sends what has gathered: to be called when the events at hand are taken in, so that they go out together.
    pub(crate) fn flush(&mut self, machine: &Machine) {
        self.note_leader(machine);
        if self.leader.is_none() {
            self.voters = machine.membership.voters();
        }
        if self.leads {
            self.propose(machine);
            let leases = self.renewals.take(self.ticks);
            if !leases.is_empty() {
                self.reads.push(Waiter::Renewal {
                    from: self.settings.me,
                    session: self.settings.session,
                    leases,
                    asked: self.now,
                });
            }
        } else if let Some(leader) = self.leader {
            while !self.requests.is_idle() {
                let requests = self.requests.take(self.ticks, MAX_FORWARD_BYTES);
                if !requests.is_empty() {
                    self.send(leader, Frame::Forward(requests));
                }
            }
            let leases = self.renewals.take(self.ticks);
            if !leases.is_empty() {
                let keep_alive = KeepAlive {
                    session: self.settings.session,
                    leases: leases.into_iter().map(|lease| lease.0).collect(),
                };
                self.send(leader, Frame::KeepAlive(keep_alive));
            }
        }
        if self.standing.may() == May::Follow && self.leader.is_some() && !self.is_proving {
            self.is_proving = true;
            self.reads.push(Waiter::Standing);
        }
        if self.leader.is_some()
            && let Some(context) = self.reads.start(self.ticks)
        {
            self.node.read_index(context.to_vec());
        }
    }

    /// What is to be done now, if anything. Its messages are among the [effects](Self::effects) already: a leader's
    /// may leave before the turn is written.
    pub(crate) fn begin(&mut self) -> Option<Turn> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let messages = ready.take_messages();
        self.send_all(messages);
        for state in ready.take_read_states() {
            self.reads.confirm(&state.request_ctx, state.index);
        }
        let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().clone());
        Some(Turn {
            snapshot,
            committed: ready.take_committed_entries(),
            entries: ready.entries().clone(),
            hard_state: ready.hs().map(|hs| HardState {
                term: hs.term,
                vote: hs.vote,
                commit: hs.commit,
            }),
            must_sync: ready.must_sync(),
            ready,
        })
    }

    /// The turn is written. Returns what else is committed by that.
    pub(crate) fn finish(&mut self, mut turn: Turn) -> Vec<Entry> {
        let view = self.node.mut_store();
        if let Some(snapshot) = &turn.snapshot {
            let metadata = snapshot.get_metadata();
            let position = Position {
                index: metadata.index,
                term: metadata.term,
            };
            view.reset(position, metadata.get_conf_state().clone());
        }
        view.append(mem::take(&mut turn.entries));
        if let Some(hard_state) = turn.hard_state {
            view.set_hard_state(hard_state);
        }
        let messages = turn.ready.take_persisted_messages();
        let mut light = self.node.advance_append(turn.ready);
        self.send_all(messages);
        self.send_all(light.take_messages());
        if let Some(commit) = light.commit_index() {
            let view = self.node.mut_store();
            let hard_state = view.hard_state();
            view.set_hard_state(HardState {
                commit,
                ..hard_state
            });
        }
        light.take_committed_entries()
    }

    /// Everything committed so far is applied: answers those who waited for it.
    pub(crate) fn settle(&mut self, machine: &Machine) {
        self.node.advance_apply_to(machine.applied.index);
        self.note_leader(machine);
        for waiter in self.reads.ready(machine.applied.index) {
            match waiter {
                Waiter::Read(ticket, _) => self.answer(ticket, Ok(None)),
                Waiter::Renewal {
                    from,
                    session,
                    leases,
                    asked,
                } if self.leads => self.renew(from, session, leases, asked),
                Waiter::Renewal { .. } => {}
                Waiter::Standing => {
                    self.is_proving = false;
                    for (to, frame) in self.standing.caught_up() {
                        self.send(to, frame);
                    }
                }
            }
        }
        if self.node.store().take_wish() && !mem::replace(&mut self.is_building, true) {
            self.effects.push(Effect::BuildSnapshot);
        }
    }

    /// A snapshot took the place of the state: what it says of this member's requests counts.
    pub(crate) fn installed(&mut self, machine: &Machine) {
        let passed_by = self.requests.passed_by(&machine.sessions);
        self.give_up(passed_by);
    }
}
