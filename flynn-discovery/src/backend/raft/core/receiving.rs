//! What other members say, and what became of what was sent to them.

use raft::{
    SnapshotStatus,
    eraftpb::{Message, MessageType, Snapshot},
};

use super::{Core, reads::Waiter, standing::May};
use crate::backend::{
    LeaseId,
    raft::{member::MemberId, wire::Frame},
};

impl Core {
    /// Another member says something.
    pub(crate) fn receive(&mut self, from: MemberId, frame: Frame) {
        self.heard.insert(from, self.ticks);
        match frame {
            Frame::Raft(message) => self.step(from, *message),
            Frame::Forward(requests) => self.take_forwarded(from, requests),
            Frame::Refused(refused) => self.take_refusal(&refused, false),
            Frame::KeepAlive(asked) if self.leads => self.reads.push(Waiter::Renewal {
                from,
                session: asked.session,
                leases: asked.leases.into_iter().map(LeaseId).collect(),
                asked: self.now,
            }),
            // Whoever asked asks again when it hears of the leader.
            Frame::KeepAlive(_) => {}
            Frame::Kept(kept) if kept.session == self.settings.session => {
                for lease in kept.renewed {
                    self.renewed(LeaseId(lease), true);
                }
                for lease in kept.lost {
                    self.renewed(LeaseId(lease), false);
                }
            }
            Frame::Kept(_) | Frame::Ping => {}
            Frame::Removed => self.is_removed = true,
            Frame::Standing(word) => {
                self.note_store(from, word.store);
                if let Some((to, answer)) = self.standing.hear(from, word) {
                    self.send(to, answer);
                }
            }
        }
    }

    /// A frame to this member was lost.
    pub(crate) fn unreachable(&mut self, peer: MemberId) {
        self.node.report_unreachable(peer.get());
    }

    /// A snapshot was delivered, or was not.
    pub(crate) fn snapshot_sent(&mut self, peer: MemberId, is_delivered: bool) {
        let status = if is_delivered {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        self.node.report_snapshot(peer.get(), status);
    }

    /// The snapshot that [`Effect::BuildSnapshot`] asked for.
    pub(crate) fn snapshot_built(&mut self, snapshot: Snapshot) {
        self.is_building = false;
        self.snapshot_built_at = self.ticks;
        self.node.mut_store().set_snapshot(Some(snapshot));
    }

    fn step(&mut self, from: MemberId, mut message: Message) {
        if message.from != from.get() || message.to != self.settings.me.get() {
            tracing::warn!(%from, "a member speaks in another's name; ignored");
            return;
        }
        let kind = message.get_msg_type();
        let is_allowed = match self.standing.may() {
            // Proposals travel as requests of our own, which are answered.
            May::Vote => kind != MessageType::MsgPropose,
            May::Follow => matches!(
                kind,
                MessageType::MsgAppend
                    | MessageType::MsgHeartbeat
                    | MessageType::MsgSnapshot
                    | MessageType::MsgReadIndexResp
            ),
            May::Nothing => false,
        };
        if !is_allowed {
            return;
        }
        // Who is led is a member: it was added again, or the word of its removal came from one that lags behind.
        if matches!(
            kind,
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        ) {
            self.is_removed = false;
        }
        // The leader may not know yet that this member lost what it had; the core would take it for a lost log.
        if kind == MessageType::MsgHeartbeat
            && message.commit > self.node.raft.raft_log.last_index()
        {
            message.commit = 0;
        }
        // What the core refuses (an old term, an unknown sender) it would ignore anyway.
        if let Err(error) = self.node.step(message) {
            tracing::debug!(%from, ?kind, %error, "message refused");
        }
    }
}
