//! Where a job may start.

use std::sync::Arc;

use crate::{Constraint, Domain, Host, HostState, Job, Jobs, Taint, TaintEffect};

use super::{Applying, No, NoKind, starting::NotYet};

impl Applying<'_> {
    /// Starts a job; `is_doubtful` if there could be one with its id already.
    pub(super) fn start(&mut self, job: &Arc<Job>, is_doubtful: bool) -> Result<(), No> {
        if self.must_be_even(job) {
            self.write_jobs();
        }
        let checked = match self.check_start(job, is_doubtful) {
            Err(NotYet::Unwritten) => {
                self.write_jobs();
                self.check_start(job, is_doubtful)
            }
            checked => checked,
        };
        match checked {
            Ok(()) => {}
            Err(NotYet::No(no)) => return Err(no),
            Err(NotYet::Unwritten) => unreachable!("all is written"),
        }
        self.evenly_spread(job)?;
        if job.is_stopping || job.evicted.is_some() {
            return Err(No::invalid("it is to stop already"));
        }
        let mut job = Arc::clone(job);
        if job.status != crate::JobStatus::default() {
            // What a host says, only hosts say.
            Arc::make_mut(&mut job).status = crate::JobStatus::default();
        }
        self.budgets.remove(&job.group);
        self.count_start(&job);
        self.write_later(job);
        Ok(())
    }

    fn check_start(&self, job: &Job, is_doubtful: bool) -> Result<(), NotYet> {
        self.open(&job.group)?;
        if is_doubtful && let Some(other) = self.state.job(&job.id) {
            return Err(No::invalid(format!(
                "a job with this id exists already on host {}",
                other.host
            ))
            .into());
        }
        self.unchanged(&job.host)?;
        let Some(host) = self.state.host(&job.host) else {
            return Err(NotYet::No(No {
                host: Some(job.host.clone()),
                kind: NoKind::Unknown,
                why: "is not in the cluster".to_owned(),
            }));
        };
        self.host_takes(job, host)?;
        Ok(self.quota(job)?)
    }

    /// The host would take the job, whatever is true of others; it may depend on jobs that are not written yet.
    pub(super) fn host_takes(&self, job: &Job, host: &HostState) -> Result<(), NotYet> {
        let id = &host.host.id;
        if host.lost_since_ms.is_some() {
            return Err(No::conflict(id, "is lost").into());
        }
        if host.host.is_draining {
            return Err(No::conflict(id, "is draining").into());
        }
        if let Some(why) = &host.host.unhealthy {
            return Err(No::conflict(id, format!("is unhealthy: {why}")).into());
        }
        let forbids = TaintEffect::forbids_starts;
        if let Some(taint) = Taint::untolerated(&host.host.taints, &job.spec.tolerations, forbids) {
            return Err(No::conflict(
                id,
                format!("has the taint {taint}, which the job does not tolerate"),
            )
            .into());
        }
        if let Some(shortage) = host.free().shortage(&job.spec.request) {
            return Err(No::conflict(id, shortage).into());
        }
        let shortage = || {
            let taken = &host.promised_named;
            host.host.named.shortage(taken, &job.spec.named)
        };
        if !job.spec.named.is_empty()
            && let Some(shortage) = shortage()
        {
            return Err(No::conflict(id, shortage).into());
        }
        if self.state.has_reservations_on(id) && !self.starting.is_empty() {
            return Err(NotYet::Unwritten);
        }
        self.held_for_others(job, host)?;
        self.kept_for_more_important(job, host)?;
        self.constraints(job, host)
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

    fn constraints(&self, job: &Job, host: &HostState) -> Result<(), NotYet> {
        let (with_ports, host) = (host.with_ports, &*host.host);
        let no = |why: String| Err(NotYet::No(No::conflict(&host.id, why)));
        for constraint in &job.spec.constraints {
            if !constraint.admits(host) {
                return no(constraint.lack(host));
            }
            match constraint {
                Constraint::Near { jobs, within } if !self.is_near(job, host, jobs, within)? => {
                    return no(constraint.lack(host));
                }
                Constraint::Apart { jobs, within } if self.has_near(host, jobs, within)? => {
                    return no(constraint.lack(host));
                }
                Constraint::DistinctHosts => {
                    let siblings = Jobs::Group(job.group.clone());
                    if self.has_near(host, &siblings, &Domain::Host)? {
                        return no(format!("has a job of group {} already", job.group));
                    }
                }
                _ => {}
            }
        }
        if self.state.is_repelled(host, &job.group) {
            if !self.starting.is_empty() {
                return Err(NotYet::Unwritten);
            }
            if let Some(other) = self.state.repelled_by(host, &job.group) {
                return no(format!(
                    "has a job of group {other} near, which keeps it apart"
                ));
            }
        }
        if with_ports > 0 && job.spec.fixed_ports().next().is_some() {
            if !self.starting.is_empty() {
                return Err(NotYet::Unwritten);
            }
            let taken = self
                .state
                .jobs_on(&host.id)
                .filter(|other| !other.status.phase.is_final())
                .find_map(|other| job.spec.port_clash(&other.spec).map(|port| (other, port)));
            if let Some((other, port)) = taken {
                return no(format!("port {port} is taken by job {}", other.id));
            }
        }
        Ok(())
    }

    /// May the job, which must be near one of the jobs, be on `host`? The first of those that are to be near each other may
    /// be anywhere.
    fn is_near(
        &self,
        job: &Job,
        host: &Host,
        jobs: &Jobs,
        within: &Domain,
    ) -> Result<bool, NotYet> {
        let is_first = jobs.matches(&job.group) && self.starting.few(jobs)?.is_empty();
        Ok(is_first && self.state.live(jobs).next().is_none()
            || self.has_near(host, jobs, within)?)
    }

    /// Is one of the jobs in the same place as `host`, written or not?
    fn has_near(&self, host: &Host, jobs: &Jobs, within: &Domain) -> Result<bool, NotYet> {
        let is_near = |other: &&Arc<Job>| match within {
            Domain::Host => other.host == host.id,
            within => self
                .state
                .host(&other.host)
                .is_some_and(|its| within.of(&its.host) == within.of(host)),
        };
        let unwritten = self.starting.few(jobs)?;
        Ok(unwritten.iter().any(is_near) || self.state.has_near(host, jobs, within))
    }
}
