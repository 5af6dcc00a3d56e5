//! The signals that are ours to pass on.

use std::{future::poll_fn, task::Poll};

use nix::{
    sys::signal::Signal,
    unistd::{getpgrp, tcgetpgrp},
};
use tokio::signal::unix::{self, SignalKind};

use crate::{Error, Result};

/// The signals a supervisor passes on: TERM, INT, HUP, USR1, USR2 and QUIT. They no longer end this process.
#[derive(Debug)]
pub struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Catches the signals from now on.
    ///
    /// # Errors
    ///
    /// [`Error::System`] when they cannot be caught.
    pub fn catch() -> Result<Self> {
        let kinds = [
            (Signal::SIGTERM, SignalKind::terminate()),
            (Signal::SIGINT, SignalKind::interrupt()),
            (Signal::SIGHUP, SignalKind::hangup()),
            (Signal::SIGUSR1, SignalKind::user_defined1()),
            (Signal::SIGUSR2, SignalKind::user_defined2()),
            (Signal::SIGQUIT, SignalKind::quit()),
        ];
        kinds
            .into_iter()
            .map(|(signal, kind)| Ok((signal, unix::signal(kind)?)))
            .collect::<std::io::Result<_>>()
            .map(Self)
            .map_err(|source| Error::System {
                operation: "catch signals",
                source,
            })
    }

    /// The next signal.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|cx| {
            for (signal, received) in &mut self.0 {
                if received.poll_recv(cx).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Waits for a signal that asks to end: TERM or INT.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub(crate) async fn end(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if is_end(signal) {
                return signal;
            }
        }
    }
}

/// Does it ask to end?
pub(crate) fn is_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGINT)
}

/// Does a terminal send this signal to the whole group in its foreground, so to our child as well as to us?
pub(crate) fn comes_from_terminal(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT)
        && tcgetpgrp(std::io::stdin()).is_ok_and(|foreground| foreground == getpgrp())
}
