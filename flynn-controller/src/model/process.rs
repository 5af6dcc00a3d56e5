//! A process type: what one kind of job of a release is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Env, is_false, nullable};

/// What one kind of job of a release is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessType {
    /// The command and its arguments.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables, over those of the release.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_empty")]
    pub env: Env,
    /// The ports it listens on. A type called `web` without any is given one, announced as `<app>-web`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Directories that outlive a job.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeRequest>,
    /// Run the count on every host.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub omni: bool,
    /// Listen on the host's own addresses, at exactly the port numbers of [`ProcessType::ports`].
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub host_network: bool,
    /// Share the host's process ids.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub host_pid_namespace: bool,
    /// The service that tells when the type counts as up.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub service: String,
    /// Start it again after a restart of its host, without being told.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub resurrect: bool,
    /// What it needs and what it may use.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "ProcessResources::is_empty"
    )]
    pub resources: ProcessResources,
    /// Kept for clients; the runtimes in this tree do not use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Value>,
    /// Kept for clients; the runtimes in this tree do not use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Value>,
    /// Kept for clients; the runtimes in this tree do not use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux_capabilities: Option<Value>,
    /// Kept for clients; the runtimes in this tree do not use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_devices: Option<Value>,
    /// Kept for clients; the runtimes in this tree do not use it.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub writeable_cgroups: bool,
    /// The arguments as old clients spell them, behind `entrypoint`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// The command as old clients spell it.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
}

impl ProcessType {
    /// A type that runs this command.
    #[must_use]
    pub fn command<I: IntoIterator<Item: Into<String>>>(args: I) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// The command and its arguments, however the client spelt them.
    #[must_use]
    pub fn full_args(&self) -> Vec<String> {
        if self.args.is_empty() {
            self.entrypoint.iter().chain(&self.cmd).cloned().collect()
        } else {
            self.args.clone()
        }
    }
}

/// A port of a process type.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    /// Its number. Only a type with [`ProcessType::host_network`] gets exactly this one; others are told theirs in
    /// `PORT`, because several jobs share a host's address.
    #[serde(deserialize_with = "nullable")]
    pub port: u16,
    /// `tcp`, `http` or `udp`.
    #[serde(deserialize_with = "nullable")]
    pub proto: String,
    /// How it is announced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<PortService>,
}

/// How a port is announced in discovery.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortService {
    /// The service's name.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub name: String,
    /// Create the service when it does not exist (always done).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub create: bool,
    /// How to tell that it is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<HealthCheck>,
}

/// A health check. Durations are nanoseconds on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `tcp`, `http` or `https`.
    #[serde(
        rename = "type",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub kind: String,
    /// Nanoseconds between checks.
    #[serde(rename = "interval", skip_serializing_if = "Option::is_none")]
    pub interval_ns: Option<u64>,
    /// Consecutive results that change the verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u32>,
    /// Kill the job when it is down.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub kill_down: bool,
    /// Nanoseconds a start may take.
    #[serde(rename = "start_timeout", skip_serializing_if = "Option::is_none")]
    pub start_timeout_ns: Option<u64>,
    /// The path to get.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub path: String,
    /// The `Host` header to send.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub host: String,
    /// Text the answer must contain.
    #[serde(
        rename = "match",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub matches: String,
    /// The status the answer must have; 200 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// A directory that outlives a job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeRequest {
    /// Where the job expects it.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub path: String,
    /// Throw it away with the job.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub delete_on_stop: bool,
}

/// What a process type needs and what it may use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessResources {
    /// Memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Limits>,
    /// Processor time, in thousandths of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Limits>,
    /// Disk space, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temp_disk: Option<Limits>,
    /// Open files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fd: Option<Limits>,
    /// Processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_procs: Option<Limits>,
}

impl ProcessResources {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Fills in what is missing: limits of 1 GiB of memory, one core, 100 MiB of disk and 10,000 open files; requests
    /// of 64 MiB and a twentieth of a core, which is what placement counts with.
    pub fn fill_defaults(&mut self) {
        fill(&mut self.memory, 64 << 20, 1 << 30);
        fill(&mut self.cpu, 50, 1000);
        fill(&mut self.temp_disk, 0, 100 << 20);
        fill(&mut self.max_fd, 10_000, 10_000);
    }
}

fn fill(slot: &mut Option<Limits>, request: i64, limit: i64) {
    let limits = slot.get_or_insert_default();
    let limit = *limits.limit.get_or_insert(limit);
    limits.request.get_or_insert_with(|| request.min(limit));
}

/// An amount that is needed and the most that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// What is needed.
    pub request: Option<i64>,
    /// The most that may be used.
    pub limit: Option<i64>,
}

fn is_empty(env: &Env) -> bool {
    env.is_empty()
}
