//! What a job is told through its environment.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use flynn_sched::{HostId, Job, Partition};

/// What the environment is made of.
pub(super) struct Facts<'a> {
    pub(super) job: &'a Job,
    pub(super) host: &'a HostId,
    pub(super) addr: &'a str,
    pub(super) ports: &'a [u16],
    pub(super) root: &'a Path,
    pub(super) tmp: &'a Path,
    pub(super) path: &'a str,
    pub(super) volumes: &'a BTreeMap<String, PathBuf>,
    pub(super) system: &'a BTreeMap<String, String>,
}

/// The whole environment of a job: defaults, over them what its spec says, over that what only the host can know.
pub(super) fn environment(facts: &Facts<'_>) -> BTreeMap<String, String> {
    let job = facts.job;
    let mut env = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        env.insert(name.to_owned(), value.to_owned());
    };
    set("PATH", facts.path);
    set("HOME", &facts.root.to_string_lossy());
    set("LANG", "C.UTF-8");
    for (name, value) in attributes(facts.host, job) {
        set(&name, &value);
    }
    if job.spec.partition == Partition::System {
        for (name, value) in facts.system {
            set(name, value);
        }
    }
    for (name, value) in &job.spec.env {
        set(name, value);
    }
    set("TMPDIR", &facts.tmp.to_string_lossy());
    set("HOSTNAME", job.id.as_str());
    set("EXTERNAL_IP", facts.addr);
    set("LISTEN_IP", facts.addr);
    set("FLYNN_HOST_ID", facts.host.as_str());
    set("FLYNN_JOB_ID", &wire_id(facts.host, job));
    for (index, port) in facts.ports.iter().enumerate() {
        let port = port.to_string();
        if index == 0 {
            set("PORT", &port);
        }
        set(&format!("PORT_{index}"), &port);
    }
    for (name, path) in facts.volumes {
        let name = name.to_uppercase().replace('-', "_");
        set(&format!("FLYNN_VOLUME_{name}"), &path.to_string_lossy());
    }
    // The system cannot pass these on, and starting would fail with an error that names nobody.
    env.retain(|name, value| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    });
    env
}

/// What a job's instances say about themselves in discovery.
pub(super) fn attributes(host: &HostId, job: &Job) -> BTreeMap<String, String> {
    let mut attributes: BTreeMap<String, String> = [
        ("FLYNN_APP_ID", "flynn-controller.app"),
        ("FLYNN_APP_NAME", "flynn-controller.app_name"),
        ("FLYNN_RELEASE_ID", "flynn-controller.release"),
        ("FLYNN_PROCESS_TYPE", "flynn-controller.type"),
    ]
    .into_iter()
    .filter_map(|(name, key)| Some((name.to_owned(), job.spec.metadata.get(key)?.clone())))
    .collect();
    attributes.insert("FLYNN_JOB_ID".to_owned(), wire_id(host, job));
    attributes
}

/// A job's name beyond its cell.
fn wire_id(host: &HostId, job: &Job) -> String {
    format!("{host}-{}", job.id)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flynn_sched::{GroupId, JobId, JobSpec, JobStatus};

    use super::*;

    fn env_of(spec: JobSpec) -> BTreeMap<String, String> {
        let job = Job {
            id: JobId::parse("j1").unwrap(),
            group: GroupId::parse("g").unwrap(),
            host: HostId::parse("h1").unwrap(),
            spec: Arc::new(spec),
            is_stopping: false,
            placed_at_ms: 0,
            attempt: 0,
            evicted: None,
            status: JobStatus::default(),
        };
        environment(&Facts {
            job: &job,
            host: &job.host,
            addr: "10.0.0.1",
            ports: &[8001, 8002],
            root: Path::new("/jobs/j1/root"),
            tmp: Path::new("/jobs/j1/tmp"),
            path: "/usr/bin:/bin",
            volumes: &BTreeMap::from([("my-data".to_owned(), PathBuf::from("/volumes/a/d"))]),
            system: &BTreeMap::from([("FLYNN_CLUSTER_TOKEN".to_owned(), "secret".to_owned())]),
        })
    }

    #[test]
    fn a_job_is_told_its_ports_its_place_and_its_name() {
        let env = env_of(JobSpec::default());
        let expected = [
            ("EXTERNAL_IP", "10.0.0.1"),
            ("FLYNN_HOST_ID", "h1"),
            ("FLYNN_JOB_ID", "h1-j1"),
            ("FLYNN_VOLUME_MY_DATA", "/volumes/a/d"),
            ("HOME", "/jobs/j1/root"),
            ("HOSTNAME", "j1"),
            ("LANG", "C.UTF-8"),
            ("LISTEN_IP", "10.0.0.1"),
            ("PATH", "/usr/bin:/bin"),
            ("PORT", "8001"),
            ("PORT_0", "8001"),
            ("PORT_1", "8002"),
            ("TMPDIR", "/jobs/j1/tmp"),
        ];
        let expected: BTreeMap<String, String> = expected
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        assert_eq!(env, expected);
    }

    #[test]
    fn only_jobs_of_the_system_get_the_clusters_token() {
        let env = env_of(JobSpec {
            partition: Partition::System,
            ..JobSpec::default()
        });
        assert_eq!(env["FLYNN_CLUSTER_TOKEN"], "secret");
        assert!(!env_of(JobSpec::default()).contains_key("FLYNN_CLUSTER_TOKEN"));
    }

    #[test]
    fn a_spec_may_change_the_path_but_not_the_port() {
        let spec = JobSpec {
            env: BTreeMap::from([
                ("PATH".to_owned(), "/app/bin".to_owned()),
                ("PORT".to_owned(), "80".to_owned()),
            ]),
            ..JobSpec::default()
        };
        let env = env_of(spec);
        assert_eq!((&*env["PATH"], &*env["PORT"]), ("/app/bin", "8001"));
    }
}
