//! May this member vote? A member whose store is new may be one that lost it, and with it its votes and promises.
//!
//! A founder of a new cluster has nothing to remember; a member whose directory was removed has, and must not vote
//! before it holds again all that it once acknowledged. The two look the same to the member itself, so it asks the
//! others, each of whom keeps the number of the store it knows every member by:
//!
//! - nobody it asked, and it asked everybody, knew another store of it: it is new;
//! - a majority of the founders are as new as itself, or were when they began: this cluster is being founded;
//! - else it keeps silent until no leader can still count on it, then follows without a vote, and has one again
//!   as soon as it holds everything that was committed by then.
//!
//! An answer counts only if it says that the sender has noted this store, since otherwise nobody could tell later that
//! it was lost. That is also why a proven member goes on telling its store until everybody has noted it.

use std::collections::{BTreeMap, BTreeSet};

use crate::backend::raft::{
    log::Identity,
    member::MemberId,
    wire::{Frame, Standing as Word},
};

/// What this member knows of its own standing and the others' stores.
#[derive(Debug)]
pub(crate) struct Standing {
    identity: Identity,
    is_changed: bool,
    /// Whom it asks: the founders apart from itself.
    others: Vec<MemberId>,
    founders: usize,
    answers: BTreeMap<MemberId, Answer>,
    /// Those who have noted this store, as far as this run of the process knows.
    noted_by: BTreeSet<MemberId>,
    ticks: u64,
    silence_ticks: u64,
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    /// It is new, or was when this member was.
    is_fellow: bool,
    /// It has noted this member's store.
    knows: bool,
    /// It has noted another.
    knows_other: bool,
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum May {
    /// Everything.
    Vote,
    /// Follow, acknowledge and read.
    Follow,
    /// Listen.
    Nothing,
}

impl Standing {
    /// `others` are the founders apart from this member; `is_founder` says whether it is one too.
    pub(crate) fn new(
        identity: Identity,
        others: Vec<MemberId>,
        is_founder: bool,
        silence_ticks: u64,
    ) -> Self {
        let mut standing = Self {
            identity,
            is_changed: false,
            founders: others.len() + usize::from(is_founder),
            others,
            answers: BTreeMap::new(),
            noted_by: BTreeSet::new(),
            ticks: 0,
            silence_ticks,
        };
        standing.judge();
        standing
    }

    pub(crate) fn may(&self) -> May {
        if self.identity.is_proven {
            May::Vote
        } else if self.ticks < self.silence_ticks {
            May::Nothing
        } else {
            May::Follow
        }
    }

    /// Whom to tell of this member's standing now.
    pub(crate) fn tick(&mut self) -> Vec<(MemberId, Frame)> {
        self.ticks += 1;
        let is_proven = self.identity.is_proven;
        if is_proven && (self.noted_by.len() == self.others.len() || self.ticks % REMIND_TICKS != 1)
        {
            return Vec::new();
        }
        self.others
            .iter()
            .filter(|other| !is_proven || !self.noted_by.contains(other))
            .map(|other| (*other, Frame::Standing(self.word_to(*other, true))))
            .collect()
    }

    /// Takes another's word; the answer, if it wants one.
    pub(crate) fn hear(&mut self, from: MemberId, word: Word) -> Option<(MemberId, Frame)> {
        let known = self.identity.known.get(&from).copied();
        // A proven member's store is its store; a new one's is taken for it only if there was none.
        if known.is_none() || (word.is_proven && known != Some(word.store)) {
            self.identity.known.insert(from, word.store);
            self.is_changed = true;
        }
        if word.knows == self.identity.store {
            self.noted_by.insert(from);
        } else {
            self.noted_by.remove(&from);
        }
        if !self.identity.is_proven {
            let was_fellow = self.answers.get(&from).is_some_and(|a| a.is_fellow);
            let answer = Answer {
                is_fellow: !word.is_proven || word.is_fellow || was_fellow,
                knows: word.knows == self.identity.store,
                knows_other: word.knows != 0 && word.knows != self.identity.store,
            };
            self.answers.insert(from, answer);
            self.judge();
        }
        word.asks.then(|| {
            let is_fellow = self.identity.fellows.get(&from) == Some(&word.store);
            let answer = Word {
                is_fellow,
                ..self.word_to(from, false)
            };
            (from, Frame::Standing(answer))
        })
    }

    /// This member holds all that was committed when an established leader was asked.
    pub(crate) fn caught_up(&mut self) -> Vec<(MemberId, Frame)> {
        if self.may() != May::Follow {
            return Vec::new();
        }
        tracing::info!(member = %self.identity.member, "caught up with what was lost; may vote again");
        self.prove();
        let tell = |to: &MemberId| (*to, Frame::Standing(self.word_to(*to, true)));
        self.others.iter().map(tell).collect()
    }

    /// The store by which this member knows another.
    pub(crate) fn known(&self, member: MemberId) -> Option<u64> {
        self.identity.known.get(&member).copied()
    }

    /// The identity to store, if it changed; before anything else is sent.
    pub(crate) fn take_change(&mut self) -> Option<Identity> {
        std::mem::take(&mut self.is_changed).then(|| self.identity.clone())
    }

    fn judge(&mut self) {
        if self.identity.is_proven {
            return;
        }
        let is_known = self.answers.values().any(|a| a.knows_other);
        let is_noted = |other| self.answers.get(other).is_some_and(|a: &Answer| a.knows);
        let is_noted_by_all = self.others.iter().all(is_noted);
        let fellows = || self.answers.values().filter(|a| a.is_fellow && a.knows);
        let is_founder = self.founders > self.others.len();
        let is_founding = is_founder && fellows().count() + 1 > self.founders / 2;
        if is_known || !(is_noted_by_all || is_founding) {
            return;
        }
        let fellows = self.answers.iter().filter(|(_, a)| a.is_fellow);
        let stores = fellows.filter_map(|(id, _)| self.identity.known.get_key_value(id));
        self.identity.fellows = stores.map(|(id, store)| (*id, *store)).collect();
        self.prove();
    }

    fn prove(&mut self) {
        self.identity.is_proven = true;
        self.is_changed = true;
    }

    fn word_to(&self, other: MemberId, asks: bool) -> Word {
        Word {
            store: self.identity.store,
            is_proven: self.identity.is_proven,
            asks,
            knows: self.known(other).unwrap_or_default(),
            is_fellow: false,
        }
    }
}

/// How often a proven member tells its store to those who have not noted it.
const REMIND_TICKS: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn members(n: usize) -> Vec<MemberId> {
        (0..n)
            .map(|i| MemberId::from_name(&i.to_string()))
            .collect()
    }

    fn founder(i: usize, of: usize, store: u64) -> Standing {
        let mut others = members(of);
        let member = others.remove(i);
        let identity = Identity {
            cell: "cell".to_owned(),
            member,
            store,
            is_proven: false,
            known: BTreeMap::new(),
            fellows: BTreeMap::new(),
        };
        Standing::new(identity, others, true, 10)
    }

    /// `a` asks `b`.
    fn ask(a: &mut Standing, b: &mut Standing) {
        let (from, to) = (a.identity.member, b.identity.member);
        for (at, frame) in a.tick() {
            let Frame::Standing(word) = frame else {
                panic!()
            };
            if at == to
                && let Some((_, Frame::Standing(answer))) = b.hear(from, word)
            {
                assert!(a.hear(to, answer).is_none());
            }
        }
    }

    #[test]
    fn one_founder_alone_may_vote_at_once() {
        assert_eq!(founder(0, 1, 1).may(), May::Vote);
    }

    #[test]
    fn a_majority_of_founders_found_and_the_last_joins_when_all_have_answered() {
        let (mut a, mut b, mut c) = (founder(0, 3, 1), founder(1, 3, 2), founder(2, 3, 3));
        ask(&mut a, &mut b);
        ask(&mut b, &mut a);
        assert_eq!((a.may(), b.may()), (May::Vote, May::Vote));
        ask(&mut c, &mut a);
        assert_eq!(c.may(), May::Nothing);
        ask(&mut c, &mut b);
        assert_eq!(c.may(), May::Vote);
    }

    #[test]
    fn a_member_that_lost_its_store_is_silent_then_follows_then_votes_again() {
        let (mut a, mut b) = (founder(0, 2, 1), founder(1, 2, 2));
        ask(&mut a, &mut b);
        ask(&mut b, &mut a);
        let mut again = founder(0, 2, 99);
        ask(&mut again, &mut b);
        assert_eq!(again.may(), May::Nothing);
        for _ in 0..10 {
            ask(&mut again, &mut b);
        }
        assert_eq!(again.may(), May::Follow);
        let told = again.caught_up();
        assert_eq!((again.may(), told.len()), (May::Vote, 1));
        // From now on it is known by its new store, and its old one is a stranger's.
        for (_, frame) in told {
            let Frame::Standing(word) = frame else {
                panic!()
            };
            b.hear(again.identity.member, word);
        }
        let mut old = founder(0, 2, 1);
        ask(&mut old, &mut b);
        assert_eq!(old.may(), May::Nothing);
    }
}
