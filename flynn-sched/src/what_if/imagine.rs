//! What a hypothesis makes of a cell.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    ClusterState, Error, Group, GroupId, GroupKind, Host, HostId, HostState, Result, Transaction,
};

use super::{Hosts, Hypothesis, NewHost, Shape};

impl Hypothesis {
    /// The cell as it would be at once, before any scheduler has seen it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names what is not in the cell, and what is.
    pub fn imagine(&self, state: &ClusterState, now_ms: u64) -> Result<ClusterState> {
        match self {
            Self::Lose(hosts) => {
                let lost = self.chosen(state, hosts)?;
                let lose = |state: ClusterState, id| state.host_lost(&id, now_ms);
                Ok(lost.into_iter().fold(state.clone(), lose))
            }
            Self::Drain(hosts) => {
                let drained = self.chosen(state, hosts)?;
                drained.into_iter().try_fold(state.clone(), |state, id| {
                    with_host(&state, &id, now_ms, |host| host.is_draining = true)
                })
            }
            Self::Return(id) => {
                let host = state.host(id).ok_or_else(|| self.no_host(state, id))?;
                if host.lost_since_ms.is_none() && !host.host.is_draining {
                    return Err(self.wrong(format!("host {id} is neither lost nor draining")));
                }
                with_host(state, id, now_ms, |host| host.is_draining = false)
            }
            Self::Add { count, host } => self.add(state, *count, host, now_ms),
            Self::Scale { group, count } => {
                let group = self.group(state, group)?;
                let mut kind = group.kind.clone();
                match &mut kind {
                    GroupKind::Service { count: number }
                    | GroupKind::Omni { per_host: number }
                    | GroupKind::Batch { count: number, .. }
                    | GroupKind::Gang { count: number, .. } => *number = *count,
                    GroupKind::Cron(cron) => cron.count = *count,
                }
                let group = Group {
                    kind,
                    ..Group::clone(group)
                };
                let applied = state.apply(&Transaction::on(state).put_group(group))?;
                Ok(applied.state)
            }
            Self::Remove { group } => {
                let id: GroupId = self.group(state, group)?.id.clone();
                let applied = state.apply(&Transaction::on(state).remove_group(id))?;
                Ok(applied.state)
            }
        }
    }

    fn add(
        &self,
        state: &ClusterState,
        count: u32,
        host: &NewHost,
        now_ms: u64,
    ) -> Result<ClusterState> {
        let model = match host {
            NewHost::Like(id) => {
                let known = state.host(id).ok_or_else(|| self.no_host(state, id))?;
                Host::clone(&known.host)
            }
            NewHost::Shape(shape) => of_shape(shape)?,
        };
        add_hosts(state, &model, count, now_ms)
    }

    fn chosen(&self, state: &ClusterState, hosts: &Hosts) -> Result<Vec<HostId>> {
        let is_there = |host: &&HostState| host.lost_since_ms.is_none();
        let ids = |wanted: &dyn Fn(&Host) -> bool| -> Vec<HostId> {
            let there = state.hosts().filter(is_there);
            let there = there.filter(|host| wanted(&host.host));
            there.map(|host| host.host.id.clone()).collect()
        };
        let names = |of: fn(&Host) -> Option<&str>| {
            let there = state.hosts().filter(is_there);
            there.filter_map(|h| of(&h.host)).collect::<BTreeSet<_>>()
        };
        let chosen = match hosts {
            Hosts::Zone(zone) => ids(&|host| host.zone.as_ref() == Some(zone)),
            Hosts::Rack(rack) => ids(&|host| host.rack.as_ref() == Some(rack)),
            Hosts::Host(id) => {
                let known = state.host(id).ok_or_else(|| self.no_host(state, id))?;
                if known.lost_since_ms.is_some() {
                    return Err(self.wrong(format!("host {id} is lost already")));
                }
                vec![id.clone()]
            }
            Hosts::Fullest(count) => return self.fullest(state, *count),
        };
        if chosen.is_empty() {
            let (what, known) = match hosts {
                Hosts::Rack(_) => ("racks", names(|host| host.rack.as_deref())),
                _ => ("zones", names(|host| host.zone.as_deref())),
            };
            return Err(self.wrong(format!(
                "no host is in it; the {what} are {}",
                listed(known)
            )));
        }
        Ok(chosen)
    }

    fn fullest(&self, state: &ClusterState, count: u32) -> Result<Vec<HostId>> {
        let mut hosts: Vec<&HostState> = state.hosts().filter(|h| h.is_schedulable()).collect();
        let wanted = usize::try_from(count).unwrap_or(usize::MAX);
        if wanted > hosts.len() {
            return Err(self.wrong(format!("only {} hosts take jobs", hosts.len())));
        }
        let load = |host: &HostState| host.promised.dominant_share(&host.host.allocatable());
        // Hosts are in the order of their ids, and the sort keeps that.
        hosts.sort_by(|a, b| load(b).total_cmp(&load(a)));
        Ok(hosts[..wanted].iter().map(|h| h.host.id.clone()).collect())
    }

    fn group<'s>(&self, state: &'s ClusterState, name: &str) -> Result<&'s Arc<Group>> {
        let exact = GroupId::parse(name).ok().and_then(|id| state.group(&id));
        if let Some(group) = exact {
            return Ok(group);
        }
        let has_part = |group: &&Arc<Group>| group.id.as_str().split('.').any(|part| part == name);
        let found: Vec<_> = state.groups().filter(has_part).collect();
        match found[..] {
            [group] => Ok(group),
            [] => {
                let known = state.groups().map(|group| group.id.as_str());
                let known = listed(known.collect());
                Err(self.wrong(format!("there is no group {name}; the groups are {known}")))
            }
            _ => {
                let found = listed(found.iter().map(|group| group.id.as_str()).collect());
                Err(self.wrong(format!("{name} may be any of {found}: give the whole id")))
            }
        }
    }

    fn no_host(&self, state: &ClusterState, id: &HostId) -> Error {
        let known = state.hosts().map(|host| host.host.id.as_str()).collect();
        self.wrong(format!(
            "there is no host {id}; the hosts are {}",
            listed(known)
        ))
    }

    fn wrong(&self, why: String) -> Error {
        Error::Invalid {
            what: format!("hypothesis \"{self}\""),
            why,
        }
    }
}

/// The cell with so many more hosts like this one.
pub(super) fn add_hosts(
    state: &ClusterState,
    model: &Host,
    count: u32,
    now_ms: u64,
) -> Result<ClusterState> {
    let mut next = state.clone();
    let mut numbers = 1_u64..;
    for _ in 0..count {
        let mut ids = numbers.by_ref().map(|n| HostId::parse(format!("new{n}")));
        let id = loop {
            match ids.next() {
                Some(Ok(id)) if next.host(&id).is_none() => break id,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => unreachable!("there are more numbers than hosts"),
            }
        };
        let host = Host {
            addr: format!("{id}.example"),
            api_url: String::new(),
            is_draining: false,
            unhealthy: None,
            id,
            ..model.clone()
        };
        next = next.host_joined(host, now_ms)?;
    }
    Ok(next)
}

fn of_shape(shape: &Shape) -> Result<Host> {
    Ok(Host {
        named: shape.named.clone(),
        tags: shape.tags.clone(),
        zone: shape.zone.clone(),
        rack: shape.rack.clone(),
        ..Host::new(HostId::parse("new")?, shape.capacity)
    })
}

/// The cell with a host that is there and changed like this.
fn with_host(
    state: &ClusterState,
    id: &HostId,
    now_ms: u64,
    change: impl FnOnce(&mut Host),
) -> Result<ClusterState> {
    let Some(known) = state.host(id) else {
        return Err(Error::UnknownHost { host: id.clone() });
    };
    let mut host = Host::clone(&known.host);
    change(&mut host);
    state.host_joined(host, now_ms)
}

/// A list for a person: not more than fits on a line or two.
fn listed(names: BTreeSet<&str>) -> String {
    let (all, few) = (names.len(), 12);
    let mut text: Vec<&str> = names.into_iter().take(few).collect();
    if text.is_empty() {
        return "none".to_owned();
    }
    let more = format!("{} more", all.saturating_sub(few));
    if all > few {
        text.push(&more);
    }
    text.join(", ")
}
