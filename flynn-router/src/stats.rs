//! What the router has counted.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the router was built.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Client connections, HTTP and TCP.
    connections,
    /// Client connections that are open now.
    open_connections,
    /// HTTP requests.
    requests,
    /// Connections to backends.
    backend_connections,
    /// Attempts beyond the first of a request or connection.
    retries,
    /// Requests that were not understood (4xx and 5xx before routing).
    refused,
    /// Requests without a route (404).
    no_route,
    /// Requests and connections without a backend that accepted them (503).
    no_backend,
    /// Requests whose backend failed (502), and responses cut short.
    bad_gateway,
    /// Requests whose backend did not answer in time (504).
    timeouts,
    /// Requests whose client went away (499 in the log).
    client_gone,
    /// Connections joined after an upgrade.
    upgrades,
    /// TCP routes whose port could not be bound.
    unbound_routes,
}

/// A number that only this module reads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}
