//! Renews many leases with few requests.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{NAME, read_error};
use crate::{
    Error, Result,
    backend::LeaseId,
    http::{
        Client,
        kv::wire::{KeepAlive, KeptAlive},
    },
};

/// Collects renewals for a moment and sends them together. At most one request is under way.
#[derive(Debug)]
pub(super) struct KeepAlives {
    client: Client,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<(LeaseId, oneshot::Sender<Result<()>>)>,
    /// The task that empties the queue; it ends when there is nothing left to do.
    sender: Option<JoinHandle<()>>,
}

impl KeepAlives {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            queue: Arc::default(),
        }
    }

    pub(super) async fn renew(&self, lease: LeaseId) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            queue.waiting.push((lease, answer));
            // A finished task belonged to a runtime that is gone, or was aborted with it.
            if queue.sender.as_ref().is_none_or(JoinHandle::is_finished) {
                let task = send_all(self.client.clone(), Arc::clone(&self.queue));
                queue.sender = Some(tokio::spawn(task));
            }
        }
        answered.await.unwrap_or_else(|_| {
            Err(Error::Unavailable {
                backend: NAME,
                why: "the task that renews leases was stopped".to_owned(),
            })
        })
    }
}

impl Drop for KeepAlives {
    fn drop(&mut self) {
        if let Some(sender) = self.queue.lock().sender.take() {
            sender.abort();
        }
    }
}

async fn send_all(client: Client, queue: Arc<Mutex<Queue>>) {
    loop {
        tokio::time::sleep(LINGER).await;
        let batch = {
            let mut queue = queue.lock();
            if queue.waiting.is_empty() {
                queue.sender = None;
                return;
            }
            let count = queue.waiting.len().min(MAX_BATCH);
            queue.waiting.drain(..count).collect::<Vec<_>>()
        };
        let leases = batch.iter().map(|(lease, _)| *lease).collect();
        let body = KeepAlive { leases };
        let answer = client
            .post::<KeptAlive>("/kv/leases/keepalive", &body)
            .await;
        for (lease, waiting) in batch {
            let result = match &answer {
                Ok(kept) if kept.lost.contains(&lease) => Err(Error::LeaseLost { lease }),
                Ok(_) => Ok(()),
                Err(error) => Err(read_error(error.clone())),
            };
            // Whoever asked may have gone.
            _ = waiting.send(result);
        }
    }
}

/// How long the first renewal of a batch waits for company: nothing beside a lease's time.
const LINGER: Duration = Duration::from_millis(5);

/// The most renewals in one request.
const MAX_BATCH: usize = 1000;
