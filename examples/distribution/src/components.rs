//! The platform's parts, each a job of its own: what they are told, and how they are put together.

pub mod controller;
pub mod receive;
pub mod router;
pub mod scheduler;
