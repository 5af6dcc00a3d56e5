//! The request, on its way to the backend.

use std::{future::pending, io, sync::atomic::Ordering, time::Duration};

use tokio::{
    io::AsyncWriteExt as _,
    net::tcp::{ReadHalf, WriteHalf},
};

use super::{ClientFault, Progress};
use crate::{body::Body, buffer::Buffer, timer::Timer};

/// From the client to the backend.
pub(super) struct Sending<'a, 's> {
    pub(super) from: &'a mut ReadHalf<'s>,
    pub(super) to: &'a mut WriteHalf<'s>,
    pub(super) down: &'a mut Buffer,
    pub(super) head: &'a [u8],
    pub(super) body: Option<Body>,
    pub(super) idle_timeout: Duration,
    pub(super) progress: &'a Progress,
}

impl Sending<'_, '_> {
    /// Sends all of the request, then watches the client. Ends only with a fault of the client: what goes wrong with the
    /// backend is seen, with an answer that may have come before, by whoever reads from it.
    pub(super) async fn run(&mut self) -> ClientFault {
        /// How much of the next request is read while this one is answered.
        const AHEAD: usize = Buffer::SMALL;
        if self.send_head().await.is_err() {
            return pending().await;
        }
        if let Some(body) = self.body.take() {
            match self.send_body(body).await {
                Ok(()) => {}
                Err(Some(fault)) => return fault,
                Err(None) => return pending().await,
            }
        }
        self.progress.is_sent.store(true, Ordering::Relaxed);
        while self.down.len() < AHEAD {
            match self.down.fill(self.from, AHEAD).await {
                Ok(0) | Err(_) => return ClientFault::Gone,
                Ok(_) => {}
            }
        }
        pending().await
    }

    async fn send_head(&mut self) -> io::Result<()> {
        let mut rest = self.head;
        while !rest.is_empty() {
            let n = self.to.write(rest).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.progress.was_sent.store(true, Ordering::Relaxed);
            rest = &rest[n..];
        }
        Ok(())
    }

    /// `Err(None)`: the backend takes no more.
    async fn send_body(&mut self, mut body: Body) -> Result<(), Option<ClientFault>> {
        let mut timer = Timer::new();
        let mut last = 0;
        while !body.is_done() {
            if self.down.is_empty() {
                let fill = self.down.fill_after(self.from, last);
                match timer.limit(self.idle_timeout, fill).await {
                    Ok(Ok(0) | Err(_)) => return Err(Some(ClientFault::Gone)),
                    Ok(Ok(n)) => last = n,
                    Err(_) => return Err(Some(ClientFault::SlowBody)),
                }
            }
            let n = body
                .scan(self.down.bytes())
                .map_err(|_| Some(ClientFault::BadBody))?;
            let sent = self.to.write_all(&self.down.bytes()[..n]).await;
            sent.map_err(|_| None)?;
            self.down.consume(n);
        }
        Ok(())
    }
}
