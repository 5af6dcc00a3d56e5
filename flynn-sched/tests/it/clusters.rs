//! The contract of clusters, on all that this crate ships.

mod local {
    use std::sync::Arc;

    use async_trait::async_trait;
    use flynn_sched::{
        LocalCluster,
        clock::ManualClock,
        conformance::{Fixture, Harness},
    };

    #[derive(Debug)]
    struct Local;

    #[async_trait]
    impl Harness for Local {
        async fn fresh(&self) -> Fixture {
            let cluster = LocalCluster::new(Arc::new(ManualClock::at(1000)));
            Fixture {
                cluster: Arc::new(cluster.clone()),
                link: Arc::new(cluster),
            }
        }
    }

    flynn_sched::cluster_conformance!(Local);
}

/// One handle for both sides.
mod discovery {
    use std::{sync::Arc, time::Duration};

    use async_trait::async_trait;
    use flynn_discovery::backend::MemoryBackend;
    use flynn_sched::{
        DiscoveryCluster,
        conformance::{Fixture, Harness},
    };

    #[derive(Debug)]
    struct Memory;

    #[async_trait]
    impl Harness for Memory {
        async fn fresh(&self) -> Fixture {
            let cluster = DiscoveryCluster::new(Arc::new(MemoryBackend::new()))
                .with_lease_ttl(Duration::from_secs(1));
            Fixture {
                cluster: Arc::new(cluster.clone()),
                link: Arc::new(cluster),
            }
        }
    }

    flynn_sched::cluster_conformance!(Memory);
}

/// Deciders and hosts far apart: each side has a handle, and so a mirror, of its own.
mod discovery_apart {
    use std::{sync::Arc, time::Duration};

    use async_trait::async_trait;
    use flynn_discovery::{Backend, backend::MemoryBackend};
    use flynn_sched::{
        DiscoveryCluster,
        conformance::{Fixture, Harness},
    };

    #[derive(Debug)]
    struct Apart;

    #[async_trait]
    impl Harness for Apart {
        async fn fresh(&self) -> Fixture {
            let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
            let handle = || {
                DiscoveryCluster::new(Arc::clone(&backend)).with_lease_ttl(Duration::from_secs(1))
            };
            Fixture {
                cluster: Arc::new(handle()),
                link: Arc::new(handle()),
            }
        }
    }

    flynn_sched::cluster_conformance!(Apart);
}

/// As the jobs of a real cluster have it: the store is behind HTTP.
mod discovery_over_http {
    use std::{sync::Arc, time::Duration};

    use async_trait::async_trait;
    use flynn_discovery::{
        Backend,
        backend::{MemoryBackend, RemoteBackend},
        http::{kv_router, serve},
    };
    use flynn_sched::{
        DiscoveryCluster,
        conformance::{Fixture, Harness},
    };

    #[derive(Debug)]
    struct OverHttp;

    #[async_trait]
    impl Harness for OverHttp {
        async fn fresh(&self) -> Fixture {
            let app = kv_router(Arc::new(MemoryBackend::new()));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            // Ends with the test's runtime.
            tokio::spawn(serve(listener, app, std::future::pending()));
            let backend = RemoteBackend::connect(vec![url], None).await.unwrap();
            let backend: Arc<dyn Backend> = Arc::new(backend);
            let handle = || {
                DiscoveryCluster::new(Arc::clone(&backend)).with_lease_ttl(Duration::from_secs(1))
            };
            Fixture {
                cluster: Arc::new(handle()),
                link: Arc::new(handle()),
            }
        }
    }

    flynn_sched::cluster_conformance!(OverHttp);
}
