//! One after the other.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{Balancer, Pick, first_from};
use crate::endpoint::Endpoint;

/// Takes one endpoint after the other.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct RoundRobin;

impl Balancer for RoundRobin {
    fn rebuild(&self, endpoints: &[Arc<Endpoint>]) -> Arc<dyn Pick> {
        Arc::new(Round {
            endpoints: endpoints.to_vec(),
            next: AtomicUsize::new(0),
        })
    }
}

#[derive(Debug)]
struct Round {
    endpoints: Vec<Arc<Endpoint>>,
    next: AtomicUsize,
}

impl Pick for Round {
    fn pick(&self, _random: u64, eligible: &dyn Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        if self.endpoints.is_empty() {
            return None;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        first_from(&self.endpoints, turn % self.endpoints.len(), eligible)
    }
}
