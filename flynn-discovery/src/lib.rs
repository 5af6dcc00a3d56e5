#![doc = include_str!("../README.md")]

pub mod backend;
mod backoff;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod event;
pub mod health;
#[cfg(feature = "http")]
pub mod http;
mod instance;
mod leader;
mod name;
mod registration;
mod registry;
#[cfg(any(feature = "http", feature = "raft"))]
mod secret;
mod service;

#[doc(inline)]
pub use backend::Backend;
pub use backoff::Backoff;
pub use error::{BoxError, Error, Result};
pub use event::{Metadata, ServiceEvent};
pub use instance::Instance;
pub use leader::LeaderPolicy;
pub use name::{InstanceId, ServiceName};
pub use registration::{Registration, RegistrationStatus};
pub use registry::{RegisterOptions, Registry};
#[cfg(any(feature = "http", feature = "raft"))]
pub use secret::Secret;
pub use service::ServiceConfig;
