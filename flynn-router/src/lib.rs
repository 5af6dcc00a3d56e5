#![doc = include_str!("../README.md")]

mod error;
mod route;
pub mod store;

pub use error::{Error, Result};
pub use route::{Domain, HttpRule, PathPrefix, Route, RouteId, RouteKind, Rule};
#[doc(inline)]
pub use store::{DiscoveryRouteStore, MemoryRouteStore, RouteStore, StoredRoute};

#[cfg(feature = "conformance")]
pub mod conformance;
