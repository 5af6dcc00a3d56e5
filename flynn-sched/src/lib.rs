#![doc = include_str!("../README.md")]

pub mod cluster;
mod constraint;
mod error;
mod group;
mod host;
mod id;
mod job;
mod resources;
mod spec;
mod state;
pub mod transaction;

pub use cluster::{Cluster, HostLink, Membership};
pub use constraint::Constraint;
pub use error::{Error, Result};
pub use group::{Group, GroupKind};
pub use host::Host;
pub use id::{GroupId, HostId, JobId};
pub use job::{Job, JobStatus, Phase};
pub use resources::Resources;
pub use spec::{
    Artifact, Check, CheckKind, JobSpec, Partition, Port, RestartPolicy, Service, Volume,
};
pub use state::{ClusterState, HostState};
pub use transaction::Transaction;
