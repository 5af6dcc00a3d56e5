//! A value that one side replaces and many sides follow: a follower sees the present value at once and later always
//! reaches the newest; values in between may be skipped.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Poll, Waker},
};

use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;

/// The value, and who waits for the next.
#[derive(Debug)]
pub(crate) struct Published<T> {
    inner: Arc<Mutex<Inner<T>>>,
}

#[derive(Debug)]
struct Inner<T> {
    value: T,
    /// Counts replacements, from 1.
    generation: u64,
    /// One entry a pending follower; its number is its key.
    waiting: HashMap<u64, Waker>,
    next_follower: u64,
}

impl<T> Clone for Published<T> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<T: Clone + Send + 'static> Published<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                value,
                generation: 1,
                waiting: HashMap::new(),
                next_follower: 0,
            })),
        }
    }

    pub(crate) fn get(&self) -> T {
        self.inner.lock().value.clone()
    }

    /// Replaces the value by what `change` makes of it, unless that is an error; returns what `change` says beside.
    pub(crate) fn update<R, E>(
        &self,
        change: impl FnOnce(&T) -> Result<(Option<T>, R), E>,
    ) -> Result<R, E> {
        let (result, woken) = {
            let mut inner = self.inner.lock();
            let (next, result) = change(&inner.value)?;
            let Some(next) = next else {
                return Ok(result);
            };
            inner.value = next;
            inner.generation += 1;
            (result, std::mem::take(&mut inner.waiting))
        };
        for waker in woken.into_values() {
            waker.wake();
        }
        Ok(result)
    }

    #[cfg(feature = "remote")]
    pub(crate) fn set(&self, value: T) {
        let set = self.update(|_| Ok::<_, std::convert::Infallible>((Some(value), ())));
        match set {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }

    /// Follows the value.
    pub(crate) fn follow(&self) -> BoxStream<'static, T> {
        let follower = Follower {
            number: {
                let mut inner = self.inner.lock();
                inner.next_follower += 1;
                inner.next_follower
            },
            of: self.clone(),
            seen: 0,
        };
        stream::unfold(follower, |mut follower| async move {
            let value = std::future::poll_fn(|context| {
                let mut inner = follower.of.inner.lock();
                if inner.generation > follower.seen {
                    return Poll::Ready((inner.value.clone(), inner.generation));
                }
                inner
                    .waiting
                    .insert(follower.number, context.waker().clone());
                Poll::Pending
            });
            let (value, generation) = value.await;
            follower.seen = generation;
            Some((value, follower))
        })
        .boxed()
    }
}

struct Follower<T> {
    of: Published<T>,
    number: u64,
    seen: u64,
}

impl<T> Drop for Follower<T> {
    fn drop(&mut self) {
        self.of.inner.lock().waiting.remove(&self.number);
    }
}
