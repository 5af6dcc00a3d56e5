//! A host's stay in the cell, and whether it takes jobs there.

use std::{sync::Arc, time::Duration};

use flynn_discovery::Backoff;
use flynn_sched::{HostLink, Membership};
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};

use super::Drain;
use crate::{Error, supervisor::Event};

/// Ends when told to leave, or with an error that trying again cannot mend.
pub(super) async fn run(
    mut host: flynn_sched::Host,
    link: Arc<dyn HostLink>,
    events: mpsc::Sender<Event>,
    mut drains: watch::Receiver<Option<Drain>>,
    is_joined: watch::Sender<bool>,
    mut leave: oneshot::Receiver<bool>,
) -> Result<(), Error> {
    let id = host.id.clone();
    let mut backoff = Backoff::default();
    let membership: Box<dyn Membership> = loop {
        set_drain(&mut host, *drains.borrow_and_update());
        tokio::select! {
            joined = link.join(host.clone()) => match joined {
                Ok(membership) => break membership,
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "could not enter the cell, trying again");
                }
                Err(error) => return Err(error.into()),
            },
            _ = &mut leave => return Ok(()),
        }
        tokio::select! {
            () = backoff.wait() => {}
            _ = &mut leave => return Ok(()),
        }
    };
    tracing::info!(host = %id, "in the cell");
    is_joined.send_replace(true);
    let follow = async {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let mut assignments = link.assignments(&id);
            while let Some(jobs) = assignments.next().await {
                match jobs {
                    Ok(jobs) => {
                        backoff.reset();
                        if events.send(Event::Assigned(jobs)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "lost sight of the assignments, looking again");
                    }
                }
            }
            backoff.wait().await;
        }
    };
    let leaves = tokio::select! {
        () = follow => false,
        () = tell_drains(&*membership, host, drains) => false,
        () = membership.lost() => {
            return Err(Error::Ended {
                why: format!("another host has taken the id {id}: give one of them another id"),
            });
        }
        leaves = &mut leave => leaves.unwrap_or(false),
    };
    if leaves && let Err(error) = membership.leave().await {
        tracing::warn!(%error, "could not leave the cell: the lease will end the stay");
    }
    Ok(())
}

fn set_drain(host: &mut flynn_sched::Host, drain: Option<Drain>) {
    host.is_draining = drain.is_some();
    host.drain_by_ms = drain.and_then(|drain| drain.by_ms);
}

/// Tells the cell whenever the host begins or ceases to drain.
async fn tell_drains(
    membership: &dyn Membership,
    mut host: flynn_sched::Host,
    mut drains: watch::Receiver<Option<Drain>>,
) {
    while drains.changed().await.is_ok() {
        let mut backoff = Backoff::default();
        loop {
            set_drain(&mut host, *drains.borrow_and_update());
            match membership.update(host.clone()).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(%error, "could not tell the cell whether this host drains, trying again");
                    backoff.wait().await;
                }
            }
        }
        tracing::info!(host = %host.id, is_draining = host.is_draining, "the cell was told");
    }
    // The host ends, and what the cell was told stands.
    std::future::pending::<()>().await;
}
