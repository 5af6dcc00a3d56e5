//! Which lists of a host's jobs are worth telling the host.

use std::sync::Arc;

use crate::Job;

/// Remembers what a host was told, and says what it must be told next: the first list, and every list that wants
/// something else than the one before. A host's own reports change nothing about what is wanted.
#[derive(Debug, Default)]
pub(crate) struct Assignments {
    told: Option<Vec<Arc<Job>>>,
}

impl Assignments {
    /// The list, if it must be told. `jobs` come in the order of their ids.
    pub(crate) fn changed(
        &mut self,
        jobs: impl Iterator<Item = Arc<Job>>,
    ) -> Option<Vec<Arc<Job>>> {
        let jobs: Vec<Arc<Job>> = jobs.collect();
        let is_same = self.told.as_ref().is_some_and(|told| {
            told.len() == jobs.len() && told.iter().zip(&jobs).all(|(a, b)| wants_the_same(a, b))
        });
        (!is_same).then(|| {
            self.told = Some(jobs.clone());
            jobs
        })
    }
}

fn wants_the_same(a: &Arc<Job>, b: &Arc<Job>) -> bool {
    Arc::ptr_eq(a, b)
        || a.id == b.id
            && a.is_stopping == b.is_stopping
            && (Arc::ptr_eq(&a.spec, &b.spec) || a.spec == b.spec)
}
