#![doc = include_str!("../README.md")]

pub mod auth;
#[cfg(feature = "conformance")]
pub mod conformance;
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
#[doc(inline)]
pub use platform::Platform;
#[doc(inline)]
pub use store::{Catalog, DiscoveryStore, Store};
