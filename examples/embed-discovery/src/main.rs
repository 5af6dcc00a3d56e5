//! Run with `cargo run -p embed-discovery`.
//!
//! Two apps of one service find each other, agree on who leads, and notice when one leaves: first with a store in memory,
//! then with three embedded Raft members, as three processes of yours would have them. What the apps do is the same over
//! any [`Backend`]: see the table in the README of `flynn-discovery`.
#![allow(
    clippy::print_stdout,
    reason = "an example shows on the terminal what it does"
)]

use std::{sync::Arc, time::Duration};

use flynn_discovery::{
    Backend, Error, Instance, RegisterOptions, Registry, Result, Secret, ServiceEvent, ServiceName,
    backend::{
        MemoryBackend,
        raft::{MemberId, MemoryLog, Peer, RaftBackend, RaftConfig, TcpTransport},
    },
};
use futures::StreamExt;
use tokio::{net::TcpListener, sync::oneshot};

#[tokio::main]
async fn main() -> Result<()> {
    println!("# in memory");
    let memory: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    two_apps(Arc::clone(&memory), memory).await?;

    println!("# three Raft members");
    let members = raft_members().await?;
    // Each app uses the member of its own process.
    two_apps(Arc::clone(&members[0]) as _, Arc::clone(&members[1]) as _).await?;
    for member in members {
        member.shutdown().await.expect("it ran until now");
    }
    Ok(())
}

async fn two_apps(first: Arc<dyn Backend>, second: Arc<dyn Backend>) -> Result<()> {
    let (first, second) = (Registry::new(first), Registry::new(second));
    let service = ServiceName::parse("chat")?;

    let (stop_one, one_stopped) = oneshot::channel();
    let one = App::new("one", "10.0.0.1:7000", &first, &service);
    let one = tokio::spawn(one.run(one_stopped));
    until_leader_is(&first, &service, "one").await?;

    let (stop_two, two_stopped) = oneshot::channel();
    let two = App::new("two", "10.0.0.2:7000", &second, &service);
    let two = tokio::spawn(two.run(two_stopped));
    until_there_are(2, &second, &service).await?;

    // The oldest leaves; the next oldest takes over.
    let _ = stop_one.send(());
    until_leader_is(&second, &service, "two").await?;
    let _ = stop_two.send(());

    for app in [one, two] {
        app.await.expect("an app does not panic")?;
    }
    Ok(())
}

/// Three members over TCP that know the same token. With `RocksLog` (feature `raft-rocksdb`) instead of `MemoryLog`, what is
/// acknowledged survives restarts.
async fn raft_members() -> Result<Vec<Arc<RaftBackend>>> {
    let token = Secret::new("only members know this");
    let mut listeners = Vec::new();
    let mut voters = Vec::new();
    for name in ["a", "b", "c"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound").to_string();
        voters.push(Peer::new(MemberId::from_name(name), addr));
        listeners.push(listener);
    }
    let mut members = Vec::new();
    for (me, listener) in voters.iter().zip(listeners) {
        let config = RaftConfig::new(me.clone(), "example", voters.clone());
        let transport = TcpTransport::new(listener, token.clone());
        members.push(Arc::new(
            RaftBackend::start(config, MemoryLog::new(), transport).await?,
        ));
    }
    members[0].wait_for_leader(Duration::from_secs(30)).await?;
    Ok(members)
}

/// One copy of the application.
struct App {
    name: &'static str,
    addr: &'static str,
    registry: Registry,
    service: ServiceName,
}

impl App {
    fn new(
        name: &'static str,
        addr: &'static str,
        registry: &Registry,
        service: &ServiceName,
    ) -> Self {
        Self {
            name,
            addr,
            registry: registry.clone(),
            service: service.clone(),
        }
    }

    /// Registers, follows its peers until it is stopped, and deregisters.
    async fn run(self, mut stopped: oneshot::Receiver<()>) -> Result<()> {
        let instance = Instance::new(self.name, self.addr, "tcp")?.with_attribute("version", "1");
        let registration = self
            .registry
            .register(&self.service, instance, RegisterOptions::default())
            .await?;
        println!("{}: registered at {}", self.name, self.addr);

        let mut events = self.registry.watch(&self.service);
        loop {
            tokio::select! {
                Some(event) = events.next() => self.tell(event?),
                _ = &mut stopped => break,
            }
        }
        // A crash would do, too: the lease ends and takes the instance along.
        registration.deregister().await?;
        println!("{}: gone", self.name);
        Ok(())
    }

    /// What an application does with events: keep its list of peers, start or stop what only the leader does.
    fn tell(&self, event: ServiceEvent) {
        let name = self.name;
        match event {
            // Always first, and again when something may have been missed: forget what was known before.
            ServiceEvent::Reset {
                instances, leader, ..
            } => {
                let peers: Vec<_> = instances.iter().map(|i| i.id.as_str()).collect();
                println!("{name}: there are {}", peers.join(", "));
                self.follow(leader.as_ref());
            }
            ServiceEvent::Up(peer) => println!("{name}: {} is up at {}", peer.id, peer.addr),
            ServiceEvent::Down(peer) => println!("{name}: {} is down", peer.id),
            ServiceEvent::Leader(leader) => self.follow(leader.as_ref()),
            _ => {}
        }
    }

    fn follow(&self, leader: Option<&Instance>) {
        match leader {
            Some(leader) if leader.id.as_str() == self.name => println!("{}: I lead", self.name),
            Some(leader) => println!("{}: {} leads", self.name, leader.id),
            None => println!("{}: nobody leads", self.name),
        }
    }
}

async fn until_leader_is(registry: &Registry, service: &ServiceName, name: &str) -> Result<()> {
    let mut events = registry.watch(service);
    while let Some(event) = events.next().await {
        if let ServiceEvent::Reset { leader, .. } | ServiceEvent::Leader(leader) = event?
            && leader.is_some_and(|leader| leader.id.as_str() == name)
        {
            return Ok(());
        }
    }
    Err(Error::Closed { backend: "watch" })
}

async fn until_there_are(count: usize, registry: &Registry, service: &ServiceName) -> Result<()> {
    let mut events = registry.watch(service);
    while let Some(event) = events.next().await {
        event?;
        if registry.instances(service).await?.len() == count {
            return Ok(());
        }
    }
    Err(Error::Closed { backend: "watch" })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_example_runs_to_its_end() {
        super::main().unwrap();
    }
}
