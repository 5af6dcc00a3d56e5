//! skeleton

pub mod deploy;
mod error;
#[cfg(feature = "http")]
pub mod http;
pub mod model;
pub mod reconcile;
pub mod store;

pub use error::{Error, Result};
pub use store::{Catalog, DiscoveryStore, Store};
