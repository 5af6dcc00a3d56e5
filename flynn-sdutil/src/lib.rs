#![doc = include_str!("../README.md")]

mod address;
mod announce;
mod check;
mod error;
mod exec;
mod expose;
mod process;
mod services;
mod signals;
mod target;

pub use address::{Address, interface_address};
pub use announce::{Announcement, register};
pub use check::CheckSpec;
pub use error::{Error, Result};
pub use exec::exec;
pub use expose::{Dependency, expose};
pub use process::Program;
pub use services::{Query, ping, services};
pub use signals::Signals;
pub use target::{Target, attribute};
