//! The crate's own state as the cell of a simulation.

use std::{collections::BTreeMap, sync::Arc};

use super::{Amount, Cell, Claim, Machine, Proposal, Task};
use crate::{
    ClusterState, Constraint, GroupId, Host, HostId, HostState, Job, JobId, JobSpec, JobStatus,
    Phase, Resources, Transaction,
    transaction::{Change, Mode},
};

/// A cell whose rules are those of [`ClusterState::apply`].
#[derive(Debug, Clone)]
pub struct FullCell {
    state: ClusterState,
    hosts: Vec<HostId>,
    kinds: Vec<u8>,
    /// What tasks are, of jobs that were seen.
    specs: BTreeMap<u32, Arc<JobSpec>>,
}

impl FullCell {
    /// The state.
    #[must_use]
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    fn host(&self, machine: u32) -> Option<&HostState> {
        self.state.host(&self.hosts[machine as usize])
    }

    fn apply(&mut self, transaction: &Transaction) -> Vec<JobId> {
        let Ok(applied) = self.state.apply(transaction) else {
            return transaction.changes.iter().filter_map(started).collect();
        };
        self.state = applied.state;
        let refused = applied.refused.iter();
        refused.filter_map(|no| started(&no.change)).collect()
    }
}

impl Cell for FullCell {
    fn new(machines: &[Machine]) -> Self {
        let mut state = ClusterState::default();
        let mut hosts = Vec::with_capacity(machines.len());
        for (number, machine) in machines.iter().enumerate() {
            let id =
                HostId::parse(format!("m{number}")).expect("a letter and digits are a host id");
            let host = host(id.clone(), machine);
            state = state
                .host_joined(host, 0)
                .expect("no two machines have the same number");
            hosts.push(id);
        }
        Self {
            state,
            hosts,
            kinds: machines.iter().map(|machine| machine.kind).collect(),
            specs: BTreeMap::new(),
        }
    }

    fn len(&self) -> u32 {
        u32::try_from(self.hosts.len()).unwrap_or(u32::MAX)
    }

    fn revision(&self) -> u64 {
        self.state.revision()
    }

    fn free(&self, machine: u32) -> Amount {
        let free = self.host(machine).map(HostState::free).unwrap_or_default();
        Amount {
            cpu_millis: free.cpu_millis,
            memory_bytes: free.memory_bytes,
        }
    }

    fn kind(&self, machine: u32) -> u8 {
        self.kinds[machine as usize]
    }

    fn is_taken(&self, machine: u32, job: u32) -> bool {
        let group = group_id(job);
        self.state
            .jobs_on(&self.hosts[machine as usize])
            .any(|task| task.group == group)
    }

    fn commit(&mut self, proposal: &Proposal<'_>, refused: &mut Vec<Claim>) {
        let new_spec = || Arc::new(spec(proposal.task));
        let spec = Arc::clone(self.specs.entry(proposal.job).or_insert_with(new_spec));
        let mut transaction = Transaction {
            mode: proposal.corner.mode,
            conflict: proposal.corner.conflict,
            basis: proposal.basis,
            ..Transaction::default()
        };
        for claim in proposal.claims {
            transaction = transaction.start(Job {
                id: job_id(proposal.job, *claim),
                group: group_id(proposal.job),
                host: self.hosts[claim.machine as usize].clone(),
                spec: Arc::clone(&spec),
                is_stopping: false,
                evicted: None,
                placed_at_ms: 0,
                attempt: 0,
                status: JobStatus::default(),
            });
        }
        let no = self.apply(&transaction);
        if proposal.corner.mode == Mode::AllOrNothing && !no.is_empty() {
            refused.extend_from_slice(proposal.claims);
            return;
        }
        let is_refused = |claim: &&Claim| no.contains(&job_id(proposal.job, **claim));
        if !no.is_empty() {
            refused.extend(proposal.claims.iter().filter(is_refused));
        }
    }

    fn release(&mut self, job: u32, _task: &Task, claims: &[Claim]) {
        let done = JobStatus {
            phase: Phase::Done,
            ..JobStatus::default()
        };
        let mut removal = Transaction::on(&self.state);
        for claim in claims {
            let id = job_id(job, *claim);
            let host = &self.hosts[claim.machine as usize];
            self.state = self.state.reported(host, vec![(id.clone(), done.clone())]);
            removal = removal.remove(id);
        }
        self.apply(&removal);
    }
}

fn started(change: &Change) -> Option<JobId> {
    match change {
        Change::Start(job) => Some(job.id.clone()),
        _ => None,
    }
}

fn group_id(job: u32) -> GroupId {
    GroupId::parse(format!("j{job}")).expect("a letter and digits are a group id")
}

fn job_id(job: u32, claim: Claim) -> JobId {
    JobId::parse(format!("j{job}-{}", claim.serial))
        .expect("letters, digits and a dash are a job id")
}

fn spec(task: &Task) -> JobSpec {
    let mut constraints = Vec::new();
    constraints.extend(task.kind.map(|kind| Constraint::Tag {
        key: KIND.to_owned(),
        value: kind.to_string(),
    }));
    constraints.extend(task.is_distinct.then_some(Constraint::DistinctHosts));
    JobSpec {
        request: resources(&task.amount),
        constraints,
        ..JobSpec::default()
    }
}

fn host(id: HostId, machine: &Machine) -> Host {
    Host {
        tags: BTreeMap::from([(KIND.to_owned(), machine.kind.to_string())]),
        ..Host::new(id, resources(&machine.capacity))
    }
}

fn resources(amount: &Amount) -> Resources {
    Resources {
        cpu_millis: amount.cpu_millis,
        memory_bytes: amount.memory_bytes,
        ..Resources::default()
    }
}

/// The tag that tells a machine's kind.
const KIND: &str = "kind";
