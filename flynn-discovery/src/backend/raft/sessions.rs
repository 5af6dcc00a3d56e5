//! Which requests have been carried out: what makes it safe to send a request again.
//!
//! Every member numbers its requests within a session (one run of its process). The log may hold a request twice,
//! because its origin did not know what became of the first copy; the second is passed over, by every member alike,
//! since the table is part of the replicated state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::member::MemberId;

/// The table: for each member its latest sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    by_member: BTreeMap<MemberId, Vec<Session>>,
}

/// The requests of one run of one member that were carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    id: u64,
    /// Every request below is finished: its origin said that it waits for none of them any more.
    floor: u64,
    /// The requests from `floor` on that were carried out, as ranges `(first, past the last)` in order.
    done: Vec<(u64, u64)>,
}

impl Sessions {
    /// Notes a request; `false` when it was carried out before, or is too old to know.
    pub(crate) fn admit(&mut self, origin: MemberId, session: u64, seq: u64, floor: u64) -> bool {
        let sessions = self.by_member.entry(origin).or_default();
        let at = sessions.iter().position(|s| s.id == session);
        let at = at.unwrap_or_else(|| {
            if sessions.len() == SESSIONS_PER_MEMBER {
                sessions.remove(0);
            }
            sessions.push(Session {
                id: session,
                floor: 0,
                done: Vec::new(),
            });
            sessions.len() - 1
        });
        sessions[at].admit(seq, floor)
    }

    /// Was this request carried out, as far as is still known?
    pub(crate) fn contains(&self, origin: MemberId, session: u64, seq: u64) -> bool {
        self.by_member
            .get(&origin)
            .is_some_and(|sessions| sessions.iter().any(|s| s.id == session && s.is_done(seq)))
    }

    /// The stored form of one member's part.
    pub(crate) fn of(&self, member: MemberId) -> &[Session] {
        self.by_member.get(&member).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = MemberId> {
        self.by_member.keys().copied()
    }

    pub(crate) fn insert(&mut self, member: MemberId, sessions: Vec<Session>) {
        self.by_member.insert(member, sessions);
    }
}

impl Session {
    fn admit(&mut self, seq: u64, floor: u64) -> bool {
        if seq < self.floor || self.is_done(seq) {
            return false;
        }
        self.mark(seq);
        self.raise(floor);
        if self.done.len() > MAX_RANGES {
            self.raise(self.done[1].0);
        }
        true
    }

    fn is_done(&self, seq: u64) -> bool {
        let behind = self.done.partition_point(|(first, _)| *first <= seq);
        behind > 0 && seq < self.done[behind - 1].1
    }

    fn mark(&mut self, seq: u64) {
        let at = self.done.partition_point(|(first, _)| *first <= seq);
        let joins_left = at > 0 && self.done[at - 1].1 == seq;
        let joins_right = at < self.done.len() && self.done[at].0 == seq + 1;
        match (joins_left, joins_right) {
            (true, true) => {
                self.done[at - 1].1 = self.done[at].1;
                self.done.remove(at);
            }
            (true, false) => self.done[at - 1].1 = seq + 1,
            (false, true) => self.done[at].0 = seq,
            (false, false) => self.done.insert(at, (seq, seq + 1)),
        }
    }

    fn raise(&mut self, floor: u64) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        self.done.retain_mut(|(first, end)| {
            *first = (*first).max(floor);
            first < end
        });
    }
}

/// How many sessions of one member are remembered: so often may a member restart while a copy of a request of its
/// earlier life still waits in some leader's queue.
const SESSIONS_PER_MEMBER: usize = 4;

/// How many gaps between carried out requests are remembered; requests in older gaps are never carried out any more.
const MAX_RANGES: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    use super::*;

    proptest! {
        /// Above the floor the table is exactly the set of the requests that were admitted.
        #[test]
        fn a_request_is_admitted_once(requests in prop::collection::vec((0u64..64, 0u64..48), 1..200)) {
            let (member, mut sessions) = (MemberId::new(7).unwrap(), Sessions::default());
            let (mut model, mut floor) = (BTreeSet::new(), 0);
            for (seq, wanted) in requests {
                let new = seq >= floor && model.insert(seq);
                prop_assert_eq!(sessions.admit(member, 1, seq, wanted), new);
                if new {
                    floor = floor.max(wanted);
                }
                for seq in floor..64 {
                    prop_assert_eq!(sessions.contains(member, 1, seq), model.contains(&seq));
                }
            }
        }
    }

    #[test]
    fn only_the_latest_sessions_of_a_member_are_kept() {
        let (member, mut sessions) = (MemberId::new(7).unwrap(), Sessions::default());
        for session in 0..10 {
            assert!(sessions.admit(member, session, 0, 0));
        }
        assert_eq!(sessions.of(member).len(), SESSIONS_PER_MEMBER);
        assert!(!sessions.admit(member, 9, 0, 0));
    }
}
