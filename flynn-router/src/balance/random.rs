//! Any.

use std::sync::Arc;

use super::{Balancer, Pick, first_from, halves, position};
use crate::endpoint::Endpoint;

/// Takes any endpoint, each as likely as the others.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Random;

impl Balancer for Random {
    fn rebuild(&self, endpoints: &[Arc<Endpoint>]) -> Arc<dyn Pick> {
        Arc::new(Among(endpoints.to_vec()))
    }
}

#[derive(Debug)]
struct Among(Vec<Arc<Endpoint>>);

impl Pick for Among {
    fn pick(&self, random: u64, eligible: &dyn Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let from = position(halves(random).0, self.0.len());
        first_from(&self.0, from, eligible)
    }
}
