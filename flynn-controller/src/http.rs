//! The controller's REST API, as existing Flynn clients know it, and its client.

mod client;
mod query;
mod server;

pub use crate::streams::LogQuery;
pub use client::{Client, DeploymentEvents};
pub use flynn_discovery::http::{ClientError, Secret, Upgraded};
pub use query::EventQuery;
pub use server::Server;

/// What a connection of attached standard streams speaks after its upgrade; see the host's API.
pub const ATTACH_PROTOCOL: &str = "flynn-attach/0";
