#![doc = include_str!("../README.md")]

mod balance;
mod body;
mod buffer;
mod drain;
mod endpoint;
mod error;
mod forward;
mod head;
mod limits;
mod pool;
mod proxy;
mod retry;
mod route;
mod router;
mod service;
mod stats;
pub mod store;
mod table;
mod timer;

pub use balance::{Balancer, LeastLoaded, Pick, Random, RoundRobin};
pub use endpoint::{Endpoint, EndpointSet, EndpointSource, StaticEndpoints};
pub use error::{Error, Result};
pub use limits::Limits;
pub use route::{Domain, HttpRule, PathPrefix, Route, RouteId, RouteKind, Rule};
pub use router::{Builder, Monitor, Router, listen_shared};
pub use stats::Stats;
#[doc(inline)]
pub use store::{DiscoveryRouteStore, MemoryRouteStore, RouteStore, StoredRoute};
pub use table::RouteTable;

#[cfg(feature = "conformance")]
pub mod conformance;
