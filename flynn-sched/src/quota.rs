//! How much the jobs of one namespace may ask for together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ClusterState, JobSpec, Named, Namespace, Resources};

/// A bound on what all jobs of a namespace ask for together. Limits that are `None`, and named resources that are not
/// mentioned, are unbounded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Whose it is.
    pub namespace: Namespace,
    /// Processor time, in thousandths of a core.
    #[serde(default)]
    pub cpu_millis: Option<u64>,
    /// Memory, in bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Disk space, in bytes.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// Named resources.
    #[serde(default)]
    pub named: BTreeMap<String, u64>,
    /// How many jobs.
    #[serde(default)]
    pub jobs: Option<u64>,
}

/// What the jobs of a namespace that are not at their end ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// The sum of their requests.
    pub resources: Resources,
    /// The sum of their named requests.
    pub named: Named,
    /// How many they are.
    pub jobs: u64,
}

impl Usage {
    /// Adds a job.
    pub fn add(&mut self, spec: &JobSpec) {
        self.resources = self.resources.saturating_add(&spec.request);
        if !spec.named.is_empty() {
            self.named.add(&spec.named);
        }
        self.jobs = self.jobs.saturating_add(1);
    }

    /// Takes a job away.
    pub fn sub(&mut self, spec: &JobSpec) {
        self.resources = self.resources.saturating_sub(&spec.request);
        if !spec.named.is_empty() {
            self.named.sub(&spec.named);
        }
        self.jobs = self.jobs.saturating_sub(1);
    }
}

/// What namespaces use, with what one round of a scheduler starts.
#[derive(Debug)]
pub(crate) struct Ledger<'s> {
    state: &'s ClusterState,
    /// Of namespaces with a quota in which something was started.
    used: BTreeMap<&'s Namespace, Usage>,
}

impl<'s> Ledger<'s> {
    pub(crate) fn on(state: &'s ClusterState) -> Self {
        Self {
            state,
            used: BTreeMap::new(),
        }
    }

    /// Why one more job like this would be too much, in a sentence.
    pub(crate) fn exceeded(&self, spec: &JobSpec) -> Option<String> {
        self.exceeded_by(spec, 1)
    }

    /// Why so many more jobs like this would be too much together, in a sentence.
    pub(crate) fn exceeded_by(&self, spec: &JobSpec, count: u32) -> Option<String> {
        let quota = self.state.quota(&spec.namespace)?;
        match self.used.get(&spec.namespace) {
            Some(usage) => quota.exceeded_by(usage, spec, count),
            None => quota.exceeded_by(&self.state.usage(&spec.namespace), spec, count),
        }
    }

    /// One more job is started.
    pub(crate) fn add(&mut self, spec: &JobSpec) {
        if let Some(quota) = self.state.quota(&spec.namespace) {
            let state = self.state;
            self.used
                .entry(&quota.namespace)
                .or_insert_with(|| state.usage(&spec.namespace))
                .add(spec);
        }
    }
}

impl Quota {
    /// A quota without limits.
    #[must_use]
    pub fn of(namespace: Namespace) -> Self {
        Self {
            namespace,
            cpu_millis: None,
            memory_bytes: None,
            disk_bytes: None,
            named: BTreeMap::new(),
            jobs: None,
        }
    }

    /// Why one more job like this would be too much beside what is used, in a sentence; `None` if it is not.
    #[must_use]
    pub fn exceeded(&self, usage: &Usage, spec: &JobSpec) -> Option<String> {
        self.exceeded_by(usage, spec, 1)
    }

    /// Why so many more jobs like this would be too much together beside what is used, in a sentence; `None` if they are
    /// not.
    #[must_use]
    pub fn exceeded_by(&self, usage: &Usage, spec: &JobSpec, count: u32) -> Option<String> {
        let times = u64::from(count);
        let over = |used: u64, more: u64, limit: Option<u64>| {
            let more = more.saturating_mul(times);
            limit.filter(|limit| more > 0 && used.checked_add(more).is_none_or(|sum| sum > *limit))
        };
        let (used, more) = (&usage.resources, &spec.request);
        let say = |what: &str, used: u64, limit: u64| {
            let wanted = match count {
                0 | 1 => String::new(),
                count => format!(" and {count} jobs at once need more"),
            };
            format!(
                "the quota of namespace {} is {limit} {what}, {used} is used{wanted}: raise it or stop something",
                self.namespace
            )
        };
        if let Some(limit) = over(usage.jobs, 1, self.jobs) {
            return Some(say("jobs", usage.jobs, limit));
        }
        if let Some(limit) = over(used.cpu_millis, more.cpu_millis, self.cpu_millis) {
            return Some(say("m of cpu", used.cpu_millis, limit));
        }
        if let Some(limit) = over(used.memory_bytes, more.memory_bytes, self.memory_bytes) {
            return Some(say("bytes of memory", used.memory_bytes, limit));
        }
        if let Some(limit) = over(used.disk_bytes, more.disk_bytes, self.disk_bytes) {
            return Some(say("bytes of disk", used.disk_bytes, limit));
        }
        spec.named.iter().find_map(|(name, more)| {
            let used = usage.named.amount(name);
            let limit = over(used, more, self.named.get(name).copied())?;
            Some(say(&format!("of {name}"), used, limit))
        })
    }
}
