//! Time limits that cost next to nothing when they are kept.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// A time limit ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// One timer for all the limits of a connection, one after the other.
///
/// A connection waits several times for each request, nearly always for less than the limit. So the timer stays armed
/// for some earlier limit and looks, when it fires, how much of the present one is left.
#[derive(Debug)]
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    pub(crate) fn new() -> Self {
        const NOT_YET: Duration = Duration::from_secs(3600);
        let sleep = Box::pin(sleep(NOT_YET));
        Self { sleep }
    }

    /// Waits for `future`, but not longer than `limit`.
    pub(crate) async fn limit<F: Future>(
        &mut self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let deadline = Instant::now() + limit;
        let mut future = pin!(future);
        let sleep = &mut self.sleep;
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        poll_fn(|context| {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(value));
            }
            while sleep.as_mut().poll(context).is_ready() {
                if Instant::now() >= deadline {
                    return Poll::Ready(Err(Elapsed));
                }
                sleep.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn limits_run_out_at_their_time_whatever_came_before() {
        let mut timer = Timer::new();
        for seconds in [5, 1, 7000, 2] {
            let before = Instant::now();
            let limit = Duration::from_secs(seconds);
            assert_eq!(timer.limit(limit, async { 1 }).await, Ok(1));
            assert_eq!(timer.limit(limit, pending::<()>()).await, Err(Elapsed));
            let waited = before.elapsed();
            assert!(
                waited >= limit && waited < limit + Duration::from_millis(10),
                "{waited:?}"
            );
        }
    }
}
