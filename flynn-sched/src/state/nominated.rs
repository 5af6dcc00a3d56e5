//! Which hosts have room in the making, and for whom.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::{Group, GroupId, GroupStatus, HostId, Named, Resources};

use super::ClusterState;

/// The groups that are nominated, by host and all together.
#[derive(Debug, Clone, Default)]
pub(super) struct Nominated {
    by_host: OrdMap<HostId, OrdSet<GroupId>>,
    groups: OrdSet<GroupId>,
}

impl Nominated {
    /// The group's note changes from this to that.
    pub(super) fn change(
        &mut self,
        group: &GroupId,
        before: Option<&GroupStatus>,
        after: Option<&GroupStatus>,
    ) {
        for nomination in before.into_iter().flat_map(|status| &status.nominated) {
            if let Some(groups) = self.by_host.get_mut(&nomination.host) {
                groups.remove(group);
                if groups.is_empty() {
                    self.by_host.remove(&nomination.host);
                }
            }
        }
        self.groups.remove(group);
        for nomination in after.into_iter().flat_map(|status| &status.nominated) {
            self.by_host
                .entry(nomination.host.clone())
                .or_default()
                .insert(group.clone());
            self.groups.insert(group.clone());
        }
    }
}

impl ClusterState {
    /// The groups for whose jobs room is being made, by id.
    pub fn nominated_groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.nominated.groups.iter().filter_map(|id| self.group(id))
    }

    /// What is being made free on a host for groups that are more important than `priority`: for how many jobs of which.
    pub fn nominated_above(
        &self,
        host: &HostId,
        priority: u8,
    ) -> impl Iterator<Item = (&Arc<Group>, usize)> {
        let groups = self.nominated.by_host.get(host).into_iter().flatten();
        groups.filter_map(move |id| {
            let group = self.group(id).filter(|group| group.priority > priority)?;
            let status = self.group_status(id)?;
            let here = status.nominated.iter().filter(|seat| seat.host == *host);
            Some((group, here.count()))
        })
    }

    /// The sum of that.
    pub(crate) fn kept_above(&self, host: &HostId, priority: u8) -> (Resources, Named) {
        let mut kept = (Resources::default(), Named::default());
        for (group, jobs) in self.nominated_above(host, priority) {
            for _ in 0..jobs {
                kept.0 = kept.0.saturating_add(&group.spec.request);
                kept.1.add(&group.spec.named);
            }
        }
        kept
    }

    /// Is room being made on the host for anybody?
    #[must_use]
    pub fn is_nominated(&self, host: &HostId) -> bool {
        self.nominated.by_host.contains_key(host)
    }
}
