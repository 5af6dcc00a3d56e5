//! The jobs that a transaction starts, written together.
//!
//! A million jobs whose ids are in no order would each be looked for, and put, somewhere in trees that are larger than
//! every cache: most of a start's time would be spent waiting for memory. So ids are checked in their order before anything
//! else, and what is started is counted at once but written later, in the order of the trees. Whoever asks for jobs in
//! between asks here too, or has them written first.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use crate::{
    ClusterState, GroupId, Job, JobId, Jobs,
    id::Head as _,
    transaction::{Change, Transaction},
};

use super::{Applying, No};

/// The jobs that are started, accepted, counted in all sums, and in no index yet.
#[derive(Debug, Default)]
pub(super) struct Starting {
    jobs: Vec<Arc<Job>>,
    /// The jobs of each group, in pieces as they came.
    by_group: BTreeMap<GroupId, Vec<Range<usize>>>,
    /// The changes, by position, that start a job of which there is one already, or another change starts it too.
    doubtful: BTreeSet<usize>,
}

impl Starting {
    pub(super) fn of(state: &ClusterState, transaction: &Transaction) -> Self {
        let mut starts: Vec<(u64, usize, &JobId)> = Vec::new();
        for (n, change) in transaction.changes.iter().enumerate() {
            if let Change::Start(job) = change {
                starts.push((job.id.head(), n, &job.id));
            }
        }
        starts.sort_unstable_by_key(|(head, n, _)| (*head, *n));
        let mut doubtful = BTreeSet::new();
        for alike in starts.chunk_by_mut(|(a, ..), (b, ..)| a == b) {
            alike.sort_unstable_by_key(|(_, n, id)| (*id, *n));
            for same in alike.chunk_by(|(.., a), (.., b)| a == b) {
                if same.len() > 1 || state.job(same[0].2).is_some() {
                    doubtful.extend(same.iter().map(|(_, n, _)| *n));
                }
            }
        }
        Self {
            doubtful,
            ..Self::default()
        }
    }

    /// Could there be a job already with the id of the one that this change starts?
    pub(super) fn is_doubtful(&self, change: usize) -> bool {
        self.doubtful.contains(&change)
    }

    /// Takes note of a job that the state counts.
    fn add(&mut self, job: Arc<Job>) {
        let at = self.jobs.len();
        let is_next = |last: &Arc<Job>| last.group == job.group;
        let pieces = if self.jobs.last().is_some_and(is_next) {
            self.by_group.get_mut(&job.group)
        } else {
            None
        };
        match pieces.and_then(|pieces| pieces.last_mut()) {
            Some(piece) => piece.end = at + 1,
            None => {
                let pieces = self.by_group.entry(job.group.clone()).or_default();
                pieces.push(at..at + 1);
            }
        }
        self.jobs.push(job);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The jobs that are meant, if these are few.
    pub(super) fn few<'j>(&'j self, jobs: &'j Jobs) -> Result<Vec<&'j Arc<Job>>, NotYet> {
        let few: Vec<&Arc<Job>> = self.meant(jobs).take(FEW + 1).collect();
        if few.len() > FEW {
            return Err(NotYet::Unwritten);
        }
        Ok(few)
    }

    fn meant<'j>(&'j self, jobs: &'j Jobs) -> impl Iterator<Item = &'j Arc<Job>> {
        jobs.within(&self.by_group)
            .flatten()
            .flat_map(|piece| &self.jobs[piece.clone()])
    }
}

impl Applying<'_> {
    /// Counts a job that was checked; it is written later.
    pub(super) fn write_later(&mut self, mut job: Arc<Job>) {
        self.state.count_in(&mut job, self.revision, 0);
        self.starting.add(job);
    }

    /// Writes what is to be written: whoever looks for jobs in the state finds all from now on.
    pub(super) fn write_jobs(&mut self) {
        if !self.starting.jobs.is_empty() {
            self.state.enlist(std::mem::take(&mut self.starting.jobs));
            self.starting.by_group.clear();
        }
    }
}

/// Why a start was not accepted.
pub(super) enum NotYet {
    /// It depends on jobs that are not written yet.
    Unwritten,
    /// It does not fit.
    No(No),
}

impl From<No> for NotYet {
    fn from(no: No) -> Self {
        Self::No(no)
    }
}

/// How many jobs are looked at one by one before they are written.
const FEW: usize = 64;
