//! What all connections share, and the connections.
//!
//! ```text
//! client ── head ── parse ── route ── choose ── connect or reuse ──▶ backend     head.rs, table.rs, service.rs, pool.rs
//!    │                         ▲          │                             │
//!    │                         └─ again ──┴── failed before an answer ◀─┤        retry.rs
//!    ├── body ─────────────────────────────────────────────────────────▶│        body.rs
//!    │◀───────────────────────── head, body ────────────────────────────┤        forward.rs
//!    └── next request                            back to the pool ◀─────┘
//! ```
//!
//! One task carries a request from the client to the backend and the answer back: no channel, no lock, no other task.

mod access;
mod answer;
mod connect;
mod exchange;
pub(crate) mod http;
pub(crate) mod tcp;
mod upgrade;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;

use crate::{drain::Drain, limits::Limits, service::Service, stats::Counters, table::RouteTable};

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) table: ArcSwap<RouteTable<Arc<HttpTarget>>>,
    /// Is the table there? Before, nothing is known to have no route.
    pub(crate) has_table: AtomicBool,
    pub(crate) limits: Limits,
    pub(crate) counters: Counters,
    pub(crate) drain: Arc<Drain>,
}

impl Proxy {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            table: ArcSwap::default(),
            has_table: AtomicBool::new(false),
            limits,
            counters: Counters::default(),
            drain: Arc::default(),
        }
    }

    pub(crate) fn replace_table(&self, table: RouteTable<Arc<HttpTarget>>) {
        self.table.store(Arc::new(table));
        self.has_table.store(true, Ordering::Release);
    }
}

/// Where an HTTP route leads.
#[derive(Debug)]
pub(crate) struct HttpTarget {
    pub(crate) service: Arc<Service>,
    pub(crate) leader: bool,
    pub(crate) sticky: bool,
    pub(crate) disable_keep_alives: bool,
}

/// Where a TCP route leads.
#[derive(Debug, Clone)]
pub(crate) struct TcpTarget {
    pub(crate) service: Arc<Service>,
    pub(crate) leader: bool,
}
