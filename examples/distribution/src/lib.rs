//! The reference distribution: every program of the platform as a function, so that the binaries in `src/bin` are one line each.
//!
//! | module | what it is |
//! |---|---|
//! | [`host`], [`daemon`], [`operator`], [`bootstrap`] | `flynn-host` |
//! | [`components`] | controller, scheduler, router and receiver, as jobs of the platform |
//! | [`cli`] | `flynn`, the users' command line |
//! | [`testbed`], [`demo`] | several hosts on one machine; what `make demo` and the system tests run on |

pub mod bootstrap;
pub mod cli;
pub mod components;
pub mod daemon;
pub mod demo;
pub mod failure;
pub mod host;
pub mod member;
pub mod operator;
pub mod program;
pub mod settings;
pub mod signals;
mod streams;
pub mod testbed;
