//! The less loaded of two.

use std::sync::Arc;

use super::{Balancer, Pick, first_from, halves, position};
use crate::endpoint::Endpoint;

/// Takes two endpoints at random and of these the one with fewer requests in flight. The default.
///
/// Nearly as even as asking all of them, and unlike that it does not send everybody to the same one at once.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct LeastLoaded;

impl Balancer for LeastLoaded {
    fn rebuild(&self, endpoints: &[Arc<Endpoint>]) -> Arc<dyn Pick> {
        Arc::new(Among(endpoints.to_vec()))
    }
}

#[derive(Debug)]
struct Among(Vec<Arc<Endpoint>>);

impl Pick for Among {
    fn pick(&self, random: u64, eligible: &dyn Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let (high, low) = halves(random);
        let len = self.0.len();
        let first = position(high, len);
        let one = first_from(&self.0, first, eligible)?;
        // Any but the first.
        let second = (first + 1 + position(low, len - 1)) % len;
        let other = first_from(&self.0, second, eligible)?;
        Some(if other.in_flight() < one.in_flight() {
            other
        } else {
            one
        })
    }
}
