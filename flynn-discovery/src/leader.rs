//! Who leads a service: a pure function of its instances and, for manual services, of a choice.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Instance, InstanceId};

/// How a service gets its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LeaderPolicy {
    /// The instance that is registered longest leads.
    #[default]
    Oldest,
    /// The instance that was chosen with [`Registry::set_leader`](crate::Registry::set_leader) leads, while it is
    /// registered.
    Manual,
}

impl LeaderPolicy {
    /// The leader among `candidates`, given what was `chosen` by hand.
    pub(crate) fn elect<'a>(
        self,
        candidates: &'a Candidates,
        chosen: Option<&InstanceId>,
    ) -> Option<&'a Instance> {
        match self {
            Self::Oldest => candidates.oldest_first().next(),
            Self::Manual => candidates.get(chosen?),
        }
    }
}

/// The instances of a service, by identity and by age.
#[derive(Debug, Clone, Default)]
pub(crate) struct Candidates {
    by_id: BTreeMap<InstanceId, Instance>,
    /// The same instances by [`Instance::created`]; the id decides between equals.
    by_age: BTreeSet<(u64, InstanceId)>,
}

impl Candidates {
    pub(crate) fn get(&self, id: &InstanceId) -> Option<&Instance> {
        self.by_id.get(id)
    }

    /// Adds an instance; returns the one of the same id that it replaces.
    pub(crate) fn insert(&mut self, instance: Instance) -> Option<Instance> {
        let previous = self.remove(&instance.id);
        self.by_age.insert((instance.created, instance.id.clone()));
        self.by_id.insert(instance.id.clone(), instance);
        previous
    }

    pub(crate) fn remove(&mut self, id: &InstanceId) -> Option<Instance> {
        let instance = self.by_id.remove(id)?;
        self.by_age.remove(&(instance.created, id.clone()));
        Some(instance)
    }

    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = &Instance> {
        self.by_age.iter().filter_map(|(_, id)| self.by_id.get(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(ages: &[(&str, u64)]) -> Candidates {
        let mut candidates = Candidates::default();
        for (id, created) in ages {
            candidates.insert(Instance {
                id: InstanceId::parse(*id).unwrap(),
                addr: "10.0.0.1:80".to_owned(),
                proto: "http".to_owned(),
                attributes: BTreeMap::new(),
                created: *created,
            });
        }
        candidates
    }

    fn elected(
        policy: LeaderPolicy,
        candidates: &Candidates,
        chosen: Option<&str>,
    ) -> Option<String> {
        let chosen = chosen.map(|id| InstanceId::parse(id).unwrap());
        let leader = policy.elect(candidates, chosen.as_ref())?;
        Some(leader.id.to_string())
    }

    #[test]
    fn the_oldest_leads_and_the_next_oldest_after_it() {
        let mut all = candidates(&[("a", 9), ("b", 3), ("c", 5)]);
        assert_eq!(
            elected(LeaderPolicy::Oldest, &all, Some("a")).unwrap(),
            "b",
            "the lowest index, not the lowest id or the chosen one"
        );
        all.remove(&InstanceId::parse("b").unwrap());
        assert_eq!(elected(LeaderPolicy::Oldest, &all, None).unwrap(), "c");
        assert_eq!(
            elected(LeaderPolicy::Oldest, &Candidates::default(), None),
            None
        );
    }

    #[test]
    fn by_hand_only_a_registered_choice_leads() {
        let all = candidates(&[("a", 1), ("b", 2)]);
        assert_eq!(elected(LeaderPolicy::Manual, &all, Some("b")).unwrap(), "b");
        assert_eq!(elected(LeaderPolicy::Manual, &all, Some("x")), None);
        assert_eq!(elected(LeaderPolicy::Manual, &all, None), None);
    }

    #[test]
    fn an_instance_that_comes_again_takes_its_new_place() {
        let mut all = candidates(&[("a", 1), ("b", 2), ("a", 3)]);
        let order: Vec<_> = all.oldest_first().map(|i| i.id.to_string()).collect();
        assert_eq!(order, ["b", "a"]);
        assert_eq!(
            all.remove(&InstanceId::parse("a").unwrap())
                .unwrap()
                .created,
            3
        );
    }
}
