//! A host's stay in the cell: a lease that is renewed, and written anew if it was lost.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use flynn_discovery::{
    Backend, Error as StoreError,
    backend::{Condition, Entry, LeaseId, Op, Revision},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Error, Host, Membership, Result,
    remote::{keys::CellKey, store_error},
};

/// A host's stay; the keeper does the work and ends with it.
#[derive(Debug)]
pub(super) struct LeasedMembership {
    orders: mpsc::Sender<Order>,
    is_lost: watch::Receiver<bool>,
}

#[derive(Debug)]
enum Order {
    Update(Box<Host>, oneshot::Sender<Result<()>>),
    Leave(oneshot::Sender<Result<()>>),
}

/// Enters the cell.
pub(super) async fn join(
    backend: Arc<dyn Backend>,
    ttl: Duration,
    host: Host,
) -> Result<LeasedMembership> {
    let ttl = ttl.max(backend.capabilities().min_ttl);
    let lease = grant(backend.as_ref(), ttl).await?;
    let (told, is_lost) = watch::channel(false);
    let mut keeper = Keeper {
        backend,
        ttl,
        host,
        lease,
        version: Revision::default(),
        is_lost: told,
    };
    if let Err(error) = keeper.enter().await {
        // Only tidiness: nobody renews it.
        let _ = keeper.backend.revoke(lease).await;
        return Err(error);
    }
    let (orders, received) = mpsc::channel(ORDERS);
    tokio::spawn(keeper.run(received));
    Ok(LeasedMembership { orders, is_lost })
}

#[async_trait]
impl Membership for LeasedMembership {
    async fn update(&self, host: Host) -> Result<()> {
        self.order(|answer| Order::Update(Box::new(host), answer))
            .await
    }

    async fn lost(&self) {
        let mut is_lost = self.is_lost.clone();
        // An error means that the keeper has ended with its runtime: nobody renews, so the host is lost as well.
        let _ = is_lost.wait_for(|lost| *lost).await;
    }

    async fn leave(self: Box<Self>) -> Result<()> {
        self.order(Order::Leave).await
    }
}

impl LeasedMembership {
    async fn order(&self, order: impl FnOnce(oneshot::Sender<Result<()>>) -> Order) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        // An error here means that the keeper has ended, and then nobody answers either.
        let _ = self.orders.send(order(answer)).await;
        answered.await.unwrap_or_else(|_| Err(taken_over()))
    }
}

struct Keeper {
    backend: Arc<dyn Backend>,
    ttl: Duration,
    host: Host,
    lease: LeaseId,
    /// Of the host's key, as this keeper last wrote it.
    version: Revision,
    is_lost: watch::Sender<bool>,
}

/// Who the host's key belongs to.
enum Owner {
    Nobody,
    Me(Entry),
    Another { entry: Entry, addr: String },
}

impl Keeper {
    /// Enters the cell for the first time.
    async fn enter(&mut self) -> Result<()> {
        for _ in 0..MAX_ATTEMPTS {
            let condition = match self.owner().await? {
                Owner::Nobody => Condition::Absent,
                Owner::Me(entry) => Condition::Version(entry.version),
                // The same address is the same host after a restart.
                Owner::Another { entry, addr } if addr == self.host.addr => {
                    Condition::Version(entry.version)
                }
                Owner::Another { addr, .. } => {
                    return Err(Error::HostTaken {
                        host: self.host.id.clone(),
                        addr,
                    });
                }
            };
            match self.write(condition).await {
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(store_error("joining the cell", error)),
                Ok(()) => return Ok(()),
            }
        }
        Err(Error::Store {
            operation: "joining the cell",
            is_transient: true,
            source: "another daemon with this id joins at the same time".into(),
        })
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut wait = self.ttl / 3;
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                () = tokio::time::sleep(wait) => {
                    match tokio::time::timeout(self.ttl, self.renew()).await {
                        Ok(Ok(true)) => wait = self.ttl / 3,
                        Ok(Ok(false)) => break,
                        Ok(Err(error)) => {
                            tracing::warn!(host = %self.host.id, %error, source = error.source_text(), "cannot renew the host's lease, trying again");
                            wait = self.ttl / 10;
                        }
                        Err(_) => wait = self.ttl / 10,
                    }
                    continue;
                }
            };
            match order {
                Some(Order::Update(host, answer)) => {
                    // The asker may have gone.
                    let _ = answer.send(self.update(*host).await);
                }
                Some(Order::Leave(answer)) => {
                    let _ = answer.send(self.leave().await);
                    return;
                }
                // Dropped: the lease runs out.
                None => return,
            }
        }
        tracing::warn!(host = %self.host.id, "another daemon has taken this host's place in the cell");
        self.is_lost.send_replace(true);
    }

    /// Renews the lease, or enters anew if it was lost. `false`: another has taken the place.
    async fn renew(&mut self) -> Result<bool> {
        let is_alive = match self.backend.keep_alive(self.lease).await {
            Ok(()) => true,
            Err(StoreError::LeaseLost { .. }) => false,
            Err(error) => return Err(store_error("renewing the host's lease", error)),
        };
        if !is_alive {
            tracing::warn!(host = %self.host.id, "the host's lease was lost, joining the cell again");
            self.lease = grant(self.backend.as_ref(), self.ttl).await?;
        }
        let condition = match self.owner().await? {
            Owner::Another { .. } => return Ok(false),
            Owner::Me(entry) if entry.lease == Some(self.lease) => {
                self.version = entry.version;
                return Ok(true);
            }
            Owner::Me(entry) => Condition::Version(entry.version),
            Owner::Nobody => Condition::Absent,
        };
        match self.write(condition).await {
            // On a conflict, the next look tells who it is.
            Ok(()) | Err(StoreError::Conflict { .. }) => Ok(true),
            Err(error) => Err(store_error("joining the cell again", error)),
        }
    }

    async fn update(&mut self, host: Host) -> Result<()> {
        self.host = Host {
            id: self.host.id.clone(),
            incarnation: self.host.incarnation,
            ..host
        };
        match self.write(Condition::Version(self.version)).await {
            Ok(()) => Ok(()),
            // The renewal has it: it enters anew with the new description.
            Err(StoreError::LeaseLost { .. } | StoreError::Conflict { .. }) => {
                match self.renew().await? {
                    true => Ok(()),
                    false => Err(taken_over()),
                }
            }
            Err(error) => Err(store_error("updating the host", error)),
        }
    }

    async fn leave(&self) -> Result<()> {
        let revoked = self.backend.revoke(self.lease).await;
        revoked.map_err(|error| store_error("leaving the cell", error))
    }

    /// Writes the host's key under the lease, and its description for after the lease.
    async fn write(&mut self, condition: Condition) -> flynn_discovery::Result<()> {
        let invalid = |why: String| StoreError::Invalid {
            what: format!("host {}", self.host.id),
            why,
        };
        let value = serde_json::to_vec(&self.host).map_err(|error| invalid(error.to_string()))?;
        let key = |key: CellKey| key.key().map_err(|error| invalid(error.to_string()));
        let leased = key(CellKey::Host(self.host.id.clone()))?;
        let known = key(CellKey::Known(self.host.id.clone()))?;
        let compares = condition.on(&leased).into_iter().collect();
        let ops = vec![
            Op::Put {
                key: leased,
                value: value.clone().into(),
                lease: Some(self.lease),
            },
            Op::put(known, value),
        ];
        self.version = self.backend.commit(compares, ops).await?;
        Ok(())
    }

    async fn owner(&self) -> Result<Owner> {
        let key = CellKey::Host(self.host.id.clone()).key()?;
        let entry = self.backend.get(&key).await;
        let Some(entry) = entry.map_err(|error| store_error("reading the host's key", error))?
        else {
            return Ok(Owner::Nobody);
        };
        Ok(match serde_json::from_slice::<Host>(&entry.value) {
            Ok(host) if host.incarnation != self.host.incarnation => Owner::Another {
                entry,
                addr: host.addr,
            },
            // A damaged description is nobody else's.
            Ok(_) | Err(_) => Owner::Me(entry),
        })
    }
}

async fn grant(backend: &dyn Backend, ttl: Duration) -> Result<LeaseId> {
    let lease = backend.grant(ttl).await;
    lease.map_err(|error| store_error("granting the host's lease", error))
}

fn taken_over() -> Error {
    Error::Store {
        operation: "speaking for the host",
        is_transient: false,
        source: "the membership has ended: another daemon may have taken the host's place".into(),
    }
}

/// Orders that wait for the keeper.
const ORDERS: usize = 16;
/// How often joining is tried while others join with the same id.
const MAX_ATTEMPTS: usize = 5;
