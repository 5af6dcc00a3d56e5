//! Telling connections that the router is stopping.

use std::{
    future::Future as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::sync::{Notify, futures::OwnedNotified};

/// Told once that the router is stopping.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    has_begun: AtomicBool,
    begun: Arc<Notify>,
}

impl Drain {
    pub(crate) fn begin(&self) {
        self.has_begun.store(true, Ordering::SeqCst);
        self.begun.notify_waiters();
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// For one task.
    pub(crate) fn listen(self: &Arc<Self>) -> Draining {
        Draining {
            drain: Arc::clone(self),
            notified: Box::pin(Arc::clone(&self.begun).notified_owned()),
            is_registered: false,
        }
    }
}

/// What one task hears of the drain.
///
/// It takes a lock the first time it is polled and never again: a task is woken where it registered, however often it
/// waits for something else in between. So it must be polled by one task only.
#[derive(Debug)]
pub(crate) struct Draining {
    drain: Arc<Drain>,
    notified: Pin<Box<OwnedNotified>>,
    is_registered: bool,
}

impl Draining {
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_registered {
            if self.notified.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            self.is_registered = true;
        }
        match self.drain.has_begun.load(Ordering::SeqCst) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
