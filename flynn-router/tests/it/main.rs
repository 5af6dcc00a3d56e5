//! The router from outside.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod store;
