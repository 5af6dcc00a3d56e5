//! The host API, in the shape of the original's, and its client.
//!
//! | Route | |
//! |---|---|
//! | `GET /host/jobs[?active=true]` | a map of ids to [`ActiveJob`]s; as an event stream, every [`JobEvent`] |
//! | `GET /host/jobs/<id>` | one [`ActiveJob`]; as an event stream, its [`JobEvent`]s |
//! | `DELETE /host/jobs/<id>` | stops it |
//! | `PUT /host/jobs/<id>/signal/<n>` | signals it |
//! | `GET /host/jobs/<id>/log?lines=&follow=&streams=` | its log, a [`LogEntry`] per line |
//! | `GET /host/status` | [`HostStatus`] |
//! | `POST /attach` | becomes an [attach](crate::attach) connection |
//! | `GET /.well-known/status` | health; needs no key |
//!
//! Ids are `<host>-<job>`; the job's own id alone is understood as well.

mod client;
mod server;
mod wire;

pub use client::{Client, LogQuery};
pub use server::router;
pub use wire::{
    ActiveJob, AttachBody, HostStatus, JobEvent, LogEntry, WireConfig, WireJob, WirePort,
};
