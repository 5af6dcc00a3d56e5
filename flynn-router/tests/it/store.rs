//! The route stores against their contract.

use std::sync::Arc;

use flynn_router::MemoryRouteStore;

flynn_router::route_store_conformance!(memory, async { Arc::new(MemoryRouteStore::new()) });
