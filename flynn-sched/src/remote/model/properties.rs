//! What must hold, read from the store's bare entries, and the trials.

use std::collections::BTreeMap;

use flynn_discovery::backend::{Compare, Key, kv::KvState};
use serde_json::Value;
use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{Action, Cell, Trial, Troubles, group};
use crate::{Constraint, Domain, GroupId, JobSpec, Jobs, remote::plan::Limits};

const OVER: &str = "no host has more than it can";
const LOST: &str = "no acknowledged claim is lost";
const COUNT: &str = "no group is above its count while no host was lost";
const GANG: &str = "a gang is whole or not there";
const OWN: &str = "the trial's own";
const REST: &str = "when nothing more can happen, everything is as it should be";

pub(super) fn all() -> Vec<Property<Trial>> {
    vec![
        Property::always(OVER, |trial: &Trial, cell: &Cell| {
            let jobs = &cell.bare;
            ["a", "b"].iter().all(|host| {
                let on = jobs.iter().filter(|job| job.host == *host && !job.is_final);
                on.count() as u64 <= trial.room
            })
        }),
        Property::always(LOST, |_, cell: &Cell| {
            let jobs = &cell.bare;
            let is_there = |id: &str| jobs.iter().any(|job| job.id == id);
            let mut claimed = cell.claimed.difference(&cell.removed);
            claimed.all(|id| is_there(id.as_str()))
        }),
        Property::always(COUNT, |trial: &Trial, cell: &Cell| {
            cell.has_lost_host
                || wanted(trial).all(|(group, count)| live(cell, group).len() <= count)
        }),
        Property::always(GANG, |trial: &Trial, cell: &Cell| {
            // Those that ended and those that were removed count as placed.
            let jobs = &cell.bare;
            cell.troubles.ends < trial.troubles.ends
                || wanted(trial)
                    .filter(|(group, _)| group.as_str().starts_with("gang"))
                    .all(|(group, count)| {
                        let there = jobs
                            .iter()
                            .filter(|job| job.group == group.as_str())
                            .count();
                        there == 0 || there == count
                    })
        }),
        Property::always(OWN, |trial: &Trial, cell: &Cell| (trial.always)(cell)),
        Property::always(REST, |trial: &Trial, cell: &Cell| {
            let mut actions = Vec::new();
            trial.actions(cell, &mut actions);
            !actions.is_empty() || (trial.at_rest)(cell)
        }),
    ]
}

fn wanted(trial: &Trial) -> impl Iterator<Item = (&GroupId, usize)> {
    trial.groups.iter().map(|group| match group.kind {
        crate::GroupKind::Service { count } => (&group.id, count as usize),
        _ => (&group.id, 0),
    })
}

/// A job as the bare entries have it.
#[derive(Debug)]
pub(super) struct Bare {
    id: String,
    host: String,
    group: String,
    is_stopping: bool,
    is_final: bool,
}

/// Reads the entries without any of the code that is tried.
pub(super) fn bare(store: &KvState) -> Vec<Bare> {
    let entries: BTreeMap<&str, Value> = store
        .entries()
        .filter(|entry| ["jobs", "status", "specs"].contains(&kind(&entry.key)))
        .map(|entry| {
            let value = serde_json::from_slice(&entry.value).unwrap_or(Value::Null);
            (entry.key.as_str(), value)
        })
        .collect();
    let jobs = entries.iter().filter_map(|(key, value)| {
        let (host, id) = key.strip_prefix("cell/jobs/")?.split_once('/')?;
        let status = entries.get(format!("cell/status/{host}/{id}").as_str());
        let spec = value["spec"].as_str().expect("jobs name their description");
        let spec = &entries[format!("cell/specs/{spec}").as_str()];
        assert_eq!(spec["request"]["memory_bytes"], 1, "of this size are all");
        Some(Bare {
            id: id.to_owned(),
            host: host.to_owned(),
            group: value["group"].as_str()?.to_owned(),
            is_stopping: value["is_stopping"] == true,
            is_final: status.is_some_and(|status| status["phase"] == "done"),
        })
    });
    jobs.collect()
}

fn kind(key: &Key) -> &str {
    key.as_str().split('/').nth(1).unwrap_or_default()
}

fn live<'c>(cell: &'c Cell, group: &GroupId) -> Vec<&'c Bare> {
    let jobs = cell.bare.iter();
    jobs.filter(|job| job.group == group.as_str() && !job.is_final && !job.is_stopping)
        .collect()
}

fn has(cell: &Cell, group: &str, count: usize) -> bool {
    live(cell, &GroupId::parse(group).expect("it is an id")).len() == count
}

/// One service and one gang that fill both hosts.
fn trial() -> Trial {
    Trial {
        groups: vec![
            group("gang", 2, JobSpec::default()),
            group("web", 2, JobSpec::default()),
        ],
        is_divided: false,
        room: 2,
        limits: Limits::STORE,
        troubles: Troubles::default(),
        keep: |_| true,
        tears: false,
        at_rest: |cell| has(cell, "web", 2) && has(cell, "gang", 2),
        always: |_| true,
    }
}

fn check(trial: Trial) {
    let checker = trial.checker().spawn_bfs().join();
    checker.assert_properties();
    // A trial in which little happens shows little.
    assert!(
        checker.unique_state_count() > 200,
        "{} states",
        checker.unique_state_count()
    );
}

/// The mistake is found, as a breach of this property.
fn is_noticed(trial: Trial, property: &'static str) {
    let checker = trial
        .checker()
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .spawn_bfs()
        .join();
    let path = checker.discovery(property);
    assert!(path.is_some(), "the mistake was not noticed");
}

fn is_seq(key: &Key, kind: &str) -> bool {
    key.as_str().starts_with(kind)
}

#[test]
fn schedulers_whose_answers_are_lost_neither_lose_nor_double_a_claim() {
    check(Trial {
        troubles: Troubles {
            lost_answers: 2,
            ..Troubles::default()
        },
        ..trial()
    });
}

#[test]
fn a_new_leader_of_the_store_loses_no_claim_and_doubles_none() {
    check(Trial {
        troubles: Troubles {
            elections: 1,
            lost_answers: 1,
            ..Troubles::default()
        },
        ..trial()
    });
}

#[test]
fn a_scheduler_that_crashes_is_carried_on_from() {
    check(Trial {
        troubles: Troubles {
            crashes: 2,
            ..Troubles::default()
        },
        ..trial()
    });
}

#[test]
fn transactions_in_parts_are_as_safe_as_whole_ones() {
    check(Trial {
        groups: vec![
            group("api", 2, JobSpec::default()),
            group("web", 2, JobSpec::default()),
        ],
        limits: Limits {
            ops: 1,
            bytes: 1 << 20,
        },
        troubles: Troubles {
            elections: 1,
            ..Troubles::default()
        },
        at_rest: |cell| has(cell, "web", 2) && has(cell, "api", 2),
        ..trial()
    });
}

/// Each scheduler has a group of its own, and together they want twice of what there is.
fn crowded() -> Trial {
    Trial {
        groups: vec![
            group("api", 2, JobSpec::default()),
            group("web", 2, JobSpec::default()),
        ],
        is_divided: true,
        room: 1,
        troubles: Troubles {
            elections: 1,
            lost_answers: 1,
            ..Troubles::default()
        },
        at_rest: |cell| cell.bare.len() == 2,
        ..trial()
    }
}

#[test]
fn schedulers_of_different_groups_share_the_last_room_and_leave_none() {
    check(crowded());
}

#[test]
fn a_host_that_is_lost_and_returns_ends_with_the_right_count() {
    check(Trial {
        groups: vec![group("web", 2, JobSpec::default())],
        troubles: Troubles {
            losses: 1,
            ..Troubles::default()
        },
        room: 1,
        at_rest: |cell| has(cell, "web", 2),
        ..trial()
    });
}

#[test]
fn a_job_that_ends_is_replaced_once() {
    check(Trial {
        groups: vec![group("web", 2, JobSpec::default())],
        troubles: Troubles {
            ends: 1,
            crashes: 1,
            lost_answers: 1,
            ..Troubles::default()
        },
        at_rest: |cell| has(cell, "web", 2),
        ..trial()
    });
}

/// Two groups of which the one keeps the other out of its zone; both hosts are in one zone.
fn apart(jobs: Jobs) -> Trial {
    let constraint = Constraint::Apart {
        jobs,
        within: Domain::Zone,
    };
    let spec = JobSpec {
        constraints: vec![constraint],
        ..JobSpec::default()
    };
    Trial {
        groups: vec![group("shy", 1, spec), group("web", 1, JobSpec::default())],
        troubles: Troubles {
            elections: 1,
            lost_answers: 1,
            ..Troubles::default()
        },
        is_divided: true,
        always: |cell| !(has(cell, "shy", 1) && has(cell, "web", 1)),
        at_rest: |cell| has(cell, "shy", 1) || has(cell, "web", 1),
        ..trial()
    }
}

fn by_id() -> Jobs {
    Jobs::Group(GroupId::parse("web").expect("it is an id"))
}

#[test]
fn jobs_that_keep_others_out_of_their_zone_never_share_it_with_them() {
    check(apart(by_id()));
    check(apart(Jobs::Prefix("we".to_owned())));
}

// Mistakes that must be noticed, or the trials show nothing.

#[test]
fn a_protocol_that_does_not_compare_hosts_over_commits() {
    let keep = |compare: &Compare| !is_seq(&compare.key, "cell/seq/");
    is_noticed(Trial { keep, ..crowded() }, OVER);
}

#[test]
fn a_protocol_that_does_not_compare_groups_starts_too_many() {
    let keep = |compare: &Compare| !is_seq(&compare.key, "cell/groupseq/");
    let groups = vec![group("web", 1, JobSpec::default())];
    is_noticed(
        Trial {
            groups,
            keep,
            ..trial()
        },
        COUNT,
    );
}

#[test]
fn a_protocol_that_does_not_compare_what_keeps_apart_brings_them_together() {
    let forget_apart = |compare: &Compare| !is_seq(&compare.key, "cell/cellseq/apart");
    let forget_groups = |compare: &Compare| !is_seq(&compare.key, "cell/groupseq/web");
    let forget_news = |compare: &Compare| !is_seq(&compare.key, "cell/cellseq/groups");
    let by_prefix = || Jobs::Prefix("we".to_owned());
    for (jobs, keep) in [
        (by_id(), forget_apart as fn(&Compare) -> bool),
        (by_id(), forget_groups),
        (by_prefix(), forget_news),
    ] {
        is_noticed(
            Trial {
                keep,
                ..apart(jobs)
            },
            OWN,
        );
    }
}

#[test]
fn a_store_that_tears_commits_breaks_gangs() {
    is_noticed(
        Trial {
            tears: true,
            troubles: Troubles {
                elections: 1,
                ..Troubles::default()
            },
            ..trial()
        },
        GANG,
    );
}

#[test]
fn every_trouble_happens() {
    let trial = Trial {
        troubles: Troubles {
            losses: 1,
            ends: 1,
            crashes: 1,
            elections: 1,
            lost_answers: 1,
        },
        ..trial()
    };
    let first = trial.init_states().remove(0);
    let mut actions = Vec::new();
    trial.actions(&first, &mut actions);
    assert!(actions.contains(&Action::Propose(0)) && actions.contains(&Action::Propose(1)));
    let waiting = trial
        .next_state(&first, Action::Propose(0))
        .expect("it proposes");
    actions.clear();
    trial.actions(&waiting, &mut actions);
    for expected in [
        Action::Answer(0),
        Action::LoseAnswer(0),
        Action::Crash(0),
        Action::Elect,
    ] {
        assert!(actions.contains(&expected), "{expected:?}");
    }
}
