//! What a deployment sees of the cell.

use std::{collections::BTreeMap, time::Duration};

use flynn_sched::{ClusterState, Job, Phase};

use crate::{
    model::Release,
    reconcile::{self, group_id},
};

/// How long a job without a health check must run before it counts as up. A job with one counts at once.
pub const SETTLE: Duration = Duration::from_secs(1);

/// How the jobs of both releases are, by process type.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Those of the old release.
    pub old: BTreeMap<String, TypeState>,
    /// Those of the new release.
    pub new: BTreeMap<String, TypeState>,
    /// When the next running job will have settled, in milliseconds since the Unix epoch.
    pub settles_at_ms: Option<u64>,
}

/// How the jobs of one type are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeState {
    /// How many are up, and not about to stop.
    pub up: u32,
    /// How many are not over.
    pub live: u32,
    /// How many jobs a count of one means: one, or the number of hosts for a type that runs on all.
    pub per_count: u32,
    /// What went wrong with them.
    pub troubles: Vec<Trouble>,
    /// Why one of them cannot be placed.
    pub blocked: Option<String>,
}

impl Default for TypeState {
    fn default() -> Self {
        Self {
            up: 0,
            live: 0,
            per_count: 1,
            troubles: Vec::new(),
            blocked: None,
        }
    }
}

/// What went wrong with a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The job.
    pub job: String,
    /// How often it ended though it should run.
    pub crashes: u32,
    /// How often its host started it again.
    pub restarts: u32,
    /// Why it does not run, in its host's words.
    pub cause: Option<String>,
}

/// Reads the state of both releases from the cell.
#[must_use]
pub fn observe(
    state: &ClusterState,
    old: Option<&Release>,
    new: &Release,
    now_ms: u64,
) -> Observed {
    let mut observed = Observed::default();
    if let Some(old) = old {
        observed.old = types(state, old, now_ms, &mut None);
    }
    observed.new = types(state, new, now_ms, &mut observed.settles_at_ms);
    observed
}

fn types(
    state: &ClusterState,
    release: &Release,
    now_ms: u64,
    settles_at_ms: &mut Option<u64>,
) -> BTreeMap<String, TypeState> {
    let mut types = BTreeMap::new();
    for (name, process) in &release.processes {
        let Ok(group) = group_id(&release.app_id, &release.id, name) else {
            continue;
        };
        let mut seen = TypeState {
            blocked: state
                .group_status(&group)
                .and_then(|status| status.blocked.clone()),
            ..TypeState::default()
        };
        if process.omni {
            let constraints = state.group(&group).map(|g| g.spec.constraints.clone());
            let hosts = state
                .hosts()
                .filter(|host| host.is_schedulable())
                .filter(|host| {
                    reconcile::matches_tags(&host.host, constraints.as_deref().unwrap_or_default())
                })
                .count();
            seen.per_count = u32::try_from(hosts).unwrap_or(u32::MAX);
        }
        for job in state.jobs_of(&group) {
            let is_lost = state
                .host(&job.host)
                .is_none_or(|host| host.lost_since_ms.is_some());
            if !is_lost {
                look(job, now_ms, &mut seen, settles_at_ms);
            }
        }
        types.insert(name.clone(), seen);
    }
    types
}

fn look(job: &Job, now_ms: u64, seen: &mut TypeState, settles_at_ms: &mut Option<u64>) {
    let status = &job.status;
    if !status.phase.is_final() {
        seen.live += 1;
    }
    if status.phase == Phase::Up && !job.is_stopping {
        let has_check = job
            .spec
            .ports
            .iter()
            .any(|port| port.service.as_ref().is_some_and(|s| s.check.is_some()));
        let settle_ms = u64::try_from(SETTLE.as_millis()).unwrap_or(u64::MAX);
        let settled_at = status.since_ms.saturating_add(settle_ms);
        if has_check || now_ms >= settled_at {
            seen.up += 1;
        } else {
            *settles_at_ms = Some(settles_at_ms.map_or(settled_at, |at| at.min(settled_at)));
        }
    }
    let ended_badly = matches!(status.phase, Phase::Crashed | Phase::Failed) && !job.is_stopping;
    let crashes = status.restarts
        + u32::from(ended_badly)
        // It ended and is not yet started again: that restart is not counted.
        + u32::from(status.phase == Phase::Restarting);
    if crashes > 0 || status.error.is_some() {
        seen.troubles.push(Trouble {
            job: job.id.to_string(),
            crashes,
            restarts: status.restarts,
            cause: status.error.clone().or_else(|| {
                let code = status.exit_status?;
                Some(format!("exited with status {code}"))
            }),
        });
    }
}
