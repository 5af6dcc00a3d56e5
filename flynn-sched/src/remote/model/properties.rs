//! What must hold, read from the store's bare entries.

use std::collections::BTreeMap;

use flynn_discovery::backend::{Key, kv::KvState};
use serde_json::Value;
use stateright::{Model, Property};

use super::{Cell, Trial};
use crate::{GroupId, JobId};

pub(super) const OVER: &str = "no host has more than it can";
const LOST: &str = "no acknowledged claim is lost";
pub(super) const COUNT: &str = "no group is above its count while no host was lost";
pub(super) const GANG: &str = "a gang is whole or not there";
pub(super) const OWN: &str = "the trial's own";
pub(super) const HELD: &str = "what is reserved is not given to others";
pub(super) const UNFAIR: &str = "nobody goes for what is not more important, or is needed";
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
            // Those without a guard may be.
            let guarded = wanted(trial).filter(|(group, _)| !group.as_str().starts_with("free"));
            cell.has_lost_host || { guarded }.all(|(group, count)| live(cell, group).len() <= count)
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
        Property::always(HELD, |trial: &Trial, cell: &Cell| {
            cell.facts.claims.iter().all(|claim| {
                let on_host = cell.bare.iter().filter(|job| {
                    job.host == claim.host && !job.is_final && job.until_ms > claim.from_ms
                });
                let (theirs, others): (Vec<_>, Vec<_>) =
                    on_host.partition(|job| job.group == claim.holder);
                let held = claim.memory_bytes.max(theirs.len() as u64);
                others.len() as u64 + held <= trial.room
            })
        }),
        Property::always(UNFAIR, |_, cell: &Cell| !cell.is_unfair),
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
    pub(super) group: String,
    is_stopping: bool,
    pub(super) is_evicted: bool,
    is_up: bool,
    pub(super) is_final: bool,
    /// When it is expected to be gone.
    until_ms: u64,
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
            is_evicted: !value["evicted"].is_null(),
            is_up: status.is_some_and(|status| status["phase"] == "up"),
            is_final: status.is_some_and(|status| status["phase"] == "done"),
            until_ms: spec["expected_ms"].as_u64().unwrap_or(u64::MAX),
        })
    });
    jobs.collect()
}

/// Reservations and groups as the bare entries have them.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) claims: Vec<BareClaim>,
    groups: Vec<BareGroup>,
}

/// What one reservation holds on one host.
#[derive(Debug)]
pub(super) struct BareClaim {
    host: String,
    holder: String,
    memory_bytes: u64,
    from_ms: u64,
    pub(super) until_ms: u64,
}

#[derive(Debug)]
struct BareGroup {
    id: String,
    priority: u64,
    /// How many are to be up at least.
    floor: u64,
}

/// Reads them without any of the code that is tried.
pub(super) fn facts(store: &KvState) -> Facts {
    let mut facts = Facts::default();
    for entry in store.entries() {
        let read = || serde_json::from_slice::<Value>(&entry.value).expect("it is JSON");
        let number = |value: &Value| value.as_u64().expect("it is a number");
        match kind(&entry.key) {
            "groups" => {
                let group = read();
                let may_be_down = group["max_unavailable"].as_u64();
                let count = number(&group["kind"]["count"]);
                facts.groups.push(BareGroup {
                    id: group["id"].as_str().expect("it is an id").to_owned(),
                    priority: number(&group["priority"]),
                    floor: may_be_down.map_or(0, |may| count.saturating_sub(may)),
                });
            }
            "reservations" => {
                let value = read();
                let claims = value["claims"].as_object().expect("it is a map");
                for (host, claim) in claims {
                    facts.claims.push(BareClaim {
                        host: host.clone(),
                        holder: value["holder"]["group"]
                            .as_str()
                            .expect("it is an id")
                            .to_owned(),
                        memory_bytes: number(&claim["resources"]["memory_bytes"]),
                        from_ms: number(&value["from_ms"]),
                        until_ms: number(&value["until_ms"]),
                    });
                }
            }
            _ => {}
        }
    }
    facts
}

/// Should the job not have gone for this group? Asked when it has just been told to.
pub(super) fn is_unfair(cell: &Cell, job: &JobId, by: &GroupId) -> bool {
    let group = |id: &str| cell.facts.groups.iter().find(|group| group.id == id);
    let victim = cell.bare.iter().find(|bare| bare.id == job.as_str());
    let (Some(victim), Some(by)) = (victim, group(by.as_str())) else {
        return true;
    };
    let Some(theirs) = group(&victim.group) else {
        return false;
    };
    let up = cell
        .bare
        .iter()
        .filter(|job| job.group == theirs.id && job.is_up && !job.is_stopping);
    by.priority <= theirs.priority || (up.count() as u64) < theirs.floor
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
