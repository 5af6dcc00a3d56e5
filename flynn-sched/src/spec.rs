//! What a job is: the description that the controller writes, schedulers pass on and hosts carry out.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Affinity, Constraint, Named, Namespace, Resources, Spread, Toleration};

/// What to run. All jobs of a group share one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobSpec {
    /// The command and its arguments; the first is looked up in the job's `PATH` and may be relative to its directory.
    pub args: Vec<String>,
    /// Environment variables. The host adds `PORT`, `PORT_n`, `HOME`, `PATH`, `EXTERNAL_IP` and `FLYNN_*`.
    pub env: BTreeMap<String, String>,
    /// What the job's directory is made of, unpacked in order. Empty: an empty directory.
    pub artifacts: Vec<Artifact>,
    /// The ports it listens on. The host chooses a number where none is given and tells it in `PORT` (the first) and
    /// `PORT_0`, `PORT_1`, ….
    pub ports: Vec<Port>,
    /// What it needs, for placement.
    pub request: Resources,
    /// What it needs of named resources, such as GPUs.
    #[serde(skip_serializing_if = "Named::is_empty")]
    pub named: Named,
    /// What it may use at most; zero means no limit.
    pub limit: Resources,
    /// What the host does when it ends by itself.
    pub restart: RestartPolicy,
    /// How long it may take to stop after SIGTERM before it is killed. `None`: the host's default.
    #[serde(with = "opt_millis", rename = "stop_grace_ms")]
    pub stop_grace: Option<Duration>,
    /// Directories that outlive the job on its host; the path is told in `FLYNN_VOLUME_<NAME>`.
    pub volumes: Vec<Volume>,
    /// Who it works for.
    pub partition: Partition,
    /// Keep standard input open until an attached client closes it.
    pub has_stdin: bool,
    /// Give it a terminal.
    pub has_tty: bool,
    /// Do not start before a client has attached.
    pub waits_for_attach: bool,
    /// Free-form facts for people and tools, such as `flynn-controller.app`.
    pub metadata: BTreeMap<String, String>,
    /// Where it may run.
    pub constraints: Vec<Constraint>,
    /// The taints it tolerates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Over what the group's jobs are spread, beside the scheduler's own habits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spread: Vec<Spread>,
    /// Which jobs it should be near to or away from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub affinities: Vec<Affinity>,
    /// Whose it is: counted against that namespace's quota.
    pub namespace: Namespace,
    /// How long it is expected to run, if that is known. A job that will be gone before a reservation begins may use its
    /// room.
    #[serde(
        with = "opt_millis",
        rename = "expected_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub expected: Option<Duration>,
}

impl JobSpec {
    /// The port numbers it insists on.
    pub fn fixed_ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().filter_map(|port| port.port)
    }

    /// A port number that it and `other` cannot both have on one host. Jobs of one service may share a port
    /// (`SO_REUSEPORT`), or none could be replaced without a gap.
    #[must_use]
    pub fn port_clash(&self, other: &Self) -> Option<u16> {
        self.ports.iter().find_map(|mine| {
            let number = mine.port?;
            let clashes = |theirs: &Port| {
                let same_service = match (&mine.service, &theirs.service) {
                    (Some(a), Some(b)) => a.name == b.name,
                    _ => false,
                };
                theirs.port == Some(number) && !same_service
            };
            other.ports.iter().any(clashes).then_some(number)
        })
    }
}

/// A file tree to unpack into a job's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Where to get it: `blob:<path>` (the cell's blob store), `http://…` or `file:///…`; a gzipped tar.
    pub uri: String,
    /// The hex SHA-256 of the file; checked before use.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Its size in bytes, if known.
    #[serde(default)]
    pub size: Option<u64>,
}

/// A port a job listens on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    /// A fixed number, or `None` for one of the host's choice.
    pub port: Option<u16>,
    /// `tcp` or `http`, told to discovery.
    pub proto: String,
    /// Announce it in discovery once it is healthy.
    pub service: Option<Service>,
}

/// How a port is announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The service's name in discovery.
    pub name: String,
    /// How to tell that it is healthy; `None`: announced as soon as the process runs.
    #[serde(default)]
    pub check: Option<Check>,
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// What is tried.
    pub kind: CheckKind,
    /// The time between two checks once it has been healthy.
    #[serde(with = "millis", rename = "interval_ms")]
    pub interval: Duration,
    /// Consecutive results that change the verdict.
    pub threshold: u32,
    /// How long a start may take before the job counts as failed.
    #[serde(with = "millis", rename = "start_timeout_ms")]
    pub start_timeout: Duration,
    /// Kill the job when it does not become, or stops being, healthy.
    pub kill_down: bool,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(2),
            threshold: 2,
            start_timeout: Duration::from_secs(30),
            kill_down: true,
        }
    }
}

/// What a health check tries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[non_exhaustive]
pub enum CheckKind {
    /// The port accepts a connection.
    #[default]
    Tcp,
    /// A GET of the path is answered with the status.
    Http {
        /// The path, beginning with `/`.
        path: String,
        /// The expected status code.
        status: u16,
    },
}

/// What the host does when a job ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RestartPolicy {
    /// Start it again in place, with growing delays; the count is in [`JobStatus::restarts`](crate::JobStatus).
    #[default]
    Always,
    /// Leave it; it is done.
    Never,
}

/// A directory that outlives its job on the same host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name, `[a-z0-9-]+`; unique on a host within [`Volume::owner`].
    pub name: String,
    /// Whose it is: jobs that name the same owner and name get the same directory. The controller uses the app's id.
    pub owner: String,
}

/// Whose work a job is. System jobs are given the cell's credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Partition {
    /// Part of the platform.
    System,
    /// Work that may wait, such as builds.
    Background,
    /// A user's app.
    #[default]
    User,
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_millis)
    }
}

pub(crate) mod opt_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(crate) fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        d.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
            .serialize(s)
    }
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(d)?.map(Duration::from_millis))
    }
}
