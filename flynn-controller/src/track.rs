//! Jobs of the cell as clients of the controller see them, and what is new about them. Decided without clocks.

use std::collections::BTreeMap;

use flynn_sched::{ClusterState, HostId, Phase};

use crate::{
    model::{Job, JobState, Time},
    reconcile::{META_APP, META_RELEASE, META_TYPE},
};

/// A job of the cell as clients see it; `None` if no app owns it.
#[must_use]
pub fn describe(state: &ClusterState, job: &flynn_sched::Job) -> Option<Job> {
    let meta = &job.spec.metadata;
    let app = meta.get(META_APP)?.clone();
    let lost = state
        .host(&job.host)
        .is_none_or(|host| host.lost_since_ms.is_some());
    let status = &job.status;
    let (job_state, host_error) = if lost && !status.phase.is_final() {
        (JobState::Failed, Some(lost_with(&job.host)))
    } else {
        (
            phase_state(status.phase, job.is_stopping),
            status.error.clone(),
        )
    };
    let user_meta = meta
        .iter()
        .filter(|(key, _)| !key.starts_with("flynn-controller."))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    Some(Job {
        id: format!("{}-{}", job.host, job.id),
        uuid: job.id.to_string(),
        host_id: job.host.to_string(),
        app,
        release: meta.get(META_RELEASE).cloned().unwrap_or_default(),
        process_type: meta.get(META_TYPE).cloned().unwrap_or_default(),
        state: job_state,
        args: job.spec.args.clone(),
        meta: user_meta,
        exit_status: status.exit_status,
        host_error,
        restarts: (status.restarts > 0).then_some(status.restarts),
        created_at: Some(Time::from_millis(job.placed_at_ms)),
        updated_at: Some(Time::from_millis(status.since_ms.max(job.placed_at_ms))),
    })
}

fn phase_state(phase: Phase, is_stopping: bool) -> JobState {
    match phase {
        Phase::Done => JobState::Down,
        Phase::Failed => JobState::Failed,
        // A job that was told to stop may well end with another status than 0.
        Phase::Crashed if is_stopping => JobState::Down,
        Phase::Crashed => JobState::Crashed,
        _ if is_stopping => JobState::Stopping,
        Phase::Starting => JobState::Starting,
        Phase::Up => JobState::Up,
        Phase::Restarting => JobState::Crashed,
        Phase::Stopping => JobState::Stopping,
        _ => JobState::Pending,
    }
}

fn lost_with(host: &HostId) -> String {
    format!("host {host} was lost")
}

/// What is new: jobs whose state differs from the record, and recorded jobs that the cell has forgotten.
///
/// `recorded` are the jobs as last announced, by UUID; `now` is when a forgotten job counts as ended.
#[must_use]
pub fn news(recorded: &BTreeMap<String, Job>, state: &ClusterState, now: Time) -> Vec<Job> {
    let mut news = Vec::new();
    for job in state.jobs() {
        let Some(job) = describe(state, job) else {
            continue;
        };
        let is_known = recorded.get(&job.uuid).is_some_and(|known| {
            known.state == job.state
                && known.exit_status == job.exit_status
                && known.host_error == job.host_error
                && known.restarts == job.restarts
        });
        if !is_known {
            news.push(job);
        }
    }
    for known in recorded.values() {
        let is_forgotten =
            flynn_sched::JobId::parse(&*known.uuid).is_ok_and(|uuid| state.job(&uuid).is_none());
        if is_forgotten && known.state.is_active() {
            let mut job = known.clone();
            job.state = JobState::Down;
            job.updated_at = Some(now);
            news.push(job);
        }
    }
    news
}

/// Has a formation the jobs it asks for, all up and none too many?
#[must_use]
pub fn is_settled(
    state: &ClusterState,
    release: &crate::model::Release,
    counts: &crate::model::Counts,
    now_ms: u64,
) -> bool {
    let observed = crate::deploy::observe(state, None, release, now_ms).new;
    release.processes.keys().all(|name| {
        let wanted = counts.get(name).copied().unwrap_or_default();
        let seen = observed.get(name);
        let wanted = wanted.saturating_mul(seen.map_or(1, |s| s.per_count));
        seen.map_or((0, 0), |s| (s.up, s.live)) == (wanted, wanted)
    })
}

#[cfg(test)]
mod tests;
