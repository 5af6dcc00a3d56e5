//! Which live jobs keep others apart, by whom they keep away: asked for every start, so it must not visit jobs.

use std::ops::Bound;

use imbl::OrdMap;

use crate::{Constraint, Domain, GroupId, HostId, JobSpec, Jobs};

/// How many live jobs on each host keep which jobs out of which place. Cloning it is O(1).
#[derive(Debug, Clone, Default)]
pub(crate) struct KeepingApart(OrdMap<Jobs, OrdMap<Domain, OrdMap<HostId, u32>>>);

impl KeepingApart {
    /// A job like `spec` lives on `host` now.
    pub(crate) fn add(&mut self, spec: &JobSpec, host: &HostId) {
        for (jobs, within) in terms(spec) {
            let hosts = self
                .0
                .entry(jobs.clone())
                .or_default()
                .entry(within.clone())
                .or_default();
            let count = hosts.entry(host.clone()).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// A job like `spec` that was added lives on `host` no longer.
    pub(crate) fn sub(&mut self, spec: &JobSpec, host: &HostId) {
        for (jobs, within) in terms(spec) {
            let Some(domains) = self.0.get_mut(jobs) else {
                continue;
            };
            if let Some(hosts) = domains.get_mut(within) {
                match hosts.get_mut(host) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => {
                        hosts.remove(host);
                    }
                }
                if hosts.is_empty() {
                    domains.remove(within);
                }
            }
            if domains.is_empty() {
                self.0.remove(jobs);
            }
        }
    }

    /// Does nothing keep anything apart?
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What keeps jobs of `group` out: the domains, and the hosts in whose places they cannot be.
    pub(crate) fn from<'k>(
        &'k self,
        group: &'k GroupId,
    ) -> impl Iterator<Item = (&'k Domain, &'k OrdMap<HostId, u32>)> {
        let exact = self.0.get(&Jobs::Group(group.clone())).into_iter();
        exact.chain(self.prefixes_of(group.as_str())).flatten()
    }

    /// The entries of the prefixes of `id`, the longest first. Steps only where there is a prefix or where the order
    /// leads past one, so other apps' entries are not visited.
    fn prefixes_of<'k>(
        &'k self,
        id: &'k str,
    ) -> impl Iterator<Item = &'k OrdMap<Domain, OrdMap<HostId, u32>>> {
        let mut bound = (!self.0.is_empty()).then_some(Bound::Included(id));
        std::iter::from_fn(move || {
            loop {
                let last = match bound? {
                    Bound::Included(text) => Bound::Included(Jobs::Prefix(text.to_owned())),
                    Bound::Excluded(text) => Bound::Excluded(Jobs::Prefix(text.to_owned())),
                    Bound::Unbounded => Bound::Unbounded,
                };
                let (jobs, domains) = self.0.range((Bound::Unbounded, last)).next_back()?;
                let Jobs::Prefix(prefix) = jobs else {
                    return None; // groups are before all prefixes
                };
                let shared = shared_prefix(prefix, id);
                if shared.len() == prefix.len() {
                    bound = (!prefix.is_empty()).then_some(Bound::Excluded(shared));
                    return Some(domains);
                }
                bound = Some(Bound::Included(shared));
            }
        })
    }
}

fn terms(spec: &JobSpec) -> impl Iterator<Item = (&Jobs, &Domain)> {
    spec.constraints
        .iter()
        .filter_map(|constraint| match constraint {
            Constraint::Apart { jobs, within } => Some((jobs, within)),
            _ => None,
        })
}

/// The longest prefix of `id` that `other` begins with.
fn shared_prefix<'t>(other: &str, id: &'t str) -> &'t str {
    let ends = id.char_indices().zip(other.chars());
    let differing = ends.into_iter().find(|((_, a), b)| a != b);
    match differing {
        Some(((at, _), _)) => &id[..at],
        None if other.len() < id.len() => &id[..other.len()],
        None => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apart(terms: &[Jobs]) -> JobSpec {
        JobSpec {
            constraints: terms
                .iter()
                .map(|jobs| Constraint::Apart {
                    jobs: jobs.clone(),
                    within: Domain::Zone,
                })
                .collect(),
            ..JobSpec::default()
        }
    }

    #[test]
    fn the_group_itself_and_every_prefix_of_it_are_found_and_nothing_else() {
        let group = |id: &str| GroupId::parse(id).unwrap();
        let prefix = |p: &str| Jobs::Prefix(p.to_owned());
        let terms: Vec<Jobs> = ["", "a", "ab", "ab.", "aa", "abc", "b", "ab.c", "ab.cd"]
            .map(prefix)
            .into_iter()
            .chain([Jobs::Group(group("ab.c")), Jobs::Group(group("a"))])
            .collect();
        let mut keeping = KeepingApart::default();
        for (n, jobs) in terms.iter().enumerate() {
            let host = HostId::parse(format!("h{n}")).unwrap();
            keeping.add(&apart(std::slice::from_ref(jobs)), &host);
        }
        for id in ["ab.c", "a", "zz", "ab.cc", "aab"] {
            let id = group(id);
            let mut found: Vec<String> = keeping
                .from(&id)
                .flat_map(|(_, hosts)| hosts.keys().map(ToString::to_string))
                .collect();
            found.sort();
            let mut expected: Vec<String> = (0..terms.len())
                .filter(|n| terms[*n].matches(&id))
                .map(|n| format!("h{n}"))
                .collect();
            expected.sort();
            assert_eq!(found, expected, "{id}");
        }
        for (n, jobs) in terms.iter().enumerate() {
            let host = HostId::parse(format!("h{n}")).unwrap();
            keeping.sub(&apart(std::slice::from_ref(jobs)), &host);
        }
        assert!(keeping.is_empty());
    }
}
