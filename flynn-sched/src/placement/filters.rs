//! The filters that commits insist on too: a proposal that passes them is refused only if the cell has moved on.

use crate::{
    Constraint, Domain, Taint, TaintEffect,
    placement::{Candidate, Filter, Lack, Need, Reads, places::number},
};

/// The host is alive, healthy and not draining.
#[derive(Debug, Clone, Copy)]
pub struct Schedulable;

impl Filter for Schedulable {
    fn name(&self) -> &'static str {
        "schedulable"
    }

    fn reads(&self) -> Reads {
        Reads::Host
    }

    fn admits(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        let host = candidate.host;
        !candidate.is_lost && !host.is_draining && host.unhealthy.is_none()
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        let why = match &candidate.host.unhealthy {
            _ if candidate.is_lost => "is lost".to_owned(),
            Some(why) => format!("is unhealthy: {why}"),
            None => "is draining".to_owned(),
        };
        Lack {
            why,
            distance: self.distance(need, candidate),
        }
    }

    fn distance(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        match &candidate.host.unhealthy {
            _ if candidate.is_lost => 3.0,
            Some(_) => 2.0,
            None => 1.0,
        }
    }
}

/// The job tolerates the host's taints, except those that only prefer it elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Taints;

impl Filter for Taints {
    fn name(&self) -> &'static str {
        "taints"
    }

    fn reads(&self) -> Reads {
        Reads::Host
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        untolerated(need, candidate).is_none()
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        Lack {
            why: untolerated(need, candidate).map_or_else(String::new, |taint| {
                format!("has the taint {taint}, which the job does not tolerate")
            }),
            distance: self.distance(need, candidate),
        }
    }

    fn distance(&self, _: &Need<'_>, _: &Candidate<'_>) -> f64 {
        1.0
    }
}

fn untolerated<'c>(need: &Need<'_>, candidate: &Candidate<'c>) -> Option<&'c Taint> {
    let forbids = TaintEffect::forbids_starts;
    Taint::untolerated(&candidate.host.taints, &need.spec.tolerations, forbids)
}

/// The host is what the job's constraints ask for: it has the tags, and the expressions are true of it.
#[derive(Debug, Clone, Copy)]
pub struct Constraints;

impl Filter for Constraints {
    fn name(&self) -> &'static str {
        "constraints"
    }

    fn reads(&self) -> Reads {
        Reads::Host
    }

    fn concerns(&self, need: &Need<'_>) -> bool {
        need.spec.constraints.iter().any(Constraint::is_of_hosts)
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        need.spec
            .constraints
            .iter()
            .all(|constraint| constraint.admits(candidate.host))
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        let lacks: Vec<String> = unmet(need, candidate)
            .map(|constraint| constraint.lack(candidate.host))
            .collect();
        Lack {
            why: lacks.join(" and "),
            distance: self.distance(need, candidate),
        }
    }

    fn distance(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        f64::from(number(unmet(need, candidate).count()))
    }
}

/// The constraints that the host as such does not meet.
fn unmet<'n>(need: &Need<'n>, candidate: &Candidate<'_>) -> impl Iterator<Item = &'n Constraint> {
    let constraints = need.spec.constraints.iter();
    constraints.filter(|constraint| !constraint.admits(candidate.host))
}

/// In the host's rack, zone or tag are the jobs that the job must be near to (unless it is the first of them), and none that it must be apart from or that
/// must be apart from it.
#[derive(Debug, Clone, Copy)]
pub struct NearAndApart;

impl Filter for NearAndApart {
    fn name(&self) -> &'static str {
        "near and apart"
    }

    fn reads(&self) -> Reads {
        Reads::Places
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        !candidate.is_kept_out_within(is_wider_than_host)
            && misplaced(need, candidate, is_wider_than_host).is_none()
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        misplacement(need, candidate, is_wider_than_host)
    }

    fn distance(&self, _: &Need<'_>, _: &Candidate<'_>) -> f64 {
        MISPLACED
    }
}

/// On the host are the jobs that the job must be near to (unless it is the first of them), and none that it must be apart from or that must be apart from
/// it.
#[derive(Debug, Clone, Copy)]
pub struct NearAndApartOnHosts;

impl Filter for NearAndApartOnHosts {
    fn name(&self) -> &'static str {
        "near and apart on the host"
    }

    fn reads(&self) -> Reads {
        Reads::Group
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        !candidate.is_kept_out_within(is_host) && misplaced(need, candidate, is_host).is_none()
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        misplacement(need, candidate, is_host)
    }

    fn distance(&self, _: &Need<'_>, _: &Candidate<'_>) -> f64 {
        MISPLACED
    }
}

fn is_host(domain: &Domain) -> bool {
    *domain == Domain::Host
}

fn is_wider_than_host(domain: &Domain) -> bool {
    *domain != Domain::Host
}

/// The first constraint about the meant domains and other jobs that is not met.
fn misplaced<'n>(
    need: &Need<'n>,
    candidate: &Candidate<'_>,
    is_meant: fn(&Domain) -> bool,
) -> Option<&'n Constraint> {
    let mut constraints = need.spec.constraints.iter();
    constraints.find(|constraint| match constraint {
        Constraint::Near { jobs, within } => {
            let is_near = candidate.has_near(jobs, within)
                || jobs.matches(need.group) && candidate.has_nowhere(jobs, within);
            is_meant(within) && !is_near
        }
        Constraint::Apart { jobs, within } => is_meant(within) && candidate.has_near(jobs, within),
        _ => false,
    })
}

fn misplacement(need: &Need<'_>, candidate: &Candidate<'_>, is_meant: fn(&Domain) -> bool) -> Lack {
    let why = match misplaced(need, candidate, is_meant) {
        Some(constraint) => constraint.lack(candidate.host),
        None => format!(
            "has a job in its {} that keeps those of group {} apart",
            candidate.kept_out_within().map_or("place", Domain::name),
            need.group
        ),
    };
    Lack {
        why,
        distance: MISPLACED,
    }
}

/// How far a host is from being the right place; there is no being nearer to it.
const MISPLACED: f64 = 1.0;

/// Where the job asks for it, the host has no other job of its group.
#[derive(Debug, Clone, Copy)]
pub struct DistinctHosts;

impl Filter for DistinctHosts {
    fn name(&self) -> &'static str {
        "distinct hosts"
    }

    fn reads(&self) -> Reads {
        Reads::Group
    }

    fn concerns(&self, need: &Need<'_>) -> bool {
        need.spec.constraints.contains(&Constraint::DistinctHosts)
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        candidate.group_jobs == 0 || !need.spec.constraints.contains(&Constraint::DistinctHosts)
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        Lack {
            why: format!("has a job of group {} already", need.group),
            distance: self.distance(need, candidate),
        }
    }

    fn distance(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        f64::from(candidate.group_jobs)
    }
}

/// The ports that the job insists on are free.
#[derive(Debug, Clone, Copy)]
pub struct FixedPorts;

impl Filter for FixedPorts {
    fn name(&self) -> &'static str {
        "ports"
    }

    fn reads(&self) -> Reads {
        Reads::Load
    }

    fn concerns(&self, need: &Need<'_>) -> bool {
        need.spec.fixed_ports().next().is_some()
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        candidate.port_clash(need.spec).is_none()
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        let port = candidate.port_clash(need.spec).unwrap_or_default();
        Lack {
            why: format!("port {port} is taken"),
            distance: self.distance(need, candidate),
        }
    }

    fn distance(&self, _: &Need<'_>, _: &Candidate<'_>) -> f64 {
        1.0
    }
}

/// What the job requests is free.
#[derive(Debug, Clone, Copy)]
pub struct FreeResources;

impl Filter for FreeResources {
    fn name(&self) -> &'static str {
        "resources"
    }

    fn reads(&self) -> Reads {
        Reads::Load
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        candidate.free.fits(&need.spec.request)
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        Lack {
            why: candidate
                .free
                .shortage(&need.spec.request)
                .unwrap_or_default(),
            distance: self.distance(need, candidate),
        }
    }

    fn distance(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        let missing = need.spec.request.saturating_sub(&candidate.free);
        missing.dominant_share(&need.spec.request)
    }
}

/// The named resources that the job requests are free.
#[derive(Debug, Clone, Copy)]
pub struct NamedResources;

impl Filter for NamedResources {
    fn name(&self) -> &'static str {
        "named resources"
    }

    fn reads(&self) -> Reads {
        Reads::Load
    }

    fn concerns(&self, need: &Need<'_>) -> bool {
        !need.spec.named.is_empty()
    }

    fn admits(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        need.spec.named.is_empty() || candidate.has_named(need.spec)
    }

    fn lack(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Lack {
        Lack {
            why: candidate.named_shortage(need.spec).unwrap_or_default(),
            distance: self.distance(need, candidate),
        }
    }

    fn distance(&self, _: &Need<'_>, _: &Candidate<'_>) -> f64 {
        1.0
    }
}
