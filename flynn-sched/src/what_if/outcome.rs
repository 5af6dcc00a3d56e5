//! What would happen.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{ClusterState, GroupId, HostId, Job, JobId};

use super::{
    Hypothesis,
    rest::Rested,
    room::{HostsNeeded, Room, by_zone},
};

/// What would happen to a cell. Its [`Display`](std::fmt::Display) is a report for a person.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// What was imagined.
    pub hypotheses: Vec<Hypothesis>,
    /// What would become of jobs, by group: of those that are placed now and would not be, and the other way round.
    pub jobs: Vec<JobChange>,
    /// The groups that would have fewer jobs than they should, by id.
    pub unplaced: Vec<Unplaced>,
    /// The room before, by zone.
    pub zones_before: BTreeMap<Option<String>, Room>,
    /// The room after, by zone.
    pub zones_after: BTreeMap<Option<String>, Room>,
    /// The room before, of all hosts.
    pub before: Room,
    /// The room after, of all hosts.
    pub after: Room,
    /// The resource of which the largest share would be promised, and the share.
    pub tightest: Option<(String, f64)>,
    /// How many more hosts would place everything; `None` if everything would be placed, or there is no host to be like.
    pub hosts_needed: Option<HostsNeeded>,
    /// How long it would take until the schedulers have nothing more to do, in milliseconds: hosts are perfect, so that
    /// this is graces and delays only.
    pub took_ms: u64,
    /// Would they come to rest? See [`Rested::is_at_rest`].
    pub is_at_rest: bool,
    /// The cell after it.
    pub state: ClusterState,
}

/// What would become of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobChange {
    /// Its group.
    pub group: GroupId,
    /// What would become of it.
    pub fate: Fate,
}

/// What would become of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// One more would be started.
    Started {
        /// Here.
        on: HostId,
    },
    /// It would be stopped or given up, and no other would take its place, nor is one wanted.
    Stopped {
        /// The job.
        job: JobId,
        /// Where it is.
        on: HostId,
    },
    /// Another would take its place.
    Moved {
        /// The job.
        job: JobId,
        /// Where it is.
        from: HostId,
        /// Where the other would be.
        to: HostId,
    },
    /// It would be gone, and there would be no place for another.
    Displaced {
        /// The job.
        job: JobId,
        /// Where it is.
        from: HostId,
    },
}

/// A group that would have fewer jobs than it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// The group.
    pub group: GroupId,
    /// How many it would lack.
    pub missing: u32,
    /// How many it lacks now, as far as its scheduler has said.
    pub missing_before: u32,
    /// Why, in one sentence.
    pub why: String,
}

impl Outcome {
    pub(super) fn of(
        before: &ClusterState,
        now_ms: u64,
        hypotheses: &[Hypothesis],
        rested: Rested,
        hosts_needed: Option<HostsNeeded>,
    ) -> Self {
        let after = rested.state;
        let room = Room::of(after.hosts());
        Self {
            hypotheses: hypotheses.to_vec(),
            jobs: changes(before, &after),
            unplaced: unplaced(before, &after),
            zones_before: by_zone(before),
            zones_after: by_zone(&after),
            before: Room::of(before.hosts()),
            tightest: room.tightest(),
            after: room,
            hosts_needed,
            took_ms: rested.at_ms.saturating_sub(now_ms),
            is_at_rest: rested.is_at_rest,
            state: after,
        }
    }

    /// Would nothing change about jobs?
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.jobs.is_empty()
    }
}

/// The jobs of each group that serve, or will: not at their end, and not told to stop.
fn serving(state: &ClusterState) -> BTreeMap<&GroupId, Vec<&Arc<Job>>> {
    let mut groups: BTreeMap<&GroupId, Vec<&Arc<Job>>> = BTreeMap::new();
    let serves = |job: &&Arc<Job>| !job.status.phase.is_final() && !job.is_stopping;
    for job in state.jobs().filter(serves) {
        groups.entry(&job.group).or_default().push(job);
    }
    groups
}

fn changes(before: &ClusterState, after: &ClusterState) -> Vec<JobChange> {
    let (old, new) = (serving(before), serving(after));
    let groups: BTreeSet<&GroupId> = old.keys().chain(new.keys()).copied().collect();
    let mut changes = Vec::new();
    for group in groups {
        let is_there = |job: &&&Arc<Job>| !is_lost(after, &job.host);
        let was = old.get(group).map_or(&[][..], Vec::as_slice);
        let is = new.get(group).map_or(&[][..], Vec::as_slice).iter();
        let is: BTreeMap<&JobId, &HostId> = is
            .filter(is_there)
            .map(|job| (&job.id, &job.host))
            .collect();
        let known: BTreeSet<&JobId> = was.iter().map(|job| &job.id).collect();
        let started = is.iter().filter(|(id, _)| !known.contains(*id));
        let mut started: Vec<&HostId> = started.map(|(_, host)| *host).collect();
        started.sort();
        let mut started = VecDeque::from(started);
        let mut gone: Vec<&Arc<Job>> = was.to_vec();
        gone.retain(|job| !is.contains_key(&job.id));
        // What was lost before may have a successor already: it takes one only if there are any left.
        gone.sort_by_key(|job| (is_lost(before, &job.host), &job.host, &job.id));
        let mut displaced = after.group_status(group).map_or(0, |status| status.missing);
        for old in gone {
            let (from, job) = (old.host.clone(), old.id.clone());
            let fate = match started.pop_front().cloned() {
                Some(to) => Fate::Moved { job, from, to },
                None if is_lost(before, &from) => continue,
                None if displaced > 0 => {
                    displaced -= 1;
                    Fate::Displaced { job, from }
                }
                None => Fate::Stopped { job, on: from },
            };
            let group = group.clone();
            changes.push(JobChange { group, fate });
        }
        changes.extend(started.into_iter().map(|on| JobChange {
            group: group.clone(),
            fate: Fate::Started { on: on.clone() },
        }));
    }
    changes
}

fn is_lost(state: &ClusterState, host: &HostId) -> bool {
    let known = state.host(host);
    known.is_none_or(|host| host.lost_since_ms.is_some())
}

fn unplaced(before: &ClusterState, after: &ClusterState) -> Vec<Unplaced> {
    after
        .group_statuses()
        .filter(|(_, status)| status.missing > 0)
        .map(|(group, status)| Unplaced {
            group: group.clone(),
            missing: status.missing,
            missing_before: before.group_status(group).map_or(0, |s| s.missing),
            why: status.blocked.clone().unwrap_or_default(),
        })
        .collect()
}
