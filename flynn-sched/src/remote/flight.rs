//! The commits of one decision, under way side by side. Pure: it says what to send next, and is told what became of it.
//!
//! Every lane has at most one chunk under way; the next one compares what the one before it wrote. A chunk that met another
//! commit ends its lane: what is left of the lane rests on it, and has to be decided anew.

use std::{collections::BTreeMap, sync::Arc};

use flynn_discovery::backend::{Compare, Condition, Key, Op, Revision};

use crate::{
    GroupId, Result,
    remote::{
        keys::CellKey,
        mirror::Mirror,
        plan::{Chunk, Plan, Written},
    },
};

/// The commits of one decision.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    lanes: Vec<Lane>,
    /// What goes last, if everything else was carried out.
    sweep: Option<Arc<Chunk>>,
    /// The first lane from which on some may not have been sent.
    first_idle: usize,
    under_way: usize,
    /// The revision that was decided on.
    decided_at: u64,
    pub(super) landed: Landed,
}

/// What became of a flight.
#[derive(Debug, Clone, Default)]
pub(super) struct Landed {
    /// The last revision of its commits; zero if there was none.
    pub(super) reached: u64,
    /// The versions in which it left the groups that it changed.
    pub(super) groups: BTreeMap<GroupId, u64>,
    /// What was not carried out, by its places in the transaction.
    pub(super) undone: Vec<usize>,
    /// What was compared and did not hold.
    outdated: Vec<(CellKey, Condition)>,
    /// Commits were refused for keys that this program does not know, from a mirror of this revision.
    outdated_at: Option<u64>,
}

#[derive(Debug, Clone)]
struct Lane {
    chunks: Vec<Arc<Chunk>>,
    /// The next chunk to send, or the one under way.
    at: usize,
    is_under_way: bool,
    written: Written,
}

/// One commit, to be sent.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) lane: usize,
    pub(super) compares: Vec<Compare>,
    pub(super) ops: Vec<Op>,
}

impl Flight {
    pub(super) fn new(plan: Plan, decided_at: u64) -> Self {
        Self {
            lanes: plan.lanes.into_iter().map(Lane::new).collect(),
            sweep: plan.sweep.map(Arc::new),
            first_idle: 0,
            under_way: 0,
            decided_at,
            landed: Landed::default(),
        }
    }

    /// The next commit to send, if there is one that need not wait for others. They are to be sent in this order: a
    /// store that keeps to it has least to refuse.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) for ids that are not segments of a key.
    pub(super) fn depart(&mut self) -> Result<Option<Departure>> {
        let lanes = self.lanes.iter().enumerate().skip(self.first_idle);
        let mut idle = lanes.filter(|(_, lane)| !lane.is_under_way && lane.at < lane.chunks.len());
        let Some((at, _)) = idle.next() else {
            self.first_idle = self.lanes.len();
            return self.last_departure();
        };
        self.first_idle = at + 1;
        self.under_way += 1;
        self.lanes[at].depart(at).map(Some)
    }

    fn last_departure(&mut self) -> Result<Option<Departure>> {
        let is_clear = self.under_way == 0 && self.landed.undone.is_empty();
        let Some(sweep) = self.sweep.take_if(|_| is_clear) else {
            return Ok(None);
        };
        self.lanes.push(Lane::from(vec![sweep]));
        self.depart()
    }

    /// The lane's commit was carried out.
    pub(super) fn carried_out(&mut self, lane: usize, revision: Revision) {
        self.under_way -= 1;
        self.first_idle = self.first_idle.min(lane);
        let lane = &mut self.lanes[lane];
        lane.is_under_way = false;
        let chunk = &lane.chunks[lane.at];
        lane.at += 1;
        chunk.record(revision, &mut lane.written);
        self.landed.reached = self.landed.reached.max(revision.0);
        for group in chunk.groups() {
            let known = self.landed.groups.entry(group.clone()).or_default();
            *known = revision.0.max(*known);
        }
    }

    /// The lane's commit was refused, because of this key.
    pub(super) fn refused(&mut self, lane: usize, key: &Key) {
        self.under_way -= 1;
        let lane = &mut self.lanes[lane];
        lane.is_under_way = false;
        let left = lane.chunks.split_off(lane.at);
        let known = CellKey::parse(key).and_then(|key| {
            let condition = left[0].compared(&key, &lane.written)?;
            Some((key, condition))
        });
        match known {
            Some(known) => self.landed.outdated.push(known),
            None => self.landed.outdated_at = Some(self.decided_at),
        }
        let undone = left.iter().flat_map(|chunk| &chunk.changes);
        self.landed.undone.extend(undone);
    }
}

#[cfg(test)]
impl Flight {
    /// The changes that the commit under way in this lane carries out, by their places in the transaction.
    pub(super) fn changes(&self, lane: usize) -> &[usize] {
        let lane = &self.lanes[lane];
        &lane.chunks[lane.at].changes
    }

    /// Is there nothing to commit?
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.sweep.is_none()
    }

    /// How far it is, so that flights of one decision are told apart.
    pub(super) fn facts(&self, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        for lane in &self.lanes {
            (lane.at, lane.chunks.len(), lane.is_under_way).hash(hasher);
        }
        (
            &self.landed.undone,
            self.landed.reached,
            self.sweep.is_some(),
        )
            .hash(hasher);
    }
}

impl Landed {
    /// Does the mirror know of the flight's own commits, and of those that it met?
    pub(super) fn is_known_to(&self, mirror: &Mirror) -> bool {
        let is_news = |(key, condition): &(CellKey, Condition)| {
            let known = mirror.version(key);
            !match condition {
                Condition::Absent => known.is_none(),
                Condition::Present => known.is_some(),
                Condition::Version(version) => known == Some(*version),
                _ => true,
            }
        };
        let revision = mirror.state.revision();
        revision >= self.reached
            && self.outdated_at.is_none_or(|at| revision > at)
            && self.outdated.iter().all(is_news)
    }
}

impl Lane {
    fn new(chunks: Vec<Chunk>) -> Self {
        Self::from(chunks.into_iter().map(Arc::new).collect())
    }

    fn from(chunks: Vec<Arc<Chunk>>) -> Self {
        Self {
            chunks,
            at: 0,
            is_under_way: false,
            written: Written::default(),
        }
    }

    fn depart(&mut self, lane: usize) -> Result<Departure> {
        self.is_under_way = true;
        let (compares, ops) = self.chunks[self.at].prepared(&self.written)?;
        Ok(Departure {
            lane,
            compares,
            ops,
        })
    }
}
