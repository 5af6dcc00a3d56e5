//! How a member is set up.

use std::time::Duration;

use super::member::{MAX_VOTERS, MemberId, Peer};
use crate::{Error, Result};

/// How a member of a Raft cluster is set up.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    pub(crate) member: Peer,
    pub(crate) cell: String,
    pub(crate) voters: Vec<Peer>,
    pub(crate) tick: Duration,
    pub(crate) election_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) max_log_entries: usize,
    pub(crate) max_log_bytes: usize,
}

impl RaftConfig {
    /// Default of [`with_tick`](Self::with_tick).
    pub const TICK: Duration = Duration::from_millis(50);
    /// Default of [`with_election_timeout`](Self::with_election_timeout).
    pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
    /// Default of [`with_request_timeout`](Self::with_request_timeout).
    pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
    /// Default of [`with_max_log`](Self::with_max_log).
    pub const MAX_LOG_ENTRIES: usize = 50_000;
    /// Default of [`with_max_log`](Self::with_max_log).
    pub const MAX_LOG_BYTES: usize = 32 << 20;

    /// Member `member` of the cell `cell`.
    ///
    /// `voters` are the members the cluster is founded with, the same list on each of them. A member that is not among
    /// them has to be added by one of the others, and waits for that.
    pub fn new(member: Peer, cell: impl Into<String>, voters: Vec<Peer>) -> Self {
        Self {
            member,
            cell: cell.into(),
            voters,
            tick: Self::TICK,
            election_timeout: Self::ELECTION_TIMEOUT,
            request_timeout: Self::REQUEST_TIMEOUT,
            max_log_entries: Self::MAX_LOG_ENTRIES,
            max_log_bytes: Self::MAX_LOG_BYTES,
        }
    }

    /// The unit of all other times.
    #[must_use]
    pub fn with_tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// How long a leader may be silent before the others elect a new one: between once and twice this time.
    #[must_use]
    pub fn with_election_timeout(mut self, timeout: Duration) -> Self {
        self.election_timeout = timeout;
        self
    }

    /// How long a call waits for its answer.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// When the log is compacted: members that lag further behind need a snapshot.
    #[must_use]
    pub fn with_max_log(mut self, entries: usize, bytes: usize) -> Self {
        self.max_log_entries = entries;
        self.max_log_bytes = bytes;
        self
    }

    pub(crate) fn me(&self) -> MemberId {
        self.member.id
    }

    pub(crate) fn heartbeat_ticks(&self) -> usize {
        (self.election_ticks() / 5).max(1)
    }

    pub(crate) fn election_ticks(&self) -> usize {
        ticks(self.election_timeout, self.tick)
    }

    pub(crate) fn request_ticks(&self) -> u64 {
        ticks(self.request_timeout, self.tick) as u64
    }

    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |what: &str, why: String| {
            Err(Error::Invalid {
                what: what.to_owned(),
                why,
            })
        };
        if self.tick < Duration::from_millis(1) {
            return refuse("raft tick", "it is at least 1 ms".to_owned());
        }
        if self.election_ticks() < 3 {
            let why = "it is at least three ticks, so that one lost heartbeat is no reason to vote";
            return refuse("raft election timeout", why.to_owned());
        }
        if self.request_ticks() == 0 {
            return refuse("raft request timeout", "it is at least one tick".to_owned());
        }
        if self.cell.is_empty() {
            return refuse("raft cell", "a cell has a name".to_owned());
        }
        if self.voters.len() > MAX_VOTERS {
            let why = format!("at most {MAX_VOTERS}; add further members as learners");
            return refuse("raft voters", why);
        }
        let mut ids: Vec<_> = self.voters.iter().map(|peer| peer.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return refuse("raft voters", "one of them is named twice".to_owned());
        }
        Ok(())
    }
}

fn ticks(time: Duration, tick: Duration) -> usize {
    let ticks = time.as_nanos().div_ceil(tick.as_nanos().max(1));
    usize::try_from(ticks).unwrap_or(usize::MAX)
}
