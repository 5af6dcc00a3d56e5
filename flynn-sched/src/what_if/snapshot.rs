//! A whole cell as one JSON document.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeSeq};
use serde_json::{Map, Value};

use crate::{
    ClusterState, Error, Group, GroupId, GroupStatus, Host, HostState, Job, JobSpec, JobStatus,
    Quota, Reservation, Result,
};

/// Everything a scheduler looks at, to be written to a file or sent over a wire: hosts (those that are lost or draining
/// too), groups, jobs, quotas, reservations and what schedulers said of groups.
///
/// Taking one of a state, and making a state of it, costs nothing. Its JSON form holds each distinct [`JobSpec`] once.
/// Unknown fields are ignored when it is read, so that an older program reads what a newer one wrote as far as it
/// understands it; a [version](Self::VERSION) that is newer than its own it refuses. What only tells changes apart
/// (revisions of single hosts and groups) is not kept: all are taken to have changed last at the snapshot's revision.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "Read")]
pub struct CellSnapshot {
    state: ClusterState,
}

impl CellSnapshot {
    /// The version of the JSON form that is written, and the newest that is read.
    pub const VERSION: u32 = 1;

    /// A snapshot of this state.
    #[must_use]
    pub fn of(state: &ClusterState) -> Self {
        Self {
            state: state.clone(),
        }
    }

    /// The state it is of.
    #[must_use]
    pub fn into_state(self) -> ClusterState {
        self.state
    }

    /// The state it is of.
    #[must_use]
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    /// The JSON form.
    ///
    /// # Errors
    ///
    /// None for what a cell can hold.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| invalid(error.to_string()))
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says where it is not JSON or not a snapshot, which id occurs twice, which job or group refers
    /// to a description that is not there, or that the version is too new.
    pub fn from_json(json: &str) -> Result<Self> {
        // The version first: what it is too new for should not be blamed on a field.
        let Version { version } =
            serde_json::from_str(json).map_err(|error| invalid(error.to_string()))?;
        check_version(version)?;
        serde_json::from_str(json).map_err(|error| invalid(error.to_string()))
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn check_version(version: u32) -> Result<()> {
    if (1..=CellSnapshot::VERSION).contains(&version) {
        return Ok(());
    }
    Err(invalid(format!(
        "it is of version {version}, this program reads 1 to {}: use a newer one",
        CellSnapshot::VERSION
    )))
}

fn invalid(why: String) -> Error {
    Error::Invalid {
        what: "snapshot of a cell".to_owned(),
        why,
    }
}

/// What is written.
#[derive(Serialize)]
struct Written<'s> {
    version: u32,
    revision: u64,
    specs: Vec<&'s JobSpec>,
    hosts: Vec<WrittenHost<'s>>,
    groups: Vec<Value>,
    jobs: WrittenJobs<'s>,
    notes: BTreeMap<&'s GroupId, &'s GroupStatus>,
    quotas: Vec<&'s Quota>,
    reservations: Vec<&'s Reservation>,
}

#[derive(Serialize)]
struct WrittenHost<'s> {
    host: &'s Host,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_since_ms: Option<u64>,
    joined_ms: u64,
    joined: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    returned_from_ms: Option<u64>,
}

/// Written one by one: a cell may have a million.
struct WrittenJobs<'s> {
    state: &'s ClusterState,
    specs: &'s Specs<'s>,
}

/// The distinct descriptions, and where each is in the list.
#[derive(Default)]
struct Specs<'s> {
    list: Vec<&'s JobSpec>,
    by_address: HashMap<*const JobSpec, usize>,
    by_text: HashMap<String, usize>,
}

impl<'s> Specs<'s> {
    fn of(state: &'s ClusterState) -> serde_json::Result<Self> {
        let mut specs = Self::default();
        let of_groups = state.groups().map(|group| &group.spec);
        for spec in of_groups.chain(state.jobs().map(|job| &job.spec)) {
            if !specs.by_address.contains_key(&Arc::as_ptr(spec)) {
                let next = specs.list.len();
                let at = *specs
                    .by_text
                    .entry(serde_json::to_string(spec)?)
                    .or_insert(next);
                if at == next {
                    specs.list.push(spec);
                }
                specs.by_address.insert(Arc::as_ptr(spec), at);
            }
        }
        Ok(specs)
    }

    fn index(&self, spec: &Arc<JobSpec>) -> usize {
        self.by_address[&Arc::as_ptr(spec)]
    }
}

impl Serialize for CellSnapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        let state = &self.state;
        let specs = Specs::of(state).map_err(S::Error::custom)?;
        let blank = Arc::default();
        let group = |group: &Arc<Group>| {
            let spec = specs.index(&group.spec);
            let blank = Group {
                spec: Arc::clone(&blank),
                ..Group::clone(group)
            };
            with_spec(&blank, spec).map(Value::Object)
        };
        let groups: serde_json::Result<_> = state.groups().map(group).collect();
        let written = Written {
            version: Self::VERSION,
            revision: state.revision(),
            specs: specs.list.clone(),
            hosts: state.hosts().map(write_host).collect(),
            groups: groups.map_err(S::Error::custom)?,
            jobs: WrittenJobs {
                state,
                specs: &specs,
            },
            notes: state
                .group_statuses()
                .map(|(id, status)| (id, &**status))
                .collect(),
            quotas: state.quotas().map(|quota| &**quota).collect(),
            reservations: state.reservations().map(|held| &**held).collect(),
        };
        written.serialize(serializer)
    }
}

fn write_host(host: &HostState) -> WrittenHost<'_> {
    WrittenHost {
        host: &host.host,
        lost_since_ms: host.lost_since_ms,
        joined_ms: host.joined_ms,
        joined: host.joined,
        returned_from_ms: host.returned_from_ms,
    }
}

impl Serialize for WrittenJobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        let blank = Arc::default();
        let mut list = serializer.serialize_seq(None)?;
        for job in self.state.jobs() {
            let spec = self.specs.index(&job.spec);
            let slim = Job {
                spec: Arc::clone(&blank),
                ..Job::clone(job)
            };
            let mut fields = with_spec(&slim, spec).map_err(S::Error::custom)?;
            if self.state.is_confirmed(&job.id) {
                fields.insert(CONFIRMED.to_owned(), Value::Bool(true));
            }
            // What says nothing is most of a job, and there are many of them.
            fields.values_mut().for_each(prune);
            fields.retain(|_, value| says_something(value));
            list.serialize_element(&fields)?;
        }
        list.end()
    }
}

/// The fields of a group or job, with the place of its description in the list instead of the description.
fn with_spec(item: &impl Serialize, spec: usize) -> serde_json::Result<Map<String, Value>> {
    let mut fields = match serde_json::to_value(item)? {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    fields.insert(SPEC.to_owned(), Value::from(spec));
    Ok(fields)
}

fn prune(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.values_mut().for_each(prune);
        fields.retain(|_, value| says_something(value));
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// What is read.
#[derive(Deserialize)]
struct Read {
    version: u32,
    #[serde(default)]
    revision: u64,
    #[serde(default)]
    specs: Vec<Arc<JobSpec>>,
    #[serde(default)]
    hosts: Vec<ReadHost>,
    #[serde(default)]
    groups: Vec<WithSpec<Group>>,
    #[serde(default)]
    jobs: Vec<WithSpec<Job>>,
    #[serde(default)]
    notes: BTreeMap<GroupId, GroupStatus>,
    #[serde(default)]
    quotas: Vec<Quota>,
    #[serde(default)]
    reservations: Vec<Reservation>,
}

#[derive(Deserialize)]
struct ReadHost {
    host: Host,
    #[serde(default)]
    lost_since_ms: Option<u64>,
    #[serde(default)]
    joined_ms: u64,
    #[serde(default)]
    joined: u64,
    #[serde(default)]
    returned_from_ms: Option<u64>,
}

/// A group or job, and the place of its description in the list.
struct WithSpec<T> {
    item: T,
    spec: usize,
    is_confirmed: bool,
}

impl<'de, T: de::DeserializeOwned> Deserialize<'de> for WithSpec<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use de::Error as _;
        let mut fields = Map::deserialize(deserializer)?;
        let spec = fields.get(SPEC).and_then(Value::as_u64);
        let spec = spec
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| D::Error::custom("`spec` is not a place in the list `specs`"))?;
        let is_confirmed = fields.get(CONFIRMED) == Some(&Value::Bool(true));
        fields.insert(SPEC.to_owned(), Value::Object(Map::new()));
        let item = T::deserialize(Value::Object(fields)).map_err(D::Error::custom)?;
        Ok(Self {
            item,
            spec,
            is_confirmed,
        })
    }
}

impl TryFrom<Read> for CellSnapshot {
    type Error = Error;

    fn try_from(read: Read) -> Result<Self> {
        check_version(read.version)?;
        let mut state = ClusterState::default();
        let revision = read.revision;
        state.reach(revision);
        for host in read.hosts {
            if state.host(&host.host.id).is_some() {
                return Err(invalid(format!("host {} occurs twice", host.host.id)));
            }
            put_host(&mut state, host, revision);
        }
        let spec_of = |spec: usize, whose: String| {
            let known = read.specs.get(spec).cloned();
            known.ok_or_else(|| {
                let n = read.specs.len();
                invalid(format!("{whose} has description {spec}, of {n} from 0"))
            })
        };
        for WithSpec { item, spec, .. } in read.groups {
            if state.group(&item.id).is_some() {
                return Err(invalid(format!("group {} occurs twice", item.id)));
            }
            let spec = spec_of(spec, format!("group {}", item.id))?;
            state.put_group(Arc::new(Group { spec, ..item }), revision);
        }
        let mut known = BTreeSet::new();
        for job in read.jobs {
            if !known.insert(job.item.id.clone()) {
                return Err(invalid(format!("job {} occurs twice", job.item.id)));
            }
            let spec = spec_of(job.spec, format!("job {}", job.item.id))?;
            put_job(&mut state, Job { spec, ..job.item }, job.is_confirmed);
        }
        for (group, status) in read.notes {
            state.put_note(&group, Arc::new(status));
        }
        for quota in read.quotas {
            state.put_quota(Arc::new(quota));
        }
        for held in read.reservations {
            if let Some(fault) = held.fault() {
                return Err(invalid(format!("reservation {}: {fault}", held.id)));
            }
            state.put_reservation(Arc::new(held), revision);
        }
        Ok(Self { state })
    }
}

fn put_host(state: &mut ClusterState, read: ReadHost, revision: u64) {
    let host = Arc::new(read.host);
    let put = |state: &mut ClusterState| {
        state.put_host(Arc::clone(&host), read.joined, revision, read.joined_ms);
    };
    put(state);
    if let Some(returned_from_ms) = read.returned_from_ms {
        state.lose_host(&host.id, revision, returned_from_ms);
        put(state);
    }
    if let Some(lost_since_ms) = read.lost_since_ms {
        state.lose_host(&host.id, revision, lost_since_ms);
    }
}

fn put_job(state: &mut ClusterState, job: Job, is_confirmed: bool) {
    let (id, status, revision) = (job.id.clone(), job.status.clone(), state.revision());
    let joined = state.host(&job.host).map_or(0, |host| host.joined);
    if is_confirmed {
        // What is at its end takes no more reports: the job comes first, then what was said of it.
        let silent = Job {
            status: JobStatus::default(),
            ..job
        };
        state.put_job(Arc::new(silent), revision, 0);
        state.put_status(&id, status, revision.max(joined.saturating_add(1)));
    } else {
        state.put_job(Arc::new(job), revision, 0);
    }
}

const SPEC: &str = "spec";
const CONFIRMED: &str = "is_confirmed";
