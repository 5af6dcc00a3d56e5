//! A snapshot that may be shown to people who may not see the jobs' secrets.

use std::{collections::HashMap, sync::Arc};

use crate::{ClusterState, Group, Job, JobSpec};

use super::CellSnapshot;

impl CellSnapshot {
    /// A snapshot without what no scheduler looks at and secrets are kept in: the jobs' environments and commands.
    ///
    /// What could be told apart stays apart: each distinct description gets a number of its own in its metadata, under
    /// [`CellSnapshot::NUMBER`]. Metadata that schedulers may refer to is kept.
    #[must_use]
    pub fn redacted(state: &ClusterState) -> Self {
        let mut specs = Redacted::default();
        let mut shown = state.clone();
        for group in state.groups() {
            let spec = specs.of(&group.spec);
            let version = state.group_version(&group.id);
            let group = Group {
                spec,
                ..Group::clone(group)
            };
            shown.put_group(Arc::new(group), version);
        }
        for job in state.jobs() {
            let spec = specs.of(&job.spec);
            let job = Job {
                spec,
                ..Job::clone(job)
            };
            // Version 0: nothing has changed about the host.
            shown.put_job(Arc::new(job), 0, 0);
        }
        Self::of(&shown)
    }

    /// The name under which a [redacted](Self::redacted) description is numbered.
    pub const NUMBER: &str = "description";
}

/// The descriptions met so far, with what is shown instead.
#[derive(Default)]
struct Redacted {
    /// By where they lie: most jobs share their group's.
    by_address: HashMap<*const JobSpec, Arc<JobSpec>>,
    by_content: Vec<(Arc<JobSpec>, Arc<JobSpec>)>,
}

impl Redacted {
    fn of(&mut self, spec: &Arc<JobSpec>) -> Arc<JobSpec> {
        let address = Arc::as_ptr(spec);
        if let Some(shown) = self.by_address.get(&address) {
            return Arc::clone(shown);
        }
        let known = self.by_content.iter().find(|(known, _)| known == spec);
        let shown = if let Some((_, shown)) = known {
            Arc::clone(shown)
        } else {
            let mut shown = JobSpec::clone(spec);
            shown.args.clear();
            shown.env.clear();
            let number = self.by_content.len().to_string();
            shown
                .metadata
                .insert(CellSnapshot::NUMBER.to_owned(), number);
            let shown = Arc::new(shown);
            self.by_content.push((Arc::clone(spec), Arc::clone(&shown)));
            shown
        };
        self.by_address.insert(address, Arc::clone(&shown));
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GroupId, GroupKind, Host, HostId, JobId, JobStatus, Resources, Transaction};

    #[test]
    fn a_redacted_snapshot_has_no_secrets_and_the_same_jobs() {
        let spec = |password: &str| {
            Arc::new(JobSpec {
                args: vec!["serve".to_owned(), format!("--password={password}")],
                env: [("PASSWORD".to_owned(), password.to_owned())].into(),
                ..JobSpec::default()
            })
        };
        let id = HostId::parse("h1").unwrap();
        let host = Host::new(id.clone(), Resources::default());
        let state = ClusterState::default().host_joined(host, 1).unwrap();
        let group = |id: &str, spec| {
            let id = GroupId::parse(id).unwrap();
            Group::new(id, GroupKind::Service { count: 1 }, spec)
        };
        let old = Job {
            id: JobId::parse("j1").unwrap(),
            group: GroupId::parse("web").unwrap(),
            host: id,
            spec: spec("hunter1"),
            is_stopping: false,
            evicted: None,
            placed_at_ms: 1,
            attempt: 0,
            status: JobStatus::default(),
        };
        let transaction = Transaction::on(&state)
            .put_group(group("web", spec("hunter2")))
            .put_group(group("api", spec("hunter2")))
            .start(old);
        let state = state.apply(&transaction).unwrap().state;
        let json = CellSnapshot::redacted(&state).to_json().unwrap();
        assert!(!json.contains("hunter"), "{json}");
        let shown = CellSnapshot::from_json(&json).unwrap().into_state();
        let of = |id: &str| &shown.group(&GroupId::parse(id).unwrap()).unwrap().spec;
        let job = shown.jobs().next().unwrap();
        assert_eq!(of("web"), of("api"));
        assert_ne!(*of("web"), job.spec);
        let host = shown.host(&job.host).unwrap();
        assert_eq!(host.promised, Resources::default());
        assert_eq!(host.jobs.len(), 1);
    }
}
