//! Keeps one instance registered.

use std::{collections::BTreeMap, fmt, future::Future, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::WatchStream;

use crate::{
    Backoff, Error, Instance, InstanceId, Result, ServiceConfig, ServiceName,
    backend::{Backend, Compare, Condition, Key, LeaseId, Op},
    registry::{put_instance, to_json},
    service::ServiceKeys,
};

/// An instance that stays registered as long as this lives. Made by [`Registry::register`](crate::Registry::register).
///
/// A task renews the lease three times within its time to live. When the lease was lost all the same (the process was
/// stopped, the network was cut), it registers the instance anew, as the youngest of its service.
///
/// Dropping it deregisters in the background; if the runtime ends before that is done, the lease does it.
/// [`deregister`](Self::deregister) does it now.
pub struct Registration {
    service: ServiceName,
    id: InstanceId,
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<RegistrationStatus>,
}

/// How a registration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistrationStatus {
    /// The store has confirmed it within its time to live.
    Registered,
    /// The store could not be reached, or has forgotten it; others may see it as gone. It is being tried again.
    Unconfirmed,
    /// Another registration has taken the same id. This one is over.
    Replaced,
    /// It was ended.
    Deregistered,
}

enum Order {
    Update {
        attributes: BTreeMap<String, String>,
        answer: oneshot::Sender<Result<()>>,
    },
    Deregister {
        answer: oneshot::Sender<Result<()>>,
    },
    Abandon,
}

impl Registration {
    pub(crate) async fn start(
        backend: Arc<dyn Backend>,
        service: &ServiceName,
        instance: Instance,
        ttl: Duration,
    ) -> Result<Self> {
        let ttl = ttl.max(backend.capabilities().min_ttl);
        let keys = ServiceKeys::new(service);
        let lease = backend.grant(ttl).await?;
        let id = instance.id.clone();
        let (orders, received) = mpsc::channel(ORDERS);
        let (told, status) = watch::channel(RegistrationStatus::Registered);
        let keeper = Keeper {
            key: keys.instance(&instance.id),
            config: keys.config,
            backend,
            instance,
            ttl,
            lease,
            is_written: true,
            status: told,
        };
        if let Err(error) = keeper.write(Condition::Any).await {
            // Only tidiness: nobody renews it.
            let _ = keeper.backend.revoke(lease).await;
            return Err(error);
        }
        tokio::spawn(keeper.run(received));
        Ok(Self {
            service: service.clone(),
            id,
            orders,
            status,
        })
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The instance.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// How it stands now.
    #[must_use]
    pub fn status(&self) -> RegistrationStatus {
        *self.status.borrow()
    }

    /// How it stands, and how it stands after each change; ends with the registration.
    #[must_use]
    pub fn statuses(&self) -> BoxStream<'static, RegistrationStatus> {
        WatchStream::new(self.status.clone()).boxed()
    }

    /// Replaces the attributes; the instance keeps its place in the order.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when another registration has taken the id; and as [`Backend::commit`]: the attributes are
    /// as they were then, or, after [`Error::Unknown`], may be either.
    pub async fn update(&self, attributes: BTreeMap<String, String>) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Update { attributes, answer }, answered)
            .await
    }

    /// Ends the registration now.
    ///
    /// # Errors
    ///
    /// As [`Backend::revoke`]; the lease ends it later then.
    pub async fn deregister(self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Deregister { answer }, answered).await
    }

    /// Stops renewing and leaves the instance to its lease: whoever registers it again within its time to live, such as
    /// the same program after a restart, takes it over without a gap.
    pub fn abandon(self) {
        // A full queue ends as a dropped registration does: deregistered, which is safe.
        let _ = self.orders.try_send(Order::Abandon);
    }

    async fn order(&self, order: Order, answered: oneshot::Receiver<Result<()>>) -> Result<()> {
        // The task ends only with its runtime, or after it has carried out the last order.
        let closed = || Error::Closed {
            backend: "registration",
        };
        self.orders.send(order).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("service", &self.service)
            .field("id", &self.id)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// The task behind a registration.
struct Keeper {
    backend: Arc<dyn Backend>,
    config: Key,
    key: Key,
    instance: Instance,
    ttl: Duration,
    lease: LeaseId,
    /// Is the instance written with `lease`, as far as we know? It is not between a new lease and its first write.
    is_written: bool,
    status: watch::Sender<RegistrationStatus>,
}

impl Keeper {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut backoff = Backoff::new(FIRST_RETRY.min(self.ttl / 6), self.ttl / 3);
        let mut renewal = Instant::now() + self.renewal_interval();
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                () = sleep_until(renewal), if !self.is_replaced() => {
                    let wait = match self.renew().await {
                        Ok(()) => {
                            backoff.reset();
                            self.renewal_interval()
                        }
                        Err(error) => {
                            self.unconfirmed(&error);
                            backoff.next().unwrap_or(self.ttl)
                        }
                    };
                    renewal = Instant::now() + wait;
                    continue;
                }
            };
            match order {
                Some(Order::Update { attributes, answer }) => {
                    let _ = answer.send(self.update(attributes).await);
                }
                Some(Order::Deregister { answer }) => {
                    let revoked = self.revoke().await;
                    self.tell(RegistrationStatus::Deregistered);
                    let _ = answer.send(revoked);
                    return;
                }
                Some(Order::Abandon) => return,
                None => {
                    self.give_up().await;
                    self.tell(RegistrationStatus::Deregistered);
                    return;
                }
            }
        }
    }

    /// Three tries within the time to live, not in step with others that were registered at the same moment.
    fn renewal_interval(&self) -> Duration {
        (self.ttl / 3).mul_f64(0.8 + 0.2 * rand::random::<f64>())
    }

    /// Renews the lease, or takes a new one and registers the instance with it. Each step that succeeded is kept, so
    /// that an unanswered one is never mistaken for somebody else's.
    async fn renew(&mut self) -> Result<()> {
        let renewed = self
            .in_time("keep_alive", self.backend.keep_alive(self.lease))
            .await;
        match renewed {
            Err(Error::LeaseLost { lease }) => {
                tracing::warn!(key = %self.key, %lease, "the lease was lost, registering anew");
                self.tell(RegistrationStatus::Unconfirmed);
                self.is_written = false;
                self.lease = self.in_time("grant", self.backend.grant(self.ttl)).await?;
            }
            other => other?,
        }
        if !self.is_written {
            match self.in_time("commit", self.write(Condition::Absent)).await {
                Err(Error::Conflict { .. }) if !self.is_ours().await? => {
                    self.replaced().await;
                    return Ok(());
                }
                // The write before this one, whose answer was lost, was carried out.
                Err(Error::Conflict { .. }) => {}
                other => other?,
            }
            self.is_written = true;
        }
        self.tell(RegistrationStatus::Registered);
        Ok(())
    }

    async fn update(&mut self, attributes: BTreeMap<String, String>) -> Result<()> {
        let previous = std::mem::replace(&mut self.instance.attributes, attributes);
        let updated = match self.is_replaced() {
            true => Ok(()),
            false => self.rewrite().await,
        };
        if self.is_replaced() {
            let key = self.key.clone();
            return Err(Error::Conflict { key });
        }
        if updated.is_err() {
            self.instance.attributes = previous;
        }
        updated
    }

    /// Writes the instance as it is now, over our own entry only; anything else is [`replaced`](Self::replaced).
    async fn rewrite(&mut self) -> Result<()> {
        loop {
            let entry = self.in_time("get", self.backend.get(&self.key)).await?;
            match entry {
                Some(entry) if entry.lease == Some(self.lease) => {
                    let condition = Condition::Version(entry.version);
                    match self.in_time("commit", self.write(condition)).await {
                        Err(Error::Conflict { .. }) => {} // removed or taken just now
                        Err(Error::LeaseLost { .. }) => return self.renew().await,
                        other => return other,
                    }
                }
                Some(_) => {
                    self.replaced().await;
                    return Ok(());
                }
                // Expired or removed: registered anew, with the new attributes.
                None => {
                    self.is_written = false;
                    return self.renew().await;
                }
            }
        }
    }

    /// Writes the instance if its key meets `condition`, and the service with it if that is absent.
    async fn write(&self, condition: Condition) -> Result<()> {
        let mut service = Condition::Present;
        loop {
            let compares: Vec<Compare> = [service.on(&self.config), condition.on(&self.key)]
                .into_iter()
                .flatten()
                .collect();
            let mut ops = vec![put_instance(
                self.key.clone(),
                &self.instance,
                Some(self.lease),
            )];
            if service == Condition::Absent {
                let config = to_json(&ServiceConfig::default());
                ops.insert(0, Op::put(self.config.clone(), config));
            }
            match self.backend.commit(compares, ops).await {
                // The service came or went in between; who creates it first wins.
                Err(Error::Conflict { key }) if key == self.config => {
                    service = match service {
                        Condition::Present => Condition::Absent,
                        _ => Condition::Present,
                    };
                }
                other => return other.map(drop),
            }
        }
    }

    async fn is_ours(&self) -> Result<bool> {
        let entry = self.in_time("get", self.backend.get(&self.key)).await?;
        Ok(entry.is_some_and(|entry| entry.lease == Some(self.lease)))
    }

    fn is_replaced(&self) -> bool {
        *self.status.borrow() == RegistrationStatus::Replaced
    }

    async fn replaced(&self) {
        tracing::warn!(key = %self.key, "another registration has taken the id");
        self.tell(RegistrationStatus::Replaced);
        // Nothing hangs on the lease any more.
        let _ = self.revoke().await;
    }

    async fn revoke(&self) -> Result<()> {
        self.in_time("revoke", self.backend.revoke(self.lease))
            .await
    }

    /// Revokes for as long as it makes a difference.
    async fn give_up(&self) {
        let revoked = timeout(self.ttl, async {
            let mut backoff = Backoff::default();
            while let Err(error) = self.backend.revoke(self.lease).await {
                if !matches!(error, Error::Unavailable { .. } | Error::Unknown { .. }) {
                    return;
                }
                backoff.wait().await;
            }
        });
        if revoked.await.is_err() {
            tracing::debug!(key = %self.key, "not deregistered: its lease will");
        }
    }

    fn unconfirmed(&self, error: &Error) {
        tracing::warn!(key = %self.key, %error, "the registration could not be renewed, trying again");
        self.tell(RegistrationStatus::Unconfirmed);
    }

    fn tell(&self, status: RegistrationStatus) {
        self.status
            .send_if_modified(|present| std::mem::replace(present, status) != status);
    }

    /// No call of the backend may keep the task from its other duties for longer than the lease lives.
    async fn in_time<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let after = self.ttl;
        match timeout(after, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Unknown { operation, after }),
        }
    }
}

/// Orders that wait while the task is busy with the store.
const ORDERS: usize = 8;

const FIRST_RETRY: Duration = Duration::from_millis(200);
