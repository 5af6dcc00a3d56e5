//! One service as the router sees it: followed in the background, read without a lock.

use std::{collections::HashMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use flynn_discovery::{Backoff, Instance, InstanceId, ServiceName};
use futures::StreamExt as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use smallvec::SmallVec;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    balance::{Balancer, Pick},
    endpoint::{Endpoint, EndpointSet, EndpointSource},
};

/// A service whose endpoints are followed until it is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    name: ServiceName,
    state: Arc<State>,
    follower: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    view: ArcSwap<View>,
    /// Has the source said anything yet?
    is_known: watch::Sender<bool>,
}

impl Service {
    /// Follows `name`.
    pub(crate) fn start(
        name: ServiceName,
        source: Arc<dyn EndpointSource>,
        balancer: Arc<dyn Balancer>,
        key: CookieKey,
    ) -> Self {
        let view = View::build(&[], None, &*balancer);
        let state = Arc::new(State {
            view: ArcSwap::from_pointee(view),
            is_known: watch::Sender::new(false),
        });
        let follower = Follower {
            name: name.clone(),
            source,
            balancer,
            key,
            state: Arc::clone(&state),
        };
        let follower = tokio::spawn(follower.run());
        Self {
            name,
            state,
            follower,
        }
    }

    pub(crate) fn name(&self) -> &ServiceName {
        &self.name
    }

    /// The endpoints as they are now.
    pub(crate) fn view(&self) -> Arc<View> {
        self.state.view.load_full()
    }

    /// Waits until the source has said which endpoints there are.
    pub(crate) async fn known(&self) {
        let mut is_known = self.state.is_known.subscribe();
        // The sender is in `self.state`: it outlives this call.
        let _ = is_known.wait_for(|known| *known).await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.follower.abort();
        let view = self.state.view.load();
        view.endpoints.iter().for_each(|endpoint| endpoint.retire());
    }
}

/// A set of endpoints and the choice among them; immutable, replaced whole.
#[derive(Debug)]
pub(crate) struct View {
    endpoints: Vec<Arc<Endpoint>>,
    leader: Option<Arc<Endpoint>>,
    by_cookie: HashMap<Box<str>, Arc<Endpoint>>,
    pick: Arc<dyn Pick>,
}

/// What a request wants of its endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'w> {
    pub(crate) leader: bool,
    /// What the client's cookie says.
    pub(crate) sticky: Option<&'w str>,
    pub(crate) random: u64,
    pub(crate) now: Instant,
}

/// The endpoints a request was at already.
#[derive(Debug, Default)]
pub(crate) struct Tried(SmallVec<[(Arc<Endpoint>, HowTried); 2]>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HowTried {
    /// It did not accept a connection.
    Refused,
    /// It had one and lost it.
    Lost,
}

impl Tried {
    pub(crate) fn push(&mut self, endpoint: Arc<Endpoint>, how: HowTried) {
        self.0.push((endpoint, how));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, endpoint: &Endpoint) -> bool {
        self.0.iter().any(|(e, _)| std::ptr::eq(&**e, endpoint))
    }

    fn refused(&self, endpoint: &Endpoint) -> bool {
        let is_it = |(e, how): &(Arc<Endpoint>, HowTried)| {
            *how == HowTried::Refused && std::ptr::eq(&**e, endpoint)
        };
        self.0.iter().any(is_it)
    }
}

impl View {
    fn build(
        endpoints: &[Arc<Endpoint>],
        leader: Option<&InstanceId>,
        balancer: &dyn Balancer,
    ) -> Self {
        let by_cookie = endpoints
            .iter()
            .map(|endpoint| (endpoint.cookie().into(), Arc::clone(endpoint)));
        Self {
            endpoints: endpoints.to_vec(),
            leader: endpoints.iter().find(|e| Some(e.id()) == leader).cloned(),
            by_cookie: by_cookie.collect(),
            pick: balancer.rebuild(endpoints),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The endpoint for the next attempt: one that was not tried and is not ejected, else one that was not tried, else
    /// one that at least accepted a connection before.
    pub(crate) fn choose(&self, wish: Wish<'_>, tried: &Tried) -> Option<Arc<Endpoint>> {
        if wish.leader {
            return self.leader.clone().filter(|leader| !tried.refused(leader));
        }
        let is_good = |e: &Endpoint| !tried.contains(e) && !e.is_ejected(wish.now);
        if let Some(endpoint) = wish.sticky.and_then(|cookie| self.by_cookie.get(cookie))
            && is_good(endpoint)
        {
            return Some(Arc::clone(endpoint));
        }
        let chosen = self
            .pick
            .pick(wish.random, &is_good)
            .or_else(|| self.pick.pick(wish.random, &|e| !tried.contains(e)))
            .or_else(|| self.pick.pick(wish.random, &|e| !tried.refused(e)));
        chosen.cloned()
    }
}

/// Keeps the view of one service up to date.
struct Follower {
    name: ServiceName,
    source: Arc<dyn EndpointSource>,
    balancer: Arc<dyn Balancer>,
    key: CookieKey,
    state: Arc<State>,
}

impl Follower {
    async fn run(self) {
        const SWEEP: Duration = Duration::from_secs(5);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut sets = self.source.watch(&self.name);
            loop {
                let item = tokio::select! {
                    item = sets.next() => item,
                    now = sweep.tick() => {
                        self.state.view.load().endpoints.iter().for_each(|e| e.sweep(now));
                        continue;
                    }
                };
                match item {
                    Some(Ok(set)) => {
                        backoff.reset();
                        self.apply(set).await;
                    }
                    Some(Err(error)) => {
                        let service = &self.name;
                        tracing::warn!(%service, error = &error as &dyn std::error::Error, "endpoints are not known to be current");
                        break;
                    }
                    None => break,
                }
            }
            backoff.wait().await;
        }
    }

    async fn apply(&self, set: EndpointSet) {
        let old = self.state.view.load_full();
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::with_capacity(set.instances.len());
        for instance in &set.instances {
            match resolve(instance).await {
                Ok(addr) => endpoints.push(self.endpoint(&old, instance.id.clone(), addr)),
                Err(error) => {
                    let service = &self.name;
                    let (id, addr) = (&instance.id, &instance.addr);
                    tracing::warn!(%service, %id, addr, %error, "this instance has no address and is left out");
                }
            }
        }
        let view = View::build(&endpoints, set.leader.as_ref(), &*self.balancer);
        self.state.view.store(Arc::new(view));
        self.state.is_known.send_replace(true);
        let is_gone = |e: &&Arc<Endpoint>| !endpoints.iter().any(|new| Arc::ptr_eq(new, e));
        old.endpoints
            .iter()
            .filter(is_gone)
            .for_each(|e| e.retire());
    }

    /// The endpoint that is there already, with its connections and its health, or a new one.
    fn endpoint(&self, old: &View, id: InstanceId, addr: SocketAddr) -> Arc<Endpoint> {
        let same = |e: &&Arc<Endpoint>| *e.id() == id && e.addr() == addr;
        match old.endpoints.iter().find(same) {
            Some(endpoint) => Arc::clone(endpoint),
            None => {
                let cookie = self.key.cookie(&self.name, &id);
                Arc::new(Endpoint::new(id, addr, cookie))
            }
        }
    }
}

/// The address of an instance, looked up if it is a name.
async fn resolve(instance: &Instance) -> std::io::Result<SocketAddr> {
    const LIMIT: Duration = Duration::from_secs(5);
    if let Ok(addr) = instance.addr.parse() {
        return Ok(addr);
    }
    let mut addrs = timeout(LIMIT, tokio::net::lookup_host(&instance.addr)).await??;
    addrs
        .next()
        .ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

/// Makes the values of sticky cookies: opaque, and not to be guessed.
#[derive(Clone)]
pub(crate) struct CookieKey([u8; 32]);

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(..)")
    }
}

impl CookieKey {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    fn cookie(&self, service: &ServiceName, id: &InstanceId) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("a MAC takes a key of any length");
        mac.update(service.as_str().as_bytes());
        mac.update(b"/");
        mac.update(id.as_str().as_bytes());
        let tag = mac.finalize().into_bytes();
        tag.iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

#[cfg(test)]
mod tests;
