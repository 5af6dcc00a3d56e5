//! What must hold, read from the store's bare entries.

use std::collections::BTreeMap;

use flynn_discovery::backend::{Key, kv::KvState};
use serde_json::Value;
use stateright::{Model, Property};

use super::{Cell, Trial};
use crate::GroupId;

pub(super) const OVER: &str = "no host has more than it can";
const LOST: &str = "no acknowledged claim is lost";
pub(super) const COUNT: &str = "no group is above its count while no host was lost";
pub(super) const GANG: &str = "a gang is whole or not there";
pub(super) const OWN: &str = "the trial's own";
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

pub(super) fn has(cell: &Cell, group: &str, count: usize) -> bool {
    live(cell, &GroupId::parse(group).expect("it is an id")).len() == count
}
