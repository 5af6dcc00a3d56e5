#![doc = include_str!("../README.md")]

pub mod backend;
mod error;
#[cfg(feature = "http")]
pub mod http;
mod instance;
mod name;

#[doc(inline)]
pub use backend::Backend;
pub use error::{BoxError, Error, Result};
pub use instance::Instance;
pub use name::{InstanceId, ServiceName};
