//! Hosts, groups and jobs to test with.

use std::{sync::Arc, time::Duration};

use flynn_sched::{
    Cluster, ClusterState, Group, GroupId, GroupKind, Host, HostId, Job, JobId, JobSpec, JobStatus,
    Phase, Resources,
};
use futures::StreamExt;

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
        addr: format!("addr-of-{id}"),
        api_url: format!("http://{id}"),
        incarnation: 1,
        ..Host::new(host_id(id), memory(memory_mib))
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
        evicted: None,
        status: JobStatus::default(),
    }
}

pub(crate) fn group(id: &str, kind: GroupKind, memory_mib: u64) -> Group {
    Group {
        id: group_id(id),
        kind,
        spec: spec(memory_mib),
        priority: 50,
        max_unavailable: None,
        keep: None,
        owner: "test".to_owned(),
    }
}

pub(crate) fn phase(phase: Phase) -> JobStatus {
    JobStatus {
        phase,
        ..JobStatus::default()
    }
}

/// Waits until the cell looks like this, for at most half a minute.
pub(crate) async fn until(
    cluster: &dyn Cluster,
    what: &str,
    looks_right: impl Fn(&ClusterState) -> bool + Send + Sync,
) -> Arc<ClusterState> {
    let mut states = cluster.watch();
    let found = async {
        loop {
            let state = states.next().await.unwrap().unwrap();
            if looks_right(&state) {
                return state;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found)
        .await
        .unwrap_or_else(|_| panic!("waited in vain until {what}"))
}
