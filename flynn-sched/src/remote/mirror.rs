//! The cell as one watch tells it.

use std::{
    collections::HashMap,
    ops::Bound,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use flynn_discovery::{
    Backend,
    backend::{Change, Entry, Key, Revision, WatchEvent},
};
use futures::{StreamExt, stream::BoxStream};
use serde::de::DeserializeOwned;

use crate::{
    ClusterState, Error, GroupId, Host, HostId, Job, JobId, JobSpec, Jobs,
    clock::Clock,
    cluster::Published,
    remote::{
        keys::CellKey,
        specs::{SpecHash, Specs, StoredJob, StoredSpec, described},
        versions::Versions,
    },
};

/// The cell at one revision, with the versions of the keys that commits compare.
#[derive(Debug, Clone, Default)]
pub(super) struct Mirror {
    pub(super) state: Arc<ClusterState>,
    versions: Versions,
    specs: Specs,
    /// The description of each job that does not hold it itself.
    described: imbl::OrdMap<JobId, SpecHash>,
    /// The groups that have a [`CellKey::GroupSeq`], by id.
    placed: imbl::OrdSet<GroupId>,
}

impl Mirror {
    /// The version of a key, if it exists.
    pub(super) fn version(&self, key: &CellKey) -> Option<Revision> {
        match key {
            CellKey::Job(host, id) => {
                let is_there = self.state.job(id).is_some_and(|job| job.host == *host);
                let version = self.state.job_version(id).filter(|_| is_there);
                version.map(Revision)
            }
            key => self.versions.get(key),
        }
    }

    /// The description that a job names by its hash.
    pub(super) fn description(&self, job: &JobId) -> Option<SpecHash> {
        self.described.get(job).copied()
    }

    /// How many jobs name this description.
    pub(super) fn described(&self, hash: &SpecHash) -> u64 {
        self.specs.jobs(hash)
    }

    /// The groups meant that have a [`CellKey::GroupSeq`].
    pub(super) fn placed(&self, jobs: &Jobs) -> impl Iterator<Item = &GroupId> {
        let first = match jobs {
            Jobs::Group(id) => id.as_str(),
            Jobs::Prefix(prefix) => prefix.as_str(),
        };
        self.placed
            .range::<_, str>((Bound::Included(first), Bound::Unbounded))
            .take_while(move |group| jobs.matches(group))
    }

    /// The cell after one event.
    pub(super) fn after(&self, event: WatchEvent, now_ms: u64) -> Self {
        match event {
            WatchEvent::Reset { entries, revision } => {
                let mut next = Taking::default();
                let mut entries: Vec<(CellKey, Entry)> =
                    entries.into_iter().filter_map(parsed).collect();
                entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                for (key, entry) in entries {
                    next.put(key, &entry, now_ms);
                }
                next.state.remember(&self.state);
                next.finish(revision)
            }
            WatchEvent::Changes { changes, revision } => {
                let mut next = Taking {
                    state: ClusterState::clone(&self.state),
                    versions: self.versions.clone(),
                    specs: self.specs.clone(),
                    described: self.described.clone(),
                    placed: self.placed.clone(),
                };
                let (puts, deletes) = sorted(changes);
                for (key, entry) in puts {
                    next.put(key, &entry, now_ms);
                }
                for key in deletes {
                    next.delete(&key, revision, now_ms);
                }
                next.finish(revision)
            }
            _ => self.clone(),
        }
    }
}

/// The last change of each key, puts and deletes apart, each in the order of [`CellKey`]; only that hosts and descriptions
/// are forgotten last, after the jobs for whose sake they would stay.
fn sorted(changes: Vec<Change>) -> (Vec<(CellKey, Entry)>, Vec<CellKey>) {
    let mut last: HashMap<Key, Option<Entry>> = HashMap::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::Put(entry) => last.insert(entry.key.clone(), Some(entry)),
            Change::Delete(key) => last.insert(key, None),
            _ => None,
        };
    }
    let (mut puts, mut deletes) = (Vec::new(), Vec::new());
    for (key, entry) in last {
        match (CellKey::parse(&key), entry) {
            (Some(key), Some(entry)) => puts.push((key, entry)),
            (Some(key), None) => deletes.push(key),
            (None, _) => {}
        }
    }
    puts.sort_by(|(a, _), (b, _)| a.cmp(b));
    deletes.sort();
    deletes.sort_by_key(|key| matches!(key, CellKey::Known(_) | CellKey::Spec(_)));
    (puts, deletes)
}

fn parsed(entry: Entry) -> Option<(CellKey, Entry)> {
    Some((CellKey::parse(&entry.key)?, entry))
}

/// A mirror in the making.
#[derive(Default)]
struct Taking {
    state: ClusterState,
    versions: Versions,
    specs: Specs,
    described: imbl::OrdMap<JobId, SpecHash>,
    placed: imbl::OrdSet<GroupId>,
}

impl Taking {
    fn put(&mut self, key: CellKey, entry: &Entry, now_ms: u64) {
        let version = entry.version.0;
        match &key {
            CellKey::Host(id) => {
                if let Some(host) = read::<Host>(&entry.value, &key)
                    && host.id == *id
                {
                    let created = entry.created.0;
                    self.state
                        .put_host(Arc::new(host), created, version, now_ms);
                }
            }
            CellKey::Known(id) => {
                let is_alive = self.versions.get(&CellKey::Host(id.clone())).is_some();
                if !is_alive
                    && let Some(host) = read::<Host>(&entry.value, &key)
                    && host.id == *id
                {
                    self.state.put_lost_host(Arc::new(host), version, now_ms);
                }
            }
            CellKey::Group(id) => {
                if let Some(mut group) = read::<crate::Group>(&entry.value, &key)
                    && group.id == *id
                {
                    let before = self.state.group(id).map(|group| Arc::clone(&group.spec));
                    if before.as_ref() != Some(&group.spec) {
                        self.unshare(before);
                    }
                    if let Some(hash) = hash_of(&group.spec) {
                        // A cell of many equal jobs keeps one description.
                        group.spec = self.specs.share(hash, group.spec);
                    }
                    self.state.put_group(Arc::new(group), version);
                }
            }
            CellKey::Spec(hash) => {
                // What is under a hash never changes.
                if self.specs.get(hash).is_none()
                    && let Some(spec) = read::<JobSpec>(&entry.value, &key)
                {
                    self.specs.share(*hash, Arc::new(spec));
                }
            }
            CellKey::Job(host, id) => {
                if let Some(job) = self.job(host, id, entry, &key) {
                    self.state.put_job(Arc::new(job), version, now_ms);
                }
                // The state knows its version.
                return;
            }
            CellKey::Status(host, id) => {
                if self.state.job(id).is_some_and(|job| job.host == *host)
                    && let Some(status) = read(&entry.value, &key)
                {
                    self.state.put_status(id, status, version);
                }
                return;
            }
            CellKey::Note(group) => {
                if let Some(status) = read(&entry.value, &key) {
                    self.state.put_note(group, Arc::new(status));
                }
                return;
            }
            CellKey::Reservation(id) => {
                if let Some(reservation) = read::<crate::Reservation>(&entry.value, &key)
                    && reservation.id == *id
                {
                    self.state.put_reservation(Arc::new(reservation), version);
                }
            }
            CellKey::Quota(namespace) => {
                if let Some(quota) = read::<crate::Quota>(&entry.value, &key)
                    && quota.namespace == *namespace
                {
                    self.state.put_quota(Arc::new(quota));
                }
            }
            CellKey::QuotaSeq(_) | CellKey::ApartSeq | CellKey::GroupsSeq | CellKey::Id(_) => {}
            CellKey::HostSeq(id) => self.state.touch_host(id, version),
            CellKey::GroupSeq(id) => {
                self.placed.insert(id.clone());
                self.state.touch_group(id, version);
            }
        }
        self.versions.insert(key, entry.version);
    }

    /// Reads a job, and counts that it needs its description.
    fn job(&mut self, host: &HostId, id: &JobId, entry: &Entry, key: &CellKey) -> Option<Job> {
        let stored = read::<StoredJob>(&entry.value, key)?;
        let (spec, hash) = match &stored.spec {
            StoredSpec::Whole(spec) => (Arc::clone(spec), None),
            StoredSpec::Hash(hash) => {
                let Some(spec) = self.specs.get(hash) else {
                    tracing::error!(%key, %hash, "a job's description is missing, and it is left out");
                    return None;
                };
                (Arc::clone(spec), Some(*hash))
            }
        };
        let before = match hash {
            Some(hash) => {
                self.specs.hold(&hash);
                self.described.insert(id.clone(), hash)
            }
            None => self.described.remove(id),
        };
        if let Some(before) = before {
            self.specs.release(&before);
        }
        Some(stored.with(id.clone(), host.clone(), spec))
    }

    fn delete(&mut self, key: &CellKey, revision: Revision, now_ms: u64) {
        self.versions.remove(key);
        let version = revision.0;
        match key {
            CellKey::Host(id) => self.state.lose_host(id, version, now_ms),
            CellKey::Known(id) => {
                if self.versions.get(&CellKey::Host(id.clone())).is_none() {
                    self.state.remove_host(id, version, now_ms);
                }
            }
            CellKey::Group(id) => {
                let spec = self.state.group(id).map(|group| Arc::clone(&group.spec));
                self.state.remove_group(id, version);
                self.unshare(spec);
            }
            CellKey::Job(host, id) => {
                if self.state.job(id).is_some_and(|job| job.host == *host) {
                    self.state.remove_job(id, version);
                    if let Some(hash) = self.described.remove(id) {
                        self.specs.release(&hash);
                    }
                }
            }
            CellKey::Spec(hash) => self.specs.forget(hash),
            CellKey::Note(group) => self.state.put_note(group, Arc::default()),
            CellKey::Reservation(id) => self.state.remove_reservation(id, version),
            CellKey::Quota(namespace) => self.state.remove_quota(namespace),
            CellKey::GroupSeq(group) => {
                self.placed.remove(group);
            }
            CellKey::Status(..)
            | CellKey::HostSeq(_)
            | CellKey::QuotaSeq(_)
            | CellKey::ApartSeq
            | CellKey::GroupsSeq
            | CellKey::Id(_) => {}
        }
    }

    /// Forgets the description of a group that is no more, if no key and no job has it.
    fn unshare(&mut self, spec: Option<Arc<JobSpec>>) {
        if let Some(hash) = spec.and_then(|spec| hash_of(&spec))
            && self.versions.get(&CellKey::Spec(hash)).is_none()
        {
            self.specs.forget(&hash);
        }
    }

    fn finish(mut self, revision: Revision) -> Mirror {
        self.state.reach(revision.0);
        Mirror {
            state: Arc::new(self.state),
            versions: self.versions,
            specs: self.specs,
            described: self.described,
            placed: self.placed,
        }
    }
}

fn hash_of(spec: &JobSpec) -> Option<SpecHash> {
    described(spec).ok().map(|(hash, _)| hash)
}

/// Reads a value; one that is damaged is left out, loudly, instead of hiding all the others.
fn read<T: DeserializeOwned>(value: &Bytes, key: &CellKey) -> Option<T> {
    match serde_json::from_slice(value) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(%key, %error, "a value of the cell cannot be read and is left out");
            None
        }
    }
}

/// What is known of the cell.
#[derive(Debug, Clone)]
pub(super) enum View {
    /// Nothing yet.
    Loading,
    /// This.
    Ready(Arc<Mirror>),
    /// The watch ended with an error; it is begun anew after a pause.
    Failed(WatchFailed),
}

/// Why the watch ended.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(super) struct WatchFailed {
    why: String,
    is_transient: bool,
}

impl WatchFailed {
    /// Is it worth waiting for the next watch?
    pub(super) fn may_recover(&self) -> bool {
        self.is_transient
    }

    pub(super) fn into_error(self) -> Error {
        Error::Store {
            operation: "watching the cell",
            is_transient: self.is_transient,
            source: Box::new(self),
        }
    }
}

/// The task that keeps a mirror fresh, started on first use and ended with the last handle.
#[derive(Debug, Default)]
pub(super) struct Follow(OnceLock<Following>);

#[derive(Debug)]
struct Following {
    views: Published<View>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follow {
    /// The present view and those that follow.
    pub(super) fn views(
        self: &Arc<Self>,
        backend: &Arc<dyn Backend>,
        clock: &Arc<dyn Clock>,
    ) -> BoxStream<'static, View> {
        let following = self.0.get_or_init(|| {
            let views = Published::new(View::Loading);
            let task = follow(Arc::clone(backend), Arc::clone(clock), views.clone());
            Following {
                views,
                task: tokio::spawn(task),
            }
        });
        // A stream keeps the task alive as a handle does.
        let owner = Arc::clone(self);
        following
            .views
            .follow()
            .inspect(move |_| {
                let _ = &owner;
            })
            .boxed()
    }
}

async fn follow(backend: Arc<dyn Backend>, clock: Arc<dyn Clock>, views: Published<View>) {
    let mut mirror = Arc::new(Mirror::default());
    loop {
        let mut events = backend.watch(&CellKey::prefix());
        let why = loop {
            match events.next().await {
                Some(Ok(event)) => {
                    mirror = Arc::new(mirror.after(event, clock.now_ms()));
                    views.set(View::Ready(Arc::clone(&mirror)));
                    // Many events may wait, and others want to go on meanwhile: the store's own messages among them.
                    tokio::task::yield_now().await;
                }
                Some(Err(error)) => {
                    break WatchFailed {
                        why: error.to_string(),
                        is_transient: error.is_transient(),
                    };
                }
                None => {
                    break WatchFailed {
                        why: "the watch ended".to_owned(),
                        is_transient: true,
                    };
                }
            }
        };
        tracing::warn!(%why, "the watch on the cell ended, beginning anew");
        views.set(View::Failed(why));
        tokio::time::sleep(PAUSE).await;
    }
}

/// Between the end of a watch and the next.
const PAUSE: Duration = Duration::from_secs(1);
