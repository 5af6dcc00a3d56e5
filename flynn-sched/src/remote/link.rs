//! What a host reads and writes of its jobs, without a mirror of the whole cell.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use flynn_discovery::{
    Backend, Error as StoreError,
    backend::{Change, Compare, Condition, Entry, MAX_OPS, Op, WatchEvent, list_all},
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use crate::{
    Error, HostId, Job, JobId, JobSpec, JobStatus, Result,
    cluster::Assignments,
    remote::{
        keys::CellKey,
        specs::{SpecHash, StoredJob, StoredSpec},
        store_error,
    },
};

/// The jobs that one watch tells.
struct Assigned {
    backend: Arc<dyn Backend>,
    host: HostId,
    events: BoxStream<'static, flynn_discovery::Result<WatchEvent>>,
    jobs: BTreeMap<JobId, Arc<Job>>,
    /// The descriptions of its jobs, and of some that it had.
    specs: HashMap<SpecHash, Arc<JobSpec>>,
    told: Assignments,
    has_ended: bool,
}

pub(super) fn assignments(
    backend: Arc<dyn Backend>,
    host: HostId,
) -> BoxStream<'static, Result<Vec<Arc<Job>>>> {
    let assigned = Assigned {
        events: backend.watch(&CellKey::jobs_of(&host)),
        backend,
        host,
        jobs: BTreeMap::new(),
        specs: HashMap::new(),
        told: Assignments::default(),
        has_ended: false,
    };
    stream::unfold(assigned, |mut assigned| async move {
        let item = assigned.next().await?;
        Some((item, assigned))
    })
    .boxed()
}

impl Assigned {
    /// The next list that wants something else than the one before.
    async fn next(&mut self) -> Option<Result<Vec<Arc<Job>>>> {
        while !self.has_ended {
            let taken = match self.events.next().await? {
                Ok(event) => self.take(event).await,
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                self.has_ended = true;
                return Some(Err(store_error("following assignments", error)));
            }
            if let Some(jobs) = self.told.changed(self.jobs.values().cloned()) {
                return Some(Ok(jobs));
            }
        }
        None
    }

    async fn take(&mut self, event: WatchEvent) -> flynn_discovery::Result<()> {
        match event {
            WatchEvent::Reset { entries, .. } => {
                // A host that starts anew wants to know what it said before.
                let prefix = CellKey::statuses_of(&self.host);
                let statuses = list_all(self.backend.as_ref(), &prefix).await?;
                let statuses: HashMap<JobId, JobStatus> =
                    statuses.iter().filter_map(read_status).collect();
                self.jobs.clear();
                for entry in &entries {
                    self.put(entry, &statuses).await?;
                }
            }
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Put(entry) => self.put(&entry, &HashMap::new()).await?,
                        Change::Delete(key) => {
                            if let Some(CellKey::Job(_, id)) = CellKey::parse(&key) {
                                self.jobs.remove(&id);
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn put(
        &mut self,
        entry: &Entry,
        statuses: &HashMap<JobId, JobStatus>,
    ) -> flynn_discovery::Result<()> {
        let Some(CellKey::Job(host, id)) = CellKey::parse(&entry.key) else {
            return Ok(());
        };
        let stored = match serde_json::from_slice::<StoredJob>(&entry.value) {
            Ok(stored) => stored,
            Err(error) => {
                tracing::error!(key = %entry.key, %error, "a job of the cell cannot be read and is left out");
                return Ok(());
            }
        };
        let spec = match &stored.spec {
            StoredSpec::Whole(spec) => Arc::clone(spec),
            StoredSpec::Hash(hash) => match self.spec(*hash).await? {
                Some(spec) => spec,
                // Nobody needs it any more: the job has been removed meanwhile, and the watch will say so.
                None => return Ok(()),
            },
        };
        let mut job = stored.with(id, host, spec);
        if let Some(status) = statuses.get(&job.id) {
            job.status = status.clone();
        } else if let Some(known) = self.jobs.get(&job.id) {
            job.status = known.status.clone();
        }
        self.jobs.insert(job.id.clone(), Arc::new(job));
        Ok(())
    }

    /// A description, read once.
    async fn spec(&mut self, hash: SpecHash) -> flynn_discovery::Result<Option<Arc<JobSpec>>> {
        if let Some(spec) = self.specs.get(&hash) {
            return Ok(Some(Arc::clone(spec)));
        }
        let key = CellKey::Spec(hash).key().expect("a hash is a segment");
        let Some(entry) = self.backend.get(&key).await? else {
            return Ok(None);
        };
        let spec: Arc<JobSpec> = match serde_json::from_slice(&entry.value) {
            Ok(spec) => spec,
            Err(error) => {
                tracing::error!(%key, %error, "a job's description cannot be read and its jobs are left out");
                return Ok(None);
            }
        };
        if self.specs.len() >= MAX_SPECS {
            let jobs = &self.jobs;
            self.specs
                .retain(|_, spec| jobs.values().any(|job| Arc::ptr_eq(&job.spec, spec)));
        }
        self.specs.insert(hash, Arc::clone(&spec));
        Ok(Some(spec))
    }
}

fn read_status(entry: &Entry) -> Option<(JobId, JobStatus)> {
    let CellKey::Status(_, id) = CellKey::parse(&entry.key)? else {
        return None;
    };
    Some((id, serde_json::from_slice(&entry.value).ok()?))
}

pub(super) async fn report(
    backend: &dyn Backend,
    host: &HostId,
    statuses: Vec<(JobId, JobStatus)>,
) -> Result<()> {
    // The newest of each job.
    let statuses: BTreeMap<JobId, JobStatus> = statuses.into_iter().collect();
    let mut writes = Vec::with_capacity(statuses.len());
    for (id, status) in statuses {
        let value = serde_json::to_vec(&status).map_err(|error| Error::Invalid {
            what: format!("status of job {id}"),
            why: error.to_string(),
        })?;
        let compare = Compare {
            key: CellKey::Job(host.clone(), id.clone()).key()?,
            condition: Condition::Present,
        };
        let op = Op::put(CellKey::Status(host.clone(), id).key()?, value);
        writes.push((compare, op));
    }
    for batch in writes.chunks(MAX_OPS / 2) {
        report_batch(backend, host, batch.to_vec()).await?;
    }
    Ok(())
}

async fn report_batch(
    backend: &dyn Backend,
    host: &HostId,
    mut batch: Vec<(Compare, Op)>,
) -> Result<()> {
    for _ in 0..MAX_ATTEMPTS {
        if batch.is_empty() {
            return Ok(());
        }
        let (compares, ops) = batch.iter().cloned().unzip();
        match backend.commit(compares, ops).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { .. }) => {
                // The cell has forgotten some of these jobs: reports on them are dropped.
                let prefix = CellKey::jobs_of(host);
                let wanted = list_all(backend, &prefix)
                    .await
                    .map_err(|error| store_error("reporting", error))?;
                batch.retain(|(compare, _)| wanted.iter().any(|entry| entry.key == compare.key));
            }
            Err(error) => return Err(store_error("reporting", error)),
        }
    }
    Err(Error::Store {
        operation: "reporting",
        is_transient: true,
        source: "jobs were removed faster than they could be reported on".into(),
    })
}

/// How many descriptions a host remembers before it forgets those that none of its jobs needs.
const MAX_SPECS: usize = 256;
/// How often a report is tried while jobs are being removed.
const MAX_ATTEMPTS: usize = 8;
