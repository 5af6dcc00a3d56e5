//! A transaction on its way into the store. Pure: it decides on a mirror what to commit, learns what became of that, and
//! decides what is left on a newer mirror.
//!
//! What was carried out is never decided again, what was refused by the rules neither: only what met other commits
//! is. A guard that held is held to what the transaction itself made of the group since.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    ClusterState, Error, Eviction, GroupId, Result, Transaction,
    remote::{
        flight::{Flight, Landed},
        mirror::Mirror,
        plan::{Limits, plan},
    },
    transaction::{Applied, Change, Mode, Refused},
};

/// A transaction, and how far it is.
#[derive(Debug, Clone)]
pub(super) struct Carrying {
    transaction: Transaction,
    /// What is left to decide, by its places in the transaction; `None` while that is all of it.
    left: Option<Vec<usize>>,
    /// The versions in which earlier flights left groups.
    groups: BTreeMap<GroupId, u64>,
    refused: BTreeMap<usize, Refused>,
    /// How many decisions were made.
    attempts: usize,
    /// The last revision that it wrote; zero if there is none.
    pub(super) reached: u64,
}

impl Carrying {
    pub(super) fn new(transaction: Transaction) -> Self {
        Self {
            transaction,
            left: None,
            groups: BTreeMap::new(),
            refused: BTreeMap::new(),
            attempts: 0,
            reached: 0,
        }
    }

    pub(super) fn attempts(&self) -> usize {
        self.attempts
    }

    pub(super) fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// Decides what is left. Gives what is to be committed, and the state after that.
    ///
    /// # Errors
    ///
    /// As [`ClusterState::apply`]; [`Error::Invalid`] for a transaction that is to be applied all or nothing and is too
    /// large for that.
    pub(super) fn decide(
        &mut self,
        mirror: &Mirror,
        limits: Limits,
    ) -> Result<(Flight, ClusterState)> {
        let (asked, places) = self.asked(&mirror.state);
        let applied = mirror.state.apply(&asked)?;
        let (accepted, refused) = sorted(&asked, &applied, &places);
        let plan = plan(mirror, &asked, &applied, &accepted, limits)?;
        let chunks = plan.lanes.iter().flatten().count();
        if asked.mode == Mode::AllOrNothing && chunks > 1 {
            return Err(Error::Invalid {
                what: format!("transaction of {} changes", asked.changes.len()),
                why: "too large to be applied all or nothing; split it or make it incremental"
                    .to_owned(),
            });
        }
        drop(asked);
        for (place, refused) in refused.into_iter().zip(applied.refused) {
            let change = self.transaction.changes[place].clone();
            self.refused.insert(place, Refused { change, ..refused });
        }
        self.attempts += 1;
        Ok((Flight::new(plan, mirror.state.revision()), applied.state))
    }

    /// Learns what became of the flight. Is anything left?
    pub(super) fn learn(&mut self, landed: &Landed) -> bool {
        self.reached = self.reached.max(landed.reached);
        self.groups
            .extend(landed.groups.iter().map(|(id, at)| (id.clone(), *at)));
        let is_over = landed.undone.is_empty();
        if self.transaction.mode == Mode::Incremental {
            let mut left = landed.undone.clone();
            left.sort_unstable();
            self.left = Some(left);
        }
        !is_over
    }

    /// What was not applied, in the order of the transaction; what is left to decide is not for this reason.
    pub(super) fn into_refused(mut self, why_left: &str) -> Vec<Refused> {
        for place in self.left.take().unwrap_or_default() {
            let change = self.transaction.changes[place].clone();
            let host = match &change {
                Change::Start(job) => Some(job.host.clone()),
                _ => None,
            };
            let refused = Refused {
                change,
                host,
                why: why_left.to_owned(),
                is_conflict: true,
            };
            self.refused.insert(place, refused);
        }
        self.refused.into_values().collect()
    }

    /// What is left as a transaction, and where in the whole one its changes are.
    fn asked(&self, state: &ClusterState) -> (Cow<'_, Transaction>, Vec<usize>) {
        let Some(left) = &self.left else {
            let places = (0..self.transaction.changes.len()).collect();
            return (Cow::Borrowed(&self.transaction), places);
        };
        let is_left: BTreeSet<usize> = left.iter().copied().collect();
        let about: BTreeSet<&GroupId> = left
            .iter()
            .flat_map(|place| groups(&self.transaction.changes[*place], state))
            .collect();
        let mut places = Vec::with_capacity(left.len());
        let mut changes = Vec::with_capacity(left.len());
        for (place, change) in self.transaction.changes.iter().enumerate() {
            match change {
                Change::ExpectGroup { group, version } if about.contains(group) => {
                    changes.push(Change::ExpectGroup {
                        group: group.clone(),
                        version: self.groups.get(group).copied().unwrap_or(*version),
                    });
                }
                change if is_left.contains(&place) => changes.push(change.clone()),
                _ => continue,
            }
            places.push(place);
        }
        let asked = Transaction {
            changes,
            mode: self.transaction.mode,
            conflict: self.transaction.conflict,
            basis: self.transaction.basis,
        };
        (Cow::Owned(asked), places)
    }
}

/// The places of what was accepted and of what was refused.
fn sorted(asked: &Transaction, applied: &Applied, places: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let mut accepted = Vec::with_capacity(applied.accepted.len());
    let mut refused = Vec::with_capacity(applied.refused.len());
    for (change, place) in asked.changes.iter().zip(places) {
        // Both are in the order of the transaction. Of two equal changes in a row it does not matter which was refused.
        if applied.accepted.get(accepted.len()) == Some(change) {
            accepted.push(*place);
        } else if applied.refused.get(refused.len()).map(|r| &r.change) == Some(change) {
            refused.push(*place);
        }
    }
    (accepted, refused)
}

/// The groups whose guards a change is behind.
fn groups<'a>(
    change: &'a Change,
    state: &'a ClusterState,
) -> impl Iterator<Item = &'a GroupId> + use<'a> {
    let of = |id| state.job(id).map(|job| &job.group);
    let (group, other) = match change {
        Change::Start(job) => (Some(&job.group), None),
        Change::Stop(id) | Change::Remove(id) => (of(id), None),
        Change::Evict { job, why } => match why {
            Eviction::Preempted { by, .. } => (of(job), Some(by)),
            Eviction::Overstayed(overstay) => (of(job), Some(&overstay.by)),
            Eviction::Moving { .. } | Eviction::Emptying { .. } => (of(job), None),
        },
        Change::PutGroup(group) => (Some(&group.id), None),
        Change::RemoveGroup(group) | Change::Note { group, .. } => (Some(group), None),
        Change::ExpectGroup { .. }
        | Change::ForgetHost(_)
        | Change::PutQuota(_)
        | Change::RemoveQuota(_)
        | Change::PutReservation(_)
        | Change::RemoveReservation { .. } => (None, None),
    };
    group.into_iter().chain(other)
}
