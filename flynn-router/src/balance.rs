//! Which endpoint gets the next request.

mod least_loaded;
mod random;
mod round_robin;

use std::{fmt, sync::Arc};

pub use self::{least_loaded::LeastLoaded, random::Random, round_robin::RoundRobin};
use crate::endpoint::Endpoint;

/// Chooses among endpoints.
///
/// A [`Pick`] is built once for each set of endpoints and shared by all requests, so that the request path takes no
/// lock.
pub trait Balancer: fmt::Debug + Send + Sync + 'static {
    /// The choice among `endpoints`.
    fn rebuild(&self, endpoints: &[Arc<Endpoint>]) -> Arc<dyn Pick>;
}

/// A choice among one set of endpoints.
pub trait Pick: fmt::Debug + Send + Sync + 'static {
    /// One of the endpoints that are `eligible`; `None` only if none is.
    ///
    /// `random` is all the randomness there is: the same number and the same loads give the same choice.
    fn pick(&self, random: u64, eligible: &dyn Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>>;
}

/// The first eligible endpoint at or after position `from`, going round once.
fn first_from<'e>(
    endpoints: &'e [Arc<Endpoint>],
    from: usize,
    eligible: &dyn Fn(&Endpoint) -> bool,
) -> Option<&'e Arc<Endpoint>> {
    let (before, after) = endpoints.split_at_checked(from)?;
    after
        .iter()
        .chain(before)
        .find(|endpoint| eligible(endpoint))
}

/// A position below `len` from half of a random number, without the bias of a remainder.
fn position(random: u32, len: usize) -> usize {
    let len = u64::try_from(len).unwrap_or(u64::MAX);
    usize::try_from((u64::from(random) * len) >> 32).unwrap_or(0)
}

/// The two halves of a random number.
#[expect(clippy::cast_possible_truncation, reason = "halves are what is wanted")]
fn halves(random: u64) -> (u32, u32) {
    ((random >> 32) as u32, random as u32)
}

#[cfg(test)]
mod tests;
