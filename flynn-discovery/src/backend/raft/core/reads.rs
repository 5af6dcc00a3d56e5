//! Linearizable reads: confirm that the leader leads, then wait until the state is as new as the question.

use bytes::Bytes;

use super::Ticket;
use crate::backend::{LeaseId, raft::member::MemberId};

/// Who waits for a confirmed read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// A caller at this member; given up at the tick.
    Read(Ticket, u64),
    /// Renewals that this member, as the leader, may only grant if it still leads. They count from `asked`, the
    /// time at which they came in.
    Renewal {
        from: MemberId,
        session: u64,
        leases: Vec<LeaseId>,
        asked: tokio::time::Instant,
    },
    /// This member itself, to know that it has caught up.
    Standing,
}

/// Reads in batches: while one round is on its way, the next gathers.
#[derive(Debug)]
pub(crate) struct Reads {
    me: MemberId,
    session: u64,
    rounds: u64,
    waiting: Vec<Waiter>,
    round: Option<Round>,
    /// Confirmed rounds, in order of the entry their waiters need applied.
    confirmed: Vec<(u64, Vec<Waiter>)>,
}

#[derive(Debug)]
struct Round {
    context: Bytes,
    started: u64,
    waiters: Vec<Waiter>,
}

impl Reads {
    pub(crate) fn new(me: MemberId, session: u64) -> Self {
        Self {
            me,
            session,
            rounds: 0,
            waiting: Vec::new(),
            round: None,
            confirmed: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
    }

    /// Starts a round if one is due; the core is to confirm its context.
    pub(crate) fn start(&mut self, now: u64) -> Option<Bytes> {
        if self.round.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.rounds += 1;
        let mut context = Vec::with_capacity(24);
        for part in [self.me.get(), self.session, self.rounds] {
            context.extend_from_slice(&part.to_be_bytes());
        }
        let context = Bytes::from(context);
        self.round = Some(Round {
            context: context.clone(),
            started: now,
            waiters: std::mem::take(&mut self.waiting),
        });
        Some(context)
    }

    /// The leader led when it saw this context, and `index` was committed then.
    pub(crate) fn confirm(&mut self, context: &[u8], index: u64) {
        if let Some(round) = self.round.take_if(|round| round.context == context) {
            self.confirmed.push((index, round.waiters));
        }
    }

    /// Gives up on a round that was started at tick `before` or earlier, so that another takes its waiters.
    pub(crate) fn retry(&mut self, before: u64) {
        if let Some(round) = self.round.take_if(|round| round.started <= before) {
            let newer = std::mem::replace(&mut self.waiting, round.waiters);
            self.waiting.extend(newer);
        }
    }

    /// Those whose answer is in the state, now that `applied` is.
    pub(crate) fn ready(&mut self, applied: u64) -> Vec<Waiter> {
        if self.confirmed.is_empty() {
            return Vec::new();
        }
        self.confirmed
            .extract_if(.., |(index, _)| *index <= applied)
            .flat_map(|(_, waiters)| waiters)
            .collect()
    }

    /// Removes the callers whose time is over.
    pub(crate) fn expire(&mut self, now: u64) -> Vec<Ticket> {
        let mut over = Vec::new();
        let rounds = self.round.iter_mut().map(|round| &mut round.waiters);
        let confirmed = self.confirmed.iter_mut().map(|(_, waiters)| waiters);
        for waiters in rounds.chain(confirmed).chain([&mut self.waiting]) {
            waiters.retain(|waiter| match waiter {
                Waiter::Read(ticket, deadline) if *deadline <= now => {
                    over.push(*ticket);
                    false
                }
                Waiter::Read(..) | Waiter::Renewal { .. } | Waiter::Standing => true,
            });
        }
        over
    }

    /// Forgets the renewals: this member does not lead, and whoever asked will ask the new leader.
    pub(crate) fn drop_renewals(&mut self) {
        let rounds = self.round.iter_mut().map(|round| &mut round.waiters);
        let confirmed = self.confirmed.iter_mut().map(|(_, waiters)| waiters);
        for waiters in rounds.chain(confirmed).chain([&mut self.waiting]) {
            waiters.retain(|waiter| !matches!(waiter, Waiter::Renewal { .. }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_got_lost_is_followed_by_another_with_the_same_waiters() {
        let mut reads = Reads::new(MemberId::from_name("a"), 1);
        reads.push(Waiter::Read(Ticket(1), 100));
        let first = reads.start(0).unwrap();
        reads.push(Waiter::Read(Ticket(2), 100));
        assert!(reads.start(0).is_none(), "one round at a time");
        reads.retry(0);
        let second = reads.start(1).unwrap();
        assert_ne!(first, second);
        reads.confirm(&first, 7);
        assert!(reads.ready(7).is_empty(), "the first round is over");
        reads.confirm(&second, 7);
        assert!(reads.ready(6).is_empty());
        assert_eq!(reads.ready(7).len(), 2);
    }
}
