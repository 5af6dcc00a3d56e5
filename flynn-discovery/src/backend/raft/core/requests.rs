//! Requests of this member that wait for their place in the log, and for their outcome.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::Ticket;
use crate::backend::raft::{member::MemberId, sessions::Sessions, wire::Request};

/// The requests of one session, each until it is answered.
#[derive(Debug)]
pub(crate) struct Requests {
    me: MemberId,
    session: u64,
    next: u64,
    pending: BTreeMap<u64, Pending>,
    /// To be sent at the next occasion.
    queue: VecDeque<u64>,
    /// To be sent from the next tick on: the last attempt was refused.
    later: Vec<u64>,
}

#[derive(Debug)]
struct Pending {
    /// `None` for what this member asks on its own account.
    ticket: Option<Ticket>,
    is_change: bool,
    body: Bytes,
    /// The tick at which it is given up.
    deadline: u64,
    sent_at: Option<u64>,
    /// Copies that may be in some log. While there are none, the request was certainly not carried out.
    copies: u32,
}

/// A request that is given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) ticket: Option<Ticket>,
    /// It may have been carried out, or may yet be.
    pub(crate) is_ambiguous: bool,
}

impl Requests {
    pub(crate) fn new(me: MemberId, session: u64) -> Self {
        Self {
            me,
            session,
            next: 1,
            pending: BTreeMap::new(),
            queue: VecDeque::new(),
            later: Vec::new(),
        }
    }

    pub(crate) fn submit(
        &mut self,
        ticket: Option<Ticket>,
        is_change: bool,
        body: Bytes,
        deadline: u64,
    ) -> u64 {
        let seq = self.next;
        self.next += 1;
        let pending = Pending {
            ticket,
            is_change,
            body,
            deadline,
            sent_at: None,
            copies: 0,
        };
        self.pending.insert(seq, pending);
        self.queue.push_back(seq);
        seq
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn is_pending(&self, seq: u64) -> bool {
        self.pending.contains_key(&seq)
    }

    /// The next requests to send, at least one if there is any, until they take `max_bytes`.
    pub(crate) fn take(&mut self, now: u64, max_bytes: usize) -> Vec<Request> {
        let floor = self.floor();
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(seq) = self.queue.pop_front() {
            let Some(pending) = self.pending.get_mut(&seq) else {
                continue; // answered while it waited to be sent again
            };
            if bytes + pending.body.len() > max_bytes && !taken.is_empty() {
                self.queue.push_front(seq);
                break;
            }
            bytes += pending.body.len();
            pending.sent_at = Some(now);
            pending.copies += 1;
            taken.push(Request {
                origin: self.me.get(),
                session: self.session,
                seq,
                floor,
                is_change: pending.is_change,
                body: pending.body.clone(),
            });
        }
        taken
    }

    /// A copy of the request was not logged; it is tried again from the next tick on.
    ///
    /// Only what this member itself refused `is_certain`: a frame may come twice, and while one copy of it is refused,
    /// the other may have been logged before.
    pub(crate) fn refused(&mut self, seq: u64, is_certain: bool) {
        if let Some(pending) = self.pending.get_mut(&seq) {
            pending.copies -= u32::from(is_certain);
            pending.sent_at = None;
            self.later.push(seq);
        }
    }

    /// The request is answered.
    pub(crate) fn finish(&mut self, seq: u64) -> Option<Option<Ticket>> {
        self.pending.remove(&seq).map(|pending| pending.ticket)
    }

    /// Everything that was sent and not answered is sent again, because there is a new leader.
    pub(crate) fn resend_all(&mut self) {
        self.queue.clear();
        self.later.clear();
        self.queue.extend(self.pending.keys());
    }

    /// Sends again what was refused, and what was sent at tick `before` or earlier.
    pub(crate) fn resend(&mut self, before: Option<u64>) {
        self.queue.extend(self.later.drain(..));
        let Some(before) = before else { return };
        for (seq, pending) in &mut self.pending {
            if pending.sent_at.is_some_and(|at| at <= before) {
                pending.sent_at = None;
                self.queue.push_back(*seq);
            }
        }
    }

    /// Removes the requests whose time is over.
    pub(crate) fn expire(&mut self, now: u64) -> Vec<GivenUp> {
        let is_over = |p: &Pending| p.deadline <= now;
        if !self.pending.values().any(is_over) {
            return Vec::new();
        }
        self.pending
            .extract_if(.., |_, p| is_over(p))
            .map(|(_, pending)| GivenUp {
                ticket: pending.ticket,
                is_ambiguous: pending.copies > 0,
            })
            .collect()
    }

    /// Removes the requests that a snapshot says were carried out: their outcome passed this member by.
    pub(crate) fn passed_by(&mut self, sessions: &Sessions) -> Vec<GivenUp> {
        let (me, session) = (self.me, self.session);
        self.pending
            .extract_if(.., |seq, _| sessions.contains(me, session, *seq))
            .map(|(_, pending)| GivenUp {
                ticket: pending.ticket,
                is_ambiguous: true,
            })
            .collect()
    }

    /// Removes all of them.
    pub(crate) fn give_up(&mut self) -> Vec<GivenUp> {
        std::mem::take(&mut self.pending)
            .into_values()
            .map(|pending| GivenUp {
                ticket: pending.ticket,
                is_ambiguous: pending.copies > 0,
            })
            .collect()
    }

    fn floor(&self) -> u64 {
        self.pending.keys().next().copied().unwrap_or(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Requests {
        Requests::new(MemberId::from_name("a"), 1)
    }

    #[test]
    fn a_request_that_this_member_refused_every_time_was_certainly_not_carried_out() {
        let mut requests = requests();
        let seq = requests.submit(Some(Ticket(1)), false, Bytes::new(), 10);
        assert_eq!(requests.take(0, 100).len(), 1);
        requests.refused(seq, true);
        assert!(requests.is_idle(), "not before the next tick");
        requests.resend(None);
        assert_eq!(requests.take(1, 100)[0].seq, seq);
        requests.refused(seq, true);
        assert_eq!(requests.expire(9), []);
        let given_up = GivenUp {
            ticket: Some(Ticket(1)),
            is_ambiguous: false,
        };
        assert_eq!(requests.expire(10), [given_up]);
    }

    #[test]
    fn the_floor_is_the_oldest_request_without_an_answer() {
        let mut requests = requests();
        for _ in 0..3 {
            requests.submit(None, false, Bytes::from_static(b"xx"), 10);
        }
        let taken = requests.take(0, 4);
        let seqs: Vec<_> = taken.iter().map(|r| (r.seq, r.floor)).collect();
        assert_eq!(seqs, [(1, 1), (2, 1)]);
        requests.finish(1);
        assert_eq!(requests.take(0, 4)[0].floor, 2);
        assert!(requests.expire(10).iter().all(|g| g.is_ambiguous));
    }
}
