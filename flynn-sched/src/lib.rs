#![doc = include_str!("../README.md")]

mod affinity;
pub mod autoscale;
mod budget;
pub mod clock;
pub mod cluster;
#[cfg(feature = "conformance")]
pub mod conformance;
mod constraint;
pub mod driver;
mod error;
mod group;
mod host;
mod id;
mod job;
mod named;
pub mod placement;
pub mod preemption;
mod quota;
pub mod rebalance;
#[cfg(feature = "remote")]
pub mod remote;
pub mod reservation;
mod resources;
pub mod scheduler;
#[cfg(feature = "sim")]
pub mod sim;
mod spec;
mod state;
mod taint;
pub mod transaction;
pub mod what_if;

pub use affinity::{Affinity, Domain, Jobs, Spread};
pub use budget::Budget;
pub use cluster::{Cluster, HostLink, LocalCluster, Membership};
pub use constraint::{Constraint, Expression, ParseExpressionError};
pub use driver::Driver;
pub use error::{Error, Result};
pub use group::{Cron, Forgotten, Group, GroupKind, GroupStatus, Missed, Nomination, Overlap};
pub use host::{Host, Overcommit};
pub use id::{GroupId, HostId, JobId, Namespace, ReservationId};
pub use job::{Eviction, Job, JobStatus, Overstay, Phase};
pub use named::Named;
pub use preemption::Preemptor;
pub use quota::{Quota, Usage};
#[cfg(feature = "remote")]
#[doc(inline)]
pub use remote::DiscoveryCluster;
pub use reservation::{Claim, Reservation};
pub use resources::Resources;
pub use scheduler::Scheduler;
#[cfg(feature = "sim")]
#[doc(inline)]
pub use sim::SimCluster;
pub use spec::{
    Artifact, Check, CheckKind, JobSpec, Partition, Port, RestartPolicy, Service, Volume,
};
pub use state::{ClusterState, HostState};
pub use taint::{Taint, TaintEffect, Toleration};
pub use transaction::Transaction;
