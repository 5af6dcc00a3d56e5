//! What a member does because it leads, or begins or ceases to.

use std::mem;

use raft::StateRole;
use tokio::time::Instant;

use super::{Core, encode_command, standing::May};
use crate::backend::{
    LeaseId,
    kv::Command,
    raft::{
        machine::Machine,
        member::MemberId,
        wire::{Frame, Kept},
    },
};

impl Core {
    /// Reacts to a change of leader or role.
    pub(super) fn note_leader(&mut self, machine: &Machine) {
        let raft = &self.node.raft;
        let leader = MemberId::new(raft.leader_id).ok();
        let leads = raft.state == StateRole::Leader;
        if (leader, leads, raft.term) == (self.leader, self.leads, self.term) {
            return;
        }
        let is_new = leader.is_some() && (leader, raft.term) != (self.leader, self.term);
        (self.leader, self.term) = (leader, raft.term);
        if leads && !mem::replace(&mut self.leads, leads) {
            let leases = machine.kv.leases().map(|lease| (lease.id, lease.ttl()));
            // A tick more, since the clock was read a little before the votes came.
            self.leases.restart(leases, self.now + self.settings.tick);
        } else if !leads && mem::replace(&mut self.leads, leads) {
            // Those leases may have been renewed with the next leader: it is no longer ours to end them.
            if let Some(seq) = self.leases.request() {
                self.requests.finish(seq);
            }
            self.leases.clear();
            self.reads.drop_renewals();
            self.refuse_forwarded();
        }
        if is_new {
            // Sent again, since the old leader may have lost them; the log passes over what was carried out.
            self.requests.resend_all();
            self.renewals.resend(u64::MAX);
            self.reads.retry(u64::MAX);
        }
    }

    pub(super) fn end_leases(&mut self) {
        // While one request that ends leases is under way, and could still be carried out, there is no other.
        let is_under_way = self
            .leases
            .request()
            .is_some_and(|seq| self.requests.is_pending(seq));
        if is_under_way || !self.node.raft.commit_to_current_term() {
            return;
        }
        let leases = self.leases.due(self.now);
        if leases.is_empty() {
            return;
        }
        tracing::debug!(?leases, "leases expired");
        let deadline = self.ticks + self.settings.request_ticks;
        let command = Command::Expire {
            leases: leases.clone(),
        };
        if let Ok(body) = encode_command(&command) {
            let seq = self.requests.submit(None, false, body, deadline);
            self.leases.ends_by(seq, &leases);
        }
    }

    pub(super) fn renew(
        &mut self,
        from: MemberId,
        session: u64,
        leases: Vec<LeaseId>,
        asked: Instant,
    ) {
        let mut kept = Kept {
            session,
            ..Kept::default()
        };
        for lease in leases {
            match self.leases.renew(lease, asked) {
                Some(true) => kept.renewed.push(lease.0),
                Some(false) => kept.lost.push(lease.0),
                // Its end is being decided: whoever asked asks again.
                None => {}
            }
        }
        if from == self.settings.me {
            for lease in kept.renewed {
                self.renewed(LeaseId(lease), true);
            }
            for lease in kept.lost {
                self.renewed(LeaseId(lease), false);
            }
        } else {
            self.send(from, Frame::Kept(kept));
        }
    }

    /// Hands the leadership to the voter that is most up to date; `false` if there is nobody or nothing to hand over.
    pub(crate) fn hand_over(&mut self, machine: &Machine) -> bool {
        if !self.leads {
            return false;
        }
        let me = self.settings.me.get();
        let best = self
            .node
            .raft
            .prs()
            .iter()
            .filter(|(id, progress)| {
                **id != me && progress.recent_active && machine.membership.voters.contains(id)
            })
            .max_by_key(|(_, progress)| progress.matched)
            .map(|(id, _)| *id);
        if let Some(id) = best {
            self.node.transfer_leader(id);
        }
        best.is_some()
    }

    /// Starts an election now, instead of waiting for the timeout.
    pub(crate) fn campaign(&mut self) {
        if self.standing.may() != May::Vote {
            return;
        }
        // Without a vote it does nothing.
        let _ = self.node.campaign();
    }

    /// A member whose store is another than before has lost what it acknowledged: as the leader, forget that it did.
    pub(super) fn note_store(&mut self, member: MemberId, store: u64) {
        let before = self.stores.insert(member, store);
        let is_lost = before
            .or_else(|| self.standing.known(member))
            .is_some_and(|before| before != store);
        if is_lost
            && self.leads
            && let Some(progress) = self.node.raft.mut_prs().get_mut(member.get())
        {
            tracing::warn!(%member, "a member lost its store");
            progress.matched = 0;
            progress.pending_snapshot = 0;
            progress.become_probe();
        }
    }
}
