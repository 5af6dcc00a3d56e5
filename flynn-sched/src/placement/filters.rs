//! The filters that commits insist on too: a proposal that passes them is refused only if the cell has moved on.

use crate::{
    Constraint,
    placement::{Candidate, Filter, Lack, Need},
};

/// The host is alive and not draining.
#[derive(Debug, Clone, Copy)]
pub struct Schedulable;

impl Filter for Schedulable {
    fn name(&self) -> &'static str {
        "schedulable"
    }

    fn admits(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        !candidate.is_lost && !candidate.host.is_draining
    }

    fn lack(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        let (why, distance) = if candidate.is_lost {
            ("is lost", 2.0)
        } else {
            ("is draining", 1.0)
        };
        Lack {
            why: why.to_owned(),
            distance,
        }
    }
}

/// The host has the tags that the job's constraints name.
#[derive(Debug, Clone, Copy)]
pub struct Constraints;

impl Filter for Constraints {
    fn name(&self) -> &'static str {
        "constraints"
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        need.spec
            .constraints
            .iter()
            .all(|constraint| constraint.admits(candidate.host))
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        let unmet = need
            .spec
            .constraints
            .iter()
            .filter(|constraint| !constraint.admits(candidate.host));
        let lacks: Vec<String> = unmet.map(|c| c.lack(candidate.host)).collect();
        Lack {
            distance: f64::from(u32::try_from(lacks.len()).unwrap_or(u32::MAX)),
            why: lacks.join(" and "),
        }
    }
}

/// Where the job asks for it, the host has no other job of its group.
#[derive(Debug, Clone, Copy)]
pub struct DistinctHosts;

impl Filter for DistinctHosts {
    fn name(&self) -> &'static str {
        "distinct hosts"
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        candidate.group_jobs == 0 || !need.spec.constraints.contains(&Constraint::DistinctHosts)
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        Lack {
            why: format!("has a job of group {} already", need.group),
            distance: f64::from(candidate.group_jobs),
        }
    }
}

/// The ports that the job insists on are free.
#[derive(Debug, Clone, Copy)]
pub struct FixedPorts;

impl Filter for FixedPorts {
    fn name(&self) -> &'static str {
        "ports"
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        candidate.port_clash(need.spec).is_none()
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        let port = candidate.port_clash(need.spec).unwrap_or_default();
        Lack {
            why: format!("port {port} is taken"),
            distance: 1.0,
        }
    }
}

/// What the job requests is free.
#[derive(Debug, Clone, Copy)]
pub struct FreeResources;

impl Filter for FreeResources {
    fn name(&self) -> &'static str {
        "resources"
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        candidate.free.fits(&need.spec.request)
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        let missing = need.spec.request.saturating_sub(&candidate.free);
        Lack {
            why: candidate
                .free
                .shortage(&need.spec.request)
                .unwrap_or_default(),
            distance: missing.dominant_share(&need.spec.request),
        }
    }
}
