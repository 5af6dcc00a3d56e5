#![doc = include_str!("../README.md")]

pub mod host;
pub mod runtime;

pub mod attach;
mod error;
#[cfg(feature = "http")]
pub mod http;
pub mod image;
mod job;
pub mod journal;
pub mod log;
pub mod ports;
mod supervisor;
pub mod volume;
mod wall;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use error::{BoxError, Error, Result};
#[doc(inline)]
pub use host::{Host, HostBuilder, HostHandle};
