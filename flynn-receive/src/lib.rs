#![doc = include_str!("../README.md")]

pub mod blob;
pub mod build;
pub mod builder;
pub mod buildpack;
mod cache;
#[cfg(feature = "conformance")]
pub mod conformance;
mod console;
mod deploy;
mod error;
mod git;
pub mod procfile;
mod push;
mod receiver;
mod release;
mod script;
pub mod slug;
pub mod ssh;
mod static_server;

pub use console::Console;
pub use error::{BoxError, Error, Result};
pub use git::MAX_PUSH_BYTES;
pub use receiver::{ControllerKeys, DEFAULT_PATH, Receiver, ReceiverBuilder, TURN_TIMEOUT};
pub use script::ProcessGroup;
pub use static_server::StaticServer;
