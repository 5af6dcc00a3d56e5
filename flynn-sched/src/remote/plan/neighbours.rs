//! What a placement rests on that is not its own host: the jobs it is near to, and those it keeps apart from.
//!
//! [`Constraint::Apart`] holds both ways over a rack, a zone or a tag's value, so two placements on different hosts can
//! break it together although neither host's sequence number changes for the other. Two rules prevent it, whichever of
//! the two comes first:
//!
//! - *The one that keeps apart comes second.* It compares the sequence numbers of all groups it must be apart from; every
//!   placement changes the number of its group. A group that it does not know has no number yet, and the first placement
//!   of such a group changes `cellseq/groups`, which is compared where groups are meant by prefix.
//! - *It comes first.* Every placement compares `cellseq/apart`, which only placements that keep others apart change.
//!   So the other, which has not seen it, is decided anew.
//!
//! A job that is to be spread strictly ([`Spread::max_skew`](crate::Spread::max_skew)) rests on all jobs of its own group, and
//! compares its sequence number.
//!
//! [`Constraint::Near`] rests on one job that is there: that job must still be listed. The first of jobs that are to be
//! near each other rests on none of them being there: it compares what one that keeps apart from them would.

use std::sync::Arc;

use flynn_discovery::backend::Condition;

use crate::{
    Constraint, Domain, Job, Jobs,
    remote::{
        keys::CellKey,
        plan::{Chunk, steps::Planner},
    },
};

impl Planner<'_> {
    /// Adds to the step that starts `job` what it compares and changes for the sake of other jobs.
    pub(super) fn neighbours(&self, step: &mut Chunk, job: &Job) {
        step.expect(self.mirror, CellKey::ApartSeq);
        let seq = CellKey::GroupSeq(job.group.clone());
        if self.mirror.version(&seq).is_some() {
            // Whoever keeps apart from this group sees it by this key, so it must not be a new one unnoticed.
            step.compares.entry(seq).or_insert(Condition::Present);
        } else {
            step.touch(CellKey::GroupsSeq);
        }
        if job.spec.spread.iter().any(|wish| wish.max_skew.is_some()) {
            // How even the group is rests on all its placements.
            step.expect(self.mirror, CellKey::GroupSeq(job.group.clone()));
        }
        for constraint in &job.spec.constraints {
            match constraint {
                // A host has a sequence number of its own.
                Constraint::Apart {
                    within: Domain::Host,
                    ..
                } => {}
                Constraint::Apart { jobs, .. } => self.apart(step, jobs),
                Constraint::Near { jobs, within } => self.near(step, job, jobs, within),
                _ => {}
            }
        }
    }

    fn apart(&self, step: &mut Chunk, jobs: &Jobs) {
        step.touch(CellKey::ApartSeq);
        self.as_placed(step, jobs);
    }

    fn near(&self, step: &mut Chunk, job: &Job, jobs: &Jobs, within: &Domain) {
        if let Some(witness) = self.witness(job, jobs, within) {
            let key = CellKey::Job(witness.host.clone(), witness.id.clone());
            step.compares.insert(key, Condition::Present);
        } else if jobs.matches(&job.group) {
            // The first of those that are near each other rests on none of them being there.
            self.as_placed(step, jobs);
        }
    }

    /// None of these jobs is placed that the mirror does not know.
    fn as_placed(&self, step: &mut Chunk, jobs: &Jobs) {
        for group in self.mirror.placed(jobs) {
            step.expect(self.mirror, CellKey::GroupSeq(group.clone()));
        }
        match jobs {
            Jobs::Group(group) => step.expect(self.mirror, CellKey::GroupSeq(group.clone())),
            Jobs::Prefix(_) => step.expect(self.mirror, CellKey::GroupsSeq),
        }
    }

    /// Are all those that the job is to be near there already? One that this transaction starts itself has to be written
    /// before.
    pub(super) fn is_near_known(&self, job: &Job) -> bool {
        job.spec
            .constraints
            .iter()
            .all(|constraint| match constraint {
                Constraint::Near { jobs, within } => self.witness(job, jobs, within).is_some(),
                _ => true,
            })
    }

    fn witness(&self, job: &Job, jobs: &Jobs, within: &Domain) -> Option<&Arc<Job>> {
        let host = self.after.host(&job.host)?;
        self.mirror.state.live(jobs).find(|other| {
            let other_host = self.after.host(&other.host);
            self.after.job(&other.id).is_some()
                && other_host.is_some_and(|other| within.of(&other.host) == within.of(&host.host))
        })
    }
}
