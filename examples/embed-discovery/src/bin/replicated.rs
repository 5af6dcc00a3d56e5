//! Run with `cargo run -p embed-discovery --features raft --bin replicated`.
//!
//! Three members of one replicated store, here in one process. A service is registered at one, found at another, and
//! still there when the member that led is gone. Only the lines that choose the backend differ from the other example;
//! with the feature `raft-rocksdb`, a `RocksLog` in place of the `MemoryLog` keeps it all on disk.
#![allow(
    clippy::print_stdout,
    reason = "an example shows on the terminal what it does"
)]

use std::{sync::Arc, time::Duration};

use flynn_discovery::{
    Backend, Instance, RegisterOptions, Registry, Secret, ServiceName,
    backend::raft::{MemberId, MemoryLog, Peer, RaftBackend, RaftConfig, TcpTransport},
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut members = start_three().await?;
    let leader = members[0].wait_for_leader(PATIENCE).await?;
    // The leader to the end of the list: it is the one that goes.
    members.sort_by_key(|member| member.member() == leader);
    let service = ServiceName::parse("chat")?;

    let here = Registry::new(Arc::clone(&members[0]) as Arc<dyn Backend>);
    let instance = Instance::new("one", "10.0.0.1:7000", "tcp")?;
    let registration = here
        .register(&service, instance, RegisterOptions::default())
        .await?;
    println!("registered one at member {}", members[0].member());

    members.pop();
    println!("member {leader} led, and is gone without a word");

    let there = Registry::new(Arc::clone(&members[1]) as Arc<dyn Backend>);
    for instance in there.instances(&service).await? {
        let found_at = members[1].member();
        println!(
            "found {} at member {found_at}: {}",
            instance.id, instance.addr
        );
    }
    registration.deregister().await?;
    println!("{} are left", there.instances(&service).await?.len());
    Ok(())
}

async fn start_three() -> Result<Vec<Arc<RaftBackend>>, Box<dyn std::error::Error>> {
    let mut listeners = Vec::new();
    let mut founders = Vec::new();
    for name in ["host-1", "host-2", "host-3"] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?.to_string();
        founders.push(Peer::new(MemberId::from_name(name), addr));
        listeners.push(listener);
    }
    let mut members = Vec::new();
    for (me, listener) in founders.iter().zip(listeners) {
        let config = RaftConfig::new(me.clone(), "example", founders.clone());
        let transport = TcpTransport::new(listener, Secret::new("the cluster's token"));
        let member = RaftBackend::start(config, MemoryLog::new(), transport).await?;
        members.push(Arc::new(member));
    }
    for member in &members {
        member.wait_for_leader(PATIENCE).await?;
    }
    Ok(members)
}

/// How long an election may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
