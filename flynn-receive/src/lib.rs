#![doc = include_str!("../README.md")]

pub mod blob;
pub mod build;
pub mod builder;
pub mod buildpack;
mod cache;
mod console;
mod error;
pub mod procfile;
mod script;
pub mod slug;
mod static_server;

pub use console::Console;
pub use error::{BoxError, Error, Result};
pub use script::ProcessGroup;
pub use static_server::StaticServer;
