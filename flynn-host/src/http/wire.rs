//! The JSON of the host API.

use std::collections::BTreeMap;

use flynn_sched::{Partition, Phase};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    host::{Drain, JobView},
    log::{LogLine, LogStream},
};

/// A job and how it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActiveJob {
    /// What it is.
    pub job: WireJob,
    /// Where it is.
    pub host_id: String,
    /// The address it is reached at.
    #[serde(default)]
    pub internal_ip: String,
    /// 0 starting, 1 running, 2 done, 3 crashed, 4 failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub status: u8,
    /// The same, as the cell has it.
    pub phase: Phase,
    /// When it was placed.
    pub created_at: String,
    /// When its present run began; the year 1 before its first.
    pub started_at: String,
    /// When it ended for good; the year 1 before.
    pub ended_at: String,
    /// The exit status of its last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// Why it does not run, if it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
}

/// What a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireJob {
    /// `<host>-<job>`.
    pub id: String,
    /// Facts for people and tools.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Whose work it is.
    #[serde(default)]
    pub partition: Partition,
    /// What runs.
    pub config: WireConfig,
}

/// What runs in a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireConfig {
    /// The command and its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its environment, without what the host adds.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<WirePort>,
    /// Has it a terminal?
    #[serde(default)]
    pub tty: bool,
    /// Is its standard input open?
    #[serde(default)]
    pub stdin: bool,
}

/// A port of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WirePort {
    /// Its number.
    pub port: u16,
    /// What is spoken there.
    pub proto: String,
    /// The service it is registered as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// Something happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// `create`, `start`, `stop`, `error` or `cleanup`.
    pub event: String,
    /// Whose.
    pub job_id: String,
    /// How it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<ActiveJob>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When it was read from the job, RFC 3339.
    pub time: String,
    /// `stdout`, `stderr` or `host`.
    pub stream: LogStream,
    /// The line.
    pub msg: String,
}

/// How a host is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its identity.
    pub id: String,
    /// The process of its daemon.
    pub pid: u32,
    /// The address of its jobs.
    pub addr: String,
    /// How many of its jobs run or are about to.
    pub jobs: usize,
    /// Of the daemon.
    pub version: String,
    /// Does it give its jobs away?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// The body of an attach request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachBody {
    /// Which job.
    pub job_id: String,
    /// See [`crate::attach::flags`].
    pub flags: u8,
    /// Of the client's terminal.
    #[serde(default)]
    pub height: u16,
    /// Of the client's terminal.
    #[serde(default)]
    pub width: u16,
}

impl ActiveJob {
    pub(super) fn new(view: &JobView, addr: &str) -> Self {
        let (job, status) = (&view.job, &view.status);
        let spec = &job.spec;
        let ports = spec.ports.iter().zip(&status.ports);
        let is_over = status.phase.is_final();
        Self {
            job: WireJob {
                id: format!("{}-{}", job.host, job.id),
                metadata: spec.metadata.clone(),
                partition: spec.partition,
                config: WireConfig {
                    args: spec.args.clone(),
                    env: spec.env.clone(),
                    ports: ports
                        .map(|(port, number)| WirePort {
                            port: *number,
                            proto: port.proto.clone(),
                            service: port.service.as_ref().map(|s| s.name.clone()),
                        })
                        .collect(),
                    tty: spec.has_tty,
                    stdin: spec.has_stdin,
                },
            },
            host_id: job.host.to_string(),
            internal_ip: addr.to_owned(),
            status: view.status_number(),
            phase: status.phase,
            created_at: time(Some(job.placed_at_ms)),
            started_at: time(status.started_at_ms),
            ended_at: time(is_over.then_some(status.since_ms)),
            exit_status: status.exit_status,
            error: status.error.clone(),
            restarts: status.restarts,
        }
    }
}

impl From<&LogLine> for LogEntry {
    fn from(line: &LogLine) -> Self {
        let micros = i64::try_from(line.at_micros).unwrap_or(i64::MAX);
        Self {
            time: Timestamp::from_microsecond(micros)
                .unwrap_or(Timestamp::MAX)
                .to_string(),
            stream: line.stream,
            msg: line.text(),
        }
    }
}

/// RFC 3339, or Go's zero time.
fn time(ms: Option<u64>) -> String {
    ms.filter(|ms| *ms > 0)
        .and_then(|ms| Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok())
        .map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |t| t.to_string())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u8) -> bool {
    *n == 0
}
