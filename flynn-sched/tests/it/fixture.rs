//! Hosts, groups and jobs to test with.

use std::{collections::BTreeMap, sync::Arc};

use flynn_sched::{
    Group, GroupId, GroupKind, Host, HostId, Job, JobId, JobSpec, JobStatus, Phase, Resources,
};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn host_id(id: &str) -> HostId {
    HostId::parse(id).unwrap()
}

pub(crate) fn job_id(id: &str) -> JobId {
    JobId::parse(id).unwrap()
}

pub(crate) fn group_id(id: &str) -> GroupId {
    GroupId::parse(id).unwrap()
}

pub(crate) fn memory(mib: u64) -> Resources {
    Resources {
        memory_bytes: mib * MIB,
        ..Resources::default()
    }
}

pub(crate) fn host(id: &str, memory_mib: u64) -> Host {
    Host {
        id: host_id(id),
        addr: format!("addr-of-{id}"),
        api_url: format!("http://{id}"),
        capacity: memory(memory_mib),
        tags: BTreeMap::new(),
        zone: None,
        is_draining: false,
        incarnation: 1,
    }
}

pub(crate) fn spec(memory_mib: u64) -> Arc<JobSpec> {
    Arc::new(JobSpec {
        request: memory(memory_mib),
        ..JobSpec::default()
    })
}

pub(crate) fn job(id: &str, group: &str, host: &str, memory_mib: u64) -> Job {
    Job {
        id: job_id(id),
        group: group_id(group),
        host: host_id(host),
        spec: spec(memory_mib),
        is_stopping: false,
        placed_at_ms: 0,
        attempt: 0,
        status: JobStatus::default(),
    }
}

pub(crate) fn group(id: &str, kind: GroupKind, memory_mib: u64) -> Group {
    Group {
        id: group_id(id),
        kind,
        spec: spec(memory_mib),
        priority: 50,
        owner: "test".to_owned(),
    }
}

pub(crate) fn phase(phase: Phase) -> JobStatus {
    JobStatus {
        phase,
        ..JobStatus::default()
    }
}
