//! What a member knows of itself and its cluster.

use serde::Serialize;

use super::member::{Member, MemberId};

/// A member's view of itself and its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RaftStatus {
    /// This member.
    pub member: MemberId,
    /// What it does at present.
    pub role: RaftRole,
    /// Who leads, as far as this member knows.
    pub leader: Option<MemberId>,
    /// The term of the leadership; it only ever rises.
    pub term: u64,
    /// The last entry known to be on a majority's disks.
    pub committed: u64,
    /// The last entry in this member's state.
    pub applied: u64,
    /// Everybody, this member included.
    pub members: Vec<Member>,
    /// This member was removed from the cluster.
    pub is_removed: bool,
    /// What keeps this member from taking part, if anything does, in one sentence.
    pub problem: Option<String>,
}

/// What a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RaftRole {
    /// It orders all writes.
    Leader,
    /// It acknowledges, and may become the leader.
    Follower,
    /// It follows without a vote.
    Learner,
}
