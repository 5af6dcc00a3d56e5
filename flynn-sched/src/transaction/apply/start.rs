//! Where a job may start.

use std::sync::Arc;

use crate::{Constraint, Host, HostState, Job, Taint, TaintEffect};

use super::{Applying, No, NoKind};

impl Applying<'_> {
    pub(super) fn start(&mut self, job: &Arc<Job>) -> Result<(), No> {
        self.open(&job.group)?;
        if let Some(other) = self.state.job(&job.id) {
            return Err(No::invalid(format!(
                "a job with this id exists already on host {}",
                other.host
            )));
        }
        self.unchanged(&job.host)?;
        let Some(host) = self.state.host(&job.host) else {
            return Err(No {
                host: Some(job.host.clone()),
                kind: NoKind::Unknown,
                why: "is not in the cluster".to_owned(),
            });
        };
        self.host_takes(job, host)?;
        self.quota(job)?;
        self.evenly_spread(job)?;
        let mut job = Arc::clone(job);
        if job.is_stopping || job.evicted.is_some() {
            return Err(No::invalid("it is to stop already"));
        }
        if job.status != crate::JobStatus::default() {
            // What a host says, only hosts say.
            Arc::make_mut(&mut job).status = crate::JobStatus::default();
        }
        self.budgets.remove(&job.group);
        self.count_start(&job);
        self.state.start_job(job, self.revision);
        Ok(())
    }

    /// The host would take the job, whatever is true of others.
    pub(super) fn host_takes(&self, job: &Job, host: &HostState) -> Result<(), No> {
        let id = &host.host.id;
        if host.lost_since_ms.is_some() {
            return Err(No::conflict(id, "is lost"));
        }
        if host.host.is_draining {
            return Err(No::conflict(id, "is draining"));
        }
        if let Some(why) = &host.host.unhealthy {
            return Err(No::conflict(id, format!("is unhealthy: {why}")));
        }
        let forbids = TaintEffect::forbids_starts;
        if let Some(taint) = Taint::untolerated(&host.host.taints, &job.spec.tolerations, forbids) {
            return Err(No::conflict(
                id,
                format!("has the taint {taint}, which the job does not tolerate"),
            ));
        }
        if let Some(shortage) = host.free().shortage(&job.spec.request) {
            return Err(No::conflict(id, shortage));
        }
        let shortage = || {
            let taken = &host.promised_named;
            host.host.named.shortage(taken, &job.spec.named)
        };
        if !job.spec.named.is_empty()
            && let Some(shortage) = shortage()
        {
            return Err(No::conflict(id, shortage));
        }
        self.held_for_others(job, host)?;
        self.kept_for_more_important(job, host)?;
        self.constraints(job, &host.host)
    }

    fn quota(&self, job: &Job) -> Result<(), No> {
        let namespace = &job.spec.namespace;
        let Some(quota) = self.state.quota(namespace) else {
            return Ok(());
        };
        match quota.exceeded(&self.state.usage(namespace), &job.spec) {
            Some(why) => Err(No {
                host: None,
                kind: NoKind::Quota(namespace.clone()),
                why,
            }),
            None => Ok(()),
        }
    }

    fn constraints(&self, job: &Job, host: &Host) -> Result<(), No> {
        for constraint in &job.spec.constraints {
            if !constraint.admits(host) {
                return Err(No::conflict(&host.id, constraint.lack(host)));
            }
            let is_met = match constraint {
                Constraint::Near { jobs, within } => self.state.has_near(host, jobs, within),
                Constraint::Apart { jobs, within } => !self.state.has_near(host, jobs, within),
                Constraint::Tag { .. } | Constraint::Expression(_) | Constraint::DistinctHosts => {
                    true
                }
            };
            if !is_met {
                return Err(No::conflict(&host.id, constraint.lack(host)));
            }
            let is_shared = || {
                self.state
                    .jobs_on(&host.id)
                    .any(|other| other.group == job.group && !other.status.phase.is_final())
            };
            if *constraint == Constraint::DistinctHosts && is_shared() {
                return Err(No::conflict(
                    &host.id,
                    format!("has a job of group {} already", job.group),
                ));
            }
        }
        if self.state.has_repelling()
            && let Some(other) = self.state.repelled_by(host, &job.group)
        {
            return Err(No::conflict(
                &host.id,
                format!("has a job of group {other} near, which keeps it apart"),
            ));
        }
        if job.spec.fixed_ports().next().is_some() {
            let taken = self
                .state
                .jobs_on(&host.id)
                .filter(|other| !other.status.phase.is_final())
                .find_map(|other| job.spec.port_clash(&other.spec).map(|port| (other, port)));
            if let Some((other, port)) = taken {
                return Err(No::conflict(
                    &host.id,
                    format!("port {port} is taken by job {}", other.id),
                ));
            }
        }
        Ok(())
    }
}
