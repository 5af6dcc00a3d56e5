//! skeleton

pub mod auth;
mod controller;
pub mod deploy;
mod error;
#[cfg(feature = "http")]
pub mod http;
pub mod model;
pub mod platform;
pub mod reconcile;
pub mod store;
pub mod streams;
pub mod track;

pub use controller::{Controller, Running};
pub use error::{Error, Result};
pub use platform::Platform;
pub use store::{Catalog, DiscoveryStore, Store};
