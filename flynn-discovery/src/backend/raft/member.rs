//! Who takes part: identities, addresses, roles.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// The identity of a member of the cluster; never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(u64);

impl MemberId {
    /// The identity with this number.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for zero.
    pub fn new(id: u64) -> Result<Self> {
        if id == 0 {
            return Err(Error::Invalid {
                what: "member id 0".to_owned(),
                why: "an id is any other number".to_owned(),
            });
        }
        Ok(Self(id))
    }

    /// The identity of the host with this name: the same name gives the same id everywhere.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        let id = digest
            .iter()
            .take(8)
            .fold(0, |id, byte| id << 8 | u64::from(*byte));
        Self(id.max(1))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MemberId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let id = u64::from_str_radix(text, 16).map_err(|_| Error::Invalid {
            what: format!("member id {text:?}"),
            why: "a member id is 1 to 16 hexadecimal digits".to_owned(),
        })?;
        Self::new(id)
    }
}

/// A member and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its identity.
    pub id: MemberId,
    /// `host:port` of its transport.
    pub addr: String,
}

impl Peer {
    /// A peer.
    pub fn new(id: MemberId, addr: impl Into<String>) -> Self {
        Self {
            id,
            addr: addr.into(),
        }
    }
}

/// What a member may do in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MemberRole {
    /// Its acknowledgement counts, and it may lead.
    Voter,
    /// It follows, serves reads and watches, and decides nothing.
    Learner,
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// Its identity.
    pub id: MemberId,
    /// `host:port` of its transport.
    pub addr: String,
    /// Voter or learner.
    pub role: MemberRole,
}

/// A change of who takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MemberChange {
    AddLearner(Peer),
    Promote(MemberId),
    Demote(MemberId),
    Remove(MemberId),
}

/// The most voters of a cluster: more make every write slower and the loss of a majority no less likely.
pub const MAX_VOTERS: usize = 5;

/// Who takes part, as the log says: part of the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) voters: Vec<u64>,
    pub(crate) learners: Vec<u64>,
    /// The voters before a change that is under way; empty at other times.
    pub(crate) voters_outgoing: Vec<u64>,
    pub(crate) learners_next: Vec<u64>,
    pub(crate) auto_leave: bool,
    pub(crate) addrs: BTreeMap<MemberId, String>,
    /// Members that were removed, so that they can be told; the latest [`MAX_REMOVED`].
    pub(crate) removed: Vec<MemberId>,
}

/// How many removed members are remembered.
const MAX_REMOVED: usize = 256;

impl Membership {
    /// The voters and their addresses, in the order of these.
    pub(crate) fn voters(&self) -> Vec<(MemberId, String)> {
        let ids = self.voters.iter().filter_map(|id| MemberId::new(*id).ok());
        let mut voters: Vec<_> = ids
            .map(|id| (id, self.addrs.get(&id).cloned().unwrap_or_default()))
            .collect();
        voters.sort_by(|(_, a), (_, b)| a.cmp(b));
        voters
    }

    /// The membership a cluster begins with.
    pub(crate) fn initial(voters: &[Peer]) -> Self {
        let mut ids: Vec<u64> = voters.iter().map(|p| p.id.get()).collect();
        ids.sort_unstable();
        Self {
            voters: ids,
            addrs: voters.iter().map(|p| (p.id, p.addr.clone())).collect(),
            ..Self::default()
        }
    }

    /// Takes over the sets the consensus core computed.
    pub(crate) fn set(&mut self, state: &raft::eraftpb::ConfState) {
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        self.voters = sorted(&state.voters);
        self.learners = sorted(&state.learners);
        self.voters_outgoing = sorted(&state.voters_outgoing);
        self.learners_next = sorted(&state.learners_next);
        self.auto_leave = state.auto_leave;
        let gone: Vec<MemberId> = self
            .addrs
            .keys()
            .copied()
            .filter(|id| !self.contains(*id))
            .collect();
        for id in gone {
            self.addrs.remove(&id);
            self.removed.retain(|r| *r != id);
            self.removed.push(id);
        }
        let excess = self.removed.len().saturating_sub(MAX_REMOVED);
        self.removed.drain(..excess);
    }

    /// As the consensus core wants it.
    pub(crate) fn conf_state(&self) -> raft::eraftpb::ConfState {
        let mut state = raft::eraftpb::ConfState::default();
        state.set_voters(self.voters.clone());
        state.set_learners(self.learners.clone());
        state.set_voters_outgoing(self.voters_outgoing.clone());
        state.set_learners_next(self.learners_next.clone());
        state.set_auto_leave(self.auto_leave);
        state
    }

    pub(crate) fn contains(&self, id: MemberId) -> bool {
        let id = id.get();
        [&self.voters, &self.learners, &self.voters_outgoing]
            .iter()
            .any(|set| set.contains(&id))
    }

    pub(crate) fn is_voter(&self, id: MemberId) -> bool {
        self.voters.contains(&id.get())
    }

    pub(crate) fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        let known = |id: &MemberId| self.contains(*id);
        self.addrs
            .iter()
            .filter(|(id, _)| known(id))
            .map(|(id, addr)| Member {
                id: *id,
                addr: addr.clone(),
                role: if self.is_voter(*id) {
                    MemberRole::Voter
                } else {
                    MemberRole::Learner
                },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_from_the_name_and_survives_text() {
        let id = MemberId::from_name("host-1");
        assert_eq!(id, MemberId::from_name("host-1"));
        assert_ne!(id, MemberId::from_name("host-2"));
        assert_eq!(id.to_string().parse::<MemberId>().unwrap(), id);
        assert!("0".parse::<MemberId>().is_err());
    }
}
