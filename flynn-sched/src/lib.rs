#![doc = include_str!("../README.md")]

pub mod clock;
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

pub use cluster::{Cluster, HostLink, LocalCluster, Membership};
pub use constraint::Constraint;
pub use error::{Error, Result};
pub use group::{Forgotten, Group, GroupKind, GroupStatus};
pub use host::Host;
pub use id::{GroupId, HostId, JobId};
pub use job::{Job, JobStatus, Phase};
pub use resources::Resources;
pub use spec::{
    Artifact, Check, CheckKind, JobSpec, Partition, Port, RestartPolicy, Service, Volume,
};
pub use state::{ClusterState, HostState};
pub use transaction::Transaction;
